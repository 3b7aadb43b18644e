"""MF-BPR: matrix factorisation trained with the pairwise ranking loss."""

from __future__ import annotations

from mmrec_jax import layers, losses
from mmrec_jax.tasks.pairwise import Batch
from mmrec_jax.types import Array, Context, Dataset, Query, Recommender


class MF(Recommender):
    """Inner products of user and item embeddings, trained with BPR.

    Rendle et al., "BPR: Bayesian Personalized Ranking from Implicit Feedback", UAI 2009,
    https://arxiv.org/abs/1205.2618.

    Follows MMRec's ``BPR``: no item bias, and a regulariser of norms (not squared norms) of the
    batch's rows over the batch size.

    Attributes:
      dim: D.
      reg_weight: weight of the regulariser.
    """

    dim: int = 64
    reg_weight: float = 1e-2

    task = "pairwise"

    @classmethod
    def context(cls, data: Dataset, **hyper) -> Context:
        return Context()

    def setup(self):
        self.user = self.table("user", self.dim, layers.xavier_normal)
        self.item = self.table("item", self.dim, layers.xavier_normal)

    def represent(self, ctx: Context) -> dict[str, Array]:
        return {"user": self.user, "item": self.item}

    def loss(self, batch: Batch, ctx: Context) -> tuple[Array, dict[str, Array]]:
        user, item, negative = (
            self.user[batch.user],
            self.item[batch.item],
            self.item[batch.negative],
        )
        ranking = losses.bpr((user * item).sum(-1), (user * negative).sum(-1), batch.weight)
        reg = losses.batch_norms((user, item, negative), batch.weight)
        return ranking + self.reg_weight * reg, {"bpr": ranking, "reg": reg}

    def score(self, rep: dict[str, Array], query: Query) -> Array:
        return rep["user"][query.user] @ rep["item"].T


Model = MF
