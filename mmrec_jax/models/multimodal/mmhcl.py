"""MMHCL: hypergraphs of users who share items and of items alike in content, contrasted."""

from __future__ import annotations

import jax.numpy as jnp
from flax import linen as nn

from mmrec_jax import losses
from mmrec_jax.ops import graph, hypergraph
from mmrec_jax.tasks.pairwise import Batch
from mmrec_jax.types import Array, Context, Dataset, Query, Recommender


class MMHCL(Recommender):
    """LightGCN, to which second tables are added, propagated over a hypergraph of users or items.

    Guo et al., "MMHCL: Multi-Modal Hypergraph Contrastive Learning for Recommendation", ACM TOMM
    2025, https://arxiv.org/abs/2504.16576.

    Follows the authors' code with LightGCN, the backbone of their results: users are linked by the
    number of items they share, their own left out, and averaged; items by the hyperedges they are
    in, of every modality, normalised on both sides. Only the sum has its hypergraph part scaled to
    length one. The contrast is over all users and all items in every step, 2 U^2 + 2 I^2
    similarities, with the sum as anchor. Here an epoch takes each interaction once; theirs draws as
    many times a user uniformly and one of the user's items. A neighbour of cosine 0 or less is left
    out of a hyperedge, where theirs keeps the cosine as its weight. An item without any feature row
    has no hypergraph part.

    Attributes:
      dim: D.
      layers: propagation steps over the user-item graph.
      user_layers, item_layers: over the hypergraphs.
      knn_k: K, items of a hyperedge, the one that it belongs to among them.
      reg_weight: weight of half the squared norms of the batch's final vectors.
      user_weight, item_weight: weights of the contrastive losses; the hypergraph parts are added
        at 0, too.
      temperature: of these losses.
    """

    dim: int = 64
    layers: int = 2
    user_layers: int = 3
    item_layers: int = 2
    knn_k: int = 5
    reg_weight: float = 1e-3
    user_weight: float = 0.03
    item_weight: float = 0.07
    temperature: float = 0.6

    task = "pairwise"

    @classmethod
    def context(cls, data: Dataset, **hyper) -> Context:
        user, item = data.train.user, data.train.item
        size = (data.spec.num_users, data.spec.num_items)
        graphs = {
            "item": hypergraph.content(data, hyper.get("knn_k", cls.knn_k)),
            "user": hypergraph.sharing(user, item, size),
            "train": graph.bipartite(user, item, *size),
        }
        return Context(graphs=graphs)

    def setup(self):
        self.user = self.table("user", self.dim)
        self.item = self.table("item", self.dim)
        second = lambda name, rows: self.param(name, nn.initializers.xavier_uniform(), rows)
        self.user_second = second("user_second", (self.spec.num_users, self.dim))
        self.item_second = second("item_second", (self.spec.num_items, self.dim))

    def represent(self, ctx: Context) -> dict[str, Array]:
        nodes, _ = self._views(ctx)
        return {"user": nodes[: self.spec.num_users], "item": nodes[self.spec.num_users :]}

    def loss(self, batch: Batch, ctx: Context) -> tuple[Array, dict[str, Array]]:
        nodes, (users, items) = self._views(ctx)
        final = batch.split(graph.take_rows(nodes, batch.nodes(self.spec.num_users)))
        user, item, negative = final
        all_users, all_items = jnp.split(nodes, [self.spec.num_users])
        parts = {
            "bpr": losses.bpr((user * item).sum(-1), (user * negative).sum(-1), batch.weight),
            "reg": losses.batch_squares(final, batch.weight),
            "user_contrast": losses.grace(all_users, users, self.temperature),
            "item_contrast": losses.grace(all_items, items, self.temperature),
        }
        total = parts["bpr"] + self.reg_weight * parts["reg"]
        total += self.user_weight * parts["user_contrast"]
        return total + self.item_weight * parts["item_contrast"], parts

    def score(self, rep: dict[str, Array], query: Query) -> Array:
        return rep["user"][query.user] @ rep["item"].T

    def _views(self, ctx: Context) -> tuple[Array, tuple[Array, Array]]:
        """Final vectors [N, D], and the propagated second tables [U, D] and [I, D]."""
        users, items = self.user_second, self.item_second
        for _ in range(self.user_layers):
            users = hypergraph.matmul(ctx.graphs["user"], users)
        for _ in range(self.item_layers):
            items = hypergraph.matmul(ctx.graphs["item"], items)
        nodes = jnp.concatenate([self.user, self.item])
        first = graph.mean_propagate(ctx.graphs["train"], nodes, self.layers)
        return first + jnp.concatenate([losses.unit(users), losses.unit(items)]), (users, items)


Model = MMHCL
