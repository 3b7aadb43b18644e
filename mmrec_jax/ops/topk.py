"""Ranking over all items: masks, best-k lists, exact ranks of held-out items, nearest neighbours.

One order holds everywhere: higher score first, equal scores by smaller item number (-0 equals 0).
An item scored -inf counts as masked. A NaN stands before every number, so that a broken score
pushes the other items down, but it is neither listed nor a hit.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import PartitionSpec as P

from mmrec_jax.ops import across
from mmrec_jax.types import Array, Query

ABSENT = 2**30  # the rank of whatever is in no list: beyond every cut, also beyond the catalogue


def mask(scores: Array, query: Query) -> Array:
    """Scores [B, I] with the pairs that ``query`` excludes set to -inf."""
    return scores.at[query.masked_row, query.masked_item].set(-jnp.inf, mode="drop")


def best(scores: Array, query: Query, k: int) -> tuple[Array, Array]:
    """The k best unmasked items of each query, best first, int32 [B, k], and their scores.

    Places for which no item is left hold -1; ``k`` may exceed the number of items.
    """
    value, item = _largest(_sortable(mask(scores, query)), min(k, scores.shape[1]))
    item = jnp.where(value > -jnp.inf, item, -1)  # False for NaN too
    fill = ((0, 0), (0, k - item.shape[1]))
    return jnp.pad(item, fill, constant_values=-1), jnp.pad(value, fill)


def _largest(scores, k):
    """``lax.top_k`` of sortable scores [B, I]: each device lists its share, then lists merge."""
    mesh = across.mesh()
    if mesh is None:
        return lax.top_k(scores, k)
    size = len(scores)
    scores = across.pad(scores, mesh.shape["data"])
    scores = across.pad(scores, mesh.shape["model"], axis=1, fill=-jnp.inf)
    share = scores.shape[1] // mesh.shape["model"]

    def merge(scores):
        value, item = lax.top_k(scores, min(k, share))
        item += lax.axis_index("model") * share
        # Shares stand in order of their items, so that ties still fall to the smaller item.
        value, item = (lax.all_gather(x, "model", axis=1, tiled=True) for x in (value, item))
        value, place = lax.top_k(value, k)
        return value, jnp.take_along_axis(item, place, axis=1)

    cut = dict(in_specs=P("data", "model"), out_specs=P("data"), check_vma=False)
    value, item = jax.shard_map(merge, **cut)(scores)
    return value[:size], item[:size]


def target_ranks(scores: Array, query: Query) -> Array:
    """The 0-based rank of each target among the unmasked items, int32 [B, T].

    Equals the target's place in ``best(scores, query, I)``, found by comparing and counting
    instead of sorting. Padding, masked targets and targets scored NaN get ``ABSENT``. The work
    grows with the block's largest number of targets, so blocks of like users waste none.
    """
    scores = mask(scores, query)
    items = jnp.arange(scores.shape[1], dtype=jnp.int32)[None]
    places = jnp.arange(1, query.target.shape[1] + 1, dtype=jnp.int32)[None]
    used = jnp.max(jnp.where(query.target >= 0, places, 0), initial=0)

    def count(t, ranks):
        target = query.target[:, t, None]  # [B, 1]
        own = jnp.take_along_axis(scores, jnp.maximum(target, 0), axis=1)
        # "Not below" rather than "above": NaN then counts against the target.
        below = jnp.where(items < target, scores < own, scores <= own)
        rank = jnp.sum(~below, axis=1, dtype=jnp.int32)
        listed = (target >= 0) & (own > -jnp.inf)
        return ranks.at[:, t].set(jnp.where(listed[:, 0], rank, ABSENT))

    return lax.fori_loop(0, used, count, jnp.full(query.target.shape, ABSENT, jnp.int32))


def ranks_in(lists: Array, query: Query) -> Array:
    """The place of each target in a given list of items [B, K], int32 [B, T].

    Padding and targets that are not listed get ``ABSENT``; of repeated entries the first counts.
    """
    match = (lists[:, None, :] == query.target[:, :, None]) & (query.target >= 0)[:, :, None]
    place = jnp.argmax(match, axis=2).astype(jnp.int32)  # [B, T, K] -> [B, T]
    return jnp.where(match.any(axis=2), place, ABSENT)


def knn(
    features: np.ndarray | Array,
    k: int,
    present: np.ndarray | None = None,
    block: int = 512,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Exact graph of the k items most similar by cosine, each item among its own neighbours.

    Args:
      features: [I, F]; a zero row has similarity 0 to every item.
      k: neighbours per item; fewer where fewer items are present.
      present: bool [I]; items marked False neither get nor are neighbours.
      block: rows compared at a time; memory grows with block x I.

    Returns:
      ``(row, col, similarity)`` on the host: int32, int32 and float32 [up to I * k], by row, then
      by falling similarity, ties by smaller ``col``.
    """
    features = jnp.asarray(features, jnp.float32)
    present = np.ones(len(features), bool) if present is None else np.asarray(present, bool)
    row, col, value = neighbours(_cosine, (_unit(features), present), len(features), k, block)
    keep = present[row]
    return row[keep], col[keep], value[keep]


def nearest(rows: Array, present: Array, k: int, block: int = 512) -> tuple[Array, Array]:
    """The k present rows of largest inner product with each of ``rows`` [I, D]; traceable.

    Returns:
      Values [I, k], -inf where fewer are present, and rows int32 [I, k], ordered as in
      :func:`knn`; no gradient.
    """
    size = len(rows)
    operands = (lax.stop_gradient(rows), present)
    return _blockwise(_cosine, operands, size, min(k, size), min(block, size))


def neighbours(
    similarity: Callable[[Any, Array], Array], operands: Any, size: int, k: int, block: int = 512
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The k largest entries in each row of a [size, size] matrix that is never held whole.

    Args:
      similarity: module-level function ``(operands, rows [b]) -> [b, size]``, traced once; -inf
        marks an entry that may not be chosen.
      operands: pytree of the arrays it reads.
      size: rows and columns of the matrix.
      k: entries per row.
      block: rows computed at a time.

    Returns:
      ``(row, col, value)`` on the host, ordered as in :func:`knn`.
    """
    value, col = _blockwise(similarity, operands, size, min(k, size), min(block, size))
    value, col = np.asarray(value), np.asarray(col)
    row = np.broadcast_to(np.arange(size, dtype=np.int32)[:, None], col.shape)
    keep = value > -np.inf
    return row[keep], col[keep], value[keep]


@partial(jax.jit, static_argnums=(0, 2, 3, 4))
def _blockwise(similarity, operands, size, k, block):
    """Top-k values and columns of every row, two [size, k], one block of rows after another.

    Each device takes its share of the blocks; all hold ``operands`` and the result whole.
    """

    def blocks(operands, starts):
        def part(start):
            rows = jnp.minimum(start + jnp.arange(block), size - 1)  # the last block repeats a row
            return lax.top_k(_sortable(similarity(operands, rows)), k)

        return lax.map(part, starts)

    starts, mesh = jnp.arange(0, size, block), across.mesh()
    if mesh is None:
        value, col = blocks(operands, starts)
    else:  # whole blocks to each device: the same products as on one, bit for bit
        starts = across.pad(starts, mesh.size)
        cut = dict(in_specs=(P(), P(across.AXES)), out_specs=P(across.AXES), check_vma=False)
        value, col = jax.shard_map(blocks, **cut)(operands, starts)
        value, col = lax.with_sharding_constraint((value, col), P())  # for every host to read
    return value.reshape(-1, k)[:size], col.reshape(-1, k)[:size]


@jax.jit
def _unit(features):
    """Rows [I, F] scaled to length one; zero rows stay zero."""
    peak = jnp.max(jnp.abs(features), axis=1, keepdims=True, initial=0)
    scaled = features / jnp.where(peak > 0, peak, 1)  # squares neither overflow nor vanish
    length = jnp.linalg.norm(scaled, axis=1, keepdims=True)
    return scaled / jnp.where(length > 0, length, 1)


def _cosine(operands, rows):
    """Similarity of some rows to all present items, [b, I]."""
    unit, present = operands
    # Accelerators multiply float32 in fewer bits unless told; the graph must not depend on that.
    product = jnp.matmul(unit[rows], unit.T, precision=lax.Precision.HIGHEST)
    return jnp.where(present[None], product, -jnp.inf)


def _sortable(scores):
    """The same scores with one zero and one NaN: sorting tells their bit patterns apart."""
    scores = jnp.where(scores == 0, 0.0, scores)
    return jnp.where(jnp.isnan(scores), jnp.nan, scores)
