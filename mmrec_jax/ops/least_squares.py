"""Weighted least squares for every row of a sparse matrix of zeros and ones, in closed form."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax import lax
from jax.scipy import linalg

from mmrec_jax.types import Array

_NARROWEST = 4  # shortest rows padded to: a width more costs seconds of compilation
_ENTRIES = 8192  # of a block: what is computed at a time takes some tens of D times as many bytes


@struct.dataclass
class Rows:
    """The ones of a matrix [R, N], rows of like length side by side in blocks.

    Attributes:
      number: int32 [blocks, b] of each width, which rows they are; R at padding.
      column: int32 [blocks, b, W] of each width, where the ones of these rows stand; N at padding.
      count: float32 [R], ones of each row.
      width: N; static.
    """

    number: tuple[Array, ...]
    column: tuple[Array, ...]
    count: Array
    width: int = struct.field(pytree_node=False)


def from_pairs(row: np.ndarray, column: np.ndarray, shape: tuple[int, int]) -> Rows:
    """The matrix with ones at ``(row[e], column[e])``; a repeated pair counts once."""
    size, width = shape
    row, column = np.divmod(np.unique(np.asarray(row, np.int64) * width + column), width)
    count = np.bincount(row, minlength=size)
    begin = np.cumsum(count) - count
    padded = np.maximum(2 ** np.ceil(np.log2(np.maximum(count, 1))).astype(int), _NARROWEST)
    numbers, columns = [], []
    for wide in np.unique(padded[count > 0]):
        mine = np.flatnonzero((padded == wide) & (count > 0))
        step = np.arange(wide)[None]
        place = np.minimum(begin[mine, None] + step, len(column) - 1)
        own = np.where(step < count[mine, None], column[place], width)
        block = min(max(_ENTRIES // wide, 1), len(mine))
        fill = -len(mine) % block
        numbers.append(np.pad(mine, (0, fill), constant_values=size).reshape(-1, block))
        own = np.pad(own, ((0, fill), (0, 0)), constant_values=width)
        columns.append(own.reshape(-1, block, wide))
    to_device = lambda parts: tuple(jnp.asarray(part, jnp.int32) for part in parts)
    return Rows(to_device(numbers), to_device(columns), jnp.asarray(count, jnp.float32), width)


def solve(rows: Rows, factors: Array, unobserved: Array | float, ridge: Array):
    r"""For each row r, the x that minimises the squared error of ``factors @ x``, all weighted.

    Its ones are to give 1 with weight 1, all columns 0 with weight ``unobserved``, and the
    squared norm of x has weight ``ridge[r]``:
    ``(V_r' V_r + unobserved V' V + ridge[r] I) x = V_r' 1`` with V_r the factors of the row's
    ones. Whatever the row, ``unobserved V' V + ridge[r] I`` is diagonal in the eigenvectors of
    ``V' V``, so that a row of W ones takes a system of min(W, D) equations: by the identity
    ``(M + V_r' V_r)^-1 V_r' = M^-1 V_r' (I + V_r M^-1 V_r')^-1``.

    Args:
      rows: of the matrix [R, N].
      factors: V, float32 [N, D].
      unobserved: weight of the zeros.
      ridge: float32 [R], positive.

    Returns:
      x of every row, float32 [R, D], zeros for a row without ones; and the squared error at the
      ones of all rows together, [].
    """
    size, dim = rows.count.shape[0], factors.shape[1]
    with jax.default_matmul_precision("highest"):  # accelerators would use fewer bits
        values, basis = jnp.linalg.eigh(factors.T @ factors)
        rotated = jnp.pad(factors @ basis, ((0, 1), (0, 0)))  # padding reads zeros
        spectrum = unobserved * jnp.maximum(values, 0)

        def block(carry, inputs):
            found, error = carry
            number, column = inputs
            own = rotated.at[column].get(mode="promise_in_bounds")  # [b, W, D]
            known = (column < rows.width).astype(jnp.float32)
            # Adding 0 makes a block wait for the one before. Batches of factorisations at the same
            # time wait for each other's threads on a CPU of two processors, and never end.
            scale = spectrum[None] + (ridge.at[number].get(mode="clip") + 0 * error)[:, None]
            short = column.shape[1] <= dim
            x, left = (_by_entries if short else _by_dimensions)(own, known, scale)
            return (found.at[number].set(x, mode="drop"), error + left.sum()), None

        carry = (jnp.zeros((size, dim), jnp.float32), jnp.float32(0))
        for inputs in zip(rows.number, rows.column, strict=True):
            carry = lax.scan(block, carry, inputs)[0]
        found, error = carry
        return found @ basis.T, error


def _by_entries(own: Array, known: Array, scale: Array) -> tuple[Array, Array]:
    """x [b, D] and squared errors [b], from as many equations as a row has entries."""
    scaled = own / scale[:, None]
    kernel = jnp.einsum("bwd,bvd->bwv", scaled, own)
    error = _positive_solve(kernel + jnp.eye(kernel.shape[1])[None], known)
    return jnp.einsum("bw,bwd->bd", error, scaled), (error**2).sum(1)


def _by_dimensions(own: Array, known: Array, scale: Array) -> tuple[Array, Array]:
    """The same from D equations."""
    normal = jnp.einsum("bwd,bwe->bde", own, own) + scale[:, None] * jnp.eye(scale.shape[1])[None]
    x = _positive_solve(normal, jnp.einsum("bw,bwd->bd", known, own))
    error = known - jnp.einsum("bwd,bd->bw", own, x)
    return x, (error**2).sum(1)


def _positive_solve(matrix: Array, right: Array) -> Array:
    """Solutions [b, n] of symmetric positive systems [b, n, n]."""
    return linalg.cho_solve((jnp.linalg.cholesky(matrix), True), right[..., None])[..., 0]
