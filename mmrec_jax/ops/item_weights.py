"""Scores that add up, item by item of a history, a row of item-to-item weights."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.layout import Layout, with_layout_constraint
from jax.scipy import linalg
from scipy import sparse

from mmrec_jax.ops import bag, graph
from mmrec_jax.types import Array, Dataset, Query, UserError


def ridge_regression(data: Dataset, reg: float) -> Array:
    """Weights [I, I] of the regression of each item on all others, the diagonal zero (EASE).

    Solved on the device by Cholesky's factorisation, in float32.

    Raises:
      UserError: ``reg`` is not positive, or too small for float32.
    """
    if not reg > 0:
        raise UserError(f"model.reg is {reg}; EASE needs a positive number")
    weight = _solve(_gram(data), jnp.float32(reg))
    if not jnp.isfinite(weight).all():
        raise UserError(f"model.reg is {reg}: too small for float32; choose a larger one")
    return weight


def _gram(data: Dataset) -> np.ndarray:
    """How many users have both items, float32 [I, I], exact."""
    train, shape = data.train, (data.spec.num_users, data.spec.num_items)
    once = sparse.csr_array((np.ones(len(train), np.float32), (train.user, train.item)), shape)
    once.data[:] = 1  # a repeated interaction counts once, as it does in a query's history
    return (once.T @ once).toarray()


@jax.jit
def _solve(gram: Array, reg: Array) -> Array:
    """Weights [I, I] of the regression; not finite if the equations are singular."""
    identity = jnp.eye(len(gram), dtype=gram.dtype)
    with jax.default_matmul_precision("highest"):  # accelerators would use fewer bits
        factor = linalg.cho_factor(gram + reg * identity, lower=True)
        inverse = linalg.cho_solve(factor, identity)
    return jnp.where(identity > 0, 0, -inverse / jnp.diag(inverse)[None])


def add_rows(weight: Array, query: Query) -> Array:
    """Sum of the rows of ``weight`` [I, I] that each history names, [B, I]."""
    # Few items make a row: to add up their weights is some 30 times faster than a product.
    row, item = query.history_row, query.history_item
    size = query.user.shape[0]
    return bag.embedding_bag(weight, row, item, bag.distinct(row, item, size), size)


def add_columns(weight: graph.Adjacency, history: Array) -> Array:
    """The same of sparse weights [I, I], of which ``history`` [I, B] takes the columns."""
    return transposed(graph.matmul(weight, history))


def transposed(product: Array) -> Array:
    """The transpose of a sparse product [I, B], which itself stays stored row by row."""
    # XLA:CPU would rather store the product by columns than transpose it, and gather element by
    # element: 225 ms instead of 8 for 7,050 items and 512 queries.
    return with_layout_constraint(product, Layout((0, 1))).T


def histories(query: Query, num_items: int) -> Array:
    """Ones where a query's history has an item, float32 [I, B]."""
    history = jnp.zeros((num_items, query.user.shape[0]), jnp.float32)
    return history.at[query.history_item, query.history_row].set(1, mode="drop")
