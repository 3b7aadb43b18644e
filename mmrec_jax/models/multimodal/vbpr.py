"""VBPR: matrix factorisation whose item vectors are half identity, half projected content."""

from __future__ import annotations

import jax.numpy as jnp

from mmrec_jax import layers, losses
from mmrec_jax.tasks.pairwise import Batch
from mmrec_jax.types import Array, Context, Dataset, Query, Recommender


class VBPR(Recommender):
    """BPR on item vectors [2D]: an embedding beside a projection of all features.

    He and McAuley, "VBPR: Visual Bayesian Personalized Ranking from Implicit Feedback",
    AAAI 2016, https://arxiv.org/abs/1510.01784.

    Follows MMRec's ``VBPR``: no bias terms in the score, one projection (with bias) of the
    concatenated features, a regulariser of norms over the batch size. Here the features are
    those of any number of modalities, and the content half of an item without any feature row is
    zero.

    Attributes:
      dim: D; users have vectors of 2D.
      reg_weight: weight of the regulariser.
    """

    dim: int = 64
    reg_weight: float = 1e-2

    task = "pairwise"

    @classmethod
    def context(cls, data: Dataset, **hyper) -> Context:
        data.need_features("VBPR")
        return Context.of(data)

    def setup(self):
        self.user = self.table("user", 2 * self.dim)
        self.item = self.table("item", self.dim)
        self.project = layers.ProjectRows(self.dim, kernel_init=layers.xavier_normal)

    def represent(self, ctx: Context) -> dict[str, Array]:
        every = jnp.arange(self.spec.num_items)
        return {"user": self.user, "item": self._items(ctx, every)}

    def loss(self, batch: Batch, ctx: Context) -> tuple[Array, dict[str, Array]]:
        user = self.user[batch.user]
        items = self._items(ctx, jnp.concatenate([batch.item, batch.negative]))
        item, negative = jnp.split(items, 2)
        ranking = losses.bpr((user * item).sum(-1), (user * negative).sum(-1), batch.weight)
        reg = losses.batch_norms((user, item, negative), batch.weight)
        return ranking + self.reg_weight * reg, {"bpr": ranking, "reg": reg}

    def score(self, rep: dict[str, Array], query: Query) -> Array:
        return rep["user"][query.user] @ rep["item"].T

    def _items(self, ctx: Context, rows: Array) -> Array:
        """Vectors [B, 2D] of the items ``rows`` [B]."""
        names = self.spec.modalities
        features = [ctx.features[name] for name in names]
        present = jnp.stack([ctx.present[name][rows] for name in names]).any(0)
        content = jnp.where(present[:, None], self.project(features, rows), 0.0)
        return jnp.concatenate([self.item[rows], content], axis=-1)


Model = VBPR
