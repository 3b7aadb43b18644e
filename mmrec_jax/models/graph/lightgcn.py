"""LightGCN: linear propagation of embeddings over the user-item graph."""

from __future__ import annotations

import jax.numpy as jnp

from mmrec_jax import losses
from mmrec_jax.ops import graph
from mmrec_jax.tasks.pairwise import Batch
from mmrec_jax.types import Array, Context, Dataset, Query, Recommender


class LightGCN(Recommender):
    """Mean over layers of linearly propagated embeddings, trained with BPR.

    He et al., "LightGCN: Simplifying and Powering Graph Convolution Network for
    Recommendation", SIGIR 2020, https://arxiv.org/abs/2002.02126.

    The regulariser is MMRec's (norms of the batch's rows over the batch size), on which the
    field's multimodal tables rest, or the authors' own (half their squared norms).

    Attributes:
      dim: D.
      layers: propagation steps.
      reg_weight: weight of the regulariser.
      squared_norms: take the authors' regulariser instead of MMRec's.
    """

    dim: int = 64
    layers: int = 2
    reg_weight: float = 1e-4
    squared_norms: bool = False

    task = "pairwise"

    @classmethod
    def context(cls, data: Dataset, **hyper) -> Context:
        train = data.train
        size = (data.spec.num_users, data.spec.num_items)
        return Context(graphs={"train": graph.bipartite(train.user, train.item, *size)})

    def setup(self):
        self.user = self.table("user", self.dim)
        self.item = self.table("item", self.dim)

    def represent(self, ctx: Context) -> dict[str, Array]:
        nodes = graph.mean_propagate(ctx.graphs["train"], self._nodes(), self.layers)
        return {"user": nodes[: self.spec.num_users], "item": nodes[self.spec.num_users :]}

    def loss(self, batch: Batch, ctx: Context) -> tuple[Array, dict[str, Array]]:
        nodes = self._nodes()
        rows = batch.nodes(self.spec.num_users)  # one gather each, so one scatter-add in reverse
        propagated = graph.mean_propagate(ctx.graphs["train"], nodes, self.layers, rows)
        user, item, negative = batch.split(propagated)
        ranking = losses.bpr((user * item).sum(-1), (user * negative).sum(-1), batch.weight)
        regulariser = losses.batch_squares if self.squared_norms else losses.batch_norms
        reg = regulariser(batch.split(graph.take_rows(nodes, rows)), batch.weight)
        return ranking + self.reg_weight * reg, {"bpr": ranking, "reg": reg}

    def score(self, rep: dict[str, Array], query: Query) -> Array:
        return rep["user"][query.user] @ rep["item"].T

    def _nodes(self) -> Array:
        return jnp.concatenate([self.user, self.item])  # [N, D]


Model = LightGCN
