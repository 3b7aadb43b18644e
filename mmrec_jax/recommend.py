"""Recommendations for the user's own ids, from the best parameters of a run."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd

from mmrec_jax import hosts, mesh, queries, store
from mmrec_jax import run as runs
from mmrec_jax.streamed import Streamed
from mmrec_jax.types import Dataset, Recommender, UserError


@mesh.as_trained
def recommend(
    workdir: str | Path, users: Sequence | None = None, k: int = 10, seen: bool = False
) -> pd.DataFrame:
    """The k best items of each user.

    Args:
      workdir: of a run.
      users: ids as in the user's own data; None for all.
      k: items per user.
      seen: whether items that the user is known to have may come up again.

    Returns:
      Columns user, rank (from 1), item, score, and title where titles are known.

    Raises:
      UserError: if a user is unknown, or k is not positive or larger than the catalogue.
    """
    if k < 1:
        raise UserError(f"k is {k}; it must be at least 1")
    run, data, ctx, variables = runs.load(workdir)
    if run.method.score is Recommender.score:
        raise UserError(f"{workdir} holds a {run.method.__name__}, which ranks no items")
    if k > data.spec.num_items:
        raise UserError(
            f"k is {k}, but {data.name} has {data.spec.num_items} items; ask for at most so many"
        )
    if users is not None and not len(users):
        raise UserError("--users names nobody; give ids, or leave it out for all users")
    numbers = np.arange(data.spec.num_users) if users is None else _numbers(data, users)
    train = data.train
    if isinstance(train, Streamed):
        train = train.of(np.isin(np.arange(data.spec.num_users), numbers))
    known = queries.join(queries.join(train, data.valid), data.test)
    blocks = queries.blocks(
        numbers,
        run.config.eval.block,
        data.spec.num_users,
        target=None,
        history=known,
        masked=None if seen else known,
        sequence=queries.windows(known, numbers, data.spec.max_len),
        times=queries.moments(data, known, numbers, wanted=None),
    )

    @jax.jit
    def answer(variables, ctx, blocks):
        model = run.model({}, ctx)
        rep = mesh.over_items(model.apply(variables, ctx, method="represent"), run)

        def block(query):
            query = mesh.over_data(query, query.user.size)
            return model.apply(variables, rep, query, k, method="rank")

        return jax.lax.map(block, blocks)

    items, scores = answer(variables, ctx, jax.tree.map(jnp.asarray, blocks))
    items, scores = (found.reshape(-1, k) for found in hosts.whole((items, scores)))
    return _frame(data, numbers, items, scores)


def _numbers(data: Dataset, users: Sequence) -> np.ndarray:
    """Positions of raw user ids, compared as text, so that a flag's "12" finds the integer 12."""
    index = pd.Index(data.user_ids.astype(str))
    found = index.get_indexer(np.asarray(users).astype(str))
    if (found < 0).any():
        missing = [str(user) for user, place in zip(users, found, strict=True) if place < 0]
        near = difflib.get_close_matches(missing[0], index, n=3)
        hint = f"; near it are {', '.join(near)}" if near else "; use the ids of the data's files"
        raise UserError(f"unknown user {', '.join(missing[:5])} in {data.name}{hint}")
    return found


def _frame(data: Dataset, users: np.ndarray, items: np.ndarray, scores: np.ndarray) -> pd.DataFrame:
    """One row per recommendation; places that no item is left for are left out."""
    k = items.shape[1]
    items, scores = items[: len(users)].reshape(-1), scores[: len(users)].reshape(-1)
    frame = pd.DataFrame(
        {
            "user": np.repeat(data.user_ids[users], k),
            "rank": np.tile(np.arange(1, k + 1), len(users)),
            "item": data.item_ids[np.maximum(items, 0)],
            "score": scores,
        }
    )
    if data.titles is not None:
        frame["title"] = data.titles[np.maximum(items, 0)]
    return frame.loc[items >= 0].reset_index(drop=True)


def check_output(path: str | None) -> None:
    """Raises UserError if :func:`write` could not write there."""
    if path is None:
        return
    if Path(path).suffix not in (".csv", ".json"):
        raise UserError(f"--output={path}: the name must end in .csv or .json")
    if not Path(path).parent.is_dir():
        raise UserError(f"--output={path}: there is no folder {Path(path).parent}; make it first")
    if Path(path).is_dir():
        raise UserError(f"--output={path} is a folder; name a file")


def write(frame: pd.DataFrame, path: str | None) -> None:
    """Prints ``frame``, or writes it to a ``.csv`` or ``.json`` file.

    Raises:
      UserError: see :func:`check_output`.
    """
    check_output(path)
    if path is None:
        print(frame.to_string(index=False))
        return
    writers = {
        ".csv": lambda part: frame.to_csv(part, index=False),
        ".json": lambda part: frame.to_json(part, orient="records", indent=1),
    }
    with store.replacing(path) as part:
        writers[Path(path).suffix](part)
