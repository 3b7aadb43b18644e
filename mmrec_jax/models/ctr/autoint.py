"""AutoInt: self-attention between the fields of an impression."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import linen as nn

from mmrec_jax import layers, losses
from mmrec_jax.tasks import click
from mmrec_jax.tasks.click import Batch, Examples, Shown
from mmrec_jax.types import Array, Context, Dataset, Query, Recommender, UserError


class AutoInt(Recommender):
    """Multi-head self-attention combines fields to orders that grow with each layer.

    Song et al., "AutoInt: Automatic Feature Interaction Learning via Self-Attentive Neural
    Networks", CIKM 2019, https://arxiv.org/abs/1810.11921; with ``hidden`` it is their AutoInt+,
    a perceptron beside the attention. Fields are the user, the item, the mean of the items that the
    user clicked before, and those of the data.

    The equations are the paper's. The authors' TensorFlow code besides applies ReLU to queries,
    keys and values, divides the inner products by the root of the heads' width, and normalises each
    layer's output. Field vectors start with deviation 0.05, theirs with 0.01, which without that
    normalisation would leave the first gradients of the attention to rounding errors. Values that
    training lacks keep their initial vectors.

    Attributes:
      dim: D, of the field vectors.
      layers: interacting layers.
      units: width of a layer's output, all heads together.
      heads: divides ``units``.
      hidden: widths of the perceptron; () has none.
      dropout: rate at the attention weights and in the perceptron.
    """

    dim: int = 16
    layers: int = 3
    units: int = 64
    heads: int = 2
    hidden: tuple[int, ...] = ()
    dropout: float = 0.0

    task = "click"

    @classmethod
    def context(cls, data: Dataset, **hyper) -> Context:
        return click.context(data)

    def setup(self):
        if self.units % self.heads:
            raise UserError(f"model.units {self.units} is no multiple of model.heads {self.heads}")
        init = nn.initializers.normal(0.05)
        self.user = self.table("user", self.dim, init)
        self.item = self.table("item", self.dim, init)
        values = click.num_values(self.spec)
        self.field = self.param("field", init, (values, self.dim))
        self.attend = [Interact(self.units, self.heads, self.dropout) for _ in range(self.layers)]
        self.deep = layers.Perceptron(self.hidden, self.dropout)
        self.out = nn.Dense(1)

    def represent(self, ctx: Context) -> dict[str, Array]:
        return ctx.tables

    def loss(self, batch: Batch, ctx: Context) -> tuple[Array, dict[str, Array]]:
        logits = self.logits(batch.examples, deterministic=False)
        bce = losses.log_loss(logits, batch.click, batch.weight)
        return bce, {"bce": bce}

    def predict(self, rep: dict[str, Array], query: Shown) -> dict[str, Array]:
        return {"click": jax.nn.sigmoid(self.logits(query.examples, deterministic=True))}

    def score(self, rep: dict[str, Array], query: Query) -> Array:
        return click.rank_items(self, rep, query, score=lambda logits: logits)

    def logits(self, examples: Examples, deterministic: bool) -> Array:
        """Log-odds of a click, [B]."""
        x = vectors = examples.vectors(self.user, self.item, self.field, self.spec)
        for attend in self.attend:
            x = attend(x, deterministic)
        parts = [x.reshape(len(x), -1)]
        if self.hidden:
            parts.append(self.deep(vectors.reshape(len(vectors), -1), deterministic))
        return self.out(jnp.concatenate(parts, axis=-1))[:, 0]


class Interact(nn.Module):
    """One interacting layer: attention between fields and a projected residual, then ReLU."""

    units: int
    heads: int
    dropout: float

    @nn.compact
    def __call__(self, x: Array, deterministic: bool) -> Array:
        """[B, F, units] of [B, F, D]."""
        project = lambda name: nn.Dense(
            self.units, use_bias=False, name=name, kernel_init=nn.initializers.xavier_uniform()
        )(x)
        split = lambda y: y.reshape(*y.shape[:2], self.heads, -1)
        query, key, value = (split(project(name)) for name in ("query", "key", "value"))
        weight = jax.nn.softmax(jnp.einsum("bihd,bjhd->bhij", query, key), axis=-1)
        weight = layers.Dropout(self.dropout)(weight, deterministic)
        mixed = jnp.einsum("bhij,bjhd->bihd", weight, value)
        return nn.relu(mixed.reshape(*x.shape[:2], self.units) + project("residual"))


Model = AutoInt
