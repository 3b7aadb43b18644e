"""Semantic task: histories as the codes of their items, and the next item's codes to generate."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from mmrec_jax import metrics
from mmrec_jax import queries as ranking_queries
from mmrec_jax.ops import topk
from mmrec_jax.tasks import sequence
from mmrec_jax.types import Array, Dataset, Query, Recommender, UserError


@struct.dataclass
class Arrays:
    """Training histories and the codes of their items.

    Attributes:
      history: the histories.
      codes: int32 [I, C].
      blocks: see :class:`Batch`.
    """

    history: sequence.Arrays
    codes: Array
    blocks: int = struct.field(pytree_node=False)


@struct.dataclass
class Batch:
    """B histories without their last item, padded on the left, and what follows each position.

    Attributes:
      user: int32 [B].
      codes: int32 [B, L, C], of the items of a history, padded with -1.
      targets: int32 [B, L, C], of the item after each position, -1 at padding.
      mask: float32 [B, L], the weight of each position as something to predict from.
      blocks: rows of 1 + L * C tokens (a user, and the codes) that the known ones of almost every
        batch fill when laid end to end; static. A batch may need more.
    """

    user: Array
    codes: Array
    targets: Array
    mask: Array
    blocks: int = struct.field(pytree_node=False)


def codes_of(data: Dataset) -> np.ndarray:
    """The codes of the items, int32 [I, C].

    Raises:
      UserError: if the data set has none.
    """
    if data.codes is None:
        raise UserError(
            f"{data.name} has no semantic codes; name the workdir of a tokenizer run, a "
            "codes.parquet or an .index.json in config.data.codes"
        )
    return data.codes


def prepare(data: Dataset, config) -> Arrays:
    """Sorts the training interactions by user and time and moves them to the device.

    Raises:
      UserError: if items have no codes, or no user has two training interactions.
    """
    codes = codes_of(data)
    history = sequence.prepare(data, config)
    counts = np.diff(np.asarray(history.indptr))[np.asarray(history.user)]
    levels, length = codes.shape[1], data.spec.max_len
    tokens = 1 + levels * np.minimum(counts - 1, length)
    blocks = sequence.enough_blocks(tokens, config.train.batch_size, 1 + levels * length)
    return Arrays(history, jnp.asarray(codes, jnp.int32), blocks)


def size(arrays: Arrays) -> int:
    """Training examples in an epoch: users with a history to learn from."""
    return sequence.size(arrays.history)


def batch(key: Array, arrays: Arrays, index: Array, weight: Array) -> Batch:
    """The histories at ``index`` int32 [B], every position with its next item.

    ``weight`` float32 [B] is 0 where an index only fills up the last batch.
    """
    drawn = sequence.batch(key, arrays.history, index, weight)
    codes = lambda item: codes_at(arrays.codes, item)
    return Batch(drawn.user, codes(drawn.items), codes(drawn.targets), drawn.mask, arrays.blocks)


def codes_at(codes: Array, item: Array) -> Array:
    """Codes [..., C] of items, -1 where an item is -1."""
    return jnp.where((item >= 0)[..., None], codes[jnp.maximum(item, 0)], -1)


def one_prefix(key: Array, batch: Batch) -> Batch:
    """Each history up to one of its positions, drawn uniformly, with only that one to predict."""
    length = batch.mask.shape[1]
    draw = jnp.where(batch.mask > 0, jax.random.uniform(key, batch.mask.shape), -1.0)
    last = jnp.argmax(draw, axis=1)[:, None]
    place = jnp.arange(length)[None] - (length - 1 - last)  # the chosen position comes last
    moved = jnp.take_along_axis(batch.codes, jnp.maximum(place, 0)[..., None], axis=1)
    chosen = jnp.arange(length)[None] == length - 1
    target = jnp.take_along_axis(batch.targets, last[..., None], axis=1)
    weight = jnp.take_along_axis(batch.mask, last, axis=1)
    return Batch(
        batch.user,
        jnp.where((place >= 0)[..., None], moved, -1),
        jnp.where(chosen[..., None], target, -1),
        jnp.where(chosen, weight, 0),
        batch.blocks,
    )


def queries(data: Dataset, split: str, config) -> Query:
    """Ranking queries with the latest items before ``split``, in blocks."""
    return ranking_queries.ranking(data, split, config, sequences=True)


def measure(model: Recommender, variables, rep, query: Query, names, ks) -> dict[str, Array]:
    """Metrics of one block of queries by name, float32 [B] each, of the lists that ``rank`` makes.

    The lists are as long as the largest cut; a target beyond is a miss, which no metric notices.
    """
    items, _ = model.apply(variables, rep, query, max(ks), method="rank")
    return metrics.from_ranks(topk.ranks_in(items, query), query.target, names, ks)


ENTITY = "user"  # what a query asks about
summarise = ranking_queries.summarise
labels = ranking_queries.labels
