"""Pairwise task: one interaction and one item the user has not, at a time."""

from __future__ import annotations

import functools

import jax.numpy as jnp
import numpy as np
from flax import struct

from mmrec_jax import queries as ranking_queries
from mmrec_jax.ops import sampling
from mmrec_jax.streamed import Parts, Streamed
from mmrec_jax.types import Array, Dataset, Interactions, Query, Spec


@struct.dataclass
class Arrays:
    """Training interactions on the device.

    Attributes:
      pairs: int32 [E, 2], user and item.
      positives: the same, compressed for sampling.
      count: int32 [], how many of the pairs are not padding; None if none is.
    """

    pairs: Array
    positives: sampling.Positives
    count: Array | None = None


@struct.dataclass
class Batch:
    """B training triples.

    Attributes:
      user, item, negative: int32 [B]; the negative is no training item of the user.
      weight: float32 [B], 0 at the padding of the last batch.
    """

    user: Array
    item: Array
    negative: Array
    weight: Array

    def nodes(self, num_users: int) -> Array:
        """Users, items and negatives as rows of a [U + I, D] table, int32 [3B]."""
        return jnp.concatenate([self.user, self.item + num_users, self.negative + num_users])

    def split(self, rows: Array) -> tuple[Array, Array, Array]:
        """Parts of ``rows`` [3B, D], as ordered by :meth:`nodes`: user, item, negative [B, D]."""
        user, item, negative = jnp.split(rows, 3)  # unlike slices, no padding in reverse
        return user, item, negative


def prepare(data: Dataset, config) -> Arrays | Parts:
    """Moves the training interactions to the device, or says how that is done part by part."""
    del config
    if isinstance(data.train, Streamed):
        longest = int(data.train.user_counts(data.spec.num_users).max())
        return Parts(data.train, functools.partial(_padded, spec=data.spec, longest=longest))
    pairs = np.stack([data.train.user, data.train.item], axis=1)
    positives = sampling.Positives.of(data.train, data.spec.num_users, data.spec.num_items)
    return Arrays(jnp.asarray(pairs, jnp.int32), positives)


def _padded(part: Interactions, room: int, spec: Spec, longest: int) -> Arrays:
    """A part of the interactions, in the shapes that all parts have."""
    pairs = np.zeros((room, 2), np.int32)
    pairs[: len(part), 0], pairs[: len(part), 1] = part.user, part.item
    positives = sampling.Positives.of(part, spec.num_users, spec.num_items, room, longest)
    return Arrays(jnp.asarray(pairs), positives, jnp.int32(len(part)))


def size(arrays: Arrays) -> int:
    """Training examples in an epoch: E."""
    return arrays.pairs.shape[0]


def batch(key: Array, arrays: Arrays, index: Array, weight: Array) -> Batch:
    """The interactions at ``index`` int32 [B], each with one uniform negative.

    ``weight`` float32 [B] is 0 where an index only fills up the last batch.
    """
    user, item = arrays.pairs[index].T
    if arrays.count is not None:
        weight = jnp.where(index < arrays.count, weight, 0)
    negative = sampling.negatives(key, user, arrays.positives)
    return Batch(user, item, negative, weight)


def queries(data: Dataset, split: str, config) -> Query:
    """Ranking queries of the users that have items in ``split``, in blocks."""
    return ranking_queries.ranking(data, split, config)


ENTITY = "user"  # what a query asks about
measure = ranking_queries.measure
summarise = ranking_queries.summarise
labels = ranking_queries.labels
