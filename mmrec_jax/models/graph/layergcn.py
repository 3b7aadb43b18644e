"""LayerGCN: each propagated layer is refined by its likeness to the embeddings themselves."""

from __future__ import annotations

import jax.numpy as jnp
from jax import lax

from mmrec_jax import losses
from mmrec_jax.ops import graph, prune
from mmrec_jax.tasks.pairwise import Batch
from mmrec_jax.types import Array, Context, Dataset, Query, Recommender


class LayerGCN(Recommender):
    """Sum of layers scaled by their cosine with layer 0, on a graph pruned anew each epoch.

    Zhou et al., "Layer-refined Graph Convolutional Networks for Recommendation", ICDE 2023,
    https://arxiv.org/abs/2207.11088.

    Follows the authors' code in MMRec. Edges are drawn without replacement: in odd epochs in
    proportion to their normalised weight, which prunes those between nodes of high degree, in even
    ones uniformly. Evaluation uses all of them. The loss is a sum over the batch, not a mean.

    Attributes:
      dim: D.
      layers: propagation steps.
      dropout: share of the edges left out in an epoch; fixes the size of an array, so it cannot be
        traced.
      reg_weight: weight of half the squared norms of the batch's embeddings.
    """

    dim: int = 64
    layers: int = 4
    dropout: float = 0.1
    reg_weight: float = 1e-3

    task = "pairwise"

    @classmethod
    def context(cls, data: Dataset, **hyper) -> Context:
        user, item = data.train.user, data.train.item
        full = graph.bipartite(user, item, data.spec.num_users, data.spec.num_items)
        tables = {
            "edge_user": jnp.asarray(user),
            "edge_item": jnp.asarray(item),
            "by_weight": jnp.array(False),  # of the epoch before the first
        }
        return Context(graphs={"full": full, "train": full}, tables=tables)

    def setup(self):
        self.user = self.table("user", self.dim)
        self.item = self.table("item", self.dim)

    def refresh(self, ctx: Context) -> Context:
        if self.dropout <= 0:
            return ctx
        by_weight = ~self.get_variable("pruning", "by_weight", ctx.tables["by_weight"])
        log_weight = jnp.where(by_weight, jnp.log(self._edge_weights(ctx)), 0.0)
        ctx = ctx.replace(tables={**ctx.tables, "by_weight": by_weight})
        return self.prune(ctx, prune.draw(self.make_rng("dropout"), log_weight, self.dropout))

    def prune(self, ctx: Context, keep: Array) -> Context:
        """The context whose training graph has only the edges marked 1 in ``keep`` [E]."""
        train = graph.reweight(ctx.graphs["full"], self._edge_weights(ctx, keep))
        return ctx.replace(graphs={**ctx.graphs, "train": train})

    def represent(self, ctx: Context) -> dict[str, Array]:
        nodes = self._refined(self._nodes(), ctx.graphs["full"])
        return {"user": nodes[: self.spec.num_users], "item": nodes[self.spec.num_users :]}

    def loss(self, batch: Batch, ctx: Context) -> tuple[Array, dict[str, Array]]:
        if self.is_mutable_collection("pruning"):
            self.put_variable("pruning", "by_weight", ctx.tables["by_weight"])
        nodes = self._nodes()
        rows = batch.nodes(self.spec.num_users)
        refined = self._refined(nodes, ctx.graphs["train"])
        user, item, negative = batch.split(graph.take_rows(refined, rows))
        ranking = losses.bpr((user * item).sum(-1), (user * negative).sum(-1), batch.weight)
        reg = losses.batch_squares(batch.split(graph.take_rows(nodes, rows)), batch.weight)
        size = batch.weight.sum()
        parts = {"bpr": size * ranking, "reg": size * reg}
        return parts["bpr"] + self.reg_weight * parts["reg"], parts

    def score(self, rep: dict[str, Array], query: Query) -> Array:
        return rep["user"][query.user] @ rep["item"].T

    def _nodes(self) -> Array:
        return jnp.concatenate([self.user, self.item])  # [N, D]

    def _refined(self, nodes: Array, adj: graph.Adjacency) -> Array:
        """Sum [N, D] of the layers but the first, each scaled before it is propagated on."""
        ego, layer, total = losses.unit(nodes), nodes, jnp.zeros_like(nodes)
        for _ in range(self.layers):
            layer = graph.matmul(adj, layer)
            cosine = (losses.unit(layer) * ego).sum(-1, keepdims=True)
            # Without the barrier XLA:CPU recomputes the product inside every gather that reads it.
            layer = lax.optimization_barrier(cosine.astype(layer.dtype) * layer)
            total += layer
        return total

    def _edge_weights(self, ctx: Context, keep: Array | None = None) -> Array:
        edges = (ctx.tables["edge_user"], ctx.tables["edge_item"])
        return prune.edge_weights(*edges, self.spec.num_users, self.spec.num_items, keep)


Model = LayerGCN
