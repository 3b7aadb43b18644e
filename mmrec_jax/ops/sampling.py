"""Random orders and negative items, drawn on the device inside the compiled epoch."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax import lax

from mmrec_jax.types import Array, Interactions


@struct.dataclass
class Positives:
    """Every user's training items, compressed, for exact negative sampling.

    Attributes:
      indptr: int32 [U+1], where each user's items begin.
      gaps: int32 [E], how many *other* items are smaller than each item of its user; ascending.
      num_items: I, static.
      steps: halvings that a binary search over the longest row takes, static.
    """

    indptr: Array
    gaps: Array
    num_items: int = struct.field(pytree_node=False)
    steps: int = struct.field(pytree_node=False)

    @classmethod
    def of(
        cls, train: Interactions, num_users: int, num_items: int, room: int = 0, longest: int = 0
    ) -> Positives:
        """Compresses the distinct pairs of ``train``.

        With ``room`` for so many and for a user of ``longest``, other data get the same shapes.
        """
        pairs = np.unique(train.user.astype(np.int64) * num_items + train.item)
        user, item = pairs // num_items, pairs % num_items
        indptr = np.concatenate([[0], np.cumsum(np.bincount(user, minlength=num_users))])
        gaps = item - (np.arange(pairs.size) - indptr[user])
        longest = int(np.diff(indptr).max(initial=longest))
        gaps = np.pad(gaps, (0, max(room - gaps.size, 0)))
        as_int32 = lambda a: jnp.asarray(a, jnp.int32)
        return cls(as_int32(indptr), as_int32(gaps), num_items, longest.bit_length())


def negatives(key: Array, user: Array, positives: Positives) -> Array:
    """One item per user, uniform over those the user has not in training; int32, user's shape.

    Exact and without rejection: the r-th such item is r plus the number of the user's items
    before it, which a binary search over ``gaps`` finds. A user with every item gets the last.
    """
    low, high = positives.indptr[user], positives.indptr[user + 1]
    first, free = low, positives.num_items - (high - low)
    # 24 bits of a float32 would miss items of large catalogues; an integer draw does not.
    bits = jax.random.bits(key, user.shape, jnp.uint32)
    rank = (bits % jnp.maximum(free, 1).astype(jnp.uint32)).astype(jnp.int32)

    def halve(_, bounds):
        low, high = bounds
        middle = (low + high) // 2
        gap = positives.gaps.at[middle].get(mode="fill", fill_value=jnp.iinfo(jnp.int32).max)
        right = (low < high) & (gap <= rank)
        return jnp.where(right, middle + 1, low), jnp.where(right | (low >= high), high, middle)

    low, _ = lax.fori_loop(0, positives.steps, halve, (low, high), unroll=True)
    return jnp.minimum(rank + low - first, positives.num_items - 1)


def permutation(key: Array, n: int) -> Array:
    """A pseudo-random order of 0..n-1, int32 [n], by a Feistel network instead of a sort.

    Numbers that the network sends outside the range are sent on until they fall into it. It is
    some 15 times faster than ``jax.random.permutation`` on a CPU, and good enough to shuffle
    training examples; do not use it where every permutation must be equally likely.
    """
    half = max(1, (max(n - 1, 1).bit_length() + 1) // 2)
    mask = jnp.uint32((1 << half) - 1)
    rounds = jax.random.bits(key, (6,), jnp.uint32)

    def encode(x):
        left, right = x >> half, x & mask
        for i in range(rounds.shape[0]):
            mixed = right * jnp.uint32(0x9E3779B1) + rounds[i]
            mixed = (mixed ^ (mixed >> 15)) * jnp.uint32(0x85EBCA6B)
            left, right = right, left ^ ((mixed ^ (mixed >> 13)) & mask)
        return (left << half) | right

    outside = lambda x: jnp.any(x >= n)
    x = encode(jnp.arange(n, dtype=jnp.uint32))
    x = lax.while_loop(outside, lambda x: jnp.where(x >= n, encode(x), x), x)
    return x.astype(jnp.int32)


def without_replacement(key: Array, log_weight: Array, k: int) -> Array:
    """k distinct indices of log_weight [E], drawn in proportion to the weights; int32 [k].

    The Gumbel top-k trick: the same law as drawing one after another without replacement
    (Kool et al., ICML 2019, https://arxiv.org/abs/1903.06059).
    """
    noisy = log_weight + jax.random.gumbel(key, log_weight.shape, log_weight.dtype)
    return lax.top_k(noisy, k)[1]
