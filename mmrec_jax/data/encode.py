"""Item texts or images to a feature file that ``data.features`` reads, with its provenance.

The file is an ``.npz`` of ``ids`` [R] and ``features`` float32 [R, F] in rows of length 1, or of
counts of words; items without text or image have no row, which is how the reader knows them as
missing. Nothing is downloaded: built-in encoders need no model, others are read from a folder.
"""

from __future__ import annotations

import dataclasses
import datetime
import functools
import hashlib
import importlib
import importlib.metadata
import os
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from scipy import sparse
from scipy.sparse import linalg

from mmrec_jax import data as datasets
from mmrec_jax import store
from mmrec_jax.data import files
from mmrec_jax.data.columns import Columns, as_ids
from mmrec_jax.types import Dataset, UserError

TFIDF_VERSION = 1  # counts changes of what ``tfidf`` computes
WORDS_VERSION = 1  # likewise of ``count_words``
WIDTH = 256  # most columns of ``tfidf``
WORDS = 2000  # and of ``count_words``
_BUCKETS = 2**18  # a word's column is a hash of it, so that no vocabulary need be kept
_IMAGES = (".jpg", ".jpeg", ".png", ".webp")
_CHUNK = 256  # images in memory at a time
_LIBRARIES = ("sentence-transformers", "transformers", "torch", "pillow")


@dataclasses.dataclass(frozen=True)
class Items:
    """What is to be encoded.

    Attributes:
      ids: raw item ids [I].
      content: objects [I], a text or an image's path each, "" where an item has none.
      source: where it is from.
      left_out: how many entries of the source belong to no item of the data set.
    """

    ids: np.ndarray
    content: np.ndarray
    source: str
    left_out: int = 0


def write(
    settings: Mapping[str, Any], text: str | None, images: str | None, encoder: str, output: str
) -> str:
    """What ``--mode=encode`` does; returns the line that it prints.

    Args:
      settings: ``config.data``. Where ``source`` is a real data set, the file describes its items
        and no others.
      text: see :func:`read_texts`; the titles of the data set where neither is given.
      images: see :func:`read_images`.
      encoder, output: see :func:`encode`.

    Raises:
      UserError: text and images at once, and whatever the functions named here raise.
    """
    if text and images:
        raise UserError("--text and --images are two modalities; encode them one after the other")
    items = read_images(images) if images else None
    items = read_texts(text, settings.get("columns")) if text else items
    if items is None or settings["source"] != "synthetic":
        # What is yet to be encoded cannot be read.
        data = datasets.load(**{**settings, "features": (), "item_graphs": ()})
        items = titles(data) if items is None else only(items, data)
    made = encode(items, encoder, output, images is not None)
    return (
        f"{output}: {made['items'] - len(made['missing'])} rows of {made['width']} numbers, "
        f"{len(made['missing'])} items missing, {made['left_out']} of other items left out"
    )


def encode(items: Items, encoder: str, output: str | Path, images: bool = False) -> dict[str, Any]:
    """Encodes ``items`` and writes the matrix to ``output`` and its provenance beside it.

    Args:
      items: see :func:`read_texts`, :func:`read_images`, :func:`titles`.
      encoder: ``tfidf``, ``tfidf:WIDTH``, ``words``, ``words:WIDTH``, or the folder of a
        sentence-transformers model.
      output: name of the ``.npz``; its stem names the modality. The provenance is
        ``STEM.provenance.json``.
      images: whether the content is images.

    Returns:
      The provenance.

    Raises:
      UserError: an unknown encoder, nothing to encode, a library that is not installed, or an
        image that cannot be read.
    """
    output = Path(output)
    if output.suffix != ".npz":
        raise UserError(f"--output={output}: the name must end in .npz")
    apply, about = _encoder(encoder, images)
    known = np.flatnonzero(items.content != "")
    if not known.size:
        raise UserError(f"{items.source}: no item has {'an image' if images else 'a text'}")
    values = apply(items.content[known])
    if about["encoder"] == "words":
        values, about["words"] = values
    else:
        values = _unit(values)
    told = values.any(axis=1)  # a text without a word gives a row of zeros
    rows, values = known[told], values[told]
    missing = np.setdiff1d(np.arange(len(items.ids)), rows)
    output.parent.mkdir(parents=True, exist_ok=True)
    with store.replacing(output) as part, open(part, "wb") as file:
        np.savez(file, ids=items.ids[rows], features=values)
    contents = _sha256_of_images if images else _sha256_of_texts
    provenance = {
        **about,
        "source": items.source,
        "modality": output.stem,
        "items": len(items.ids),
        "width": values.shape[1],
        "left_out": items.left_out,
        "missing": items.ids[missing].tolist(),
        "sha256": {
            "content": contents(items.ids, items.content),
            "features": hashlib.sha256(np.ascontiguousarray(values, "<f4")).hexdigest(),
        },
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }
    store.write_json(output.with_suffix(".provenance.json"), provenance)
    return provenance


def read_texts(source: str, named: Mapping[str, str] | None = None) -> Items:
    """Texts from a table with an item column; those of several lines of one item are joined.

    Args:
      source: a ``.csv``, ``.tsv`` or ``.parquet``, optionally with the columns to read, as in
        ``items.csv:title,brand``; by default those that do not hold numbers only.
      named: column names by role; the items are in the one for ``item`` if the table has it, else
        in one of a usual name, else in the first.

    Raises:
      UserError: a column that is not there, or no column of texts.
    """
    path, columns = _columns_of(source)
    given = Columns.read(path)
    name = (named or {}).get("item", "")
    item = given.role("item", {"item": name} if name in given.names else {}, needed=False)
    item = item or given.names[0]
    if absent := [name for name in columns if name not in given.names]:
        raise UserError(f"{path}: no column '{absent[0]}'; it has {', '.join(given.names)}")
    columns = columns or [n for n in given.names if n != item and not _numeric(given.text(n))]
    if not columns:
        raise UserError(f"{path}: no column but '{item}' holds text; give one item and text a line")
    text = pa.array(given.text(columns[0]), pa.string())
    for name in columns[1:]:
        text = pc.binary_join_element_wise(text, pa.array(given.text(name), pa.string()), " ")
    lines = pd.DataFrame({"id": given.ids(item), "text": pc.utf8_trim_whitespace(text).to_pylist()})
    joined = lines.drop_duplicates().groupby("id", sort=False)["text"].agg(" ".join).str.strip()
    ids = joined.index.to_numpy()
    ids = ids if ids.dtype.kind in "iu" else ids.astype(str)
    return Items(ids, joined.to_numpy(object), f"{path}: {', '.join(columns)}")


def read_images(folder: str) -> Items:
    """Paths of the images ``ITEM.jpg`` (or .jpeg, .png, .webp) of a folder, by item id.

    Raises:
      UserError: there are none, or two of one item.
    """
    paths = files.visible(files.find(folder), *_IMAGES)
    if not paths:
        raise UserError(f"{folder}: no image; name them by item, as in 42.jpg")
    stems = pd.Series([path.stem for path in paths])
    if stems.duplicated().any():
        second = paths[int(np.argmax(stems.duplicated()))]
        raise UserError(f"{second}: another image is also named '{second.stem}'; keep one")
    return Items(as_ids(pa.array(stems)), np.array([str(p) for p in paths], object), folder)


def titles(data: Dataset) -> Items:
    """The titles of a data set.

    Raises:
      UserError: if it has none.
    """
    if data.titles is None:
        raise UserError(f"{data.name} has no titles; name a table of texts with --text=FILE")
    return Items(data.item_ids, data.titles.astype(object), f"titles of {data.name}")


def only(items: Items, data: Dataset) -> Items:
    """The content of the items of ``data``, in their order, "" where there is none.

    Raises:
      UserError: if no id is an item of ``data``.
    """
    place = pd.Index(items.ids.astype(str)).get_indexer(data.item_ids.astype(str))
    found = place >= 0
    if not found.any():
        raise UserError(
            f"{items.source}: no id is an item of {data.name} (first ids '{items.ids[0]}' and "
            f"'{data.item_ids[0]}'); use the same item ids in both"
        )
    content = np.where(found, items.content[np.maximum(place, 0)], "")
    return Items(data.item_ids, content, items.source, len(items.ids) - int(found.sum()))


def tfidf(texts: Sequence[str] | np.ndarray, width: int = WIDTH) -> np.ndarray:
    """Hashed TF-IDF, then its left singular vectors times singular values, float32 [R, F].

    Words are maximal runs of letters and digits in lower case. ``F`` is ``width``, or the rank of
    the texts where that is less. Equal texts give equal numbers in every run.

    Args:
      texts: R texts.
      width: most columns.
    """
    row, word, distinct = _split(texts)
    bucket = np.array([zlib.crc32(word.encode()) % _BUCKETS for word in distinct], np.int64)
    used, column = np.unique(bucket[word], return_inverse=True)
    shape = (len(texts), max(len(used), 1))
    counts = sparse.csr_array((np.ones(len(column)), (row, column)), shape=shape)
    counts.sum_duplicates()
    holding = np.bincount(counts.indices, minlength=shape[1])
    weight = np.log((1 + len(texts)) / (1 + holding)) + 1
    counts.data *= weight[counts.indices]
    norms = np.sqrt(counts.power(2).sum(axis=1))
    return _svd(sparse.diags_array(1 / np.maximum(norms, 1e-12)) @ counts, width)


def count_words(
    texts: Sequence[str] | np.ndarray, width: int = WORDS, least: int = 5, most: float = 0.6
) -> tuple[np.ndarray, list[str]]:
    """How often each text has each word, float32 [R, F], and the words in alphabetical order.

    Words are those of :func:`tfidf` that have two characters or more; of those that at least
    ``least`` texts and at most the share ``most`` of them have, the ``width`` that most texts have.

    Raises:
      UserError: there is no such word.
    """
    row, word, distinct = _split(texts)
    counts = sparse.csr_array((np.ones(len(row)), (row, word)), shape=(len(texts), len(distinct)))
    counts.sum_duplicates()
    holding = np.bincount(counts.indices, minlength=len(distinct))
    length = np.array([len(word) for word in distinct])
    fit = np.flatnonzero((length > 1) & (holding >= least) & (holding <= most * len(texts)))
    if not fit.size:
        raise UserError(
            f"--encoder=words: no word stands in at least {least} texts and at most "
            f"{most:.0%} of them; give more texts, or --encoder=tfidf"
        )
    names = np.array(distinct)
    kept = fit[np.lexsort((names[fit], -holding[fit]))][:width]
    kept = kept[np.argsort(names[kept])]
    return counts[:, kept].toarray().astype(np.float32), names[kept].tolist()


def _split(texts: Sequence[str] | np.ndarray) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """The text and the word of each occurrence, as numbers, and the distinct words."""
    words = pc.split_pattern_regex(pc.utf8_lower(pa.array(texts, pa.string())), r"[^\p{L}\p{N}]+")
    row = pc.list_parent_indices(words).to_numpy()
    coded = pc.list_flatten(words).dictionary_encode()
    distinct, word = coded.dictionary.to_pylist(), coded.indices.to_numpy()
    real = np.array([bool(w) for w in distinct], bool)[word]  # splitting leaves "" at the ends
    return row[real], word[real], distinct


def _svd(matrix: sparse.csr_array, width: int) -> np.ndarray:
    """Left singular vectors times singular values, the ``width`` largest first, float32 [R, F].

    Each right singular vector's largest entry is made positive, since its sign means nothing.
    """
    small = min(matrix.shape)
    if width < small:  # what ARPACK can do; it starts from a vector that is always the same
        start = np.random.default_rng(0).standard_normal(small)
        left, value, right = map(np.asarray, linalg.svds(matrix, width, v0=start))
        order = np.argsort(-value, kind="stable")
        left, value, right = left[:, order], value[order], right[order]
    else:
        left, value, right = np.linalg.svd(matrix.toarray(), full_matrices=False)
    kept = value > 1e-6 * value[0]
    largest = np.take_along_axis(right, np.abs(right).argmax(axis=1, keepdims=True), axis=1)[:, 0]
    scaled = left * (value * np.where(largest < 0, -1.0, 1.0))[None]
    return np.ascontiguousarray(scaled[:, kept], np.float32)


def _unit(values: np.ndarray) -> np.ndarray:
    """Rows at length 1, float32; rows of zeros stay."""
    norms = np.linalg.norm(values.astype(np.float64), axis=1, keepdims=True)
    return (values / np.maximum(norms, 1e-12)).astype(np.float32)


def _encoder(name: str, images: bool) -> tuple[Callable[[np.ndarray], Any], dict]:
    """The function from contents [R] to vectors [R, F], and what the provenance says of it.

    The function of ``words`` also returns their names.
    """
    kind, _, width = name.partition(":")
    if kind in ("tfidf", "words") and not Path(name).exists():
        if images:
            raise UserError("--images needs --encoder=PATH, the folder of a CLIP model")
        usual = {"tfidf": WIDTH, "words": WORDS}[kind]
        if width and not (width.isdecimal() and int(width)):
            raise UserError(f"--encoder={name}: give the width as in {kind}:{usual}")
        size = int(width or usual)
        libraries = {"libraries": _versions("mmrec_jax", "numpy", "scipy", "pyarrow")}
        if kind == "words":
            about = {"encoder": "words", "version": WORDS_VERSION}
            return functools.partial(count_words, width=size), about | libraries
        about = {"encoder": "tfidf", "version": TFIDF_VERSION, "buckets": _BUCKETS}
        return functools.partial(tfidf, width=size), about | libraries
    folder = Path(name).expanduser()
    if not folder.is_dir():
        raise UserError(
            f"--encoder={name}: there is no such folder; give tfidf, or the path of a "
            "sentence-transformers model on this machine (nothing is downloaded)"
        )
    model = _model(folder)
    options = dict(batch_size=64, convert_to_numpy=True, show_progress_bar=False)
    encode = _told(folder, lambda part: model.encode(list(part), **options))
    about = {
        "encoder": str(folder),
        "version": _sha256_of_folder(folder),
        "libraries": _versions("mmrec_jax", *_LIBRARIES),
    }
    return functools.partial(_encoded_images, encode) if images else encode, about


def _model(folder: Path):
    """The sentence-transformers model of a folder."""
    os.environ["HF_HUB_OFFLINE"] = "1"  # read when the library is imported
    try:
        library = importlib.import_module("sentence_transformers")
    except ImportError as error:
        raise UserError(
            f"--encoder={folder} needs sentence-transformers; pip install 'mmrec_jax[encoders]'"
        ) from error
    load = library.SentenceTransformer
    return _told(folder, load)(str(folder), local_files_only=True)


def _told(folder: Path, function: Callable) -> Callable:
    """``function`` of a model's library, with what it raises in one line."""

    @functools.wraps(function)
    def call(*args, **options):
        try:
            return function(*args, **options)
        except Exception as error:  # of a dozen kinds, from four libraries
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise UserError(
                f"--encoder={folder}: sentence-transformers cannot use it ({reason}); give the "
                "folder of a model that reads this kind of content"
            ) from error

    return call


def _encoded_images(encode: Callable, paths: np.ndarray) -> np.ndarray:
    """Vectors [R, F] of the images at ``paths``."""
    chunks = np.array_split(paths, -(-len(paths) // _CHUNK))
    return np.concatenate([encode([*map(_image, chunk)]) for chunk in chunks])


def _image(path: str):
    """The image at ``path`` in memory."""
    try:
        from PIL import Image
    except ImportError as error:
        raise UserError("--images needs pillow; pip install 'mmrec_jax[encoders]'") from error
    try:
        with Image.open(path) as image:
            return image.convert("RGB")
    except OSError as error:
        raise UserError(f"{path}: not a readable image; save it again or remove it") from error


def _columns_of(source: str) -> tuple[Path, list[str]]:
    """The file and the columns that ``FILE:column,column`` names."""
    name, _, columns = source.rpartition(":")
    if not name or Path(source).expanduser().exists():
        return files.find(source), []
    return files.find(name), [column.strip() for column in columns.split(",")]


def _numeric(values: np.ndarray) -> bool:
    """Whether every entry that is not empty reads as a number."""
    given = pd.Series(values[values != ""])
    return bool(pd.to_numeric(given, errors="coerce").notna().all())


def _versions(*names: str) -> dict[str, str]:
    """Versions of the libraries that are installed."""
    found = {}
    for name in names:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "unknown"
    return found


def _sha256_of_texts(ids: np.ndarray, texts: np.ndarray) -> str:
    """Digest of the ids and texts, each ended by a byte that UTF-8 does not use."""
    whole = b"".join(
        part.encode() + b"\xff"
        for pair in zip(ids.astype(str), texts, strict=True)
        for part in pair
    )
    return hashlib.sha256(whole).hexdigest()


def _sha256_of_images(ids: np.ndarray, paths: np.ndarray) -> str:
    """Digest of the ids and the digests of the files."""
    digests = [_sha256(Path(path)) if path else "" for path in paths]
    return _sha256_of_texts(ids, np.array(digests, object))


def _sha256_of_folder(folder: Path) -> str:
    """Digest of the names and contents of all files of a folder."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    names = np.array([path.relative_to(folder).as_posix() for path in paths])
    return _sha256_of_texts(names, np.array([_sha256(path) for path in paths], object))


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
