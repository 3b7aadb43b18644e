"""Interactions between the fields of an example."""

from __future__ import annotations

import jax.numpy as jnp

from mmrec_jax.types import Array


def mean_pool(rows: Array, known: Array) -> Array:
    """Mean [..., D] of those ``rows`` [..., L, D] that are ``known`` [..., L]; 0 where none is."""
    weight = known.astype(rows.dtype)[..., None]
    return (rows * weight).sum(-2) / jnp.maximum(weight.sum(-2), 1)


def factorisation(vectors: Array) -> Array:
    """Sum of the inner products of all pairs of fields, [B], of vectors [B, F, D].

    The second order of a factorisation machine (Rendle, ICDM 2010), in time linear in F.
    """
    square_of_sum = jnp.square(vectors.sum(1))
    sum_of_squares = jnp.square(vectors).sum(1)
    return 0.5 * (square_of_sum - sum_of_squares).sum(-1)
