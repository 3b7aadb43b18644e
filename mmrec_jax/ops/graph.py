"""Sparse matrices times dense ones, without a scatter in either direction.

A matrix is stored row by row in *buckets*: rows of similar length side by side, padded to one
width, so that a product is a short sum of gathered rows. Rows longer than ``_WIDEST`` are cut
into chunks whose sums are added by a second, smaller plan. The vector-Jacobian product is the
product with the transpose, which for a symmetric matrix is the matrix itself. Sums come out in
the order of the buckets; from layer to layer they stay in it.
"""

from __future__ import annotations

from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax import lax
from jax.sharding import PartitionSpec

from mmrec_jax.ops import across
from mmrec_jax.types import Array

_WIDEST = 32  # longest row summed in one go: beyond it compile time grows, not speed
_BUCKET_COST = 3000  # what one more bucket costs, in padded entries


@struct.dataclass
class Bucket:
    """Rows of one width W, stored column by column.

    Attributes:
      index: int32 [W, R], the column of each entry; padding repeats one of the row's own.
      weight: float32 [W, R], 0 at padding.
      place: int32 [W, R], where that column stands among the sums of its block; None if the
        matrix is not square.
      edge: int32 [W, R], which edge an entry came from, E at padding; None if never reweighted.
    """

    index: Array
    weight: Array
    place: Array | None = None
    edge: Array | None = None


@struct.dataclass
class Plan:
    """Buckets of the short rows, chunks of the long ones, and the plan that adds the chunks.

    Attributes:
      buckets: the rows of at most ``_WIDEST`` entries.
      chunks: pieces of the longer rows.
      inner: adds the chunks of each long row; None if there is none.
    """

    buckets: tuple[Bucket, ...]
    chunks: tuple[Bucket, ...] = ()
    inner: Plan | None = None


@struct.dataclass
class Rows:
    """A matrix by rows.

    Attributes:
      blocks: one plan for all rows, or, of a bipartite graph, one for users and one for items.
      position: int32 [rows], where each row stands among the sums of all blocks.
    """

    blocks: tuple[Plan, ...]
    position: Array


@struct.dataclass
class Adjacency:
    """A sparse matrix on the device.

    Attributes:
      forward: the matrix by rows.
      transpose: its transpose by rows; None if the matrix is symmetric.
    """

    forward: Rows
    transpose: Rows | None = None


def from_edges(
    row: np.ndarray,
    col: np.ndarray,
    weight: np.ndarray,
    shape: int | tuple[int, int],
    edge: np.ndarray | None = None,
    split: int = 0,
) -> Adjacency:
    """The matrix with ``weight[e]`` at ``(row[e], col[e])``; repeated entries add up.

    Args:
      row, col: integer [E], host arrays.
      weight: float [E].
      shape: ``(rows, columns)``, or one number for a square matrix.
      edge: integer [E], the number by which :func:`reweight` knows each entry.
      split: of a bipartite graph, how many nodes come before those of the other kind.

    Raises:
      ValueError: if an index lies outside ``shape``, or an edge within a kind of nodes.
    """
    rows, cols = (shape, shape) if isinstance(shape, int) else shape
    row, col = np.asarray(row, np.int64), np.asarray(col, np.int64)
    if row.size and not (0 <= row.min() and row.max() < rows and 0 <= col.min() < cols):
        raise ValueError(f"an edge lies outside the {rows} x {cols} matrix")
    if col.size and col.max() >= cols:
        raise ValueError(f"an edge lies outside the {rows} x {cols} matrix")
    if split and ((row < split) == (col < split)).any():
        raise ValueError("an edge joins two nodes of one kind")
    split = split if row.size else 0
    weight = np.asarray(weight, np.float32)
    forward = _rows_of_edges(row, col, weight, edge, (rows, cols), split)
    if rows == cols and _is_symmetric(row, col, weight):
        return jax.tree.map(jnp.asarray, Adjacency(forward))
    transpose = _rows_of_edges(col, row, weight, edge, (cols, rows), split)
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
        split=num_users,
    )


def random_walk(user: np.ndarray, item: np.ndarray, num_users: int, num_items: int) -> Adjacency:
    """The user-item graph on N = U + I nodes with loops, each row divided by its sum."""
    nodes = np.arange(num_users + num_items)
    user, node = np.asarray(user, np.int64), np.asarray(item, np.int64) + num_users
    row, col = np.concatenate([user, node, nodes]), np.concatenate([node, user, nodes])
    return from_edges(row, col, 1.0 / np.bincount(row)[row], nodes.size)


@jax.custom_vjp
def matmul(adj: Adjacency, x: Array) -> Array:
    """``A @ x`` for x [columns, D]; differentiable in ``x`` only."""
    x = _by_column(x)
    sums = [part for plan in adj.forward.blocks for part in _sums(plan, x)]
    return _by_column(take_rows(_join(sums, x.dtype), adj.forward.position))


matmul.defvjp(
    lambda adj, x: (matmul(adj, x), adj),
    lambda adj, cotangent: (None, matmul(_transposed(adj), cotangent)),
)


def mean_propagate(adj: Adjacency, x: Array, layers: int, rows: Array | None = None) -> Array:
    """Mean of ``x, A x, ..., A^layers x`` for x [N, D], by Horner's rule.

    Of the result, only ``rows`` int32 [R] if given; differentiable in ``x`` only.
    """
    return _mean(adj, x, layers, rows)


def _by_column(x: Array) -> Array:
    """x [N, D] with its columns over the mesh's axis "model", where they divide.

    A product then needs no word between devices, however the table is stored; left alone, the
    compiler would have them add up [E, D].
    """
    mesh = across.mesh()
    if mesh is None:
        return x
    axis = "model" if x.shape[1] % mesh.shape["model"] == 0 else None
    return lax.with_sharding_constraint(x, PartitionSpec(None, axis))


def _horner(adj: Adjacency, x: Array, layers: int, rows: Array | None) -> Array:
    x = _by_column(x)
    own = x if rows is None else take_rows(x, rows)
    if not layers:
        return own
    blocks, first = adj.forward.blocks, None
    sums = [_sums(plan, x) for plan in blocks]
    for _ in range(layers - 1):
        y = [_join(parts, x.dtype) for parts in sums]
        first = first or y
        sums = [_sums(plan, *pair) for plan, *pair in zip(blocks, y[::-1], first, strict=True)]
    position = adj.forward.position if rows is None else adj.forward.position[rows]
    rest = take_rows(_join([part for parts in sums for part in parts], x.dtype), position)
    return (own + rest) * (1 / (layers + 1))


_mean = jax.custom_vjp(_horner, nondiff_argnums=(2,))


def _mean_forward(adj, x, layers, rows):
    return _mean(adj, x, layers, rows), (adj, rows)


def _mean_backward(layers, residual, cotangent):
    adj, rows = residual
    if rows is not None:
        zeros = jnp.zeros((adj.forward.position.size, cotangent.shape[1]), cotangent.dtype)
        cotangent = zeros.at[rows].add(cotangent, mode="promise_in_bounds")
    return None, _mean(_transposed(adj), cotangent, layers, None), None


_mean.defvjp(_mean_forward, _mean_backward)


def reweight(adj: Adjacency, edge_weight: Array) -> Adjacency:
    """The same matrix with other weights, one per numbered edge, float32 [E]; 0 drops an edge."""
    padded = jnp.append(edge_weight, jnp.zeros((1,), edge_weight.dtype))
    numbered = lambda leaf: isinstance(leaf, Bucket) and leaf.edge is not None
    renew = lambda leaf: leaf.replace(weight=padded[leaf.edge]) if numbered(leaf) else leaf
    return jax.tree.map(renew, adj, is_leaf=numbered)


def _transposed(adj: Adjacency) -> Adjacency:
    return adj if adj.transpose is None else Adjacency(adj.transpose, adj.forward)


def _sums(plan: Plan, x: Array, add: Array | None = None) -> list[Array]:
    """Float32 sums of the rows in the plan's order, in parts.

    With ``add``, which is in that order too and is added, ``x`` is in the order of its block.
    """
    parts = [_bucket_sum(b, x, b.index if add is None else b.place) for b in plan.buckets]
    if plan.inner is not None:
        chunks = [_bucket_sum(b, x, b.index if add is None else b.place) for b in plan.chunks]
        parts += _sums(plan.inner, _join(chunks, jnp.float32))
    if add is None:
        return parts
    end = np.cumsum([part.shape[0] for part in parts])
    return [part + add[e - part.shape[0] : e] for part, e in zip(parts, end, strict=True)]


def _join(parts: list[Array], dtype) -> Array:
    """The parts one after another, with idle rows behind them."""
    # What is not concatenated, XLA:CPU computes anew in every gather that reads it; and up to 8
    # parts it computes in one loop full of branches.
    idle = [parts[0][:1]] * max(9 - len(parts), 0)
    return jnp.concatenate([part.astype(dtype) for part in parts + idle])


def _bucket_sum(bucket: Bucket, x: Array, index: Array) -> Array:
    # Written out term by term: XLA:CPU turns this into one vectorised loop, but not take().sum().
    terms = (
        take_rows(x, index[w]).astype(jnp.float32) * bucket.weight[w][:, None]
        for w in range(index.shape[0])
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


def _rows_of_edges(row, col, weight, edge, shape, split) -> Rows:
    order = np.lexsort((col, row))
    row, col, weight = row[order], col[order], weight[order]
    edge = None if edge is None else np.asarray(edge)[order]
    blocks, places, cuts = [], [], [0, split, shape[0]] if split else [0, shape[0]]
    for begin, end in pairwise(cuts):
        own = slice(*np.searchsorted(row, [begin, end]))
        count = np.bincount(row[own] - begin, minlength=end - begin)
        indptr = np.concatenate([[0], np.cumsum(count)])
        number = None if edge is None else edge[own]
        plan, order = _plan(indptr, col[own], weight[own], number, _WIDEST)
        blocks.append(plan)
        places.append(np.argsort(order).astype(np.int32))
    if shape[0] == shape[1]:
        blocks = [_with_places(plan, np.concatenate(places)) for plan in blocks]
    position = np.concatenate([p + begin for p, begin in zip(places, cuts, strict=False)])
    return Rows(tuple(blocks), position.astype(np.int32))


def _with_places(plan: Plan, place: np.ndarray) -> Plan:
    add = lambda buckets: tuple(b.replace(place=place[b.index]) for b in buckets)
    return plan.replace(buckets=add(plan.buckets), chunks=add(plan.chunks))


def _plan(indptr, col, weight, edge, widest) -> tuple[Plan, np.ndarray]:
    """A plan of the compressed rows, and the row at each place of its result."""
    degree, start = np.diff(indptr), indptr[:-1]
    short, long = np.flatnonzero(degree <= widest), np.flatnonzero(degree > widest)
    buckets, order = _buckets(degree[short], start[short], col, weight, edge)
    if not long.size:
        return Plan(buckets), short[order]

    pieces = -(-degree[long] // widest)
    first = np.concatenate([[0], np.cumsum(pieces)])
    owner = np.repeat(np.arange(long.size), pieces)
    rank = np.arange(first[-1]) - first[owner]
    share, rest = degree[long] // pieces, degree[long] % pieces  # even pieces pad least
    length = share[owner] + (rank < rest[owner])
    begin = start[long][owner] + rank * share[owner] + np.minimum(rank, rest[owner])
    chunks, chunk_order = _buckets(length, begin, col, weight, edge)
    ones = np.ones(owner.size, np.float32)
    most = max(widest, min(pieces.max(), 64))
    inner, inner_order = _plan(first, np.argsort(chunk_order), ones, None, most)
    return Plan(buckets, chunks, inner), np.concatenate([short[order], long[inner_order]])


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
        buckets.append(Bucket(index.astype(np.int32), values.astype(np.float32), edge=origin))
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
