"""Leaks on purpose: preference pairs given to training, though test may ask for them."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pandas as pd

from mmrec_jax import queries
from mmrec_jax.data import build
from mmrec_jax.data.columns import Columns
from mmrec_jax.types import Dataset, Interactions, UserError

MARK = " + LEAKED PREFERENCES"  # ends the name of such data, and so stands over all results
SEED = 0  # of which test interactions are leaked; a larger share holds all of a smaller one


def given(data: Dataset, what: str | Path) -> Dataset:
    """``data`` with preference pairs among the training interactions; for no test of a method.

    Pairs of validation or test bring their time and rating along; others get the latest time in
    the user's training (of all, if there is none) and the mean rating. Validation and test are
    left as they are, and so is what their queries know: ``Dataset.known`` holds the training
    interactions less the pairs, so that a leaked pair is neither masked nor part of a history.

    Args:
      data: of interactions.
      what: a table with a column of users and one of items, or ``test=0.5``: this share of the
        test interactions.

    Raises:
      UserError: impressions, a share that is none, or pairs that are not of ``data``.
    """
    if data.impressions:
        raise UserError(f"{what}: only interactions can be leaked, and these are impressions")
    user, item = _shared(data, what) if str(what).startswith("test=") else _read(data, Path(what))
    key = lambda part: part.user.astype(np.int64) * data.spec.num_items + part.item
    wanted = np.unique(user.astype(np.int64) * data.spec.num_items + item)
    new = np.setdiff1d(wanted, key(data.train))
    held_out = queries.join(data.valid, data.test)
    held_out = held_out.take(np.isin(key(held_out), new))
    train = queries.join(data.train, held_out)
    train = queries.join(train, _others(data, np.setdiff1d(new, key(held_out))))
    counts = {
        "from": str(what),
        "pairs": len(wanted),
        "known_already": len(wanted) - len(new),
        "of_valid": int(np.isin(key(data.valid), new).sum()),
        "of_test": int(np.isin(key(data.test), new).sum()),
    }
    parts = (train, data.valid, data.test)
    notes = {
        **data.notes,
        "LEAKED": counts,
        "interactions": {**data.notes.get("interactions", {}), "train": len(train)},
        "split_hash": build.split_hash(parts, data.user_ids, data.item_ids),
    }
    return dataclasses.replace(
        data, name=data.name + MARK, train=train, known=data.train, notes=notes
    )


def _shared(data: Dataset, what: str | Path) -> tuple[np.ndarray, np.ndarray]:
    """Users and items of a share of the test interactions."""
    try:
        rate = float(str(what).removeprefix("test="))
    except ValueError:
        rate = np.nan
    if not 0 < rate <= 1:
        raise UserError(f"leak '{what}': give a share of test above 0 and up to 1, as test=0.5")
    order = np.random.default_rng(SEED).permutation(len(data.test))
    chosen = data.test.take(np.sort(order[: round(rate * len(order))]))
    return chosen.user, chosen.item


def _read(data: Dataset, path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Users and items of a table, by number; ids are compared as text."""
    table = Columns.read(path)
    found = []
    for role, ids in (("user", data.user_ids), ("item", data.item_ids)):
        column = table.role(role, {})
        text = np.char.strip(np.asarray(table.text(column), str))
        numbers = pd.Index(ids.astype(str)).get_indexer(text)
        if (numbers < 0).any():
            row = int(np.argmax(numbers < 0))
            raise UserError(
                f"{table.at(row)}: unknown {role} '{text[row]}' in {data.name}; preferences are "
                "of users and items that the data have: mend or drop the row"
            )
        found.append(numbers)
    if not len(found[0]):
        raise UserError(f"{path}: no preferences; give at least one row of a user and an item")
    return found[0], found[1]


def _others(data: Dataset, key: np.ndarray) -> Interactions:
    """Pairs that stand in no part of the data, by number, with a time and a rating."""
    user, item = (a.astype(np.int32) for a in np.divmod(key, data.spec.num_items))
    time = rating = None
    if data.train.time is not None:
        latest = np.full(data.spec.num_users, data.train.time.max(), np.int64)
        latest[data.train.user] = data.train.time.min()
        np.maximum.at(latest, data.train.user, data.train.time)
        time = latest[user]
    if data.train.rating is not None:
        rating = np.full(len(user), data.train.rating.mean(), np.float32)
    return Interactions(user, item, time, rating)
