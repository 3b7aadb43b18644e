"""GRU4Rec: a recurrent network over the items a user chose so far."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax

from mmrec_jax import layers
from mmrec_jax.ops import attention
from mmrec_jax.tasks import sequence
from mmrec_jax.tasks.sequence import Batch
from mmrec_jax.types import Array, Context, Query, Recommender


class GRU4Rec(Recommender):
    """A gated recurrent unit predicts, at every position, the next item.

    Hidasi et al., "Session-based Recommendations with Recurrent Neural Networks", ICLR 2016,
    https://arxiv.org/abs/1511.06939; Hidasi and Karatzoglou, "Recurrent Neural Networks with
    Top-k Gains for Session-based Recommendations", CIKM 2018, https://arxiv.org/abs/1706.03847,
    whose sampled cross-entropy is ``objective="sampled"`` with ``sampler="popularity"``.

    The layers are those of RecBole's GRU4Rec, on which the numbers published for leave-one-out
    rest: no biases in the recurrent units, and a linear layer from states to item embeddings.
    RecBole makes an example of every prefix of a history; here one pass over the history, cut to
    the latest ``max_len`` positions, predicts after every prefix, which is the same sum of losses.
    BPR-max and session-parallel batches of the authors' code are left out.

    Attributes:
      dim: D.
      hidden: width of the recurrent state.
      layers: recurrent layers.
      dropout: rate at the embeddings.
      objective, num_negatives, sampler, calibration: of the loss; see ``sequence.next_item``.
    """

    dim: int = 64
    hidden: int = 128
    layers: int = 1
    dropout: float = 0.3
    objective: str = "ce"
    num_negatives: int = 1
    sampler: str = "uniform"
    calibration: float = 0.75

    task = "sequence"

    def setup(self):
        sequence.check(self.objective, self.sampler)
        self.item = self.table("item", self.dim, layers.xavier_normal)
        self.drop = layers.Dropout(self.dropout)
        self.units = [GRU(self.hidden) for _ in range(self.layers)]
        self.project = nn.Dense(
            self.dim,
            kernel_init=layers.uniform_fan_in,
            bias_init=layers.uniform_bias(self.hidden),
        )

    def represent(self, ctx: Context) -> dict[str, Array]:
        return {"item": self.item}

    def loss(self, batch: Batch, ctx: Context) -> tuple[Array, dict[str, Array]]:
        states = self.encode(batch.items, deterministic=False)
        value = sequence.next_item(
            self.make_rng("dropout"),
            self.project(states.swapaxes(0, 1)),
            self.item,
            batch,
            attention.padded(batch.items),
            objective=self.objective,
            num_negatives=self.num_negatives,
            sampler=self.sampler,
            calibration=self.calibration,
        )
        return value, {self.objective: value}

    def score(self, rep: dict[str, Array], query: Query) -> Array:
        states = self.encode(query.sequence, deterministic=True)
        return self.project(states[-1]) @ rep["item"].T

    def encode(self, items: Array, deterministic: bool) -> Array:
        """States after each position of ``items`` [B, L], time first, [L, B, H]."""
        known = (items >= 0).T
        x = jnp.take(self.item, jnp.maximum(items.T, 0), axis=0)
        x = self.drop(x, deterministic)
        for unit in self.units:
            x = unit(x, known)
        return x


class GRU(nn.Module):
    """One layer of gated recurrent units (Cho et al., 2014) without biases.

    Attributes:
      hidden: H.
    """

    hidden: int

    @nn.compact
    def __call__(self, x: Array, known: Array) -> Array:
        """States [L, B, H] of inputs x [L, B, D]; zero until the first place that is known."""
        init = nn.initializers.xavier_uniform()
        from_input = self.param("input", init, (x.shape[-1], 3 * self.hidden))
        from_state = self.param("state", init, (self.hidden, 3 * self.hidden))

        def step(state, inputs):
            x, known = inputs
            reset, update, new = jnp.split(x, 3, axis=-1)
            h_reset, h_update, h_new = jnp.split(state @ from_state, 3, axis=-1)
            reset = jax.nn.sigmoid(reset + h_reset)
            update = jax.nn.sigmoid(update + h_update)
            new = jnp.tanh(new + reset * h_new)
            state = jnp.where(known[:, None], new + update * (state - new), state)
            return state, state

        start = jnp.zeros((x.shape[1], self.hidden), x.dtype)
        # One product for all inputs: the loop is left with what depends on the state.
        return lax.scan(step, start, (x @ from_input, known))[1]


Model = GRU4Rec
