"""Sequence task: one user's history at a time, every position to predict its next item."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from flax import struct

from mmrec_jax import queries as ranking_queries
from mmrec_jax.ops import sampling
from mmrec_jax.types import Array, Dataset, Interactions, Query, UserError


@struct.dataclass
class Arrays:
    """Training histories on the device.

    Attributes:
      user: int32 [S], users with two training interactions or more; one example each.
      indptr: int32 [U+1], where each user's items begin.
      item: int32 [E], every user's items, oldest first.
      positives: the same, compressed for sampling.
      max_len: L, static.
      blocks: see :class:`Batch`.
    """

    user: Array
    indptr: Array
    item: Array
    positives: sampling.Positives
    max_len: int = struct.field(pytree_node=False)
    blocks: int = struct.field(pytree_node=False)


@struct.dataclass
class Batch:
    """B histories without their last item, padded on the left, and what follows each position.

    Attributes:
      user: int32 [B].
      items: int32 [B, L], padded with -1; examples of weight 0 are all padding.
      targets: int32 [B, L], the item after each one of ``items``, -1 at padding.
      negatives: int32 [B, L], uniform over what is no training item of the user.
      mask: float32 [B, L], the weight of each position, 0 at padding.
      blocks: rows of L that the known positions of almost every batch fill when laid end to end;
        static. A batch may need more.
    """

    user: Array
    items: Array
    targets: Array
    negatives: Array
    mask: Array
    blocks: int = struct.field(pytree_node=False)


def prepare(data: Dataset, config) -> Arrays:
    """Sorts the training interactions by user and time and moves them to the device.

    Raises:
      UserError: if no user has two training interactions.
    """
    user, item = by_time(data.train)
    counts = np.bincount(user, minlength=data.spec.num_users)
    users = np.flatnonzero(counts >= 2)
    if not users.size:
        raise UserError(
            f"{data.name}: no user has two training interactions, which next-item prediction "
            "needs; use another split or another data set"
        )
    length = data.spec.max_len
    steps = np.minimum(counts[users] - 1, length)
    return Arrays(
        user=jnp.asarray(users, jnp.int32),
        indptr=jnp.asarray(np.concatenate([[0], np.cumsum(counts)]), jnp.int32),
        item=jnp.asarray(item, jnp.int32),
        positives=sampling.Positives.of(data.train, data.spec.num_users, data.spec.num_items),
        max_len=length,
        blocks=enough_blocks(steps, config.train.batch_size, length),
    )


def by_time(part: Interactions) -> tuple[np.ndarray, np.ndarray]:
    """Users and items of ``part``, by user, then time, then place in the file."""
    keys = (part.user,) if part.time is None else (part.time, part.user)
    order = np.lexsort(keys)  # stable
    return part.user[order], part.item[order]


def enough_blocks(steps: np.ndarray, batch_size: int, length: int) -> int:
    """Blocks of ``length`` for a batch of sequences with ``steps`` positions, six sigma above mean.

    A greedier bound wastes work in every step; a batch beyond it is merely slower.
    """
    total = batch_size * steps.mean() + 6 * np.sqrt(batch_size * steps.var())
    return int(min(np.ceil(total / length), batch_size))


def size(arrays: Arrays) -> int:
    """Training examples in an epoch: users with a history to learn from."""
    return arrays.user.shape[0]


def batch(key: Array, arrays: Arrays, index: Array, weight: Array) -> Batch:
    """The histories at ``index`` int32 [B]: their last L + 1 items, as inputs and targets.

    ``weight`` float32 [B] is 0 where an index only fills up the last batch.
    """
    user = arrays.user[index]
    begin, end = arrays.indptr[user, None], arrays.indptr[user + 1, None]
    place = end + jnp.arange(-arrays.max_len - 1, 0)[None]  # [B, L + 1]
    known = (place >= begin) & (weight[:, None] > 0)
    item = jnp.where(known, arrays.item[jnp.maximum(place, 0)], -1)
    items, known = item[:, :-1], known[:, :-1]
    users = jnp.broadcast_to(user[:, None], items.shape)
    return Batch(
        user=user,
        items=items,
        targets=jnp.where(known, item[:, 1:], -1),
        negatives=sampling.negatives(key, users, arrays.positives),
        mask=known * weight[:, None],
        blocks=arrays.blocks,
    )


def queries(data: Dataset, split: str, config) -> Query:
    """Ranking queries with the latest items before ``split``, in blocks."""
    return ranking_queries.ranking(data, split, config, sequences=True)


measure = ranking_queries.measure
