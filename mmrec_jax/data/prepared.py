"""Prepared data sets: written once, then read in seconds by folder or by TFDS name.

A set is a folder ``DATA_DIR/NAME/VERSION`` that plain TFDS opens too. Its splits train, valid and
test hold the interactions; folders beside them are TFDS sets of their own with whatever else the
data set knows (``users``, ``items``, ``graph0`` ...). Every record is a block of rows,
for reading one record per row costs a hundred times as much. ``metadata.json`` is written last and
holds the checksums: a folder without it is not complete. TensorFlow is not needed.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import io
import itertools
import json
import os
import pathlib
import re
import secrets
import shutil
import sys
import types
import urllib.parse
from collections.abc import Callable, Iterator, Mapping

import numpy as np
import pyarrow as pa
from absl import logging

from mmrec_jax import store
from mmrec_jax.data import passport
from mmrec_jax.data.build import split_hash
from mmrec_jax.data.table import Table
from mmrec_jax.streamed import Streamed
from mmrec_jax.types import Dataset, Impressions, Interactions, Spec, UserError

FORMAT = 1  # of what is below metadata["mmrec_jax"]
BLOCK = 8192  # rows per record, fewer where rows are wide
BLOCK_BYTES = 2**24
SPLITS = ("train", "valid", "test")
DERIVED = ("prepared", "passport")  # notes that loading makes anew

_VERSION = r"\d+\.\d+\.\d+"
_NAME = r"[a-z][a-z0-9_]*"

Columns = Mapping[str, np.ndarray]  # of equal length
_NONE = {name: np.zeros(0, np.int32) for name in ("user", "item")}


def write(
    data: Dataset,
    directory: str | os.PathLike,
    name: str,
    version: str = "1.0.0",
    by_user: bool = False,
) -> pathlib.Path:
    """Stores ``data`` whole as ``directory/name/version`` and returns that folder.

    The folder appears in one step when everything is in it.

    Args:
      data: what to store; its notes must be JSON-able.
      directory: a TFDS data directory; made where missing.
      name: lower-case letters, digits and underscores, as TFDS names its sets.
      version: three numbers, such as "1.0.0".
      by_user: whether training interactions are sorted by user, so that they can be streamed.

    Raises:
      UserError: a name or version of another form, one that exists already, or data with a leak.
    """
    _check_label(name, version)
    if data.known is not None:
        raise UserError(f"{data.name}: data with a leak are not stored; leave config.data.leak out")
    target = pathlib.Path(directory).expanduser() / name / version
    if target.exists():
        raise UserError(f"{target} exists already; give a new version, or remove it first")
    if by_user:
        order = np.argsort(data.train.user, kind="stable")
        data = dataclasses.replace(data, train=data.train.take(order))
    splits, tables = _splits(data), _tables(data)
    cuts = {"train": _between_users(splits["train"])} if by_user else {}
    facts = {
        "format": FORMAT,
        "name": name,
        "version": version,
        "dataset": data.name,
        "spec": dataclasses.asdict(data.spec),
        "notes": {k: v for k, v in data.notes.items() if k not in DERIVED},
        "tables": sorted(tables),
        "feature": list(data.features),
        "present": list(data.present),
        "graph": list(data.item_graphs),
        "split_hash": _split_hash(data),
    }
    if by_user:
        facts |= {"train_rows": np.diff(cuts["train"]).tolist(), "passport": passport.of(data)}
    json.dumps(facts)  # a note that is not JSON fails here, before anything is written
    work = target.parent / f"incomplete.{secrets.token_hex(3)}_{version}"  # TFDS's own convention
    try:
        with store.saving(target), quiet():
            work.mkdir(parents=True)
            _store(work, name, version, splits, cuts)
            for table, columns in tables.items():
                (work / table).mkdir()
                _store(work / table, table, version, {"rows": columns})
            facts["files"] = _digests(work)
            facts["checksum"] = _checksum(facts)
            (work / "metadata.json").write_text(json.dumps({"mmrec_jax": facts}, indent=1))
            work.rename(target)
    finally:
        shutil.rmtree(work, ignore_errors=True)  # gone already unless something failed
    return target


def read(source: str | os.PathLike, budget: int = 0) -> Dataset:
    """The data set stored by :func:`write`, verified against its checksums.

    The notes gain ``prepared``: name, version, checksum and split hash of the set.

    Args:
      source: the folder of a set (its newest version is read) or of one version, or a name such
        as "mmrec_baby" or "mmrec_baby:1.0.0" below TFDS's data directory.
      budget: where there are more training interactions than that, they are left on disk as
        :class:`mmrec_jax.streamed.Streamed`; 0 reads all.

    Raises:
      UserError: no such set, or one that is incomplete, damaged or not stored to be streamed.
    """
    folder = find(source)
    if folder is None:
        raise UserError(
            f"{source}: no prepared data set; give its folder, or the name of one below "
            f"{data_dir()} (set TFDS_DATA_DIR), or prepare it with --mode=prepare"
        )
    facts = _verified(folder)
    with quiet():
        stream = budget and _rows(folder, facts) > budget
        splits = {split: _load(folder, split) for split in SPLITS[bool(stream) :]}
        tables = {table: _load(folder / table, "rows") for table in facts["tables"]}
    about = {key: facts[key] for key in ("name", "version", "checksum", "split_hash")}
    data = _dataset(facts, splits, tables, about)
    if not stream:
        return data
    spec, rows = data.spec, np.array(facts["train_rows"])
    train = Streamed(_reader(folder, "train"), rows, budget, spec.num_users, spec.num_items)
    notes = {**data.notes, "passport": facts["passport"]}
    return dataclasses.replace(data, train=train, notes=notes)


def find(source: str | os.PathLike) -> pathlib.Path | None:
    """The version folder that ``source`` means, see :func:`read`, or None where there is none."""
    path, version = pathlib.Path(source).expanduser(), None
    if not path.is_dir():
        match = re.fullmatch(rf"({_NAME})(?::({_VERSION}))?", str(source))
        if match is None:
            return None
        path, version = data_dir() / match[1], match[2]
    if (path / "dataset_info.json").exists() or (path / "metadata.json").exists():
        return path
    if version is not None:
        return path / version if (path / version).is_dir() else None
    versions = [p for p in path.glob("*.*.*") if re.fullmatch(_VERSION, p.name) and p.is_dir()]
    return max(versions, key=lambda p: [int(n) for n in p.name.split(".")], default=None)


def data_dir() -> pathlib.Path:
    """Where TFDS keeps its sets: $TFDS_DATA_DIR, else ``~/tensorflow_datasets``."""
    return pathlib.Path(os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets").expanduser()


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keeps TFDS's messages out of the log and off the screen; progress bars stay."""
    level = logging.get_verbosity()
    logging.set_verbosity(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.set_verbosity(level)


def movielens(source: str) -> Table:
    """The ratings of TFDS's own MovieLens: see :func:`mmrec_jax.data.movielens.read`."""
    from mmrec_jax.data import movielens as reader  # its builder imports TFDS

    return reader.read(source)


def _check_label(name: str, version: str) -> None:
    """Raises a UserError where TFDS could not find a set of this name and version."""
    if not re.fullmatch(_NAME, name):
        raise UserError(
            f"'{name}' cannot name a prepared set; use lower-case letters, digits and "
            "underscores, a letter first, such as 'mmrec_baby'"
        )
    if not re.fullmatch(_VERSION, version):
        raise UserError(f"'{version}' is not a version; give three numbers, such as '1.0.0'")


# --- a Dataset as named columns, and back ---------------------------------------------------------


def _splits(data: Dataset) -> dict[str, Columns]:
    """The interactions of every split; all splits have the same columns."""
    parts = {split: getattr(data, split) for split in SPLITS}
    columns = ["user", "item"]
    for name in ("time", "rating"):
        known = [getattr(part, name) is not None for part in parts.values()]
        if any(known) and not all(known):
            raise UserError(f"{data.name}: '{name}' is known in some splits only; give it in all")
        columns += [name] * all(known)
    return {split: {c: getattr(part, c) for c in columns} for split, part in parts.items()}


def _tables(data: Dataset) -> dict[str, Columns]:
    """Everything else, as tables with one row per user, item, impression or graph edge."""
    items = {"id": data.item_ids}
    if data.titles is not None:
        items["title"] = data.titles
    if data.codes is not None:
        items["code"] = data.codes
    items |= {_key("feature", name): x for name, x in data.features.items()}
    items |= {_key("present", name): p for name, p in data.present.items()}
    tables = {"users": {"id": data.user_ids}, "items": items}
    for split, part in data.impressions.items():
        columns = {"fields": part.fields} if data.spec.fields else {}  # TFDS stores no zero width
        columns |= {name: getattr(part, name) for name in ("user", "item", "time", "click")}
        columns |= {} if part.conversion is None else {"conversion": part.conversion}
        tables[f"impressions_{split}"] = columns
    for number, (row, col, weight) in enumerate(data.item_graphs.values()):
        tables[f"graph{number}"] = {"row": row, "col": col, "weight": weight}
    return {
        table: {name: _plain(values, f"{data.name}: {table}, {name}") for name, values in c.items()}
        for table, c in tables.items()
    }


def _dataset(
    facts: dict, splits: dict[str, Columns], tables: dict[str, Columns], about: dict[str, str]
) -> Dataset:
    """The inverse of :func:`_splits` and :func:`_tables`."""
    named = lambda kind, table: {n: table[_key(kind, n)] for n in facts[kind]}
    graphs = {name: tables[f"graph{number}"] for number, name in enumerate(facts["graph"])}
    items = tables["items"]
    return Dataset(
        name=facts["dataset"],
        spec=Spec(**{key: _tuples(value) for key, value in facts["spec"].items()}),
        **{split: Interactions(**splits.get(split, _NONE)) for split in SPLITS},
        user_ids=_ids(tables["users"]["id"]),
        item_ids=_ids(items["id"]),
        features=named("feature", items),
        present=named("present", items),
        titles=items.get("title"),
        codes=items.get("code"),
        item_graphs={name: (g["row"], g["col"], g["weight"]) for name, g in graphs.items()},
        impressions={
            split: _impressions(tables[f"impressions_{split}"])
            for split in SPLITS
            if f"impressions_{split}" in tables
        },
        notes={**facts["notes"], "prepared": about},
    )


def _impressions(columns: Columns) -> Impressions:
    """Impressions from their table."""
    return Impressions(**{"fields": np.zeros((len(columns["user"]), 0), np.int32), **columns})


def _ids(values: np.ndarray) -> np.ndarray:
    """Integers as they are, strings at the width of the longest."""
    return values.astype(str) if values.dtype == object else values


def _tuples(value):
    """JSON's lists as the tuples they were."""
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def _key(kind: str, name: str) -> str:
    """The name of a column; quoted, since TFDS takes a slash for nesting."""
    return f"{kind}.{urllib.parse.quote(name, safe='')}"


def _plain(values: np.ndarray, origin: str) -> np.ndarray:
    """Numbers as they are, strings as an object array.

    Raises:
      UserError: an array that mixes strings with anything else.
    """
    values = np.asarray(values)
    if values.dtype.kind in "iufb":
        return values
    try:
        text = pa.array(values.astype(object), pa.string())
    except pa.ArrowException:
        text = None
    if text is None or text.null_count:
        raise UserError(f"{origin}: entries are not all strings; make them all strings or integers")
    return text.to_numpy(zero_copy_only=False)


def _split_hash(data: Dataset) -> str:
    """What the results call the split."""
    if "split_hash" in data.notes:
        return data.notes["split_hash"]
    parts = (data.train, data.valid, data.test)
    return split_hash(parts, np.asarray(data.user_ids), np.asarray(data.item_ids))


# --- columns as TFDS records, and back ------------------------------------------------------------


def _store(
    folder: pathlib.Path,
    name: str,
    version: str,
    splits: dict[str, Columns],
    cuts: Mapping[str, np.ndarray] = types.MappingProxyType({}),
) -> None:
    """Writes a TFDS set of blocks of rows into ``folder``; ``cuts`` as in :func:`_blocks`."""
    import tensorflow_datasets as tfds

    columns = next(iter(splits.values()))
    identity = tfds.core.DatasetIdentity(
        name=name, version=tfds.core.Version(version), data_dir=str(folder), module_name=__name__
    )
    info = tfds.core.DatasetInfo(
        builder=identity,
        description="Blocks of rows, written by mmrec_jax.",
        features=tfds.features.FeaturesDict({key: _feature(v) for key, v in columns.items()}),
        disable_shuffling=True,
    )
    writer = tfds.core.SequentialWriter(info, sys.maxsize, file_format="array_record")
    writer.initialize_splits(list(splits))
    writer.add_examples({s: _blocks(columns, cuts.get(s)) for s, columns in splits.items()})
    writer.close_all()


def _feature(values: np.ndarray):
    """How TFDS stores a block of a column: numbers as raw bytes, a hundred times faster."""
    from tensorflow_datasets import features

    if values.dtype == object:
        return features.Tensor(shape=(None,), dtype=np.str_)
    return features.Tensor(
        shape=(None, *values.shape[1:]), dtype=values.dtype, encoding=features.Encoding.BYTES
    )


def _blocks(columns: Columns, cuts: np.ndarray | None = None) -> Iterator[dict]:
    """Blocks of rows; an empty table is one empty block, since TFDS wants a record per split.

    With ``cuts``, row numbers from 0 to the end, these are where blocks begin and end.
    """
    total = len(next(iter(columns.values())))
    width = sum(v.dtype.itemsize * int(np.prod(v.shape[1:])) for v in columns.values())
    rows = max(1, min(BLOCK, BLOCK_BYTES // width))
    listed = lambda v: v.tolist() if v.dtype == object else v
    cuts = np.append(np.arange(0, max(total, 1), rows), total) if cuts is None else cuts
    for start, stop in itertools.pairwise(cuts):
        yield {key: listed(v[start:stop]) for key, v in columns.items()}


def _between_users(columns: Columns) -> np.ndarray:
    """Where blocks of ``BLOCK`` rows at most begin and end if none divides a user's rows.

    A user with more rows has a block alone.
    """
    user = columns["user"]
    ends = np.append(np.flatnonzero(np.diff(user)) + 1, len(user))
    cuts = [0]
    while cuts[-1] < len(user):
        full, one = np.searchsorted(ends, (cuts[-1] + BLOCK, cuts[-1]), side="right")
        cuts.append(int(ends[max(full - 1, one)]))
    return np.array(cuts)


def _rows(folder: pathlib.Path, facts: dict) -> int:
    """How many training interactions there are.

    Raises:
      UserError: if that is not known without reading all.
    """
    if "train_rows" not in facts:
        raise UserError(
            f"{folder}: stored without a budget, so that data.budget cannot stream it; "
            "prepare the data again with data.budget, or set it to 0"
        )
    return sum(facts["train_rows"])


def _load(folder: pathlib.Path, split: str) -> dict[str, np.ndarray]:
    """The columns of one split, whole."""
    source = _source(folder, split)
    blocks = source.__getitems__(range(len(source)))
    columns = {key: np.concatenate([block[key] for block in blocks]) for key in blocks[0]}
    return {key: _text(v) if v.dtype == object else v for key, v in columns.items()}


def _source(folder: pathlib.Path, split: str):
    """The records of one split, for random access."""
    import tensorflow_datasets as tfds

    return tfds.builder_from_directory(str(folder)).as_data_source(split)


def _reader(folder: pathlib.Path, split: str) -> Callable:
    """What reads records of one split by their numbers."""
    with quiet():
        return _source(folder, split).__getitems__


def _text(values: np.ndarray) -> np.ndarray:
    """Strings from UTF-8, an object array: at a fixed width one long title would widen them all."""
    return pa.array(values, pa.binary()).cast(pa.string()).to_numpy(zero_copy_only=False)


# --- checksums ------------------------------------------------------------------------------------


def _digests(folder: pathlib.Path) -> dict[str, str]:
    """SHA-256 of every file below ``folder`` but its metadata, by relative path."""
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p != folder / "metadata.json")
    return {p.relative_to(folder).as_posix(): _digest(p) for p in files}


def _digest(path: pathlib.Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _checksum(facts: dict) -> str:
    """One SHA-256 over the facts, which hold those of all files."""
    rest = {key: value for key, value in facts.items() if key != "checksum"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def _verified(folder: pathlib.Path) -> dict:
    """The facts of the set in ``folder``.

    Raises:
      UserError: not a set of ours, not complete, or not as it was written.
    """
    remedy = "remove the folder and prepare the data again"
    path = folder / "metadata.json"
    if not path.exists():
        raise UserError(f"{folder}: metadata.json is missing, the set is incomplete; {remedy}")
    try:
        content = json.loads(path.read_bytes())
    except ValueError as error:
        raise UserError(f"{path}: damaged, it is no longer JSON; {remedy}") from error
    facts = content.get("mmrec_jax") if isinstance(content, dict) else None
    if not isinstance(facts, dict) or "format" not in facts:
        raise UserError(
            f"{folder}: a TFDS set that mmrec_jax has not prepared; name another source"
        )
    if facts["format"] != FORMAT:
        raise UserError(
            f"{folder}: format {facts['format']}, but this version reads {FORMAT}; {remedy}"
        )
    if facts.get("checksum") != _checksum(facts):
        raise UserError(f"{path}: damaged, its checksum does not match; {remedy}")
    for name in (*facts["files"], *facts["tables"]):
        if name.startswith("/") or ".." in name.split("/"):
            raise UserError(f"{path}: damaged, '{name}' lies outside of the set; {remedy}")
    for name, digest in facts["files"].items():
        if not (folder / name).is_file():
            raise UserError(f"{folder / name}: missing; {remedy}")
        if _digest(folder / name) != digest:
            raise UserError(f"{folder / name}: damaged, its checksum does not match; {remedy}")
    return facts
