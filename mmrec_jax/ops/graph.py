"""Sparse matrices times dense ones, without a scatter in either direction.

A matrix is stored row by row in *buckets*: rows of similar length side by side, padded to one
width, so that a product is a short sum of gathered rows. Rows longer than ``_WIDEST`` are cut
into chunks whose sums are added by a second, smaller plan. The vector-Jacobian product is the
product with the transpose, which for a symmetric matrix is the matrix itself.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax import lax

from mmrec_jax.types import Array

_WIDEST = 32  # longest row summed in one go: beyond it compile time grows, not speed
_BUCKET_COST = 3000  # what one more bucket costs, in padded entries


@struct.dataclass
class Bucket:
    """Rows of one width W, stored column by column.

    Attributes:
      index: int32 [W, R], the column of each entry; padding repeats one of the row's own.
      weight: float32 [W, R], 0 at padding.
      edge: int32 [W, R], which edge an entry came from, E at padding; None if never reweighted.
    """

    index: Array
    weight: Array
    edge: Array | None = None


@struct.dataclass
class Plan:
    """Buckets of the short rows, chunks of the long ones, and the plan that adds the chunks.

    Attributes:
      buckets: the rows of at most ``_WIDEST`` entries.
      chunks: pieces of the longer rows.
      inner: adds the chunks of each long row; None if there is none.
      position: int32 [rows], where each row stands in the concatenated result; None inside.
    """

    buckets: tuple[Bucket, ...]
    chunks: tuple[Bucket, ...] = ()
    inner: Plan | None = None
    position: Array | None = None


@struct.dataclass
class Adjacency:
    """A sparse matrix on the device.

    Attributes:
      forward: the matrix by rows.
      transpose: its transpose by rows; None if the matrix is symmetric.
    """

    forward: Plan
    transpose: Plan | None = None


def from_edges(
    row: np.ndarray,
    col: np.ndarray,
    weight: np.ndarray,
    shape: int | tuple[int, int],
    edge: np.ndarray | None = None,
) -> Adjacency:
    """The matrix with ``weight[e]`` at ``(row[e], col[e])``; repeated entries add up.

    Args:
      row, col: integer [E], host arrays.
      weight: float [E].
      shape: ``(rows, columns)``, or one number for a square matrix.
      edge: integer [E], the number by which :func:`reweight` knows each entry.

    Raises:
      ValueError: if an index lies outside ``shape``.
    """
    rows, cols = (shape, shape) if isinstance(shape, int) else shape
    row, col = np.asarray(row, np.int64), np.asarray(col, np.int64)
    if row.size and not (0 <= row.min() and row.max() < rows and 0 <= col.min() < cols):
        raise ValueError(f"an edge lies outside the {rows} x {cols} matrix")
    if col.size and col.max() >= cols:
        raise ValueError(f"an edge lies outside the {rows} x {cols} matrix")
    weight = np.asarray(weight, np.float32)
    forward = _plan_of_edges(row, col, weight, edge, rows)
    if rows == cols and _is_symmetric(row, col, weight):
        return jax.tree.map(jnp.asarray, Adjacency(forward))
    transpose = _plan_of_edges(col, row, weight, edge, cols)
    return jax.tree.map(jnp.asarray, Adjacency(forward, transpose))


def bipartite(user: np.ndarray, item: np.ndarray, num_users: int, num_items: int) -> Adjacency:
    """The symmetrically normalised user-item graph on N = U + I nodes, users first.

    An edge weighs ``(d_u + 1e-7)^-1/2 (d_i + 1e-7)^-1/2``, the constant being MMRec's. Edges are
    numbered as given, so that :func:`reweight` takes one weight per interaction.
    """
    user, node = np.asarray(user, np.int64), np.asarray(item, np.int64) + num_users
    root = (np.bincount(user, minlength=num_users) + 1e-7) ** -0.5
    item_root = (np.bincount(item, minlength=num_items) + 1e-7) ** -0.5
    weight = (root[user] * item_root[item]).astype(np.float32)
    number = np.arange(user.size)
    double = lambda a, b: np.concatenate([a, b])
    return from_edges(
        double(user, node),
        double(node, user),
        double(weight, weight),
        num_users + num_items,
        edge=double(number, number),
    )


def matmul(adj: Adjacency, x: Array) -> Array:
    """``A @ x`` for x [columns, D]; differentiable in ``x`` only."""
    return _affine(adj, x, None)


def mean_propagate(adj: Adjacency, x: Array, layers: int) -> Array:
    """Mean of ``x, A x, ..., A^layers x`` for x [N, D], by Horner's rule."""
    y = x
    for _ in range(layers):
        y = _affine(adj, y, x)
    return y / (layers + 1)


def reweight(adj: Adjacency, edge_weight: Array) -> Adjacency:
    """The same matrix with other weights, one per numbered edge, float32 [E]; 0 drops an edge."""
    padded = jnp.append(edge_weight, jnp.zeros((1,), edge_weight.dtype))
    renew = lambda b: b.replace(weight=padded[b.edge])

    def plan(p: Plan | None) -> Plan | None:
        if p is None:
            return None
        return p.replace(buckets=tuple(map(renew, p.buckets)), chunks=tuple(map(renew, p.chunks)))

    return Adjacency(plan(adj.forward), plan(adj.transpose))


@jax.custom_vjp
def _affine(adj: Adjacency, x: Array, add: Array | None) -> Array:
    """``A @ x + add``; one operation, so that the sum is fused into the last gather."""
    return _apply(adj.forward, x, add)


def _affine_forward(adj, x, add):
    return _affine(adj, x, add), (adj, add is not None)


def _affine_backward(residual, cotangent):
    adj, has_add = residual
    back = _apply(adj.transpose or adj.forward, cotangent, None)
    return None, back, cotangent if has_add else None


_affine.defvjp(_affine_forward, _affine_backward)


def _apply(plan: Plan, x: Array, add: Array | None) -> Array:
    y = take_rows(_sums(plan, x), plan.position).astype(x.dtype)
    # Without the barrier XLA:CPU recomputes this sum inside every gather that reads it.
    return lax.optimization_barrier(y if add is None else y + add)


def _sums(plan: Plan, x: Array) -> Array:
    """Float32 row sums in the plan's own order."""
    parts = [_bucket_sum(b, x) for b in plan.buckets]
    if plan.inner is not None:
        # A barrier again: fused into one loop with branches, the sums would not be vectorised.
        chunks = jnp.concatenate([lax.optimization_barrier(_bucket_sum(b, x)) for b in plan.chunks])
        parts.append(_sums(plan.inner, lax.optimization_barrier(chunks)))
    return jnp.concatenate(parts) if len(parts) > 1 else parts[0]


def _bucket_sum(bucket: Bucket, x: Array) -> Array:
    # Written out term by term: XLA:CPU turns this into one vectorised loop, but not take().sum().
    terms = (
        take_rows(x, bucket.index[w]).astype(jnp.float32) * bucket.weight[w][:, None]
        for w in range(bucket.index.shape[0])
    )
    total = next(terms)
    for term in terms:
        total = total + term
    return total


_ROWS = lax.GatherDimensionNumbers(
    offset_dims=(1,), collapsed_slice_dims=(0,), start_index_map=(0,)
)


def take_rows(x: Array, index: Array) -> Array:
    """Rows ``index`` [R] of x [N, D]; indices must be in range (nothing checks or clamps them)."""
    return lax.gather(
        x,
        index[:, None],
        _ROWS,
        (1, x.shape[1]),
        mode=lax.GatherScatterMode.PROMISE_IN_BOUNDS,
    )


def _is_symmetric(row: np.ndarray, col: np.ndarray, weight: np.ndarray) -> bool:
    forward, backward = np.lexsort((col, row)), np.lexsort((row, col))
    same = lambda a, b: np.array_equal(a[forward], b[backward])
    return same(row, col) and same(col, row) and same(weight, weight)


def _plan_of_edges(row, col, weight, edge, num_rows) -> Plan:
    order = np.lexsort((col, row))
    indptr = np.concatenate([[0], np.cumsum(np.bincount(row, minlength=num_rows))])
    number = None if edge is None else np.asarray(edge)[order]
    plan, position = _plan(indptr, col[order], weight[order], number, _WIDEST)
    return plan.replace(position=position.astype(np.int32))


def _plan(indptr, col, weight, edge, widest) -> tuple[Plan, np.ndarray]:
    """A plan of the compressed rows, and where each row stands in its result."""
    degree, start = np.diff(indptr), indptr[:-1]
    long = degree > widest
    position = np.empty(degree.size, np.int64)
    short_rows, long_rows = np.flatnonzero(~long), np.flatnonzero(long)
    buckets, order = _buckets(degree[short_rows], start[short_rows], col, weight, edge)
    position[short_rows[order]] = np.arange(order.size)
    if not long_rows.size:
        return Plan(buckets), position

    pieces = -(-degree[long_rows] // widest)
    first = np.concatenate([[0], np.cumsum(pieces)])
    owner = np.repeat(np.arange(long_rows.size), pieces)
    rank = np.arange(first[-1]) - first[owner]
    share, rest = degree[long_rows] // pieces, degree[long_rows] % pieces  # even pieces pad least
    length = share[owner] + (rank < rest[owner])
    begin = start[long_rows][owner] + rank * share[owner] + np.minimum(rank, rest[owner])
    chunks, order_of_chunks = _buckets(length, begin, col, weight, edge)
    place = np.empty(owner.size, np.int64)
    place[order_of_chunks] = np.arange(owner.size)
    ones = np.ones(owner.size, np.float32)
    inner, inner_position = _plan(first, place, ones, None, max(widest, min(pieces.max(), 64)))
    position[long_rows] = order.size + inner_position
    return Plan(buckets, chunks, inner), position


def _buckets(degree, start, col, weight, edge) -> tuple[tuple[Bucket, ...], np.ndarray]:
    """Buckets of the given rows, and the row numbers in the order in which buckets hold them."""
    if not degree.size:
        return (), np.zeros(0, np.int64)
    widths = _widths(degree)
    bucket_of = np.searchsorted(widths, np.maximum(degree, 1))
    buckets, order = [], []
    for number, width in enumerate(widths):
        rows = np.flatnonzero(bucket_of == number)
        step = np.arange(width)[:, None]
        filled = step < degree[rows]
        # Padding repeats the row's last entry, with weight 0: no stranger's NaN can come in.
        entry = start[rows] + np.minimum(step, np.maximum(degree[rows] - 1, 0))
        entry = np.minimum(entry, max(col.size - 1, 0))
        index = col[entry] if col.size else np.zeros(entry.shape)
        values = np.where(filled, weight[entry], 0) if col.size else np.zeros(entry.shape)
        origin = None
        if edge is not None:
            no_edge = edge.max(initial=-1) + 1
            origin = np.where(filled, edge[entry], no_edge) if col.size else np.zeros(entry.shape)
            origin = origin.astype(np.int32)
        buckets.append(Bucket(index.astype(np.int32), values.astype(np.float32), origin))
        order.append(rows)
    return tuple(buckets), np.concatenate(order)


def _widths(degree: np.ndarray) -> list[int]:
    """Bucket widths that minimise padded entries plus ``_BUCKET_COST`` per bucket."""
    distinct, count = np.unique(np.maximum(degree, 1), return_counts=True)
    rows_below = np.concatenate([[0], np.cumsum(count)])
    cost, previous = [0.0], []
    for j in range(1, distinct.size + 1):
        rows = rows_below[j] - rows_below[:j]
        options = np.asarray(cost) + rows * distinct[j - 1] + _BUCKET_COST
        previous.append(int(options.argmin()))
        cost.append(float(options.min()))
    widths, j = [], distinct.size
    while j > 0:
        widths.append(int(distinct[j - 1]))
        j = previous[j - 1]
    return widths[::-1]
