"""Vector quantisation: k-means, residual codes, balanced assignment and unique codes.

Shape letters beside those of ``types``: M vectors, k centroids of a codebook, C levels.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from mmrec_jax.types import Array, UserError

CHUNK = 4096  # rows whose distances are held at a time
WAYS = ("suffix", "sinkhorn", "none")  # of making codes unique


def distances(x: Array, centroids: Array) -> Array:
    """Squared Euclidean distances of vectors [M, D] to centroids [k, D], [M, k]."""
    # In lower precision, as accelerators choose by themselves, near ties would fall either way.
    products = jnp.matmul(x, centroids.T, precision="highest")
    squares = (x**2).sum(-1)[:, None] - 2 * products + (centroids**2).sum(-1)[None]
    return jnp.maximum(squares, 0)


@jax.jit
def assign(x: Array, centroids: Array) -> Array:
    """Number of the nearest centroid of each vector, int32 [M]; ties go to the smaller number."""
    return _nearest(x, centroids)[0]


def _nearest(x: Array, centroids: Array) -> tuple[Array, Array]:
    """Nearest centroid, int32 [M], and the squared distance to it, [M], chunk by chunk."""

    def chunk(rows):
        squares = distances(rows, centroids)
        return squares.argmin(-1).astype(jnp.int32), squares.min(-1)

    size, dim = x.shape
    if size <= CHUNK:
        return chunk(x)
    padded = jnp.pad(x, ((0, -size % CHUNK), (0, 0))).reshape(-1, CHUNK, dim)
    code, square = lax.map(chunk, padded)
    return code.reshape(-1)[:size], square.reshape(-1)[:size]


@functools.partial(jax.jit, static_argnames=("k", "steps"))
def kmeans(key: Array, x: Array, k: int, steps: int = 25, weight: Array | None = None) -> Array:
    """Centroids of Lloyd's algorithm from a k-means++ start.

    A cluster that loses its last vector goes on at the vector farthest from its centroid, so
    none stays empty while there are k different vectors.

    Args:
      key: draws the start.
      x: vectors [M, D].
      k: number of centroids; where it exceeds M, centroids repeat.
      steps: rounds of assignment and averaging.
      weight: importance of each vector, [M]; zero leaves it out. None: all count the same.

    Returns:
      Centroids [k, D].
    """
    weight = jnp.ones(len(x), x.dtype) if weight is None else weight.astype(x.dtype)
    step = lambda _, centroids: _lloyd(x, weight, centroids)
    return lax.fori_loop(0, steps, step, _spread(key, x, weight, k))


def _spread(key: Array, x: Array, weight: Array, k: int) -> Array:
    """k-means++: each centroid is a vector, drawn by its distance to those before; [k, D]."""
    keys = jax.random.split(key, k)

    def step(n, carry):
        centroids, square = carry
        # Once all vectors are centroids any may be drawn again.
        mass = jnp.where((square * weight).sum() > 0, square * weight, weight)
        chosen = x[jax.random.categorical(keys[n], jnp.log(mass))]
        square = jnp.minimum(square, ((x - chosen[None]) ** 2).sum(-1))
        return centroids.at[n].set(chosen), square

    start = (jnp.zeros((k, x.shape[1]), x.dtype), jnp.ones(len(x), x.dtype))
    return lax.fori_loop(0, k, step, start)[0]


def _lloyd(x: Array, weight: Array, centroids: Array) -> Array:
    """The means of the vectors nearest to each centroid, [k, D]; empty clusters are revived."""
    k = len(centroids)
    code, square = _nearest(x, centroids)
    mass = jax.ops.segment_sum(weight, code, k)
    empty = mass == 0
    total = jax.ops.segment_sum(x * weight[:, None], code, k)
    means = total / jnp.where(empty, 1, mass)[:, None]
    _, far = lax.top_k(square * (weight > 0), min(k, len(x)))
    turn = (jnp.cumsum(empty) - 1) % len(far)
    return jnp.where(empty[:, None], x[far[turn]], means)


def residual_kmeans(
    key: Array, x: Array, sizes: Sequence[int], steps: int = 25, weight: Array | None = None
) -> list[Array]:
    """Codebooks [k, D] of every level: k-means of what the levels before leave of ``x`` [M, D]."""
    codebooks = []
    for level_key, k in zip(jax.random.split(key, len(sizes)), sizes, strict=True):
        codebook = kmeans(level_key, x, k, steps, weight)
        codebooks.append(codebook)
        x = x - codebook[assign(x, codebook)]
    return codebooks


def encode(x: Array, codebooks: Sequence[Array]) -> tuple[Array, Array, Array]:
    """Residual codes of vectors [M, D].

    Returns:
      Codes int32 [M, C]; the sums of their centroids [M, D]; what the last level was given [M, D].
    """
    codes, total, residual = [], jnp.zeros_like(x), x
    for codebook in codebooks:
        residual = x - total
        codes.append(assign(residual, codebook))
        total = total + codebook[codes[-1]]
    return jnp.stack(codes, axis=-1), total, residual


def sinkhorn(cost: Array, epsilon: float | Array, steps: int, weight: Array | None = None) -> Array:
    """Soft assignment of B rows to k columns at low cost, all columns alike used; [B, k].

    Rows and columns of ``exp(-cost / epsilon)`` are scaled by turns, columns last, as logarithms,
    which a small ``epsilon`` does not overflow. Cuturi, "Sinkhorn distances", NIPS 2013,
    https://arxiv.org/abs/1306.0895.

    Args:
      cost: [B, k].
      epsilon: the smaller, the harder the assignment, and the more steps it needs.
      steps: rounds.
      weight: rows of weight 0 take no part, [B]; None: all do.

    Returns:
      Columns sum to the number of rows divided by k; rows, after enough steps, to 1.
    """
    weight = jnp.ones(len(cost), cost.dtype) if weight is None else weight
    part = weight > 0
    logits = -cost / epsilon

    def step(_, potentials):
        column = potentials[1]
        row = -jax.nn.logsumexp(logits + column[None], axis=1)
        scaled = jnp.where(part[:, None], logits + row[:, None], -jnp.inf)
        return row, -jax.nn.logsumexp(scaled, axis=0)

    start = jnp.zeros(cost.shape[0], cost.dtype), jnp.zeros(cost.shape[1], cost.dtype)
    row, column = lax.fori_loop(0, steps, step, start)
    share = jnp.exp(logits + row[:, None] + column[None]) * (part.sum() / cost.shape[1])
    return jnp.where(part[:, None], share, 0)


def balanced(
    squares: Array, epsilon: float | Array, steps: int, weight: Array | None = None
) -> Array:
    """Codes under which all centroids are used about alike, int32 [B], by :func:`sinkhorn`.

    ``squares`` [B, k] are distances; they are first moved to [-1, 1], so that ``epsilon`` means the
    same at every scale (Zheng et al., "LC-Rec", ICDE 2024, https://arxiv.org/abs/2311.09049).
    """
    part = jnp.ones(len(squares), bool) if weight is None else weight > 0
    low = jnp.where(part[:, None], squares, jnp.inf).min()
    high = jnp.where(part[:, None], squares, -jnp.inf).max()
    middle = (high + low) / 2
    cost = (squares - middle) / (high - middle + 1e-5)
    return sinkhorn(cost, epsilon, steps, weight).argmax(-1).astype(jnp.int32)


def same(codes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Which rows of codes [M, C] are alike.

    Returns:
      The number of each row's group, int [M], and of how many rows of its group come before it,
      int [M].
    """
    _, group = np.unique(codes, axis=0, return_inverse=True)
    group = group.reshape(-1)
    order = np.argsort(group, kind="stable")
    begin = np.searchsorted(group[order], np.arange(group.max(initial=-1) + 1))
    place = np.empty(len(group), np.int64)
    place[order] = np.arange(len(group)) - begin[group[order]]
    return group, place


def suffixed(codes: np.ndarray) -> np.ndarray:
    """Codes with one more level that counts through the rows alike, int32 [M, C + 1].

    Rajput et al., "Recommender Systems with Generative Retrieval" (TIGER), NeurIPS 2023,
    https://arxiv.org/abs/2305.05065.
    """
    return np.concatenate([codes, same(codes)[1][:, None]], axis=1).astype(np.int32)


def respread(
    codes: np.ndarray,
    residual: Array,
    codebook: Array,
    epsilon: float = 0.003,
    steps: int = 50,
    rounds: int = 20,
) -> np.ndarray:
    """Codes with other last levels for rows alike, spread by :func:`balanced` as LC-Rec does.

    Each round spreads every group of rows alike over the whole last codebook, which may run into
    other rows; hence the rounds. What is left alike then takes free codes (:func:`settled`).

    Args:
      codes: int32 [M, C].
      residual: what the last level was given, [M, D].
      codebook: of the last level, [k, D].
      epsilon, steps: of :func:`balanced`.
      rounds: at most so many.

    Returns:
      int32 [M, C]; rows stay alike only where more than k of them have the other levels in common.
    """
    codes = codes.copy()
    for _ in range(rounds):
        group, _ = same(codes)
        count = np.bincount(group)
        row = np.flatnonzero(count[group] > 1)
        if not row.size:
            break
        padded = _padded_groups(row, group[row])
        spread = np.asarray(_spread_groups(padded, residual, codebook, epsilon, steps))
        codes[padded[padded >= 0], -1] = spread[padded >= 0]
    return settled(codes, residual, codebook)


def _padded_groups(row: np.ndarray, group: np.ndarray) -> np.ndarray:
    """The rows of each group, padded with -1 to powers of two so that shapes repeat; int32."""
    _, group = np.unique(group, return_inverse=True)
    place = same(group[:, None])[1]
    shape = [1 << int(n).bit_length() for n in (group.max(), place.max())]
    padded = np.full(shape, -1, np.int32)
    padded[group, place] = row
    return padded


@functools.partial(jax.jit, static_argnames="steps")
def _spread_groups(padded, residual, codebook, epsilon, steps) -> Array:
    """Balanced last codes of the rows of each group, int32 of ``padded``'s shape."""

    def one(rows):
        squares = distances(residual[rows], codebook)
        return balanced(squares, epsilon, steps, (rows >= 0).astype(squares.dtype))

    held = max(1, 2**22 // (padded.shape[1] * len(codebook)))  # groups at a time, to bound memory
    return lax.map(one, padded, batch_size=min(held, len(padded)))


def settled(codes: np.ndarray, residual: Array, codebook: Array) -> np.ndarray:
    """Codes where all but one of the rows alike move to the nearest last code that is free.

    Of rows that want the same free code the one nearest to it gets it and the others ask again.

    Returns:
      int32 [M, C]; rows stay alike only where more than k of them have the other levels in common.
    """
    codes, k = codes.copy(), len(codebook)
    prefix, _ = same(codes[:, :-1])
    move = np.flatnonzero(same(codes)[1] > 0)
    squares = np.array(distances(jnp.asarray(residual)[move], jnp.asarray(codebook)))
    while move.size:
        taken = np.unique(prefix * k + codes[:, -1])
        wanted = prefix[move][:, None] * k + np.arange(k)
        squares[np.isin(wanted, taken)] = np.inf
        best = squares.argmin(1)
        cost = squares[np.arange(len(move)), best]
        order = np.lexsort((cost, wanted[np.arange(len(move)), best]))
        order = order[np.isfinite(cost[order])]
        _, first = np.unique(wanted[order, best[order]], return_index=True)
        won = order[first]
        if not won.size:
            break
        codes[move[won], -1] = best[won]
        move, squares = np.delete(move, won), np.delete(squares, won, axis=0)
    return codes


def deduplicated(how: str, codes: np.ndarray, residual: Array, codebook: Array) -> np.ndarray:
    """Codes of which no two rows are alike, as far as ``how`` achieves that.

    Args:
      how: "suffix" (:func:`suffixed`), "sinkhorn" (:func:`respread`) or "none".
      codes: int32 [M, C].
      residual: what the last level was given, [M, D].
      codebook: of the last level, [k, D].

    Raises:
      UserError: ``how`` is something else.
    """
    check(how)
    if how == "sinkhorn":
        return respread(codes, residual, codebook)
    return suffixed(codes) if how == "suffix" else codes


def check(how: str) -> None:
    """Raises a UserError where :func:`deduplicated` does not know the name."""
    if how not in WAYS:
        raise UserError(f"model.unique is {how!r}; it must be one of {', '.join(WAYS)}")
