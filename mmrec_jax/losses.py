"""Training losses; each takes arrays, masks by ``where`` and returns a float32 scalar.

An all-masked batch gives zero; a genuine NaN still surfaces.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from mmrec_jax.types import Array


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
