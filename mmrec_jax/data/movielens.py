"""TFDS's MovieLens as a source of ratings, without TensorFlow.

Read from where TFDS has prepared it, if that was in ArrayRecord. Otherwise from the archive, with
TFDS's download manager, checksums and parser, but not its preparation: that writes one record per
rating, which takes longer than parsing anew. What is to be kept goes through
:func:`mmrec_jax.data.prepared.write`.
"""

from __future__ import annotations

import contextlib
import itertools
import pathlib
import re
import tempfile
import types
import urllib.error
import urllib.request
import zipfile
from collections.abc import Iterator

import numpy as np
import tensorflow_datasets as tfds
from tensorflow_datasets.core import download
from tensorflow_datasets.proto import tf_example_pb2
from tensorflow_datasets.structured import movielens, movielens_parsing

from mmrec_jax.data import prepared
from mmrec_jax.data.table import Table, Titles
from mmrec_jax.types import UserError

TIMEOUT = 5  # seconds; without this look TFDS would try again for minutes
_LISTS = {  # columns that a Table has room for, and where a tf.train.Example keeps them
    "user_id": "bytes_list",
    "movie_id": "bytes_list",
    "user_rating": "float_list",
    "timestamp": "int64_list",
    "movie_title": "bytes_list",
}
_CHUNK = 2**16  # records decoded at a time


def read(source: str) -> Table:
    """The ratings of an edition of MovieLens, downloaded where TFDS has not yet.

    Args:
      source: "movielens/100k-ratings", "movielens/1m-ratings" and so on.

    Raises:
      UserError: no such edition, or one that is neither on disk nor within reach.
    """
    with prepared.quiet():
        builder = _builder(source)
        columns = _stored(builder) if _is_stored(builder) else _parsed(builder)
    user, item = (columns[name].astype(np.int64) for name in ("user_id", "movie_id"))
    items, first = np.unique(item, return_index=True)
    return Table(
        name=f"movielens-{builder.builder_config.format_version}",
        user=user,
        item=item,
        time=columns["timestamp"].astype(np.int64),
        rating=columns["user_rating"].astype(np.float32),
        titles=Titles(items, columns["movie_title"][first], origin=source),
        origin=source,
        notes={"source": f"TFDS {builder.info.full_name}"},
    )


def _builder(source: str):
    """TFDS's builder of a source, below its data directory."""
    known = movielens.Movielens
    editions = [name for name in known.builder_configs if name.endswith("-ratings")]
    config = source.removeprefix("movielens/")
    if config not in editions:
        raise UserError(
            f"'{source}' is no edition of MovieLens; give one of "
            + ", ".join(f"movielens/{name}" for name in editions)
        )
    return known(config=config, data_dir=str(prepared.data_dir()))


def _is_stored(builder) -> bool:
    """Whether TFDS has prepared the ratings in the format that needs no TensorFlow."""
    return builder.is_prepared() and builder.info.file_format == tfds.core.FileFormat.ARRAY_RECORD


def _stored(builder) -> dict[str, np.ndarray]:
    """The columns of a set that TFDS has prepared, one record per rating."""
    raw = tfds.decode.DeserializeMethod.RAW_BYTES  # TFDS decodes in 0.2 ms each, ten times slower
    source = builder.as_data_source("train", deserialize_method=raw)
    starts = range(0, len(source), _CHUNK)
    chunks = (source.__getitems__(range(len(source))[start : start + _CHUNK]) for start in starts)
    examples = map(tf_example_pb2.Example.FromString, itertools.chain.from_iterable(chunks))
    features = (example.features.feature for example in examples)
    rows = [[getattr(f[name], kind).value[0] for name, kind in _LISTS.items()] for f in features]
    columns = {name: np.array([row[n] for row in rows]) for n, name in enumerate(_LISTS)}
    return columns | {"movie_title": np.strings.decode(columns["movie_title"], "utf-8")}


def _parsed(builder) -> dict[str, np.ndarray]:
    """The columns of an archive, unpacked by Python and parsed by TFDS."""
    edition, archive = builder.builder_config.format_version, _archive(builder)
    with tempfile.TemporaryDirectory(dir=prepared.data_dir()) as folder, _python_files():
        with zipfile.ZipFile(archive) as packed:
            packed.extractall(folder)
        examples = builder.builder_config.parsing_fn(f"{folder}/ml-{edition}")
        rows = [[example[name] for name in _LISTS] for _, example in examples]
    return {name: np.array([row[n] for row in rows]) for n, name in enumerate(_LISTS)}


def _archive(builder) -> pathlib.Path:
    """The archive, downloaded unless it is there, verified against TFDS's checksum.

    Raises:
      UserError: it can neither be found nor downloaded, or is not the right one.
    """
    url = builder.builder_config.download_url
    downloads = prepared.data_dir() / "downloads"
    by_hand = downloads / "manual" / url.rsplit("/", 1)[1]
    kept = download.resource.get_dl_fname(url, builder.url_infos[url].checksum)
    if not by_hand.exists() and not any(downloads.rglob(kept)) and not _reachable(url):
        raise UserError(
            f"{builder.name}/{builder.builder_config.name} is not in {prepared.data_dir()} and "
            f"{url} cannot be reached; connect to the network, or put the archive at {by_hand}"
        )
    manager = tfds.download.DownloadManager(
        download_dir=downloads,
        manual_dir=by_hand.parent,
        url_infos=builder.url_infos,
        dataset_name=builder.name,
        force_checksums_validation=True,
    )
    try:
        return pathlib.Path(manager.download(url))
    except (
        OSError,
        download.util.DownloadError,
        download.download_manager.NonMatchingChecksumError,
    ) as error:
        reason = re.sub(r"\s+", " ", str(error))
        raise UserError(f"{url}: cannot be had: {reason}") from error


def _reachable(url: str) -> bool:
    """Whether the server answers within a few seconds, through the user's proxy if any."""
    try:
        with urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=TIMEOUT):
            return True
    except urllib.error.HTTPError:
        return True  # it answers; the download will say what is wrong
    except OSError:
        return False


@contextlib.contextmanager
def _python_files() -> Iterator[None]:
    """Lets TFDS's parser open files with Python where it would import TensorFlow for it."""
    tensorflow = movielens_parsing.tf
    gfile = types.SimpleNamespace(GFile=open)
    movielens_parsing.tf = types.SimpleNamespace(io=types.SimpleNamespace(gfile=gfile))
    try:
        yield
    finally:
        movielens_parsing.tf = tensorflow
