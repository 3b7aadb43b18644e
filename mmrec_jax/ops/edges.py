"""The user-item graph with a computed weight on each edge, differentiable in the weights too.

Both ends of an edge see the same weight, so the matrix is symmetric, and each product here is the
other's gradient: no direction needs a scatter.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax import lax

from mmrec_jax.ops import graph
from mmrec_jax.types import Array


@struct.dataclass
class Edges:
    """E edges between N = U + I nodes, users first.

    Attributes:
      adj: their normalised matrix, whose edges are numbered; ``graph.matmul`` takes it as it is.
      user, item: int32 [E], the two nodes of each edge.
    """

    adj: graph.Adjacency
    user: Array
    item: Array


def bipartite(user: np.ndarray, item: np.ndarray, num_users: int, num_items: int) -> Edges:
    """An edge for each distinct pair of ``user`` and ``item``, integer arrays, in their order."""
    user, item = np.divmod(np.unique(np.asarray(user, np.int64) * num_items + item), num_items)
    adj = graph.bipartite(user, item, num_users, num_items)
    return Edges(adj, jnp.asarray(user, jnp.int32), jnp.asarray(item, jnp.int32) + num_users)


@jax.custom_vjp
def matmul(edges: Edges, weight: Array, x: Array) -> Array:
    """``W @ x`` for x [N, D]; W has ``weight[e]``, float [E], at both places of edge e, else 0."""
    return graph.matmul(graph.reweight(edges.adj, weight), x)


def _matmul_forward(edges, weight, x):
    return matmul(edges, weight, x), (edges, weight, x)


def _matmul_backward(residual, cotangent):
    edges, weight, x = residual
    cotangent = lax.optimization_barrier(cotangent)  # else computed anew for each edge
    by_weight = _dots(edges, (cotangent, x), (x, cotangent))  # the weight stands at both places
    return None, by_weight.astype(weight.dtype), matmul(edges, weight, cotangent)


matmul.defvjp(_matmul_forward, _matmul_backward)


@jax.custom_vjp
def dots(edges: Edges, x: Array) -> Array:
    """Inner product of the two rows of x [N, D] that each edge joins, float32 [E]."""
    return _dots(edges, (x,), (x,))


def _dots_forward(edges, x):
    return dots(edges, x), (edges, x)


def _dots_backward(residual, cotangent):
    edges, x = residual
    return None, matmul(edges, cotangent, x)


dots.defvjp(_dots_forward, _dots_backward)


def mean(edges: Edges, weight: Array, x: Array) -> Array:
    """Mean of each node's neighbours in x [N, D] by ``weight`` [E]; 0 where all weights are 0."""
    with_ones = jnp.concatenate([x, jnp.ones((x.shape[0], 1), x.dtype)], axis=1)
    both = matmul(edges, weight, lax.optimization_barrier(with_ones))
    total = both[:, -1:]
    some = total > 0
    return both[:, :-1] * jnp.where(some, 1 / jnp.where(some, total, 1.0), 0.0)


def _dots(edges: Edges, users: Sequence[Array], items: Sequence[Array]) -> Array:
    """Sum over pairs of ``users`` and ``items`` of the inner products along each edge."""
    rows = lambda x, index: graph.take_rows(x, index).astype(jnp.float32)
    pairs = zip(users, items, strict=True)
    product = sum(rows(x, edges.user) * rows(y, edges.item) for x, y in pairs)
    # A sum over so few columns is slow on a CPU, and slower yet if fused with the gathers.
    product = lax.optimization_barrier(product)
    return product @ jnp.ones(product.shape[1], jnp.float32)
