"""MGCN: item ids purified by behaviour-guided content gates, one graph view per modality."""

from __future__ import annotations

import jax.numpy as jnp

from mmrec_jax import layers, losses
from mmrec_jax.ops import graph, neighbours
from mmrec_jax.tasks.pairwise import Batch
from mmrec_jax.types import Array, Context, Dataset, Query, Recommender


class MGCN(Recommender):
    """A user-item view plus, for each modality, an item-item view of gated item embeddings.

    Yu et al., "Multi-View Graph Convolutional Network for Multimedia Recommendation", ACM MM 2023,
    https://arxiv.org/abs/2308.03588.

    Follows the authors' code in MMRec: the gate of a modality acts on the item's id embedding, so
    content decides only what of it passes; the neighbours are those of the raw features and their
    edges keep the cosine; the regulariser takes the squares of the final vectors, divided here by
    the examples of the batch, also of the last, shorter one. Views are fused for the batch's rows
    only, as each row is fused by itself; but all items are projected in each step, I x F x D
    operations a modality, as each is some other's neighbour. Any number of modalities: the sum of
    M + 1 parts is divided by M + 1, and a single one is not fused. An item without a feature row
    has no edges in that view, and the view no part in its fusion, nor in that of a user all of
    whose items lack it.

    Attributes:
      dim: D.
      layers: propagation steps over the user-item graph.
      item_layers: propagation steps over the item graphs.
      knn_k: K, neighbours of an item in the graph of one modality, itself among them.
      reg_weight: weight of the regulariser.
      contrast_weight: weight of the contrastive loss (``cl_loss`` in the authors' code).
      temperature: of that loss.
      finetune_features: learn the raw features too, as the authors do; for its cost see
        ``layers.Feature``.
    """

    dim: int = 64
    layers: int = 2
    item_layers: int = 1
    knn_k: int = 10
    reg_weight: float = 1e-4
    contrast_weight: float = 0.01
    temperature: float = 0.2
    finetune_features: bool = True

    task = "pairwise"

    @classmethod
    def context(cls, data: Dataset, **hyper) -> Context:
        graphs, there = neighbours.view_graphs(data, hyper.get("knn_k", cls.knn_k))
        return Context.of(data, graphs=graphs, tables={"there": jnp.asarray(there)})

    def setup(self):
        self.user = self.table("user", self.dim)
        self.item = self.table("item", self.dim)
        names = self.spec.modalities
        self.content = {n: layers.Feature(self.dim, self.finetune_features) for n in names}
        self.purify = {n: layers.Gate() for n in names}
        self.fuse = layers.ViewFusion()

    def represent(self, ctx: Context) -> dict[str, Array]:
        behaviour, views = self._views(ctx)
        side, weight = self.fuse(views, behaviour, ctx.tables["there"])
        user, item = jnp.split(behaviour + side, [self.spec.num_users])
        return {"user": user, "item": item, "view_weight": weight}

    def loss(self, batch: Batch, ctx: Context) -> tuple[Array, dict[str, Array]]:
        rows = batch.nodes(self.spec.num_users)
        behaviour, views = self._views(ctx)
        behaviour = graph.take_rows(behaviour, rows)
        views = {name: graph.take_rows(view, rows) for name, view in views.items()}
        side, _ = self.fuse(views, behaviour, ctx.tables["there"][rows])

        user, item, negative = final = batch.split(behaviour + side)
        pairs = zip(batch.split(side)[:2], batch.split(behaviour)[:2], strict=True)
        parts = {
            "bpr": losses.bpr((user * item).sum(-1), (user * negative).sum(-1), batch.weight),
            "reg": losses.batch_squares(final, batch.weight),
            "contrast": sum(losses.infonce(*p, batch.weight, self.temperature) for p in pairs),
        }
        total = parts["bpr"] + self.reg_weight * parts["reg"]
        return total + self.contrast_weight * parts["contrast"], parts

    def score(self, rep: dict[str, Array], query: Query) -> Array:
        return rep["user"][query.user] @ rep["item"].T

    def explain(self, rep: dict[str, Array], ctx: Context) -> dict[str, Array]:
        """Mean attention [M] that users and items pay to each modality."""
        user, item = jnp.split(rep["view_weight"], [self.spec.num_users])
        return {"user_modality_weight": user.mean(0), "item_modality_weight": item.mean(0)}

    def _views(self, ctx: Context) -> tuple[Array, dict[str, Array]]:
        """The user-item view [N, D], and that of each modality [N, D]."""
        nodes = jnp.concatenate([self.user, self.item])
        behaviour = graph.mean_propagate(ctx.graphs["train"], nodes, self.layers)
        items = {}
        for name in self.spec.modalities:
            gated = self.purify[name](self.item, self.content[name](ctx.features[name]))
            items[name] = jnp.where(ctx.present[name][:, None], gated, 0.0)
        return behaviour, neighbours.spread(ctx.graphs, items, self.item_layers)


Model = MGCN
