"""HSTU: gated point-wise attention over the items a user chose so far and their times."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import linen as nn

from mmrec_jax import layers
from mmrec_jax.ops import attention
from mmrec_jax.tasks import sequence
from mmrec_jax.tasks.sequence import Batch
from mmrec_jax.types import Array, Context, Query, Recommender


class HSTU(Recommender):
    """Hierarchical sequential transduction units predict, at every position, the next item.

    Zhai et al., "Actions Speak Louder than Words: Trillion-Parameter Sequential Transducers for
    Generative Recommendations", ICML 2024, https://arxiv.org/abs/2402.17152, as in the authors'
    code for its experiments on public data (section 4.1.1): attention weights are SiLUs, not a
    softmax, shifted by a learned bias for the distance and one for the time between a key and
    the item to be predicted; states and item embeddings are normalised.

    A query's time is that of its target, as in the authors' code: when somebody asks is known, what
    they choose is not. Where there are no times, the bias is for the distance alone. Differences:
    negatives are shared by the positions of a row (``sequence.next_item``), attention is divided by
    the longest history, where theirs adds 11 places to that, and Adam keeps optax's second decay
    (theirs is 0.98). Nobody without a history is preferred anything: all scores are 0.

    Attributes:
      dim: D.
      layers: blocks.
      heads: attention heads.
      head_dim: width of queries, keys, values and gates in each head.
      dropout: rate at the embeddings and in each block.
      buckets: of time between two positions, logarithmic.
      temperature: divides the cosines of states and items.
      objective, num_negatives, sampler, calibration: of the loss; see ``sequence.next_item``.
    """

    dim: int = 64
    layers: int = 4
    heads: int = 4
    head_dim: int = 16
    dropout: float = 0.2
    buckets: int = 128
    temperature: float = 0.05
    objective: str = "sampled"
    num_negatives: int = 128
    sampler: str = "uniform"
    calibration: float = 0.75

    task = "sequence"

    def setup(self):
        sequence.check(self.objective, self.sampler)
        normal = nn.initializers.truncated_normal
        self.item = self.table("item", self.dim, normal(0.02))
        shape = (self.spec.max_len, self.dim)
        self.position = self.param("position", normal(self.dim**-0.5), shape)
        self.drop = layers.Dropout(self.dropout)
        fields = self.dim, self.heads, self.head_dim, self.dropout, self.buckets, self.spec.max_len
        self.blocks = [Block(*fields) for _ in range(self.layers)]

    def represent(self, ctx: Context) -> dict[str, Array]:
        return {"item": _unit(self.item)}

    def loss(self, batch: Batch, ctx: Context) -> tuple[Array, dict[str, Array]]:
        value = sequence.packed_if_shorter(HSTU._loss, self, batch)
        return value, {self.objective: value}

    def score(self, rep: dict[str, Array], query: Query) -> Array:
        layout = attention.padded(query.sequence)
        states = self.encode(query.sequence, query.times, layout, deterministic=True)
        return states[:, -1] @ rep["item"].T

    def encode(self, items: Array, times: Array | None, layout, deterministic: bool) -> Array:
        """States of length 1, [N, L, D], of the positions of ``items`` [B, L] in ``layout``.

        ``times`` int32 [B, L + 1] are those of the items and of what follows them, or None.
        """
        place = jnp.maximum(jnp.cumsum(items >= 0, axis=1) - 1, 0)  # counted from the oldest item
        x = jnp.take(self.item, layout.take(items, 0), axis=0) * self.dim**0.5
        x = self.drop(x + self.position[layout.take(place, 0)], deterministic)
        gap = None if times is None else gaps(times, layout, self.buckets)
        for block in self.blocks:
            x = block(x, gap, layout, deterministic)
        return _unit(jnp.where(layout.known[..., None], x, 0))

    def _loss(self, batch: Batch, layout: attention.Layout) -> Array:
        states = self.encode(batch.items, batch.times, layout, deterministic=False)
        return sequence.next_item(
            self.make_rng("dropout"),
            states / self.temperature,
            _unit(self.item),
            batch,
            layout,
            objective=self.objective,
            num_negatives=self.num_negatives,
            sampler=self.sampler,
            calibration=self.calibration,
        )


class Block(nn.Module):
    """Point-wise attention, gated by its own input, with a residual connection.

    Attributes:
      dim, heads, head_dim, dropout, buckets: as in :class:`HSTU`.
      max_len: L.
    """

    dim: int
    heads: int
    head_dim: int
    dropout: float
    buckets: int
    max_len: int

    @nn.compact
    def __call__(self, x: Array, gap: Array | None, layout, deterministic: bool) -> Array:
        """The next states [N, L, D] of states ``x``; ``gap`` as from :func:`gaps`."""
        normal, width = nn.initializers.normal(0.02), self.heads * self.head_dim
        norm = nn.LayerNorm(1e-6, use_bias=False, use_scale=False, use_fast_variance=False)
        joint = nn.Dense(4 * width, use_bias=False, kernel_init=normal, name="joint")
        gate, value, query, key = jnp.split(nn.silu(joint(norm(x))), 4, axis=-1)

        split = lambda x: x.reshape(*x.shape[:2], self.heads, self.head_dim)
        key, value = split(layout.reach(key)), split(layout.reach(value))
        logits = jnp.einsum("nqhd,nkhd->nhqk", split(query), key)
        by_distance = self.param("distance", normal, (self.max_len,))
        by_gap = self.param("gap", normal, (self.buckets + 1,))
        bias = by_distance[distances(self.max_len, key.shape[1])][None]
        if gap is not None:
            bias = bias + by_gap[gap]
        weight = nn.silu(logits + bias[:, None]) / self.max_len
        weight = jnp.where(layout.visible()[:, None], weight, 0)
        attended = jnp.einsum("nhqk,nkhd->nqhd", weight, value).reshape(gate.shape)

        gated = layers.Dropout(self.dropout)(gate * norm(attended), deterministic)
        output = nn.Dense(
            self.dim,
            kernel_init=nn.initializers.xavier_uniform(),
            bias_init=layers.uniform_bias(width),
            name="output",
        )
        return x + output(gated)


def distances(length: int, keys: int) -> Array:
    """How many places before each position a key lies, int32 [L, keys]; 0 for later ones.

    The same in both layouts, as the positions of a sequence lie side by side.
    """
    query, key = jnp.arange(keys - length, keys)[:, None], jnp.arange(keys)[None]
    return jnp.clip(query - key, 0, length - 1)


def gaps(times: Array, layout: attention.Layout, buckets: int) -> Array:
    """Bucket of the time from each key to what follows each position, int32 [N, L, L or 2L].

    Bucket b holds times t with b <= log(t) / 0.301 < b + 1, and the first those below 1 too.
    """
    following = layout.take(times[:, 1:], 0)[:, :, None]
    passed = jnp.abs(following - layout.reach(layout.take(times[:, :-1], 0))[:, None, :])
    bucket = jnp.log(jnp.maximum(passed, 1).astype(jnp.float32)) / 0.301
    return jnp.minimum(bucket.astype(jnp.int32), buckets)


def _unit(x: Array) -> Array:
    """Vectors scaled to length 1; zero stays zero."""
    square = jnp.sum(jnp.square(x), axis=-1, keepdims=True)
    return x * jax.lax.rsqrt(jnp.maximum(square, 1e-12))


Model = HSTU
