"""Training losses; each takes arrays, masks by ``where`` and returns a float32 scalar.

An all-masked batch gives zero; a genuine NaN still surfaces.
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax

from mmrec_jax.ops import softmax
from mmrec_jax.types import Array

_LOGITS = 2**23  # of a contrast over all rows, held at a time: 32 MB


def masked_mean(values: Array, where: Array) -> Array:
    """Mean of ``values`` weighted by ``where`` (same shape); 0 if all weights are 0."""
    values, where = values.astype(jnp.float32), where.astype(jnp.float32)
    return jnp.sum(values * where) / jnp.maximum(jnp.sum(where), 1e-12)


def bpr(positive: Array, negative: Array, where: Array) -> Array:
    """Bayesian personalised ranking loss of scores [B] (Rendle et al., UAI 2009).

    https://arxiv.org/abs/1205.2618
    """
    margin = positive.astype(jnp.float32) - negative.astype(jnp.float32)
    return -masked_mean(jax.nn.log_sigmoid(margin), where)


def bce(positive: Array, negative: Array, where: Array) -> Array:
    """Binary cross-entropy of positive scores [...] and, summed, K negative ones [..., K]."""
    positive, negative = positive.astype(jnp.float32), negative.astype(jnp.float32)
    return masked_mean(jax.nn.softplus(-positive) + jax.nn.softplus(negative).sum(-1), where)


def log_loss(logits: Array, label: Array, where: Array) -> Array:
    """Binary cross-entropy of log-odds [...] and labels [...] between 0 and 1."""
    logits, label = logits.astype(jnp.float32), label.astype(jnp.float32)
    return masked_mean(jax.nn.softplus(logits) - label * logits, where)


def gbce(
    positive: Array, negative: Array, where: Array, num_items: int, calibration: float | Array
) -> Array:
    """Generalised binary cross-entropy, which undoes the overconfidence of few negatives.

    The positive's probability is raised to a power between the sampling rate K / (I - 1), where
    ``calibration`` is 1 and scores come out as if all items had been negatives, and 1, where it is
    0 and this is :func:`bce` divided by K + 1. Petrov and Macdonald, "gSASRec", RecSys 2023,
    https://arxiv.org/abs/2308.07192.

    Args:
      positive: scores [...].
      negative: scores [..., K] of items drawn uniformly.
      where: weights [...].
      num_items: I.
      calibration: t of the paper.
    """
    positive, negative = positive.astype(jnp.float32), negative.astype(jnp.float32)
    count = negative.shape[-1]
    power = 1 - calibration * (1 - count / (num_items - 1))
    nll = power * jax.nn.softplus(-positive) + jax.nn.softplus(negative).sum(-1)
    return masked_mean(nll / (count + 1), where)


def sampled_softmax(positive: Array, negative: Array, where: Array) -> Array:
    """Cross-entropy of the positive score [...] among itself and K sampled ones [..., K].

    To estimate the softmax over all items, subtract from each score, the positive's too, the log
    of its item's probability to be drawn (Bengio and Senecal, IEEE TNN 2008; Yi et al., RecSys
    2019, https://doi.org/10.1145/3298689.3346996); equal ones cancel.
    """
    positive, negative = positive.astype(jnp.float32), negative.astype(jnp.float32)
    scores = jnp.concatenate([positive[..., None], negative], axis=-1)
    return masked_mean(jax.nn.logsumexp(scores, axis=-1) - positive, where)


def infonce(anchor: Array, positive: Array, where: Array, temperature: float | Array) -> Array:
    """Contrastive loss: of each anchor [B, D], its own positive [B, D] among those of the batch.

    The mean over ``where`` [B] of ``-log(exp(s(a, p) / t) / sum_c exp(s(a, c) / t))`` with cosine
    similarity s and temperature t; rows of weight 0 are no candidates c either. Van den Oord et
    al., "Representation Learning with Contrastive Predictive Coding", 2018,
    https://arxiv.org/abs/1807.03748.
    """
    own = jnp.arange(len(anchor))
    return softmax.cross_entropy(unit(anchor) / temperature, unit(positive), own, where, where > 0)


def grace(first: Array, second: Array, temperature: float | Array) -> Array:
    """Contrastive loss of two views [N, D] of all N rows, with negatives in both views.

    The mean over n of ``-log(exp(s(a_n, b_n) / t) / (sum_m exp(s(a_n, b_m) / t) + sum_{m != n}
    exp(s(a_n, a_m) / t)))`` with cosine similarity s; a is ``first``, b ``second``. Zhu et al.,
    "Deep Graph Contrastive Representation Learning", ICML 2020 workshop,
    https://arxiv.org/abs/2006.04131. The 2 N^2 logits are computed once, block by block, gradient
    included, so that memory stays bounded.
    """
    first, second = unit(first), unit(second)
    anchor = first / temperature
    own = jnp.mean(jnp.sum(anchor * second, axis=-1))
    return _mean_logsumexp(anchor, jnp.concatenate([first, second])) - own


@jax.custom_vjp
def _mean_logsumexp(anchor: Array, candidates: Array) -> Array:
    """Mean over n of ``log sum_c exp(anchor[n] . candidates[c])`` but for c = n; [N, D], [C, D]."""
    return _by_blocks(anchor, candidates, False)[0]


def _mean_logsumexp_backward(gradients, cotangent):
    return tuple(cotangent * gradient for gradient in gradients)


_mean_logsumexp.defvjp(
    lambda anchor, candidates: _by_blocks(anchor, candidates, True), _mean_logsumexp_backward
)


@partial(jax.jit, static_argnums=2)
def _by_blocks(anchor, candidates, differentiate):
    """The value, and the gradients in both arguments, None unless ``differentiate``."""
    size, rows = len(anchor), min(len(anchor), max(8, _LOGITS // len(candidates)))
    starts = jnp.arange(0, size, rows)
    padded = jnp.pad(anchor, ((0, len(starts) * rows - size), (0, 0)))
    column = jnp.arange(len(candidates))[None]

    def step(carry, start):
        total, of_candidates = carry
        number = start + jnp.arange(rows)
        mine = lax.dynamic_slice_in_dim(padded, start, rows)
        logits = jnp.where(column == number[:, None], -jnp.inf, mine @ candidates.T)
        largest = lax.stop_gradient(logits.max(-1))
        power = jnp.exp(logits - largest[:, None])
        mass = power.sum(-1)
        weight = jnp.where(number < size, 1.0 / size, 0.0)
        total += jnp.sum(weight * (jnp.log(mass) + largest))
        if not differentiate:
            return (total, of_candidates), None
        share = power * (weight / mass)[:, None]
        # This order of the product is more than twice as fast as its transpose.
        return (total, of_candidates + mine.T @ share), share @ candidates

    of_candidates = jnp.zeros(candidates.shape[::-1] if differentiate else (0, 0))
    (total, of_candidates), of_anchor = lax.scan(step, (jnp.zeros(()), of_candidates), starts)
    if not differentiate:
        return total, None
    return total, (of_anchor.reshape(-1, anchor.shape[1])[:size], of_candidates.T)


def orthogonality(first: Array, second: Array, where: Array) -> Array:
    """Mean squared inner product of the columns of two views [B, D] of the same rows.

    Columns are centred over ``where`` [B] first, then rows scaled to length one; the gradient does
    not pass the lengths. Zero if what varies in one view says nothing of the other. Salzmann et
    al., AISTATS 2010, https://proceedings.mlr.press/v9/salzmann10a.html; scaled as in Bousmalis et
    al., "Domain Separation Networks", NeurIPS 2016, https://arxiv.org/abs/1608.06019.
    """
    weight = where.astype(jnp.float32)[:, None]

    def scaled(rows: Array) -> Array:
        rows = rows.astype(jnp.float32)
        mean = jnp.sum(rows * weight, axis=0) / jnp.maximum(jnp.sum(weight), 1e-12)
        rows = rows - mean[None]
        length = safe_sqrt(jnp.sum(jnp.square(lax.stop_gradient(rows)), axis=-1, keepdims=True))
        return rows / (length + 1e-6)

    return jnp.mean(jnp.square((scaled(first) * weight).T @ scaled(second)))


def alignment(first: Array, second: Array, where: Array) -> Array:
    """Mean squared distance of the pairs ``first[b]``, ``second[b]``, [B, D] each of length one.

    Wang and Isola, ICML 2020, https://arxiv.org/abs/2005.10242; in recommendation Wang et al.,
    "DirectAU", KDD 2022, https://arxiv.org/abs/2206.12811.
    """
    return masked_mean(jnp.sum(jnp.square(first - second), axis=-1), where)


def uniformity(
    rows: Array, where: Array, scale: float = 2.0, similarity: Array | None = None
) -> Array:
    """Log of the mean over pairs of ``exp(-scale * squared distance)`` of rows [B, D]; 0 is worst.

    Rows have length one. Papers as for :func:`alignment`.

    Args:
      rows: [B, D].
      where: weights [B].
      scale: of the distances.
      similarity: [B, B]; a pair's distance counts from that of rows with this cosine, so that like
        rows are pushed apart less. Zhou et al., "CM3", 2025, https://arxiv.org/abs/2508.01226.
    """
    distance = _own_distances(rows)
    if similarity is not None:
        distance -= 2 - 2 * similarity
    pair = where[:, None] * where[None] * (1 - jnp.eye(len(rows)))
    return jnp.log(jnp.where(pair.sum() > 0, masked_mean(jnp.exp(-scale * distance), pair), 1.0))


def mmd(first: Array, second: Array, where: Array, bandwidth: float | Array) -> Array:
    """Squared maximum mean discrepancy of two samples [B, D] under a Gaussian kernel.

    The biased estimator: the means over all pairs, each row with itself too, of the kernel
    ``exp(-squared distance / (2 bandwidth^2))`` within the samples, less twice that between them.
    Gretton et al., "A Kernel Two-Sample Test", JMLR 2012,
    https://jmlr.org/papers/v13/gretton12a.html.
    """
    pair = where[:, None] * where[None]

    def mean(distance: Array) -> Array:
        return masked_mean(jnp.exp(distance / (-2.0 * bandwidth**2)), pair)

    within = mean(_own_distances(first)) + mean(_own_distances(second))
    return within - 2.0 * mean(_squared_distances(first, second, first @ second.T))


def similarity_gap(rows: Array, similarity: Array, where: Array) -> Array:
    """Frobenius distance of the inner products of rows [B, D] from ``similarity`` [B, B], over B.

    The distance itself, not its square, as the authors of AlignRec have it (CIKM 2024,
    https://arxiv.org/abs/2403.12384); pairs with a row of weight 0 in ``where`` [B] do not count.
    """
    gap = jnp.square(_gram(rows).astype(jnp.float32) - similarity.astype(jnp.float32))
    pair = where[:, None] * where[None]
    return safe_sqrt(jnp.sum(jnp.where(pair > 0, gap * pair, 0.0))) / jnp.maximum(where.sum(), 1.0)


def _own_distances(rows: Array) -> Array:
    """Squared distances [B, B] of all pairs of rows [B, D]; a gradient as for :func:`_gram`."""
    return _squared_distances(rows, rows, _gram(rows))


def _squared_distances(first: Array, second: Array, product: Array) -> Array:
    """[B, C] of rows [B, D] and [C, D] with inner products [B, C]; no array [B, C, D] is made."""
    squares = [jnp.sum(jnp.square(rows), axis=-1) for rows in (first, second)]
    return jnp.maximum(squares[0][:, None] + squares[1][None] - 2 * product, 0)


def _gram(rows: Array) -> Array:
    """Inner products [B, B] of all pairs of rows [B, D], for losses that treat both alike.

    What comes back is then symmetric, and one product instead of two passes it on.
    """
    product = rows @ lax.stop_gradient(rows).T
    return 2 * product - lax.stop_gradient(product)


def unit(rows: Array) -> Array:
    """Rows [..., D] scaled to length one, in float32; a zero row stays zero, its gradient too."""
    rows = rows.astype(jnp.float32)
    return rows * lax.rsqrt(jnp.maximum(jnp.sum(jnp.square(rows), -1, keepdims=True), 1e-24))


def first_of_each(ids: Array, where: Array) -> Array:
    """``where`` [B] at the first place of positive weight that holds an id, int [B]; else 0.

    Contrastive losses over the distinct users or items of a batch take it as weights.
    """
    ids = jnp.where(where > 0, ids, -1)
    order = jnp.argsort(ids, stable=True)
    ranked = ids[order]
    new = jnp.concatenate([ranked[:1] >= 0, (ranked[1:] != ranked[:-1])])
    return where * jnp.zeros_like(where).at[order].set(new.astype(where.dtype))


def batch_norms(rows: tuple[Array, ...], where: Array) -> Array:
    """Sum of the Frobenius norms of ``rows`` ([B, D] each), divided by the batch's size.

    The regulariser of RecBole and MMRec: norms, not their squares.
    """
    weight = where.astype(jnp.float32)[:, None]
    squares = (jnp.sum(jnp.square(r.astype(jnp.float32)) * weight) for r in rows)
    return sum(map(safe_sqrt, squares)) / jnp.maximum(jnp.sum(where), 1.0)


def batch_squares(rows: tuple[Array, ...], where: Array) -> Array:
    """Half the sum of the squares of ``rows`` ([B, D] each), divided by the batch's size."""
    per_example = sum((jnp.sum(jnp.square(r), axis=-1) for r in rows), jnp.zeros_like(where))
    return 0.5 * masked_mean(per_example, where)


def safe_sqrt(x: Array) -> Array:
    """Square root whose gradient at 0 is 0, not infinite."""
    positive = x > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, x, 1.0)), 0.0)
