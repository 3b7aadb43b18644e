"""Layers of T5's encoder and decoder, for methods that write codes.

Raffel et al., "Exploring the Limits of Transfer Learning with a Unified Text-to-Text Transformer",
JMLR 2020, https://arxiv.org/abs/1910.10683.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from mmrec_jax import layers
from mmrec_jax.ops import attention
from mmrec_jax.types import Array

NEVER = -1e9  # added to a logit that may not be attended to; a row of such stays finite


class EncoderLayer(nn.Module):
    """Self-attention and a feed-forward layer, each normalised before and added after.

    Attributes:
      dim: D.
      heads, head_dim: of attention.
      hidden: inner width of the feed-forward layer.
      dropout: rate at attention weights, and in and after both.
    """

    dim: int
    heads: int
    head_dim: int
    hidden: int
    dropout: float

    def setup(self):
        self.attention = Attention(self.dim, self.heads, self.head_dim, self.dropout)
        self.attention_norm, self.feed_norm = norm(), norm()
        self.inner = _dense(self.hidden, self.dim)
        self.outer = _dense(self.dim, self.hidden)
        self.drop = layers.Dropout(self.dropout)

    def __call__(self, x: Array, bias: Array, layout: attention.Layout, deterministic: bool):
        """The next states [N, S, D]; ``bias`` [N or 1, heads, S, keys]."""
        normed = self.attention_norm(x)
        memory = jax.tree.map(layout.reach, self.attention.memory(normed))
        x = x + self.drop(self.attention(normed, memory, bias, deterministic), deterministic)
        return x + self.feed(x, deterministic)

    def feed(self, x: Array, deterministic: bool) -> Array:
        """What the feed-forward layer adds to the states."""
        hidden = self.drop(nn.relu(self.inner(self.feed_norm(x))), deterministic)
        return self.drop(self.outer(hidden), deterministic)


class DecoderLayer(nn.Module):
    """An encoder layer that also attends to the memory of the encoder.

    Attributes:
      dim, heads, head_dim, hidden, dropout: as in :class:`EncoderLayer`.
    """

    dim: int
    heads: int
    head_dim: int
    hidden: int
    dropout: float

    def setup(self):
        self.own = EncoderLayer(self.dim, self.heads, self.head_dim, self.hidden, self.dropout)
        self.cross = Attention(self.dim, self.heads, self.head_dim, self.dropout)
        self.cross_norm = norm()
        self.drop = layers.Dropout(self.dropout)

    def memory(self, x: Array) -> tuple[Array, Array]:
        """Keys and values of the encoder's states."""
        return self.cross.memory(x)

    def __call__(
        self,
        x: Array,
        past: tuple[Array, Array] | None,
        memory: tuple[Array, Array],
        bias: Array,
        seen: Array,
        deterministic: bool,
    ) -> tuple[Array, Any]:
        """The next states [N, P, T, D], and keys and values of all tokens so far."""
        drop = lambda x: self.drop(x, deterministic)
        count, codes, length, _ = x.shape
        normed = self.own.attention_norm(x)
        kept = self.own.attention.memory(normed)  # [N, P, T, heads, width]
        if past is not None:
            join = lambda before, now: jnp.concatenate([before, now], axis=2)
            kept = jax.tree.map(join, past, kept)
        flat = lambda x: x.reshape(count * codes, *x.shape[2:])
        attended = self.own.attention(flat(normed), jax.tree.map(flat, kept), bias, deterministic)
        x = (x + drop(attended.reshape(x.shape))).reshape(count, codes * length, self.dim)
        x = x + drop(self.cross(self.cross_norm(x), memory, seen, deterministic))
        x = x + self.own.feed(x, deterministic)
        return x.reshape(count, codes, length, self.dim), kept


class Attention(nn.Module):
    """T5's attention: unscaled, without biases of the projections.

    Attributes:
      dim, heads, head_dim, dropout: as in :class:`EncoderLayer`.
    """

    dim: int
    heads: int
    head_dim: int
    dropout: float

    def setup(self):
        width = self.heads * self.head_dim
        self.query = _dense(width, self.dim * self.head_dim)  # small, as nothing scales the logits
        self.key, self.value = _dense(width, self.dim), _dense(width, self.dim)
        self.output = _dense(self.dim, width)
        self.drop = layers.Dropout(self.dropout)

    def memory(self, x: Array) -> tuple[Array, Array]:
        """Keys and values [..., heads, width] of states [..., D]."""
        split = lambda x: x.reshape(*x.shape[:-1], self.heads, self.head_dim)
        return split(self.key(x)), split(self.value(x))

    def __call__(self, x: Array, memory: tuple[Array, Array], bias: Array, deterministic: bool):
        """What states [N, Q, D] find in a memory; ``bias`` [N or 1, heads or 1, Q, keys]."""
        key, value = memory
        query = self.query(x).reshape(*x.shape[:-1], self.heads, self.head_dim)
        logits = jnp.einsum("nqhd,nkhd->nhqk", query, key).astype(jnp.float32) + bias
        weight = self.drop(jax.nn.softmax(logits).astype(value.dtype), deterministic)
        found = jnp.einsum("nhqk,nkhd->nqhd", weight, value)
        return self.output(found.reshape(*x.shape[:-1], -1))


def buckets(distance: Array) -> Array:
    """T5's 32 classes of distances, half of them for what lies ahead; int32.

    Up to 7 each has its own, beyond they widen, and from 128 on all are one.
    """
    apart = jnp.abs(distance)
    wide = jnp.log(jnp.maximum(apart, 1) / 8) / np.log(128 / 8) * 8
    wide = jnp.minimum(8 + wide.astype(jnp.int32), 15)
    return jnp.where(apart < 8, apart, wide) + 16 * (distance > 0)


def _dense(width: int, fan: int) -> nn.Dense:
    return nn.Dense(width, use_bias=False, kernel_init=nn.initializers.normal(fan**-0.5))


def norm() -> nn.RMSNorm:
    return nn.RMSNorm(epsilon=1e-6)
