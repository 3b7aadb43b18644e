"""FREEDOM: a frozen item graph from content and a denoised user-item graph."""

from __future__ import annotations

import jax.numpy as jnp

from mmrec_jax import layers, losses
from mmrec_jax.ops import graph, neighbours, prune
from mmrec_jax.tasks.pairwise import Batch
from mmrec_jax.types import Array, Context, Dataset, Query, Recommender


class Freedom(Recommender):
    """LightGCN on a graph pruned anew each epoch, plus item embeddings smoothed over content.

    Zhou and Shen, "A Tale of Two Graphs: Freezing and Denoising Graph Structures for Multimodal
    Recommendation", ACM MM 2023, https://arxiv.org/abs/2211.06924.

    Follows the authors' code in MMRec. Edges are drawn in proportion to their normalised weight,
    without replacement; evaluation uses all of them. Here the item graph is the weighted sum
    over any number of modalities, or of the ready-made graphs of the data set where it has some;
    feature losses average over pairs of items that both have a feature row, and vanish where
    there are no features. The projections have no bias: it would cancel in those losses, which
    are all that reads them.

    Attributes:
      dim: D.
      layers: propagation steps over the user-item graph.
      item_layers: propagation steps over the item graph.
      knn_k: K, neighbours of an item in the graph of one modality, itself among them.
      modality_weights: ``(name, weight)`` of each graph that is summed; empty gives each the same
        share of 1. The authors use ``(("image", 0.1), ("text", 0.9))``.
      dropout: share of the user-item edges left out in an epoch; fixes the size of an array, so
        it cannot be traced.
      reg_weight: weight of the feature losses.
      finetune_features: learn the raw features too, as the authors do; for its cost see
        ``layers.Feature``.
    """

    dim: int = 64
    layers: int = 2
    item_layers: int = 1
    knn_k: int = 10
    modality_weights: tuple[tuple[str, float], ...] = ()
    dropout: float = 0.8
    reg_weight: float = 1e-3
    finetune_features: bool = True

    task = "pairwise"

    @classmethod
    def context(cls, data: Dataset, **hyper) -> Context:
        user, item = data.train.user, data.train.item
        full = graph.bipartite(user, item, data.spec.num_users, data.spec.num_items)
        weights = hyper.get("modality_weights", cls.modality_weights)
        items = neighbours.item_graph(data, hyper.get("knn_k", cls.knn_k), weights)
        edges = {"edge_user": jnp.asarray(user), "edge_item": jnp.asarray(item)}
        return Context.of(data, graphs={"full": full, "train": full, "item": items}, tables=edges)

    def setup(self):
        self.user = self.table("user", self.dim)
        self.item = self.table("item", self.dim)
        self.content = {
            name: layers.Feature(self.dim, self.finetune_features, use_bias=False)
            for name in self.spec.modalities
        }

    def refresh(self, ctx: Context) -> Context:
        if self.dropout <= 0:
            return ctx
        log_weight = jnp.log(self._edge_weights(ctx))
        return self.prune(ctx, prune.draw(self.make_rng("dropout"), log_weight, self.dropout))

    def prune(self, ctx: Context, keep: Array) -> Context:
        """The context whose training graph has only the edges marked 1 in ``keep`` [E]."""
        train = graph.reweight(ctx.graphs["full"], self._edge_weights(ctx, keep))
        return ctx.replace(graphs={**ctx.graphs, "train": train})

    def represent(self, ctx: Context) -> dict[str, Array]:
        nodes = self._nodes(ctx, "full")
        return {"user": nodes[: self.spec.num_users], "item": nodes[self.spec.num_users :]}

    def loss(self, batch: Batch, ctx: Context) -> tuple[Array, dict[str, Array]]:
        rows = self._nodes(ctx, "train")[batch.nodes(self.spec.num_users)]
        user, item, negative = batch.split(rows)
        parts = {"bpr": losses.bpr((user * item).sum(-1), (user * negative).sum(-1), batch.weight)}
        pair = jnp.concatenate([batch.item, batch.negative])
        for name in self.spec.modalities:
            item, negative = jnp.split(self.content[name](ctx.features[name], pair), 2)
            both = ctx.present[name][pair].reshape(2, -1).all(0)
            where = jnp.where(both, batch.weight, 0.0)
            parts[name] = losses.bpr((user * item).sum(-1), (user * negative).sum(-1), where)
        content = sum(parts[name] for name in self.spec.modalities)
        return parts["bpr"] + self.reg_weight * content, parts

    def score(self, rep: dict[str, Array], query: Query) -> Array:
        return rep["user"][query.user] @ rep["item"].T

    def _nodes(self, ctx: Context, name: str) -> Array:
        """Propagated embeddings [N, D] over the user-item graph ``name``."""
        smooth = self.item
        for _ in range(self.item_layers):
            smooth = graph.matmul(ctx.graphs["item"], smooth)
        nodes = jnp.concatenate([self.user, self.item])
        nodes = graph.mean_propagate(ctx.graphs[name], nodes, self.layers)
        users, items = nodes[: self.spec.num_users], nodes[self.spec.num_users :]
        return jnp.concatenate([users, items + smooth])

    def _edge_weights(self, ctx: Context, keep: Array | None = None) -> Array:
        edges = (ctx.tables["edge_user"], ctx.tables["edge_item"])
        return prune.edge_weights(*edges, self.spec.num_users, self.spec.num_items, keep)


Model = Freedom
