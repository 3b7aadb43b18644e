"""Attention whose tokens are single numbers."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.random import threefry_2x32

from mmrec_jax.types import Array

_WEIGHTS = 2**19  # held at a time: 2 MB, which stay in the cache


@jax.custom_vjp
def attend(
    query: Array, key: Array, value: Array, rng: Array | None = None, rate: float | Array = 0.0
) -> Array:
    """Attention whose tokens are the D numbers of a vector: ``sum_b softmax_b(q_a k_b) v_b``.

    The R x D x D weights are made, and in the backward pass made again, for some rows at a time;
    what is kept between is a bit for each, whether dropout spared it.

    Args:
      query, key, value: [R, D].
      rng: of dropout over the weights; None drops none.
      rate: of dropout, as exact as 2^-16; may be traced.
    """
    return _forward(query, key, value, rng, rate)[0]


def _forward(query, key, value, rng=None, rate=0.0):
    # At rate 1 nothing is left to scale; a traced rate would make float32 of all that it meets.
    scale = 1.0 if rng is None else 1.0 / jnp.maximum(1.0 - rate, 1e-6)
    scale = jnp.asarray(scale, query.dtype)

    def block(number, q, k, v):
        power = _powers(q, k)
        mass, spared = power.sum(1), None
        if rng is not None:
            keep = _keep(jax.random.fold_in(rng, number), power.shape, rate)
            power, spared = jnp.where(keep, power, 0.0), jnp.packbits(keep, axis=0)
        return scale * jnp.einsum("rba,rb->ra", power, v) / mass, mass, spared

    rows = tuple(map(_blocks, (query, key, value)))
    out, mass, spared = lax.map(lambda x: block(*x), (jnp.arange(len(rows[0])), *rows))
    return _whole(out, query), (rows, out, mass, spared, scale)


def _backward(saved, slope):
    rows, out, mass, spared, scale = saved

    def block(q, k, v, out, mass, spared, slope):
        power = kept = _powers(q, k)
        if spared is not None:
            keep = jnp.unpackbits(spared, axis=0, count=len(q)).astype(bool)
            kept = jnp.where(keep, power, 0.0)
        # With s_ab = kept_ab v_b scale - power_ab out_a, the slope of logit ab is share_a s_ab.
        share = slope / mass
        mine = jnp.stack([share, share * q], axis=2)
        d_value, drawn = jnp.moveaxis(scale * jnp.einsum("rba,rac->rbc", kept, mine), 2, 0)
        d_key = v * drawn - jnp.einsum("rba,ra->rb", power, share * out * q)
        drawn = scale * jnp.einsum("rba,rb->ra", kept, k * v)
        return share * (drawn - out * jnp.einsum("rba,rb->ra", power, k)), d_key, d_value

    slopes = lax.map(lambda x: block(*x), (*rows, out, mass, spared, _blocks(slope)))
    return *(_whole(x, slope) for x in slopes), None, None


attend.defvjp(_forward, _backward)


def _powers(query: Array, key: Array) -> Array:
    """Attention weights [R, b, a] before they are divided by their sums over b."""
    # What is largest over b lies at one end of the keys, whichever the sign of the query.
    ends = key.max(1, keepdims=True), key.min(1, keepdims=True)
    largest = jnp.where(query > 0, query * ends[0], query * ends[1])
    return jnp.exp(key[:, :, None] * query[:, None] - largest[:, None])


def _keep(rng: Array, shape: tuple[int, ...], rate: float | Array) -> Array:
    """Whether dropout spares each weight; 16 random bits for each."""
    size = shape[0] * shape[1] * shape[2]
    # ``random.bits`` makes twice the words and throws half away, to be the same however sharded.
    words = threefry_2x32(jax.random.key_data(rng)[:2], lax.iota(jnp.uint32, -(-size // 2)))
    bits = lax.bitcast_convert_type(words, jnp.uint16).ravel()[:size]
    return bits.reshape(shape).astype(jnp.float32) >= rate * 2.0**16


def _blocks(x: Array) -> Array:
    """Rows of ``x`` [R, D] by block, [N, R / N, D]; the last is padded with zeros."""
    size, width = x.shape
    rows = min(size, max(1, _WEIGHTS // width**2))
    count = -(-size // rows)
    return jnp.pad(x, ((0, count * rows - size), (0, 0))).reshape(count, rows, width)


def _whole(blocks: Array, like: Array) -> Array:
    """What :func:`_blocks` cut of an array shaped as ``like``."""
    return blocks.reshape(-1, blocks.shape[-1])[: len(like)]
