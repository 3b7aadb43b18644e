"""EASE: a full item-item weight matrix in closed form."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy import linalg
from scipy import sparse

from mmrec_jax.ops import bag
from mmrec_jax.types import Array, Context, Dataset, Query, Recommender, UserError


class EASE(Recommender):
    """Ridge regression of every item on all others, the diagonal held at zero.

    Steck, "Embarrassingly Shallow Autoencoders for Sparse Data", WWW 2019,
    https://arxiv.org/abs/1905.03375. Nothing is trained: the weights are solved for on the
    device, once, by Cholesky's factorisation in float32. That differs from float64 in the sixth
    digit at the usual ``reg`` (measured on Baby and Last.fm-2K).

    The solve needs about ``12 I^2`` bytes at its peak and the weights ``4 I^2``: 0.6 and 0.2 GB
    for 7,000 items, 20 and 7 GB for 41,000.

    Attributes:
      reg: weight of the squared norm (the paper's lambda).
    """

    reg: float = 200.0

    task = "rows"

    @classmethod
    def context(cls, data: Dataset, **hyper) -> Context:
        reg = hyper.get("reg", cls.reg)
        if not reg > 0:
            raise UserError(f"model.reg is {reg}; EASE needs a positive number")
        weight = _solve(_gram(data), jnp.float32(reg))
        if not jnp.isfinite(weight).all():
            raise UserError(f"model.reg is {reg}: too small for float32; choose a larger one")
        return Context(tables={"weight": weight})

    def represent(self, ctx: Context) -> Array:
        return ctx.tables["weight"]

    def score(self, rep: Array, query: Query) -> Array:
        # Few items make a row: to add up their weights is some 30 times faster than a product.
        row, item = query.history_row, query.history_item
        size = query.user.shape[0]
        return bag.embedding_bag(rep, row, item, bag.distinct(row, item, size), size)


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


Model = EASE
