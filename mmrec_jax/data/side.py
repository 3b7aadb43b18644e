"""Side information of items from files: features, item graphs and titles."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from mmrec_jax.data import files
from mmrec_jax.data.columns import Columns
from mmrec_jax.data.table import Features, ItemGraph, Titles
from mmrec_jax.types import UserError

_TABLES = (".csv", ".tsv", ".parquet")
_FEATURE_STEM = re.compile(r"_(feat|feats|feature|features|emb|embedding|embeddings)$", re.I)


def features(folder: Path, names: Sequence[str]) -> dict[str, Features]:
    """The feature files named, or else all in the folder, by modality.

    Without names those are every ``.npy``, every ``.npz`` with the arrays ``ids`` and
    ``features``, and tables named like ``image_feat.csv``.
    """
    paths = [files.find(name, folder) for name in names] or [
        path
        for path in files.visible(folder, ".npy", ".npz", *_TABLES)
        if path.suffix == ".npy"
        or (path.suffix == ".npz" and files.holds(path, {"ids", "features"}))
        or (path.suffix in _TABLES and _FEATURE_STEM.search(path.stem))
    ]
    return _by_name(paths, lambda stem: _FEATURE_STEM.sub("", stem) or stem, read_features)


def item_graphs(folder: Path, names: Sequence[str]) -> dict[str, ItemGraph]:
    """The item graphs named, by the stems of their files."""
    return _by_name([files.find(name, folder) for name in names], str, read_graph)


def titles(folder: Path, interactions: str, named: Mapping[str, str]) -> Titles | None:
    """Titles from the first table of a folder with an item and a title column, if there is one."""
    for path in files.visible(folder, *_TABLES):
        if str(path) == interactions:
            continue
        try:
            header = Columns.read(path, names_only=True)
        except UserError:
            continue  # a file that nobody asked for need not be in order
        item_name = {"item": named["item"]} if named.get("item") in header.names else {}
        item = header.role("item", item_name, needed=False)
        title = header.role("title", {}, needed=False)
        if item is not None and title is not None:
            given = Columns.read(path)
            return Titles(given.ids(item), given.text(title), str(path))
    return None


def read_features(path: Path) -> Features:
    """A feature matrix from ``.npy``, ``.npz`` (``ids``, ``features``) or a table (id, numbers).

    Raises:
      UserError: a file that is none of these.
    """
    if path.suffix == ".npy":
        return Features(files.array(path), origin=str(path))
    if path.suffix == ".npz":
        given = files.arrays(path, ("ids", "features"))
        return Features(given["features"], _ids(given["ids"], path), str(path))
    if path.suffix not in _TABLES:
        raise UserError(f"{path}: features are .npy, .npz, .csv, .tsv or .parquet; convert it")
    given = Columns.read(path)
    if len(given.names) < 2:
        raise UserError(f"{path}: one column; give the item id first, then the numbers")
    ids, *others = given.names
    values = np.stack([given.numbers(name, "feature") for name in others], axis=1)
    return Features(values, given.ids(ids), str(path))


def read_graph(path: Path) -> ItemGraph:
    """An item graph from ``.npz`` arrays row, col, data and shape, with ``ids`` where given.

    Raises:
      UserError: an array that is missing or of another kind, a shape that is not square, or an id
        that stands twice.
    """
    if path.suffix != ".npz":
        raise UserError(f"{path}: item graphs are .npz with row, col, data, shape; convert it")
    given = files.arrays(path, ("row", "col", "data", "shape"), ("ids",))
    shape = np.ravel(given["shape"]).tolist()
    if len(shape) != 2 or shape[0] != shape[1] or not _is_size(shape[0]):
        raise UserError(f"{path}: shape is {shape}; give a square graph, items by items")
    for name, kinds, what in (
        ("row", "iu", "integers"),
        ("col", "iu", "integers"),
        ("data", "fiub", "numbers"),
    ):
        array = given[name]
        if array.ndim != 1 or (array.size and array.dtype.kind not in kinds):
            raise UserError(
                f"{path}: '{name}' has shape {array.shape} and type {array.dtype}, where one row "
                f"of {what} is expected; save it so"
            )
    ids = _ids(given["ids"], path) if "ids" in given else None
    if ids is not None and len(ids) != shape[0]:
        raise UserError(f"{path}: {len(ids)} ids for {shape[0]} nodes; give one id per node")
    if ids is not None and len(np.unique(ids)) < len(ids):
        ordered = np.sort(ids)
        again = ordered[1:][ordered[1:] == ordered[:-1]][0]
        raise UserError(f"{path}: the id '{again}' names two nodes; keep one")
    return ItemGraph(given["row"], given["col"], given["data"], int(shape[0]), ids, str(path))


def _by_name(paths: Sequence[Path], name: Callable[[str], str], reader: Callable) -> dict:
    """What ``reader`` makes of each file, by ``name(stem)``.

    Raises:
      UserError: two files of one name.
    """
    found: dict[str, Path] = {}
    for path in paths:
        key = name(path.stem)
        if key in found:
            raise UserError(f"{path}: '{key}' is also the name of {found[key]}; rename one file")
        found[key] = path
    return {key: reader(path) for key, path in found.items()}


def _ids(ids: np.ndarray, path: Path) -> np.ndarray:
    """Ids given as an array, int64 or strings."""
    if ids.ndim != 1 or ids.dtype.kind not in "iuU":
        raise UserError(f"{path}: 'ids' must be one row of integers or strings; save it so")
    if ids.dtype.kind == "u" and ids.size and ids.max() > np.iinfo(np.int64).max:
        return ids.astype(str)
    return ids.astype(np.int64) if ids.dtype.kind in "iu" else ids


def _is_size(number: object) -> bool:
    """Whether an entry of an array is a whole number from 0."""
    return isinstance(number, int | float) and number >= 0 and float(number).is_integer()
