"""ESMM: clicks and conversions after clicks, both learned from all impressions."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import linen as nn

from mmrec_jax import layers, losses
from mmrec_jax.tasks import click
from mmrec_jax.tasks.click import Batch, Examples, Shown
from mmrec_jax.types import Array, Context, Dataset, Query, Recommender, UserError


class ESMM(Recommender):
    """Two towers on shared vectors; their product is the probability of click and conversion.

    Ma et al., "Entire Space Multi-Task Model: An Effective Approach for Estimating Post-Click
    Conversion Rate", SIGIR 2018, https://arxiv.org/abs/1804.07931. The conversion tower has no loss
    of its own, which only clicked impressions could give: it is learned through the product. Items
    are ranked by that product.

    The authors' code is not public; this agrees with DeepCTR-Torch but for one bias per tower,
    where that has one for both. Fields are the user, the item, the mean of the items that the user
    clicked before, and those of the data. Values that training lacks keep their initial vectors,
    which are near 0.

    Attributes:
      dim: D, of the field vectors.
      hidden: widths of each tower.
      dropout: rate in the towers.
    """

    dim: int = 18
    hidden: tuple[int, ...] = (360, 200, 80)
    dropout: float = 0.0

    task = "click"

    @classmethod
    def context(cls, data: Dataset, **hyper) -> Context:
        if any(part.conversion is None for part in data.impressions.values()):
            raise UserError(
                f"{data.name} has no conversions, which ESMM learns; name their column in "
                "config.data.columns.conversion, or set config.data.conversion_rating"
            )
        return click.context(data)

    def setup(self):
        init = nn.initializers.normal(0.01)
        self.user = self.table("user", self.dim, init)
        self.item = self.table("item", self.dim, init)
        values = click.num_values(self.spec)
        self.field = self.param("field", init, (values, self.dim))
        tower = lambda: (layers.Perceptron(self.hidden, self.dropout), nn.Dense(1))
        self.click_tower, self.click_out = tower()
        self.conversion_tower, self.conversion_out = tower()

    def represent(self, ctx: Context) -> dict[str, Array]:
        return ctx.tables

    def loss(self, batch: Batch, ctx: Context) -> tuple[Array, dict[str, Array]]:
        click_logits, conversion_logits = self.logits(batch.examples, deterministic=False)
        ctr = losses.log_loss(click_logits, batch.click, batch.weight)
        yes, no = product(click_logits, conversion_logits)
        assert batch.conversion is not None  # as `context` has checked
        ctcvr = -losses.masked_mean(jnp.where(batch.conversion > 0, yes, no), batch.weight)
        return ctr + ctcvr, {"ctr": ctr, "ctcvr": ctcvr}

    def predict(self, rep: dict[str, Array], query: Shown) -> dict[str, Array]:
        logits = self.logits(query.examples, deterministic=True)
        return dict(zip(("click", "conversion"), map(jax.nn.sigmoid, logits), strict=True))

    def score(self, rep: dict[str, Array], query: Query) -> Array:
        return click.rank_items(self, rep, query, score=lambda logits: product(*logits)[0])

    def logits(self, examples: Examples, deterministic: bool) -> tuple[Array, Array]:
        """Log-odds of a click, and of a conversion after a click, [B] each."""
        vectors = examples.vectors(self.user, self.item, self.field, self.spec)
        x = vectors.reshape(len(vectors), -1)
        ctr = self.click_out(self.click_tower(x, deterministic))
        cvr = self.conversion_out(self.conversion_tower(x, deterministic))
        return ctr[:, 0], cvr[:, 0]


def product(first: Array, second: Array) -> tuple[Array, Array]:
    """Logarithms of p q and of 1 - p q, where p and q have these log-odds."""
    first, second = first.astype(jnp.float32), second.astype(jnp.float32)
    p = jax.nn.log_sigmoid(first)
    # 1 - p q = (1 - p) + p (1 - q), a sum that cancels nothing.
    no = jnp.logaddexp(jax.nn.log_sigmoid(-first), p + jax.nn.log_sigmoid(-second))
    return p + jax.nn.log_sigmoid(second), no


Model = ESMM
