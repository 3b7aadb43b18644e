"""Ranking queries: who is asked, what counts as a hit, what may not be recommended."""

from __future__ import annotations

import numpy as np

from mmrec_jax import metrics
from mmrec_jax.ops import topk
from mmrec_jax.types import Array, Dataset, Interactions, Query, Recommender, UserError

PROTOCOLS = ("mmrec", "strict", "none")


def ranking(data: Dataset, split: str, config, sequences: bool = False) -> Query:
    """Queries of all users that have items in ``split``, in blocks of ``config.eval.block``.

    Args:
      data: the data set.
      split: "valid" or "test"; the latter's queries also know the validation items when
        ``sequences`` is set, as next-item prediction does.
      config: reads ``eval.block`` and ``eval.protocol``: ``mmrec`` masks training items,
        ``strict`` masks validation items too when testing, ``none`` masks nothing.
      sequences: whether to fill ``Query.sequence``.

    Returns:
      Host arrays with a leading block axis. Users stand in order of their number of targets, so
      that a block's work is bounded by its own users and not by the greediest of all.
    """
    wanted = getattr(data, split)
    users = np.unique(wanted.user)
    targets = np.bincount(wanted.user, minlength=data.spec.num_users)[users]
    users = users[np.argsort(targets, kind="stable")]
    sequence = windows(_before(data, split), users, data.spec.max_len) if sequences else None
    return blocks(
        users,
        config.eval.block,
        data.spec.num_users,
        target=wanted,
        history=data.train,
        masked=_masked(data, split, config.eval.protocol),
        sequence=sequence,
    )


def blocks(
    users: np.ndarray,
    block: int,
    num_users: int,
    target: Interactions | None,
    history: Interactions,
    masked: Interactions | None,
    sequence: np.ndarray | None = None,
) -> Query:
    """Cuts queries of ``users`` [Q] into equal blocks; ``sequence`` is int32 [Q, L] or None."""
    block = min(block, max(len(users), 1))
    count = max(-(-len(users) // block), 1)
    padded = np.zeros(count * block, np.int32)
    padded[: len(users)] = users
    valid = np.arange(count * block) < len(users)
    if sequence is None:
        sequence = np.zeros((len(users), 0), np.int32)
    filler = np.full((count * block - len(users), sequence.shape[1]), -1, np.int32)
    history_row, history_item = _pairs(history, users, num_users, block, count)
    masked_row, masked_item = _pairs(masked, users, num_users, block, count)
    return Query(
        user=padded.reshape(count, block),
        valid=valid.reshape(count, block),
        target=_targets(target, users, num_users, count * block).reshape(count, block, -1),
        history_row=history_row,
        history_item=history_item,
        masked_row=masked_row,
        masked_item=masked_item,
        sequence=np.concatenate([sequence, filler]).reshape(count, block, sequence.shape[1]),
    )


def windows(past: Interactions, users: np.ndarray, length: int) -> np.ndarray:
    """The latest ``length`` items of each user, oldest first, left padded with -1; int32 [Q, L].

    Interactions of equal time keep their order in ``past``.
    """
    time = np.arange(len(past)) if past.time is None else past.time
    order = np.lexsort((np.arange(len(past)), time, past.user))
    num_users = int(max(past.user.max(initial=0), users.max(initial=0))) + 1
    end = np.cumsum(np.bincount(past.user, minlength=num_users))
    begin = np.concatenate([[0], end[:-1]])
    index = end[users][:, None] + np.arange(-length, 0)
    known = index >= begin[users][:, None]
    item = past.item[order]
    padded = np.full(known.shape, -1, np.int32)
    padded[known] = item[index[known]]
    return padded


def _before(data: Dataset, split: str) -> Interactions:
    return data.train if split == "valid" else join(data.train, data.valid)


def _masked(data: Dataset, split: str, protocol: str) -> Interactions | None:
    if protocol not in PROTOCOLS:
        raise UserError(f"eval.protocol is {protocol!r}; it must be one of {', '.join(PROTOCOLS)}")
    if protocol == "none":
        return None
    return _before(data, split) if protocol == "strict" else data.train


def join(first: Interactions, second: Interactions) -> Interactions:
    """Both sets of interactions, one after the other."""
    both = lambda a, b: None if a is None or b is None else np.concatenate([a, b])
    return Interactions(
        both(first.user, second.user),
        both(first.item, second.item),
        both(first.time, second.time),
        both(first.rating, second.rating),
    )


def _targets(target: Interactions | None, users, num_users, rows) -> np.ndarray:
    """Target items of each query, padded with -1; int32 [rows, T]."""
    if target is None:
        return np.full((rows, 0), -1, np.int32)
    indptr, item = target.rows(num_users)
    count = np.diff(indptr)[users]
    padded = np.full((rows, int(count.max(initial=0))), -1, np.int32)
    row = np.repeat(np.arange(len(users)), count)
    column = np.arange(row.size) - np.repeat(np.cumsum(count) - count, count)
    padded[row, column] = item[np.repeat(indptr[users], count) + column]
    return padded


def _pairs(part: Interactions | None, users, num_users, block, count):
    """(query number within its block, item) of ``part``; int32 [count, M] each."""
    if part is None:
        empty = np.zeros((count, 0), np.int32)
        return empty, empty
    indptr, items = part.rows(num_users)
    length = np.diff(indptr)[users]
    row = np.repeat(np.arange(len(users)), length)
    step = np.arange(row.size) - np.repeat(np.cumsum(length) - length, length)
    item = items[np.repeat(indptr[users], length) + step]
    number = row // block
    per_block = np.bincount(number, minlength=count)
    begin = np.cumsum(per_block) - per_block
    column = np.arange(row.size) - begin[number]
    shape = (count, int(per_block.max(initial=0)))
    rows, columns = np.full(shape, block, np.int32), np.zeros(shape, np.int32)
    rows[number, column] = row % block
    columns[number, column] = item
    return rows, columns


def measure(model: Recommender, variables, rep, query: Query, names, ks) -> dict[str, Array]:
    """Metrics of one block of queries by name, float32 [B] each (``metrics.from_ranks``)."""
    scores = model.apply(variables, rep, query, method="score")
    ranks = topk.target_ranks(scores, query)
    return metrics.from_ranks(ranks, query.target, names, ks)
