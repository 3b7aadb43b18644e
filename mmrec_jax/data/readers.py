"""Files of interactions to a :class:`~mmrec_jax.data.table.Table`, one function per layout."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from mmrec_jax.data import fields as impressions
from mmrec_jax.data import files, ml100k, side
from mmrec_jax.data.columns import USUAL, Columns, plain_name
from mmrec_jax.data.table import Table
from mmrec_jax.types import UserError


def read(
    path: Path,
    columns: Mapping[str, str] | None = None,
    features: Sequence[str] = (),
    item_graphs: Sequence[str] = (),
    fields: Mapping[str, Sequence[str]] | None = None,
) -> Table:
    """Reads a file or folder of interactions and the side information beside it.

    Layouts: MMRec (``NAME.inter`` with integer ids that number the rows of ``*.npy``), RecBole
    (the same with typed headers and any ids), a plain table (CSV, TSV, Parquet; any ids),
    sequences (lines of a user and the items in the order of time; or ``NAME.inter.json``, lists of
    items by user, as LC-Rec and LETTER have them), LightGCN (``train.txt`` or
    ``.npz``, and ``test.txt``), MovieLens-100K as published (``u.data``, ``u.user``, ``u.item``).

    Args:
      path: an existing file or folder.
      columns: column names by role; a missing or empty one is guessed. Columns of a table without
        header are named 1, 2, 3 and so on.
      features: feature files, relative to the folder or the working directory; empty takes all
        that lie beside the interactions (:func:`mmrec_jax.data.side.features`).
      item_graphs: ``.npz`` files of item graphs, likewise; empty takes none.
      fields: the keyword arguments ``fields`` and ``numeric`` of :func:`fields.columns` where rows
        are impressions, else None.

    Raises:
      UserError: anything amiss in the files.
    """
    named = {role: name for role, name in (columns or {}).items() if name}
    folder = path if path.is_dir() else path.parent
    if path.is_dir() and ml100k.is_it(path):
        return dataclasses.replace(
            ml100k.read(path),
            features=side.features(folder, features),
            item_graphs=side.item_graphs(folder, item_graphs),
        )
    if path.is_dir() and (parts := _published_parts(path)):
        table = _lightgcn(path, *parts)
    else:
        table = _interactions(_only_file(path, named) if path.is_dir() else path, named, fields)
    named_by_file = path.is_file() or table.origin.endswith((".inter", ".inter.json"))
    return dataclasses.replace(
        table,
        name=table.name if named_by_file else path.resolve().name,
        features=side.features(folder, features),
        item_graphs=side.item_graphs(folder, item_graphs),
        titles=side.titles(folder, table.origin, named),
        notes={"source": str(path), **table.notes},
    )


def from_columns(
    given: Columns,
    name: str,
    named: Mapping[str, str],
    layout: str,
    fields: Mapping[str, Sequence[str]] | None = None,
) -> Table:
    """A table with one interaction, or with ``fields`` one impression, per row."""
    user, item = given.role("user", named), given.role("item", named)
    if user == item:
        raise UserError(
            f"{given.origin}: config.data.columns.user and config.data.columns.item both mean the "
            f"column '{user}'; name two"
        )
    time, rating, label = (given.role(r, named, needed=False) for r in ("time", "rating", "label"))
    table = Table(
        name=name,
        user=given.ids(user),
        item=given.ids(item),
        time=None if time is None else given.numbers(time, "time"),
        rating=None if rating is None else given.numbers(rating, "rating").astype(np.float32),
        label=None if label is None else given.labels(label),
        origin=given.origin,
        notes={"layout": layout},
        **({} if fields is None else impressions.columns(given, named, **fields)),
    )
    if layout != "mmrec":
        return table
    return _numbered(table, lambda row, role: f"{given.at(row)}: '{given.role(role, named)}'")


def _interactions(path: Path, named: Mapping[str, str], fields: Mapping | None) -> Table:
    """A single file of interactions in whichever layout its first lines show."""
    if path.suffix == ".npz":
        user, item = _integer_pairs(path)
        table = Table(path.stem, user, item, origin=str(path), notes={"layout": "pairs"})
        return _numbered(table, lambda row, role: f"{path}: entry {row + 1}: {role}")
    if path.name.endswith(".inter.json"):
        return _json_lists(path)
    if path.suffix not in (".parquet", ".inter") and _is_sequences(path):
        lines = _lines_of_ids(path)
        notes = {"layout": "sequences", "time": "place in the user's line"}
        return Table(path.stem, lines.first, lines.rest, lines.place, origin=str(path), notes=notes)
    given = Columns.read(path)
    is_inter = path.suffix == ".inter"
    layout = "recbole" if given.typed else "mmrec" if is_inter else "table"
    return from_columns(given, path.stem, named, layout, fields)


def _lightgcn(folder: Path, *paths: Path) -> Table:
    """A published training and test part, numbered as in the files, without validation."""
    parts = []
    for path in paths:
        if path.suffix == ".npz":
            user, item = _integer_pairs(path)
            at = lambda row, role, path=path: f"{path}: entry {row + 1}: {role}"
        else:
            lines = _lines_of_ids(path)
            user, item = lines.first, lines.rest
            at = lambda row, role, path=path, n=lines.line: f"{path}: line {n[row]}: {role}"
        parts.append(_numbered(Table("", user, item, origin=str(path)), at))
    label = np.repeat(np.array([0, 2], np.int8), [len(part.user) for part in parts])
    joined = Table(
        name=folder.name,
        user=np.concatenate([part.user for part in parts]),
        item=np.concatenate([part.item for part in parts]),
        label=label,
        user_ids=max((part.user_ids for part in parts), key=len),
        item_ids=max((part.item_ids for part in parts), key=len),
        origin=f"{paths[0]} and {paths[1].name}",
        notes={"layout": "lightgcn"},
    )
    return joined


def _numbered(table: Table, at) -> Table:
    """The table with its ids as numbers; users and items reach to the largest id.

    Args:
      table: the interactions.
      at: ``(row, role)`` to what errors call that cell.

    Raises:
      UserError: an id that is no integer from 0, or far beyond the number of interactions.
    """
    most = 1000 + 100 * len(table.user)  # beyond it, ids are surely no row numbers
    for role in ("user", "item"):
        ids = getattr(table, role)
        if ids.dtype.kind in "iu":
            wrong = (ids < 0) | (ids > most)
        else:
            padded = np.char.startswith(ids, "0") & (ids != "0")
            wrong = ~np.char.isdecimal(ids) | padded | (np.char.str_len(ids) > 18)
        if wrong.any():
            row = int(np.argmax(wrong))
            raise UserError(
                f"{at(row, role)} is '{ids[row]}', but ids of this layout are integers from 0 "
                "without wide gaps, that number the rows of feature files; number them so, or give "
                "the data as a CSV"
            )
    size = lambda ids: np.arange(int(ids.max()) + 1 if len(ids) else 0)
    user, item = table.user.astype(np.int64), table.item.astype(np.int64)
    return dataclasses.replace(
        table, user=user, item=item, user_ids=size(user), item_ids=size(item)
    )


def _json_lists(path: Path) -> Table:
    """Lists of items in the order of time, by user.

    Raises:
      UserError: it is no such JSON.
    """
    expected = 'expected {"user": [item, item, ...], ...}, all items of one kind; mend it'
    wrong, content = UserError(f"{path}: {expected}"), files.document(path, expected)
    try:
        counts = np.array([len(items) for items in content.values()], np.int64)
        item = np.array([*itertools.chain.from_iterable(content.values())])
        user = np.array([*content], dtype=str)
        for ids in (user, item) if item.dtype.kind == "U" else (user,):
            pa.array(ids)  # half of a surrogate pair is no text
    except (AttributeError, TypeError, ValueError, pa.ArrowException):
        raise wrong from None
    if item.ndim != 1 or item.dtype.kind not in "iuU" or not len(item):
        raise wrong
    numbers = np.char.isdecimal(user) & (np.char.str_len(user) < 18)
    if numbers.all() and np.array_equal(user, user.astype(np.int64).astype(str)):
        user = user.astype(np.int64)
    place = np.arange(len(item)) - np.repeat(np.cumsum(counts) - counts, counts)
    notes = {"layout": "lists", "time": "place in the user's list"}
    name = path.name.removesuffix(".inter.json")
    return Table(name, np.repeat(user, counts), item, place, origin=str(path), notes=notes)


def _integer_pairs(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """The arrays ``user`` and ``item`` of an ``.npz``, integers [E]."""
    given = files.arrays(path, ("user", "item"))
    user, item = given["user"], given["item"]
    integers = {user.dtype.kind, item.dtype.kind} <= {*"iu"}
    if user.ndim != 1 or user.shape != item.shape or not integers:
        raise UserError(
            f"{path}: 'user' and 'item' must be integer arrays of equal length; save them so"
        )
    return user, item


def _published_parts(folder: Path) -> list[Path]:
    """The training and the test file of LightGCN's layout, none unless the folder has both."""
    names = [[f"{part}{end}" for end in (".npz", ".txt")] for part in ("train", "test")]
    found = [p for pair in names for name in pair if (p := folder / name).is_file()][:2]
    return found if {p.stem for p in found} == {"train", "test"} else []


def _only_file(folder: Path, named: Mapping[str, str]) -> Path:
    """The one file of a folder that holds interactions."""
    lists = [path for path in files.visible(folder, ".json") if path.stem.endswith(".inter")]
    found = files.visible(folder, ".inter") or lists
    if not found:
        tables = files.visible(folder, ".csv", ".tsv", ".parquet", ".txt")
        found = [path for path in tables if _fits(path, named)]
    if len(found) == 1:
        return found[0]
    if found:
        names = ", ".join(path.name for path in found)
        raise UserError(f"{folder}: several files hold interactions ({names}); name one of them")
    raise UserError(
        f"{folder}: no file holds interactions; expected NAME.inter, a CSV, TSV or Parquet table "
        "with a user and an item column, lines of ids, or train.txt and test.txt; name the file, "
        "and its columns in config.data.columns"
    )


def _fits(path: Path, named: Mapping[str, str]) -> bool:
    """Whether a file looks like interactions: lines of ids, or columns for user and item."""
    try:
        if path.suffix != ".parquet" and _is_sequences(path):
            return True
        given = Columns.read(path, names_only=True)
        return all(given.role(role, named, needed=False) for role in ("user", "item"))
    except UserError:
        return False


@dataclasses.dataclass(frozen=True)
class _Lines:
    """Lines of a first id and further ids, flattened to one entry [E] per further id.

    Attributes:
      first: the line's first id.
      rest: the further id.
      place: its place in the line, from 0.
      line: the line's number, from 1.
    """

    first: np.ndarray
    rest: np.ndarray
    place: np.ndarray
    line: np.ndarray


def _is_sequences(path: Path) -> bool:
    """Whether the first lines are users and their items: ids between blanks, and no header."""
    head = [files.decoded(path, line, n) for n, line in itertools.islice(files.lines(path), 100)]
    if not head or any(mark in line for line in head for mark in ",;|"):
        return False
    if {plain_name(word) for word in head[0].split()} & {*USUAL["user"], *USUAL["item"]}:
        return False
    items = [line.strip().partition("\t")[2] or line.strip() for line in head]
    return not any("\t" in part for part in items) and any(" " in part for part in items)


def _lines_of_ids(path: Path) -> _Lines:
    """Parses ragged lines of ids that blanks or tabs separate."""
    text = files.content(path)
    raw = np.frombuffer(text, np.uint8)
    blank = (raw == 32) | ((raw >= 9) & (raw <= 13))
    starts = np.flatnonzero(~blank & np.concatenate([[True], blank[:-1]]))
    line = np.searchsorted(np.flatnonzero(raw == 10), starts) + 1
    ids = _tokens(path, text, raw, blank, starts)
    heads = np.flatnonzero(np.concatenate([[True], np.diff(line) > 0]))
    lengths = np.diff(np.append(heads, len(ids)))
    place = np.arange(len(ids)) - np.repeat(heads, lengths) - 1
    rest = np.flatnonzero(place >= 0)
    return _Lines(np.repeat(ids[heads], lengths)[rest], ids[rest], place[rest], line[rest])


def _tokens(path, text: bytes, raw, blank, starts) -> np.ndarray:
    """All ids of a file: int64 if every one is written as an integer, else strings."""
    digits = (raw >= 48) & (raw <= 57)
    ends = np.flatnonzero(~blank & np.concatenate([blank[1:], [True]]))
    padded = (raw[starts] == 48) & (ends > starts)  # "007" is no integer but a name
    if (digits | blank).all() and not padded.any() and (ends - starts).max() < 18:
        return np.fromstring(text, np.int64, sep=" ")
    return np.array(files.decoded(path, text).split())
