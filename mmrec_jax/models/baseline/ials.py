"""iALS: factors of users and items by alternating least squares over all pairs."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from mmrec_jax.ops import least_squares
from mmrec_jax.tasks.matrix import Batch
from mmrec_jax.types import Array, Context, Dataset, Query, Recommender


class IALS(Recommender):
    """Inner products of factors that give 1 for what was chosen and, with less weight, 0 for all.

    Hu, Koren and Volinsky, "Collaborative Filtering for Implicit Feedback Datasets", ICDM 2008,
    in the form of Rendle, Krichene, Zhang and Koren, "Revisiting the Performance of iALS on Item
    Recommendation Benchmarks", RecSys 2022, https://arxiv.org/abs/2110.14037:
    ``sum_S (1 - <u, v>)^2 + alpha sum_all <u, v>^2 + sum_u r_u |u|^2 + sum_v r_v |v|^2`` with S
    the interactions and ``r = reg (interactions + alpha partners)^reg_exponent``.

    An epoch solves for all items and then for all users, exactly. There is no gradient: the
    factors are a linen collection, and the epochs give validation, early stopping, resumption and
    sweeps their hold. A user's factors are always the fold-in of the user's training items.

    Deviations from the authors' code (google-research/ials): items are solved for first, so that
    users need no projection before an evaluation, and rows without interactions are 0, which
    minimises the objective, where the authors leave them at their initial noise.

    Attributes:
      dim: D.
      reg: weight of the squared norms (the paper's lambda).
      alpha: weight of each pair, chosen or not, against its being 0 (the paper's alpha_0).
      reg_exponent: how the weight of a norm follows the frequency (the paper's nu).
      init_scale: expected norm of a user's initial factors.
    """

    dim: int = 64
    reg: float = 0.03
    alpha: float = 0.03
    reg_exponent: float = 1.0
    init_scale: float = 0.1

    task = "matrix"

    @classmethod
    def context(cls, data: Dataset, **hyper) -> Context:
        return Context()

    def setup(self):
        self.user = self.variable("factors", "user", self._noise)
        self.item = self.variable("factors", "item", jnp.zeros, (self.spec.num_items, self.dim))

    def _noise(self) -> Array:
        noise = jax.random.normal(self.make_rng("params"), (self.spec.num_users, self.dim))
        return noise * (self.init_scale / self.dim**0.5)

    def represent(self, ctx: Context) -> dict[str, Array]:
        return {"user": self.user.value, "item": self.item.value}

    def loss(self, batch: Batch, ctx: Context) -> tuple[Array, dict[str, Array]]:
        by_user, by_item = batch.by_user, batch.by_item
        item_reg, user_reg = self._ridge(by_item), self._ridge(by_user)
        item, _ = least_squares.solve(by_item, self.user.value, self.alpha, item_reg)
        user, observed = least_squares.solve(by_user, item, self.alpha, user_reg)
        if not self.is_initializing():
            self.user.value, self.item.value = user, item
        unobserved = self.alpha * ((user.T @ user) * (item.T @ item)).sum()
        reg = (user_reg * (user**2).sum(1)).sum() + (item_reg * (item**2).sum(1)).sum()
        pairs = by_user.count.sum()
        parts = {"observed": observed, "unobserved": unobserved, "reg": reg}
        total = observed + unobserved + reg
        return total / pairs, {name: part / pairs for name, part in parts.items()}

    def _ridge(self, rows: least_squares.Rows) -> Array:
        """Weight of the squared norm of each row's factors."""
        return self.reg * (rows.count + self.alpha * rows.width) ** self.reg_exponent

    def score(self, rep: dict[str, Array], query: Query) -> Array:
        return rep["user"][query.user] @ rep["item"].T


Model = IALS
