"""Requests to forget: a table of users, items or pairs, taken out of a data set."""

from __future__ import annotations

import dataclasses
import difflib
from pathlib import Path

import numpy as np
import pandas as pd

from mmrec_jax.data import build
from mmrec_jax.data.columns import Columns
from mmrec_jax.types import Dataset, Interactions, UserError

SPLITS = ("train", "valid", "test")


def without(data: Dataset, path: str | Path) -> Dataset:
    """``data`` as if it had never held what the table at ``path`` asks to forget.

    Numbers of users and items stay. Users who lose all their training interactions leave
    validation and test too, as in any other data set.

    Raises:
      UserError: a request that names nothing in ``data``, or nothing being left to train on.
    """
    gone = marked(data, path)
    parts = {split: getattr(data, split).take(~gone[split]) for split in SPLITS}
    if not len(parts["train"]):
        raise UserError(f"{path}: asks to forget all training interactions; leave some")
    count = lambda part: np.bincount(part.user, minlength=data.spec.num_users)
    trained = (count(parts["train"]) > 0) | (count(data.train) == 0)
    parts |= {split: parts[split].take(trained[parts[split].user]) for split in SPLITS[1:]}
    counts = {split: len(part) for split, part in parts.items()}
    notes = {
        **{name: note for name, note in data.notes.items() if name != "passport"},
        "forgotten": {split: int(mask.sum()) for split, mask in gone.items()},
        "interactions": {**data.notes.get("interactions", {}), **counts},
        "split_hash": build.split_hash([*parts.values()], data.user_ids, data.item_ids),
    }
    return dataclasses.replace(data, **parts, notes=notes)


def marked(data: Dataset, path: str | Path) -> dict[str, np.ndarray]:
    """Which interactions are to be forgotten: bool [E] by split.

    The table has a column of users, of items, or both. A row with a user alone means all of the
    user's interactions, with an item alone all of the item's, with both that interaction.

    Raises:
      UserError: a table without these columns, or a row that names nothing in ``data``.
    """
    if data.impressions:
        raise UserError(f"{path}: only interactions can be forgotten, and these are impressions")
    given, wanted = _read(path)
    user = _numbers(given, wanted["user"], data.user_ids, "user", data.name)
    item = _numbers(given, wanted["item"], data.item_ids, "item", data.name)
    key = lambda user, item: user.astype(np.int64) * data.spec.num_items + item
    alone_user, alone_item = user[item < 0], item[user < 0]
    pairs = key(user, item)[(user >= 0) & (item >= 0)]

    def mark(part: Interactions) -> np.ndarray:
        known = np.isin(part.user, alone_user) | np.isin(part.item, alone_item)
        return known | np.isin(key(part.user, part.item), pairs)

    parts = [getattr(data, split) for split in SPLITS]
    users, items = (np.concatenate([getattr(p, role) for p in parts]) for role in ("user", "item"))
    met = np.where(item < 0, np.isin(user, users), np.isin(item, items))
    met = np.where((user < 0) | (item < 0), met, np.isin(key(user, item), key(users, items)))
    if not met.all():
        row = int(np.argmin(met))
        named = " and ".join(f"{r} '{v}'" for r, v in wanted.iloc[row].items() if v)
        raise UserError(f"{given.at(row)}: {data.name} has no interaction of {named}; drop the row")
    return dict(zip(SPLITS, map(mark, parts), strict=True))


def merge(former: str | Path, added: str | Path) -> pd.DataFrame:
    """The requests of two tables as one, columns user and item; ``former`` may be ""."""
    tables = [_read(path)[1] for path in (former, added) if path]
    return pd.concat(tables).drop_duplicates()


def _read(path: str | Path) -> tuple[Columns, pd.DataFrame]:
    """The table, and its requests as text in the columns user and item, "" where it has none."""
    given = Columns.read(Path(path))
    names = {role: given.role(role, {}, needed=False) for role in ("user", "item")}
    if not any(names.values()):
        raise UserError(
            f"{path}: no column of users or items; it has {', '.join(given.names)}; name one "
            "'user' or 'item', or have both"
        )
    blank = np.full(len(given.text(given.names[0])), "", object)
    texts = {role: given.text(name) if name else blank for role, name in names.items()}
    frame = pd.DataFrame({role: pd.Series(text).str.strip() for role, text in texts.items()})
    empty = (frame == "").all(axis=1).to_numpy()
    if empty.any():
        raise UserError(f"{given.at(int(np.argmax(empty)))}: neither a user nor an item; give one")
    return given, frame


def _numbers(given: Columns, values: pd.Series, ids: np.ndarray, role: str, name: str):
    """Numbers of raw ids, int64, -1 where there is none; compared as text."""
    index = pd.Index(ids.astype(str))
    found = index.get_indexer(values.to_numpy(str))
    unknown = (found < 0) & (values != "").to_numpy()
    if unknown.any():
        row = int(np.argmax(unknown))
        near = difflib.get_close_matches(values[row], index, n=3)
        hint = f"near it are {', '.join(near)}" if near else "use the ids of the data's own files"
        raise UserError(f"{given.at(row)}: unknown {role} '{values[row]}' in {name}; {hint}")
    return np.where((values == "").to_numpy(), -1, found)
