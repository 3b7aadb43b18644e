"""Attention whose tokens are single numbers."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax

from mmrec_jax.types import Array

_WEIGHTS = 2**19  # held at a time: 2 MB, which stay in the cache


def attend(
    query: Array, key: Array, value: Array, rng: Array | None = None, rate: float | Array = 0.0
) -> Array:
    """Attention whose tokens are the D numbers of a vector: ``sum_b softmax_b(q_a k_b) v_b``.

    The R x D x D weights are made, and in the backward pass made again, for some rows at a time.

    Args:
      query, key, value: [R, D].
      rng: of dropout over the weights; None drops none.
      rate: of dropout, as exact as 2^-16; may be traced.
    """
    size, width = query.shape
    rows = min(size, max(1, _WEIGHTS // width**2))
    count = -(-size // rows)
    blocks = [
        jnp.pad(x, ((0, count * rows - size), (0, 0))).reshape(count, rows, width)
        for x in (query, key, value)
    ]

    @jax.checkpoint
    def block_of(number, q, k, v):
        # What is largest over b lies at one end of the keys, whichever the sign of the query. It
        # cancels; its gradient would be 0 / 0 where a key made again rounds off its own maximum.
        ends = k.max(1, keepdims=True), k.min(1, keepdims=True)
        largest = lax.stop_gradient(jnp.where(q > 0, q * ends[0], q * ends[1]))
        power = jnp.exp(k[:, :, None] * q[:, None] - largest[:, None])  # [rows, b, a]
        mass = power.sum(1)
        if rng is not None:
            bits = jax.random.bits(
                jax.random.fold_in(rng, number), (-(-power.size // 2),), jnp.uint32
            )
            bits = lax.bitcast_convert_type(bits, jnp.uint16).ravel()[: power.size]
            keep = bits.reshape(power.shape).astype(jnp.float32) >= rate * 2.0**16
            power = jnp.where(keep, power, 0.0)
            mass = mass * jnp.maximum(1.0 - rate, 1e-6)  # at rate 1 nothing is left to scale
        return (power * v[:, :, None]).sum(1) / mass

    out = lax.map(lambda block: block_of(*block), (jnp.arange(count), *blocks))
    return out.reshape(-1, width)[:size]
