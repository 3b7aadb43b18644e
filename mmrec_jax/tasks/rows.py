"""Rows task: one user at a time, all training items at once (auto-encoders, closed forms).

A method of this task reads (user of the block, item) pairs, in training as in evaluation, where
they are ``Query.history_row`` and ``Query.history_item``.
"""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from flax import struct

from mmrec_jax import queries as ranking_queries
from mmrec_jax.types import Array, Dataset, Query


@struct.dataclass
class Arrays:
    """Training rows on the device, compressed.

    Attributes:
      user: int32 [S], users with a training interaction; one example each.
      indptr: int32 [U+1], where each user's items begin.
      item: int32 [E], every user's distinct items, ascending.
      pairs: M, items of as many users as are in a batch, those with the most; static.
    """

    user: Array
    indptr: Array
    item: Array
    pairs: int = struct.field(pytree_node=False)


@struct.dataclass
class Batch:
    """B users' rows as pairs, in order of row and item.

    Few of the M pairs are used: a batch that happened to hold the greediest users would fill them.
    ``ops.bag.embedding_bag`` passes over the rest. Lists of items padded to the longest row would
    have 16 times as many entries as there are interactions on Amazon Baby, dense rows 1,100 times.

    Attributes:
      user: int32 [B].
      row: int32 [M], place of the pair's user in the batch; B at padding, which stands last.
      item: int32 [M].
      weight: float32 [B], 0 at the padding of the last batch, whose rows are empty.
    """

    user: Array
    row: Array
    item: Array
    weight: Array


def prepare(data: Dataset, config) -> Arrays:
    """Compresses the distinct training interactions and moves them to the device."""
    train, num_items = data.train, data.spec.num_items
    pairs = np.unique(train.user.astype(np.int64) * num_items + train.item)
    counts = np.bincount(pairs // num_items, minlength=data.spec.num_users)
    as_int32 = lambda a: jnp.asarray(a, jnp.int32)
    return Arrays(
        user=as_int32(np.flatnonzero(counts)),
        indptr=as_int32(np.concatenate([[0], np.cumsum(counts)])),
        item=as_int32(pairs % num_items),
        pairs=int(np.sort(counts)[-config.train.batch_size :].sum()),
    )


def size(arrays: Arrays) -> int:
    """Training examples in an epoch: users with a training interaction."""
    return arrays.user.shape[0]


def batch(key: Array, arrays: Arrays, index: Array, weight: Array) -> Batch:
    """The rows at ``index`` int32 [B], which are distinct where ``weight`` float32 [B] is not 0."""
    del key
    user = arrays.user[index]
    begin = arrays.indptr[user]
    count = jnp.where(weight > 0, arrays.indptr[user + 1] - begin, 0)
    end = jnp.cumsum(count)
    place = jnp.arange(arrays.pairs, dtype=jnp.int32)
    row = jnp.searchsorted(end, place, side="right").astype(jnp.int32)
    shift = (begin - end + count).at[row].get(mode="fill", fill_value=0)
    return Batch(user, row, arrays.item[place + shift], weight)


def queries(data: Dataset, split: str, config) -> Query:
    """Ranking queries of the users that have items in ``split``, in blocks."""
    return ranking_queries.ranking(data, split, config)


ENTITY = "user"  # what a query asks about
measure = ranking_queries.measure
summarise = ranking_queries.summarise
labels = ranking_queries.labels
