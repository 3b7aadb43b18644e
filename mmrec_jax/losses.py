"""Training losses; each takes arrays, masks by ``where`` and returns a float32 scalar.

An all-masked batch gives zero; a genuine NaN still surfaces.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax

from mmrec_jax.types import Array

_NEVER = -1e9  # a logit that cannot win; finite, so that a batch of padding alone gives zero


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


def infonce(
    anchor: Array,
    positive: Array,
    where: Array,
    temperature: float | Array,
    candidates: Array | None = None,
) -> Array:
    """Contrastive loss: of each anchor [B, D], its own positive [B, D] among all candidates.

    The mean over ``where`` [B] of ``-log(exp(s(a, p) / t) / sum_c exp(s(a, c) / t))`` with cosine
    similarity s. Van den Oord et al., "Representation Learning with Contrastive Predictive
    Coding", 2018, https://arxiv.org/abs/1807.03748.

    Args:
      anchor, positive: [B, D], of any length.
      where: weights [B].
      temperature: t.
      candidates: [M, D], the positive's own copy among them; None takes the positives of the batch,
        less those of weight 0.
    """
    anchor, positive = unit(anchor), unit(positive)
    logits = anchor @ (positive if candidates is None else unit(candidates)).T / temperature
    if candidates is None:
        logits = jnp.where(where[None] > 0, logits, _NEVER)
    own = jnp.sum(anchor * positive, axis=-1) / temperature
    return masked_mean(jax.nn.logsumexp(logits, axis=-1) - own, where)


def alignment(first: Array, second: Array, where: Array) -> Array:
    """Mean squared distance of the pairs ``first[b]``, ``second[b]``, [B, D] each of length one.

    Wang and Isola, ICML 2020, https://arxiv.org/abs/2005.10242; in recommendation Wang et al.,
    "DirectAU", KDD 2022, https://arxiv.org/abs/2206.12811.
    """
    return masked_mean(jnp.sum(jnp.square(first - second), axis=-1), where)


def uniformity(rows: Array, where: Array, scale: float = 2.0) -> Array:
    """Log of the mean over pairs of ``exp(-scale * squared distance)`` of rows [B, D]; 0 is worst.

    Rows have length one. Papers as for :func:`alignment`.
    """
    squares = jnp.sum(jnp.square(rows), axis=-1)
    distance = jnp.maximum(squares[:, None] + squares[None] - 2 * rows @ rows.T, 0)
    pair = where[:, None] * where[None] * (1 - jnp.eye(len(rows)))
    return jnp.log(jnp.where(pair.sum() > 0, masked_mean(jnp.exp(-scale * distance), pair), 1.0))


def unit(rows: Array) -> Array:
    """Rows [..., D] scaled to length one, in float32; a zero row stays zero, its gradient too."""
    rows = rows.astype(jnp.float32)
    return rows * lax.rsqrt(jnp.maximum(jnp.sum(jnp.square(rows), -1, keepdims=True), 1e-24))


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
