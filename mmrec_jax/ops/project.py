"""Linear projection of some rows of a wide matrix, reading each distinct row once."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax

from mmrec_jax.types import Array

_CHUNK = 256  # rows gathered at a time: 4 MB at 4096 columns, which stays in the cache


def project(features: Array, kernel: Array, rows: Array | None = None) -> Array:
    """``features[rows] @ kernel``, [B, D]; differentiable in features and kernel.

    On a CPU the rows that a batch names twice are multiplied once, and chunk by chunk, in either
    direction: a third of the time of gathering them all (measured at 7,000 x 4,096 features and
    4,096 rows, of which 2,900 differ).

    Args:
      features: [I, F].
      kernel: [F, D].
      rows: int32 [B], in range; None for all, whose chunks stay in the cache likewise.
    """
    if rows is None:
        rows = jnp.arange(features.shape[0])
        every = lambda features, kernel, rows: features @ kernel
        return lax.platform_dependent(features, kernel, rows, cpu=_distinct, default=every)
    plain = lambda features, kernel, rows: features[rows] @ kernel
    return lax.platform_dependent(features, kernel, rows, cpu=_distinct, default=plain)


@jax.custom_vjp
def _distinct(features, kernel, rows):
    return _forward(features, kernel, rows)[0]


def _forward(features, kernel, rows):
    chosen, place, chunks = _distinct_rows(rows, features.shape[0])

    def step(i, projected):
        part = _take(features, lax.dynamic_slice_in_dim(chosen, i * _CHUNK, _CHUNK))
        return lax.dynamic_update_slice_in_dim(projected, part @ kernel, i * _CHUNK, 0)

    projected = jnp.zeros((chosen.shape[0], kernel.shape[1]), kernel.dtype)
    projected = lax.fori_loop(0, chunks, step, projected)
    return projected[place], (features, kernel, chosen, place, chunks)


def _backward(residual, cotangent):
    features, kernel, chosen, place, chunks = residual
    by_row = jnp.zeros((chosen.shape[0], kernel.shape[1]), jnp.float32)
    by_row = by_row.at[place].add(cotangent.astype(jnp.float32)).astype(kernel.dtype)
    slice_of = lambda x, i: lax.dynamic_slice_in_dim(x, i * _CHUNK, _CHUNK)

    def of_kernel(i, total):
        part = _take(features, slice_of(chosen, i))
        # This order of the product is more than twice as fast as its transpose.
        return total + jnp.matmul(slice_of(by_row, i).T, part, preferred_element_type=jnp.float32)

    d_kernel = lax.fori_loop(0, chunks, of_kernel, jnp.zeros(kernel.shape[::-1], jnp.float32))
    # Every row of the features has a gradient, mostly 0: one product is quicker than a scatter.
    by_item = jnp.zeros((features.shape[0], kernel.shape[1]), kernel.dtype)
    by_item = by_item.at[chosen].set(by_row, mode="drop", unique_indices=True)
    d_features = (by_item @ kernel.T).astype(features.dtype)
    return d_features, d_kernel.T.astype(kernel.dtype), None


_distinct.defvjp(_forward, _backward)


def _distinct_rows(rows: Array, count: int) -> tuple[Array, Array, Array]:
    """The distinct ``rows``, padded with ``count``; where each of ``rows`` stands; the chunks."""
    used = jnp.zeros(count, bool).at[rows].set(True)
    size = -(-min(count, rows.shape[0]) // _CHUNK) * _CHUNK
    (chosen,) = jnp.nonzero(used, size=size, fill_value=count)
    place = jnp.cumsum(used) - 1
    return chosen, place[rows], (used.sum() + _CHUNK - 1) // _CHUNK


def _take(features: Array, rows: Array) -> Array:
    return features.at[rows].get(mode="fill", fill_value=0)
