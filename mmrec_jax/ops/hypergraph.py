"""Hypergraphs: products with A A^T, and its largest entries, without multiplying it out.

A is an incidence matrix, nodes by hyperedges, and A A^T tells how much two nodes share.
"""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from flax import struct
from jax import lax
from scipy import sparse

from mmrec_jax.ops import graph, topk
from mmrec_jax.types import Array, Dataset

_ENTRIES = 4_000_000  # of A A^T that are held at a time


@struct.dataclass
class Hypergraph:
    """The matrix ``scale * (A A^T - own)`` of R nodes, by its factor.

    Attributes:
      incidence: A, [R, C].
      own: [R], taken off the diagonal; None takes nothing.
      scale: [R], of the rows; None leaves them.
    """

    incidence: graph.Adjacency
    own: Array | None = None
    scale: Array | None = None


def matmul(hyper: Hypergraph, x: Array) -> Array:
    """The matrix times x [R, D]: nodes to hyperedges and back; differentiable in ``x`` only."""
    there = hyper.incidence
    back = graph.Adjacency(there.transpose or there.forward, there.forward)
    y = graph.matmul(there, graph.matmul(back, x))
    if hyper.own is not None:
        y = y - hyper.own[:, None] * x
    if hyper.scale is not None:
        y = y * hyper.scale[:, None]
    # Without the barrier XLA:CPU recomputes these inside every gather of the next step.
    return lax.optimization_barrier(y)


def sharing(node: np.ndarray, edge: np.ndarray, shape: tuple[int, int]) -> Hypergraph:
    """Nodes by how many hyperedges they share with others; each row sums to 1, or to 0.

    Args:
      node, edge: integer [E], who belongs to what; repeated entries count once.
      shape: ``(R, C)``.
    """
    node, edge = _distinct(node, edge, shape)
    ones = np.ones(node.size, np.float32)
    own = np.bincount(node, minlength=shape[0])
    members = np.bincount(edge, minlength=shape[1])
    shared = np.bincount(node, members[edge] - 1, minlength=shape[0])
    scale = np.where(shared > 0, 1.0 / np.maximum(shared, 1), 0.0)
    of = lambda x: jnp.asarray(x, jnp.float32)
    return Hypergraph(graph.from_edges(node, edge, ones, shape), of(own), of(scale))


def content(data: Dataset, k: int) -> Hypergraph:
    """Items under a hyperedge of each item and modality, which holds who has it among its nearest.

    That is ``d^-1/2 H H^T d^-1/2``, with d the sums of the rows of H H^T: H [I, M I] marks the k
    items most similar to each by cosine, itself among them, as far as the cosine is positive.
    Items without a feature row have no part in its modality.

    Raises:
      UserError: if there are no features.
    """
    data.need_features()
    items, rows, cols = data.spec.num_items, [], []
    for number, (name, features) in enumerate(data.features.items()):
        row, col, cosine = topk.knn(features, k, data.present[name])
        rows.append(row[cosine > 0].astype(np.int64))
        cols.append(col[cosine > 0] + items * number)
    node, edge = np.concatenate(rows), np.concatenate(cols)
    size = items * len(rows)
    members = np.bincount(edge, minlength=size)
    degree = np.bincount(node, members[edge], minlength=items)
    weight = np.where(degree > 0, degree, np.inf) ** -0.5
    return Hypergraph(graph.from_edges(node, edge, weight[node], (items, size)))


def co_occurrence(
    node: np.ndarray, edge: np.ndarray, shape: tuple[int, int], k: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of each node, the k others that share most hyperedges with it.

    Args:
      node, edge, shape: as in :func:`sharing`.
      k: others at most; fewer where fewer share anything.

    Returns:
      ``(row, col, count)``, [up to R k] each, by row, then falling count, then ``col``.
    """
    node, edge = _distinct(node, edge, shape)
    incidence = sparse.csr_matrix((np.ones(node.size, np.int32), (node, edge)), shape)
    transpose = incidence.T.tocsr()
    work = np.bincount(node, np.bincount(edge, minlength=shape[1])[edge], minlength=shape[0])
    block = np.cumsum(work) // _ENTRIES
    starts = np.concatenate([np.unique(block, return_index=True)[1], [shape[0]]])
    parts = []
    for start, stop in zip(starts[:-1], starts[1:], strict=True):
        shared = (incidence[start:stop] @ transpose).tocoo()
        row, col, count = shared.row.astype(np.int64) + start, shared.col, shared.data
        other = row != col
        row, col, count = row[other], col[other], count[other]
        order = np.lexsort((col, -count, row))
        row, col, count = row[order], col[order], count[order]
        place = np.arange(row.size) - np.searchsorted(row, row)
        parts.append((row[place < k], col[place < k], count[place < k]))
    row, col, count = (np.concatenate(part) for part in zip(*parts, strict=True))
    return row, col, count


def co_occurrence_graph(
    node: np.ndarray, edge: np.ndarray, shape: tuple[int, int], k: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Edges ``(row, col, weight)``: a softmax over the counts of :func:`co_occurrence`.

    A node that shares nothing is given the k nodes of most hyperedges, by a softmax over their
    parts of these.
    """
    row, col, count = co_occurrence(node, edge, shape, k)
    degree = np.bincount(_distinct(node, edge, shape)[0], minlength=shape[0])
    popular = np.argsort(-degree, kind="stable")[:k]
    alone = np.setdiff1d(np.arange(shape[0]), row)
    row = np.concatenate([row, np.repeat(alone, popular.size)])
    col = np.concatenate([col, np.tile(popular, alone.size)])
    part = degree[popular] / max(degree[popular].sum(), 1)
    logit = np.concatenate([count.astype(np.float64), np.tile(part, alone.size)])
    largest = np.full(shape[0], -np.inf)
    np.maximum.at(largest, row, logit)
    weight = np.exp(logit - largest[row])
    return row, col, weight / np.bincount(row, weight, minlength=shape[0])[row]


def _distinct(node, edge, shape) -> tuple[np.ndarray, np.ndarray]:
    pair = np.unique(np.asarray(node, np.int64) * shape[1] + np.asarray(edge, np.int64))
    return pair // shape[1], pair % shape[1]
