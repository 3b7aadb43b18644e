"""Matrix task: the whole training matrix at once, for methods that solve instead of descend.

An epoch is one step. What a method finds it keeps in a linen collection of its own.
"""

from __future__ import annotations

from flax import struct

from mmrec_jax import queries as ranking_queries
from mmrec_jax.ops import least_squares
from mmrec_jax.types import Array, Dataset, Query


@struct.dataclass
class Batch:
    """The distinct training interactions, twice.

    Attributes:
      by_user: a row per user, [U, I].
      by_item: a row per item, [I, U].
    """

    by_user: least_squares.Rows
    by_item: least_squares.Rows


def prepare(data: Dataset, config) -> Batch:
    """Sorts the training interactions both ways and moves them to the device."""
    del config
    user, item = data.train.user, data.train.item
    shape = (data.spec.num_users, data.spec.num_items)
    return Batch(
        least_squares.from_pairs(user, item, shape),
        least_squares.from_pairs(item, user, shape[::-1]),
    )


def size(arrays: Batch) -> int:
    """Training examples in an epoch: the matrix."""
    return 1


def batch(key: Array, arrays: Batch, index: Array, weight: Array) -> Batch:
    """The matrix, whatever ``index`` says."""
    del key, index, weight
    return arrays


def queries(data: Dataset, split: str, config) -> Query:
    """Ranking queries of the users that have items in ``split``, in blocks."""
    return ranking_queries.ranking(data, split, config)


ENTITY = "user"  # what a query asks about
measure = ranking_queries.measure
summarise = ranking_queries.summarise
labels = ranking_queries.labels
