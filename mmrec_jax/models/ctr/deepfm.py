"""DeepFM: a factorisation machine and a perceptron on the same field vectors."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import linen as nn

from mmrec_jax import layers, losses
from mmrec_jax.ops import interact
from mmrec_jax.tasks import click
from mmrec_jax.tasks.click import Batch, Examples, Shown
from mmrec_jax.types import Array, Context, Dataset, Query, Recommender


class DeepFM(Recommender):
    """First-order weights, all pairs of fields, and a perceptron, summed.

    Guo et al., "DeepFM: A Factorization-Machine based Neural Network for CTR Prediction", IJCAI
    2017, https://arxiv.org/abs/1703.04247. Fields are the user, the item, the mean of the items
    that the user clicked before, and those of the data. No code of the authors is public; this
    agrees with DeepCTR-Torch. Values that training lacks keep their initial vectors, near 0.

    Attributes:
      dim: D, of the field vectors.
      hidden: widths of the perceptron.
      dropout: rate in the perceptron.
    """

    dim: int = 16
    hidden: tuple[int, ...] = (400, 400, 400)
    dropout: float = 0.0

    task = "click"

    @classmethod
    def context(cls, data: Dataset, **hyper) -> Context:
        return click.context(data)

    def setup(self):
        init = nn.initializers.normal(0.01)
        values = click.num_values(self.spec)
        self.user = self.table("user", self.dim, init)
        self.item = self.table("item", self.dim, init)
        self.field = self.param("field", init, (values, self.dim))
        sizes = {"user": self.spec.num_users, "item": self.spec.num_items, "field": values}
        self.first = [
            self.param(f"{name}_weight", nn.initializers.zeros, (size, 1))
            for name, size in sizes.items()
        ]
        self.bias = self.param("bias", nn.initializers.zeros, ())
        self.deep = layers.Perceptron(self.hidden, self.dropout)
        self.out = nn.Dense(1, use_bias=False)

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
        vectors = examples.vectors(self.user, self.item, self.field, self.spec)
        linear = self.bias + examples.vectors(*self.first, self.spec).sum((1, 2))
        deep = self.deep(vectors.reshape(len(vectors), -1), deterministic)
        return linear + interact.factorisation(vectors) + jnp.squeeze(self.out(deep), -1)


Model = DeepFM
