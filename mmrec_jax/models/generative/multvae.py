"""Mult-VAE: a variational auto-encoder of a user's row with a multinomial likelihood."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import linen as nn

from mmrec_jax import layers, losses
from mmrec_jax.ops import bag
from mmrec_jax.tasks.rows import Batch
from mmrec_jax.types import Array, Context, Dataset, Query, Recommender, UserError

_kernel = nn.initializers.xavier_uniform()
_bias = nn.initializers.truncated_normal(0.001)


class MultVAE(Recommender):
    """Encodes which items a user has into a Gaussian, and decodes it to a softmax over all items.

    Liang et al., "Variational Autoencoders for Collaborative Filtering", WWW 2018,
    https://arxiv.org/abs/1802.05814, as in the authors' code (dawenl/vae_cf), whose weight decay
    is 0: the input is scaled to length 1 and then dropped out, layers have tanh between them, and
    the item scores of a user are those at the mean of the Gaussian. The first layer sums the rows
    of its kernel that belong to the user's items; it is the method's item table.

    Attributes:
      dim: D, width of the latent vector.
      hidden: widths of the encoder's layers, first to last; the decoder mirrors them.
      dropout: share of the input that is dropped.
      anneal_cap: largest weight of the KL divergence (the paper's beta).
      anneal_steps: steps after which that weight would be 1 without a cap; 0 starts at the cap.
    """

    dim: int = 200
    hidden: tuple[int, ...] = (600,)
    dropout: float = 0.5
    anneal_cap: float = 0.2
    anneal_steps: int = 200_000

    task = "rows"

    @classmethod
    def context(cls, data: Dataset, **hyper) -> Context:
        widths = (hyper.get("dim", cls.dim), *hyper.get("hidden", cls.hidden))
        if len(widths) < 2 or min(widths) < 1:
            raise UserError(
                f"model.dim and model.hidden are {widths[0]} and {widths[1:]}; Mult-VAE needs "
                "positive widths and at least one hidden layer"
            )
        return Context.of(data)

    def setup(self):
        dense = lambda width: nn.Dense(width, kernel_init=_kernel, bias_init=_bias)
        first, *others = self.hidden
        self.item = self.table("item", first)
        self.item_bias = self.param("item_bias", _bias, (first,))
        self.encoder = [dense(width) for width in (*others, 2 * self.dim)]
        self.decoder = [dense(width) for width in self.hidden[::-1]]
        self.output = self.param("output", _kernel, (self.spec.num_items, first))
        self.output_bias = self.param("output_bias", _bias, (self.spec.num_items,))
        self.drop = layers.Dropout(self.dropout)
        self.annealing = layers.Annealing(self.anneal_cap, self.anneal_steps)

    def represent(self, ctx: Context) -> Array:
        return self.item

    def encode(self, item_table: Array, row: Array, item: Array, weight: Array, size: int):
        """Mean and log-variance [B, D] of ``size`` users, whose input is ``weight`` [M]."""
        summed = bag.embedding_bag(item_table, row, item, weight, size)
        x = self.item_bias[None] + summed
        for layer in self.encoder:
            x = layer(jnp.tanh(x))
        return x[:, : self.dim], x[:, self.dim :]

    def decode(self, x: Array) -> Array:
        """Scores of all items [B, I] for latent vectors [B, D]."""
        for layer in self.decoder:
            x = jnp.tanh(layer(x))
        return x @ self.output.T + self.output_bias[None]

    def loss(self, batch: Batch, ctx: Context) -> tuple[Array, dict[str, Array]]:
        size = batch.user.shape[0]
        weight = self.drop(unit(batch.row, batch.item, size), deterministic=False)
        noise = jax.random.normal(self.make_rng("dropout"), (size, self.dim))
        likelihood, divergence = self.bound(batch, weight, noise)
        total = likelihood + self.annealing() * divergence
        return total, {"likelihood": likelihood, "divergence": divergence}

    def bound(self, batch: Batch, weight: Array, noise: Array) -> tuple[Array, Array]:
        """Negative log-likelihood and KL divergence, means over the users, float32 [] each."""
        mean, log_variance = self.encode(
            self.item, batch.row, batch.item, weight, batch.user.shape[0]
        )
        mean, log_variance = mean.astype(jnp.float32), log_variance.astype(jnp.float32)
        latent = mean + noise * jnp.exp(0.5 * log_variance)
        logits = self.decode(latent.astype(self.output.dtype)).astype(jnp.float32)
        log_probability = jax.nn.log_softmax(logits)
        chosen = log_probability.at[batch.row, batch.item].get(mode="fill", fill_value=0)
        divergence = 0.5 * (jnp.exp(log_variance) + mean**2 - 1 - log_variance).sum(-1)
        users = jnp.maximum(batch.weight.sum(), 1)
        return -chosen.sum() / users, losses.masked_mean(divergence, batch.weight)

    def score(self, rep: Array, query: Query) -> Array:
        row, item = query.history_row, query.history_item
        size = query.user.shape[0]
        mean, _ = self.encode(rep, row, item, unit(row, item, size), size)
        return self.decode(mean)


def unit(row: Array, item: Array, size: int) -> Array:
    """Entries of ``size`` rows of zeros and ones, scaled to length 1, by pair; float32 [M]."""
    present = bag.distinct(row, item, size).astype(jnp.float32)
    count = jnp.zeros(size, jnp.float32).at[row].add(present, mode="drop")
    length = jnp.sqrt(count).at[row].get(mode="fill", fill_value=1)
    return present / length


Model = MultVAE
