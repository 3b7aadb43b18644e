"""Embedding bags: sums of the rows of a table that short lists name, as of a user's items."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax

from mmrec_jax.types import Array

_PAIRS = 256  # pairs taken at a time: what is gathered stays in the cache


def embedding_bag(table: Array, row: Array, item: Array, weight: Array, size: int) -> Array:
    """Weighted sums of the rows of ``table`` that each bag names, [size, D].

    The product of a sparse matrix and ``table``, in a loop over as many chunks of pairs as there
    are before the padding, so that time follows the pairs and memory does not. Sums are taken in
    float32. Reverse mode only, once; ``weight`` gets no gradient.

    Args:
      table: [I, D].
      row: int32 [M], the bag of each pair; ``size`` or more at padding, which best stands last.
      item: int32 [M], the row of ``table``.
      weight: [M]; a pair that stands twice counts twice (see :func:`distinct`).
      size: bags.
    """
    return _sums(table, row, item, weight, size)


def _product(table: Array, row: Array, item: Array, weight: Array, size: int) -> Array:
    dtype, width = table.dtype, table.shape[1]

    def add(total, row, item, weight):
        return total.at[row].add(weight[:, None] * table[item].astype(jnp.float32), mode="drop")

    return _each_chunk(add, (size, width), row, item, weight, size).astype(dtype)


def _forward(table, row, item, weight, size):
    return _product(table, row, item, weight, size), (table, row, item, weight)


def _backward(size, residuals, cotangent):
    table, row, item, weight = residuals

    def add(total, row, item, weight):
        pulled = cotangent.at[row].get(mode="fill", fill_value=0).astype(jnp.float32)
        return total.at[item].add(weight[:, None] * pulled, mode="drop")

    d_table = _each_chunk(add, table.shape, row, item, weight, size)
    return d_table.astype(table.dtype), None, None, None


_sums = jax.custom_vjp(_product, nondiff_argnums=(4,))
_sums.defvjp(_forward, _backward)


def _each_chunk(add, shape, row, item, weight, size) -> Array:
    """What ``add`` makes of zeros of ``shape``, chunk by chunk of the pairs."""
    fill = max(-row.shape[0] % _PAIRS, _PAIRS - row.shape[0])  # one chunk even of no pairs
    row = jnp.pad(row, (0, fill), constant_values=size)
    item, weight = jnp.pad(item, (0, fill)), jnp.pad(weight.astype(jnp.float32), (0, fill))
    places = jnp.arange(1, row.shape[0] + 1, dtype=jnp.int32)
    used = jnp.max(jnp.where(row < size, places, 0), initial=0)

    def step(i, total):
        part = lambda x: lax.dynamic_slice_in_dim(x, i * _PAIRS, _PAIRS)
        return add(total, part(row), part(item), part(weight))

    chunks = (used + _PAIRS - 1) // _PAIRS
    return lax.fori_loop(0, chunks, step, jnp.zeros(shape, jnp.float32))


def distinct(row: Array, item: Array, size: int) -> Array:
    """Marks each pair that is not padding and not a repetition of the one before it; bool [M].

    Pairs that stand in order of row and item, as those of a query's history do, are so counted
    once each. ``size`` is the number of bags.
    """
    same = (row[1:] == row[:-1]) & (item[1:] == item[:-1])
    return (row < size) & ~jnp.pad(same, (1, 0))[: row.shape[0]]
