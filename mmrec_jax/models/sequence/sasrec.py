"""SASRec: a causal Transformer over the items a user chose so far."""

from __future__ import annotations

import jax.numpy as jnp
from flax import linen as nn

from mmrec_jax import layers
from mmrec_jax.ops import attention
from mmrec_jax.tasks import sequence
from mmrec_jax.tasks.sequence import Batch
from mmrec_jax.types import Array, Context, Query, Recommender, UserError

NORMS = ("original", "pre", "post")


class SASRec(Recommender):
    """Self-attention predicts, at every position, the next item.

    Kang and McAuley, "Self-Attentive Sequential Recommendation", ICDM 2018,
    https://arxiv.org/abs/1808.09781. With ``objective="ce"`` it is the SASRec+ of Klenitskiy and
    Vasilev, "Turning Dross Into Gold Loss", RecSys 2023, https://arxiv.org/abs/2309.07602.

    With ``objective="gbce"`` and 256 negatives it is gSASRec (Petrov and Macdonald, RecSys 2023,
    https://arxiv.org/abs/2308.07192).

    With ``objective="bce"`` and ``norm="original"`` this is the authors' TensorFlow code: only
    queries are normalised before attention, the residual connections start from the normalised
    states, keys at padding are masked, attention has no output projection, and positions are
    counted from the right end. Differences: Adam keeps optax's second decay (theirs is 0.98), and
    an epoch visits every user once, where theirs draws users with replacement.

    Attributes:
      dim: D.
      layers: attention blocks.
      heads: attention heads; divides ``dim``.
      dropout: rate at the embeddings, the attention weights and in the feed-forward layers.
      objective, num_negatives, sampler, calibration: of the loss; see ``sequence.next_item``.
      norm: "original"; "pre", normalise each layer's input, or "post", its residual sum.
    """

    dim: int = 64
    layers: int = 2
    heads: int = 1
    dropout: float = 0.5
    objective: str = "ce"
    num_negatives: int = 1
    sampler: str = "uniform"
    calibration: float = 0.75
    norm: str = "original"

    task = "sequence"

    def setup(self):
        sequence.check(self.objective, self.sampler)
        if self.norm not in NORMS:
            raise UserError(f"model.norm is {self.norm!r}; it must be one of {', '.join(NORMS)}")
        if self.dim % self.heads:
            raise UserError(f"model.dim {self.dim} is no multiple of model.heads {self.heads}")
        self.item = self.table("item", self.dim)
        shape = (self.spec.max_len, self.dim)
        self.position = self.param("position", nn.initializers.xavier_uniform(), shape)
        self.drop = layers.Dropout(self.dropout)
        self.blocks = [
            Block(self.dim, self.heads, self.dropout, self.norm) for _ in range(self.layers)
        ]
        self.last_norm = _layer_norm()

    def represent(self, ctx: Context) -> dict[str, Array]:
        return {"item": self.item}

    def loss(self, batch: Batch, ctx: Context) -> tuple[Array, dict[str, Array]]:
        value = sequence.packed_if_shorter(SASRec._loss, self, batch)
        return value, {self.objective: value}

    def score(self, rep: dict[str, Array], query: Query) -> Array:
        layout = attention.padded(query.sequence)
        states = self.encode(query.sequence, layout, deterministic=True)
        return states[:, -1] @ rep["item"].T

    def encode(self, items: Array, layout: attention.Layout, deterministic: bool) -> Array:
        """States [N, L, D] of the positions of ``items`` [B, L], where ``layout`` puts them."""
        x = jnp.take(self.item, layout.take(items, 0), axis=0) * self.dim**0.5
        x += self.position[layout.column]
        x = self.drop(x, deterministic)
        for block in self.blocks:
            x = block(x, layout, deterministic)
        # Nothing attends to empty positions; zeroed, they serve users without any history.
        return self.last_norm(jnp.where(layout.known[..., None], x, 0))

    def _loss(self, batch: Batch, layout: attention.Layout) -> Array:
        states = self.encode(batch.items, layout, deterministic=False)
        return sequence.next_item(
            self.make_rng("dropout"),
            states,
            self.item,
            batch,
            layout,
            objective=self.objective,
            num_negatives=self.num_negatives,
            sampler=self.sampler,
            calibration=self.calibration,
        )


class Block(nn.Module):
    """Self-attention and a point-wise feed-forward layer, each with a residual connection.

    Attributes:
      dim, heads, dropout, norm: as in :class:`SASRec`.
    """

    dim: int
    heads: int
    dropout: float
    norm: str

    def setup(self):
        dense = lambda: nn.Dense(self.dim, kernel_init=nn.initializers.xavier_uniform())
        self.query, self.key, self.value = dense(), dense(), dense()
        self.inner, self.outer = dense(), dense()
        self.attention_norm, self.feed_norm = _layer_norm(), _layer_norm()
        self.drop = layers.Dropout(self.dropout)

    def __call__(self, x: Array, layout: attention.Layout, deterministic: bool) -> Array:
        """The next states [N, L, D] of states ``x``."""
        drop = lambda x: self.drop(x, deterministic)
        feed = lambda x: drop(self.outer(drop(nn.relu(self.inner(x)))))

        def attend(query, memory):
            projected = self.query(query), self.key(memory), self.value(memory)
            return attention.attend(*projected, layout, self.heads, drop)

        if self.norm == "post":
            x = self.attention_norm(x + attend(x, x))
            return self.feed_norm(x + feed(x))
        normed = self.attention_norm(x)
        if self.norm == "pre":
            x = x + attend(normed, normed)
            return x + feed(self.feed_norm(x))
        normed = self.feed_norm(normed + attend(normed, x))
        return normed + feed(normed)


def _layer_norm() -> nn.LayerNorm:
    # The fast variance loses what so small an epsilon is meant to keep.
    return nn.LayerNorm(epsilon=1e-8, use_fast_variance=False)


Model = SASRec
