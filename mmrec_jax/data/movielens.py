"""TFDS's MovieLens as a source of ratings, without TensorFlow.

TFDS unpacks archives, and parses the 100k and 1m editions, with TensorFlow's file functions; the
builder below does both with Python's own. What it prepares is TFDS's MovieLens in ArrayRecord, at
the place where TFDS looks for it. TFDS stores one record per rating, so a large edition takes long
to prepare and to read: keep the outcome with :func:`mmrec_jax.data.prepared.write`.
"""

from __future__ import annotations

import contextlib
import re
import tempfile
import types
import urllib.error
import urllib.request
import zipfile
from collections.abc import Iterator

import numpy as np
import tensorflow_datasets as tfds
from absl import logging
from tensorflow_datasets.structured import movielens, movielens_parsing

from mmrec_jax.data import prepared
from mmrec_jax.data.table import Table, Titles
from mmrec_jax.types import UserError

TIMEOUT = 5  # seconds; without this look TFDS would try again for minutes
_COLUMNS = ("user_id", "movie_id", "user_rating", "timestamp", "movie_title")


class Movielens(movielens.Movielens, skip_registration=True):
    """TFDS's builder, its archive unpacked and parsed without TensorFlow."""

    name = "movielens"
    url_infos = movielens.Movielens.url_infos  # the archives' checksums lie beside TFDS's class

    def _split_generators(self, dl_manager):
        archive = dl_manager.download(self.builder_config.download_url)
        return {"train": self._generate_examples(archive)}

    def _generate_examples(self, archive):
        with tempfile.TemporaryDirectory(dir=self.data_dir_root) as folder:
            with zipfile.ZipFile(archive) as packed:
                packed.extractall(folder)
            with _python_files():
                edition = self.builder_config.format_version
                yield from self.builder_config.parsing_fn(f"{folder}/ml-{edition}")


def read(source: str) -> Table:
    """The ratings of an edition of MovieLens, downloaded and prepared where TFDS has not yet.

    Args:
      source: "movielens/100k-ratings", "movielens/1m-ratings" and so on.

    Raises:
      UserError: no such edition, or one that is neither prepared nor within reach.
    """
    builder = _builder(source)
    if not builder.is_prepared():
        _prepare(builder)
    elif builder.info.file_format != tfds.core.FileFormat.ARRAY_RECORD:
        raise UserError(
            f"{builder.data_dir}: stored as {builder.info.file_format.value}, which only "
            "TensorFlow reads; remove that folder, or set TFDS_DATA_DIR to another one"
        )
    columns = _columns(builder)
    items, first = np.unique(columns["movie_id"], return_index=True)
    return Table(
        name=f"movielens-{builder.builder_config.format_version}",
        user=columns["user_id"].astype(np.int64),
        item=columns["movie_id"].astype(np.int64),
        time=columns["timestamp"].astype(np.int64),
        rating=columns["user_rating"].astype(np.float32),
        titles=Titles(items.astype(np.int64), columns["movie_title"][first], origin=source),
        origin=source,
        notes={"source": f"TFDS {builder.info.full_name}"},
    )


def _builder(source: str) -> Movielens:
    """The builder of a source, below TFDS's data directory."""
    editions = [name for name in Movielens.builder_configs if name.endswith("-ratings")]
    config = source.removeprefix("movielens/")
    if config not in editions:
        raise UserError(
            f"'{source}' is no edition of MovieLens; give one of "
            + ", ".join(f"movielens/{name}" for name in editions)
        )
    return Movielens(config=config, data_dir=str(prepared.data_dir()))


def _prepare(builder: Movielens) -> None:
    """Downloads, unless the archive is there already, and stores the ratings.

    Raises:
      UserError: the archive can neither be found nor downloaded, or is not the right one.
    """
    url = builder.builder_config.download_url
    downloads = builder.data_dir_root / "downloads"
    by_hand = downloads / "manual" / url.rsplit("/", 1)[1]
    kept = tfds.core.download.resource.get_dl_fname(url, builder.url_infos[url].checksum)
    if not by_hand.exists() and not any(downloads.rglob(kept)) and not _reachable(url):
        raise UserError(
            f"{builder.name}/{builder.builder_config.name} is not in {builder.data_dir_root} and "
            f"{url} cannot be reached; connect to the network, or put the archive at {by_hand}"
        )
    logging.info("preparing %s in %s", builder.info.full_name, builder.data_dir_root)
    try:
        builder.download_and_prepare(file_format="array_record")
    except (
        OSError,
        zipfile.BadZipFile,
        tfds.download.DownloadError,
        tfds.download.NonMatchingChecksumError,
    ) as error:
        reason = re.sub(r"\s+", " ", str(error))
        raise UserError(f"{url}: cannot be downloaded and prepared: {reason}") from error


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


def _columns(builder: Movielens) -> dict[str, np.ndarray]:
    """The columns that a Table needs, read record by record, as TFDS stores them."""
    decoders = tfds.decode.PartialDecoding(dict.fromkeys(_COLUMNS, True))
    records = builder.as_data_source("train", decoders=decoders)
    rows = [[record[name] for name in _COLUMNS] for record in records]
    columns = {name: np.array([row[n] for row in rows]) for n, name in enumerate(_COLUMNS)}
    return columns | {"movie_title": np.strings.decode(columns["movie_title"], "utf-8")}
