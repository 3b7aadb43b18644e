"""Semantic codes of items: read from a file, checked, and given to a data set."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from mmrec_jax.data import files
from mmrec_jax.ops import quantize
from mmrec_jax.types import Dataset, UserError

COLLISIONS = ("error", "move")
_MOST = 2**20  # codes of a level, as a check against values that are no codes


def attach(data: Dataset, name: str, collisions: str = "error", folder: Path | None = None):
    """``data`` with the codes that ``name`` means, one row for each of its items.

    Args:
      data: the data set; codes of other items are left out and counted in the notes.
      name: the workdir of a tokenizer run, its ``codes.parquet`` (columns ``item``, ``code_0``,
        ``code_1`` ...), an ``.index.json`` (by item, ``["<a_12>", "<b_3>"]`` or ``[12, 3]``), or
        "features": made on the spot of the item features (:func:`from_features`).
      collisions: what becomes of items that share all codes: "error", or "move": all but the first
        get the smallest last code that is free after the same other codes.
      folder: where else to look for the file.

    Raises:
      UserError: items without codes, items that share them, or a file that holds no codes.
    """
    if collisions not in COLLISIONS:
        known = ", ".join(COLLISIONS)
        raise UserError(f"config.data.collisions is '{collisions}'; it must be one of {known}")
    if name == "features":
        codes, notes = from_features(data), {"from": "features"}
    else:
        ids, given, origin = read(files.find(name, folder))
        codes = _aligned(ids, given, origin, data)
        shared = _repeats(codes)
        if shared.any():
            codes = _moved(codes, shared, origin, data, collisions)
        others = len(given) - len(codes)
        notes = {"from": origin, "of_other_items": others, "moved": int(shared.sum())}
    sizes = tuple((codes.max(axis=0) + 1).tolist())
    return dataclasses.replace(
        data,
        codes=codes,
        spec=dataclasses.replace(data.spec, codes=sizes),
        notes={**data.notes, "codes": {**notes, "sizes": list(sizes)}},
    )


def from_features(data: Dataset) -> np.ndarray:
    """Different codes of all items, int32 [I, 3]: residual k-means in two levels, and a counter.

    Enough to try a method out; a tokenizer of ``configs/generative`` is trained and reports on
    its codes.

    Raises:
      UserError: there are no features.
    """
    if not data.features:
        raise UserError(
            f"{data.name} has no features to make codes of; name a file of codes in "
            "config.data.codes"
        )
    items = np.concatenate(list(data.features.values()), axis=1)
    items = jnp.asarray((items - items.mean(0)) / (items.std(0) + 1e-6), jnp.float32)
    size = int(np.ceil(np.sqrt(data.spec.num_items)))
    codebooks = quantize.residual_kmeans(jax.random.key(0), items, (size, size))
    return quantize.suffixed(np.asarray(quantize.encode(items, codebooks)[0]))


def read(path: Path) -> tuple[np.ndarray, np.ndarray, str]:
    """Item ids as text [R], their codes int32 [R, C], and the file they come from.

    Raises:
      UserError: no such file, or one of another form.
    """
    if path.is_dir():
        path = path / "codes.parquet"
        if not path.exists():
            raise UserError(
                f"{path}: there is none; train the tokenizer to its end, or name a file"
            )
    if path.suffix not in (".parquet", ".json"):
        raise UserError(f"{path}: codes are a codes.parquet, an .index.json or a run's workdir")
    ids, codes = _parquet(path) if path.suffix == ".parquet" else _json(path)
    if not codes.size:
        raise UserError(f"{path}: there are no codes; name another file")
    wrong = ((codes < 0) | (codes >= _MOST)).any(axis=1)
    if wrong.any():
        row = int(np.argmax(wrong))
        raise UserError(
            f"{path}: item '{ids[row]}' has the codes {codes[row].tolist()}, but codes are whole "
            f"numbers from 0 and below {_MOST}; mend them"
        )
    return ids, codes.astype(np.int32), str(path)


def _parquet(path: Path) -> tuple[np.ndarray, np.ndarray]:
    try:
        table = pq.read_table(path)
    except (pa.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{path}: cannot be read as Parquet ({reason}); write it again") from None
    names = [f"code_{level}" for level in range(table.num_columns)]
    names = [name for name in names if name in table.column_names]
    if "item" not in table.column_names or not names or _repeated(table.column_names):
        raise UserError(
            f"{path}: columns are {', '.join(table.column_names)}; expected item, code_0, "
            "code_1 and so on"
        )
    columns = [table[name].to_numpy() for name in names]
    for name, column in zip(names, columns, strict=True):
        if column.dtype.kind not in "iu":  # a missing entry makes it float
            raise UserError(f"{path}: '{name}' is not all whole numbers; mend it")
    ids = np.asarray(table["item"].to_pylist(), dtype=str)
    return ids, np.stack(columns, axis=1).astype(np.int64)


def _repeated(names: list[str]) -> bool:
    return len(set(names)) < len(names)


def _json(path: Path) -> tuple[np.ndarray, np.ndarray]:
    expected = 'expected {"item": ["<a_12>", "<b_3>"], ...}, as many codes for each item; mend it'
    content = files.document(path, expected)
    try:
        tokens = np.array([*content.values()])
    except (AttributeError, ValueError):
        raise UserError(f"{path}: {expected}") from None
    ids = np.array([*content], dtype=str)
    if tokens.ndim == 2 and tokens.dtype.kind == "U":
        number = np.char.rpartition(np.char.strip(tokens, "<>"), "_")[..., 2]
        wrong = ~(np.char.isdecimal(number) & (np.char.str_len(number) < 10))
        if wrong.any():
            row, level = np.argwhere(wrong)[0]
            raise UserError(f"{path}: item '{ids[row]}' has '{tokens[row, level]}'; {expected}")
        return ids, number.astype(np.int64)
    if tokens.ndim != 2 or tokens.dtype.kind not in "iu":
        raise UserError(f"{path}: {expected}")
    return ids, tokens.astype(np.int64)


def _aligned(ids: np.ndarray, codes: np.ndarray, origin: str, data: Dataset) -> np.ndarray:
    """The codes of the items of ``data``, in its order; ids are compared as text."""
    index = pd.Index(ids)
    if not index.is_unique:
        again = ids[np.argmax(index.duplicated())]
        raise UserError(f"{origin}: item '{again}' occurs more than once; keep one row of it")
    found = index.get_indexer(data.item_ids.astype(str))
    lacking = np.flatnonzero(found < 0)
    if len(lacking):
        raise UserError(
            f"{origin}: item '{data.item_ids[lacking[0]]}' of {data.name} has no codes "
            f"({len(lacking)} such items of {len(found)}); make the codes from the same data"
        )
    return codes[found]


def _repeats(codes: np.ndarray) -> np.ndarray:
    """Items that have the same codes as one before them, bool [I]."""
    first = np.unique(codes, axis=0, return_index=True)[1]
    repeats = np.ones(len(codes), bool)
    repeats[first] = False
    return repeats


def _moved(codes, shared, origin: str, data: Dataset, collisions: str) -> np.ndarray:
    """The codes with the ``shared`` ones moved to free last codes, or an error."""
    later = np.flatnonzero(shared)
    first = np.flatnonzero((codes == codes[later[0]]).all(axis=1))[0]
    pair = f"items '{data.item_ids[first]}' and '{data.item_ids[later[0]]}' have the same codes"
    if collisions == "error":
        raise UserError(
            f"{origin}: {pair} ({len(later)} such items); train the tokenizer with de-duplication, "
            "or set config.data.collisions=move"
        )
    prefixes, group = np.unique(codes[:, :-1], axis=0, return_inverse=True)
    crowded, row = np.unique(group[later], return_inverse=True)
    place = np.searchsorted(crowded, group)
    inside = (place < len(crowded)) & (crowded[np.minimum(place, len(crowded) - 1)] == group)
    used = np.zeros((len(crowded), codes[:, -1].max() + 1), bool)
    used[place[inside], codes[inside, -1]] = True
    order = np.argsort(row, kind="stable")  # places among the moved items of one prefix
    counts = np.bincount(row)
    rank = np.empty(len(row), np.int64)
    rank[order] = np.arange(len(row)) - np.repeat(np.cumsum(counts) - counts, counts)
    if (counts > (~used).sum(axis=1)).any():
        raise UserError(
            f"{origin}: {pair}, and no last code is free for all that share their first ones; "
            "train the tokenizer with de-duplication"
        )
    free = np.argsort(used, axis=1, kind="stable")  # the free codes of a prefix come first
    moved = codes.copy()
    moved[later, -1] = free[row, rank]
    return moved
