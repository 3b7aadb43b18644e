"""Ranking queries: who is asked, what counts as a hit, what may not be recommended."""

from __future__ import annotations

import dataclasses

import numpy as np

from mmrec_jax import metrics
from mmrec_jax.ops import across, topk
from mmrec_jax.streamed import Streamed
from mmrec_jax.types import Array, Dataset, Interactions, Query, Recommender, UserError

PROTOCOLS = ("mmrec", "strict", "none")


def ranking(data: Dataset, split: str, config, sequences: bool = False) -> Query:
    """Queries of users that have items in ``split``, in blocks of ``config.eval.block``.

    Args:
      data: the data set.
      split: "valid" or "test"; the latter's queries also know the validation items when
        ``sequences`` is set, as next-item prediction does.
      config: reads ``eval.block``; ``eval.users``, how many users to ask, always the same ones, 0
        for all; and ``eval.protocol``: ``mmrec`` masks training items, ``strict`` masks validation
        items too when testing, ``none`` masks nothing.
      sequences: whether to fill ``Query.sequence`` and, where there are times, ``Query.times``.

    Returns:
      Host arrays with a leading block axis. Users stand in order of their number of targets, so
      that a block's work is bounded by its own users and not by the greediest of all.
    """
    wanted = getattr(data, split)
    users = np.unique(wanted.user)
    targets = np.bincount(wanted.user, minlength=data.spec.num_users)[users]
    users = users[np.argsort(targets, kind="stable")]
    whole, sample = data, config.eval.get("users", 0)
    if 0 < sample < len(users):
        users = users[np.sort(np.random.default_rng(0).choice(len(users), sample, replace=False))]
    if len(users) < len(targets) or isinstance(data.train, Streamed):
        data = _of_users(data, users)  # sorting the others' interactions would take minutes
        wanted = getattr(data, split)
    past = _before(data, split)
    sequence = windows(past, users, data.spec.max_len) if sequences else None
    times = moments(whole, past, users, wanted) if sequences else None
    return blocks(
        users,
        config.eval.block,
        data.spec.num_users,
        target=wanted,
        history=_trained(data),
        masked=_masked(data, split, config.eval.protocol),
        sequence=sequence,
        times=times,
    )


def blocks(
    users: np.ndarray,
    block: int,
    num_users: int,
    target: Interactions | None,
    history: Interactions,
    masked: Interactions | None,
    sequence: np.ndarray | None = None,
    times: np.ndarray | None = None,
) -> Query:
    """Cuts queries of ``users`` [Q] into equal blocks.

    ``sequence`` is int32 [Q, L] or None, ``times`` int32 [Q, L + 1] or None.
    """
    block = min(block, max(len(users), 1))
    count = max(-(-len(users) // block), 1)
    padded = np.zeros(count * block, np.int32)
    padded[: len(users)] = users
    valid = np.arange(count * block) < len(users)
    if sequence is None:
        sequence = np.zeros((len(users), 0), np.int32)
    cut = lambda rows, fill: np.concatenate(
        [rows, np.full((count * block - len(users), rows.shape[1]), fill, np.int32)]
    ).reshape(count, block, rows.shape[1])
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
        sequence=cut(sequence, -1),
        times=None if times is None else cut(times, 0),
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


def ticks(data: Dataset, time: np.ndarray | None) -> np.ndarray | None:
    """Times of ``data`` counted from its first moment, int32; None stays None.

    The unit is the data's own, or as much coarser as it takes for twice the span to fit. Test has
    no say in it, so that all is the same while that is kept under lock; times that far outside the
    span of training and validation are cut off.
    """
    if time is None:
        return None
    known = [part.time for part in (data.train, data.valid) if part.time is not None]
    first = min(int(t.min()) for t in known if t.size)
    last = max(int(t.max()) for t in known if t.size)
    unit = (last - first) // (2**30 - 1) + 1
    return np.clip((time - first) // unit, 0, 2**31 - 1).astype(np.int32)


def moments(
    data: Dataset, past: Interactions, users: np.ndarray, wanted: Interactions | None
) -> np.ndarray | None:
    """When the items of :func:`windows` were chosen, and when the query is asked.

    That is when a user's first item of ``wanted`` is chosen, or where there is no ``wanted`` the
    last moment of the data.

    Returns:
      int32 [Q, L + 1], 0 at padding; None if times are not known.
    """
    if past.time is None or (wanted is not None and wanted.time is None):
        return None
    timed = Interactions(past.user, ticks(data, past.time), past.time)
    before = np.maximum(windows(timed, users, data.spec.max_len), 0)
    asked = np.full(data.spec.num_users, ticks(data, past.time).max(initial=0), np.int32)
    if wanted is not None:
        asked[wanted.user] = np.iinfo(np.int32).max
        np.minimum.at(asked, wanted.user, ticks(data, wanted.time))
    return np.concatenate([before, asked[users][:, None]], axis=1)


def _of_users(data: Dataset, users: np.ndarray) -> Dataset:
    """The data set with the interactions of ``users`` alone, all numbers unchanged."""
    asked = np.zeros(data.spec.num_users, bool)
    asked[users] = True
    parts = {name: getattr(data, name) for name in ("train", "valid", "test", "known")}
    kept = {name: None if part is None else part.of(asked) for name, part in parts.items()}
    return dataclasses.replace(data, **kept)


def _trained(data: Dataset) -> Interactions:
    return data.train if data.known is None else data.known


def _before(data: Dataset, split: str) -> Interactions:
    return _trained(data) if split == "valid" else join(_trained(data), data.valid)


def _check_protocol(protocol: str) -> None:
    if protocol not in PROTOCOLS:
        raise UserError(f"eval.protocol is {protocol!r}; it must be one of {', '.join(PROTOCOLS)}")


def _masked(data: Dataset, split: str, protocol: str) -> Interactions | None:
    _check_protocol(protocol)
    if protocol == "none":
        return None
    return _before(data, split) if protocol == "strict" else _trained(data)


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


def labels(config) -> list[str]:
    """Names of what ranking tasks measure, as ``config.eval`` asks for it.

    Raises:
      UserError: if a metric, a cut or the protocol is none.
    """
    _check_protocol(config.eval.protocol)
    metrics.check(config.eval.metrics, config.eval.ks)
    return metrics.labels(config.eval.metrics, config.eval.ks)


def summarise(measured: dict[str, np.ndarray], users: np.ndarray) -> dict[str, float]:
    """Mean of each metric over the users that have targets."""
    del users
    return {name: float(value.mean(dtype=np.float64)) for name, value in measured.items()}


def measure(model: Recommender, variables, rep, query: Query, names, ks) -> dict[str, Array]:
    """Metrics of one block of queries by name, float32 [B] each (``metrics.from_ranks``)."""
    scores = across.spread_scores(model.apply(variables, rep, query, method="score"))
    ranks = topk.target_ranks(scores, query)
    return metrics.from_ranks(ranks, query.target, names, ks)
