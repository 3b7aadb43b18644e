"""SimGCL: contrastive views of a graph's nodes by noise on the embeddings, not on the graph."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import lax

from mmrec_jax import losses
from mmrec_jax.ops import graph
from mmrec_jax.tasks.pairwise import Batch
from mmrec_jax.types import Array, Context, Dataset, Query, Recommender, UserError


class SimGCL(Recommender):
    """LightGCN without layer 0, and InfoNCE between two noisy propagations of it.

    Yu et al., "Are Graph Augmentations Necessary? Simple Graph Contrastive Learning for
    Recommendation", SIGIR 2022, https://arxiv.org/abs/2112.08679.

    Follows the authors' PyTorch code (Coder-Yu/SELFRec): noise is drawn within the orthant of the
    embedding, losses are means, and the regulariser takes the norms of the propagated users and
    positives. Its ranking loss has 1e-5 inside the logarithm, which is left out here. Noise has no
    gradient, so the views share one backward pass with the embeddings they perturb.

    Attributes:
      dim: D.
      layers: propagation steps, at least one.
      contrast_weight: weight of the contrastive loss (the paper's lambda).
      noise: length of the noise that each step adds (the paper's epsilon).
      temperature: of the contrastive loss.
      reg_weight: weight of the regulariser.
    """

    dim: int = 64
    layers: int = 2
    contrast_weight: float = 0.5
    noise: float = 0.1
    temperature: float = 0.2
    reg_weight: float = 1e-4

    task = "pairwise"

    @classmethod
    def context(cls, data: Dataset, **hyper) -> Context:
        if hyper.get("layers", cls.layers) < 1:
            raise UserError("model.layers is 0; SimGCL perturbs propagated layers: take 1 or more")
        train = data.train
        size = (data.spec.num_users, data.spec.num_items)
        return Context(graphs={"train": graph.bipartite(train.user, train.item, *size)})

    def setup(self):
        self.user = self.table("user", self.dim)
        self.item = self.table("item", self.dim)

    def represent(self, ctx: Context) -> dict[str, Array]:
        first = graph.matmul(ctx.graphs["train"], self._nodes())
        nodes = graph.mean_propagate(ctx.graphs["train"], first, self.layers - 1)
        return {"user": nodes[: self.spec.num_users], "item": nodes[self.spec.num_users :]}

    def loss(self, batch: Batch, ctx: Context) -> tuple[Array, dict[str, Array]]:
        return self.perturbed_loss(batch, ctx, self._draws())

    def perturbed_loss(
        self, batch: Batch, ctx: Context, draws: Sequence[Sequence[Array]]
    ) -> tuple[Array, dict[str, Array]]:
        """The loss where the steps of both views take the noise of ``draws``, each [N, D]."""
        adj, rows = ctx.graphs["train"], batch.nodes(self.spec.num_users)
        first = graph.matmul(adj, self._nodes())
        exact = graph.mean_propagate(adj, first, self.layers - 1)
        user, item, negative = batch.split(graph.take_rows(exact, rows))
        ranking = losses.bpr((user * item).sum(-1), (user * negative).sum(-1), batch.weight)
        reg = losses.batch_norms((user, item), batch.weight)

        first, exact = lax.stop_gradient((first, exact))
        shifts = (self._perturbed(adj, first, draw) - exact for draw in draws)
        moved = [batch.split(graph.take_rows(shift, rows)) for shift in shifts]
        views = {
            "user": ([user + shift for shift, _, _ in moved], batch.user),
            "item": ([item + shift for _, shift, _ in moved], batch.item),
        }
        parts = {"bpr": ranking, "reg": reg}
        for name, (pair, ids) in views.items():
            once = losses.first_of_each(ids, batch.weight)
            parts[name] = losses.infonce(*pair, once, self.temperature)
        contrast = parts["user"] + parts["item"]
        return ranking + self.reg_weight * reg + self.contrast_weight * contrast, parts

    def score(self, rep: dict[str, Array], query: Query) -> Array:
        return rep["user"][query.user] @ rep["item"].T

    def _nodes(self) -> Array:
        return jnp.concatenate([self.user, self.item])  # [N, D]

    def _draws(self) -> list[list[Array]]:
        """Uniform noise [N, D] for each step of both views."""
        shape = (self.spec.num_users + self.spec.num_items, self.dim)
        keys = jax.random.split(self.make_rng("dropout"), (2, self.layers))
        return [[jax.random.uniform(key, shape) for key in view] for view in keys]

    def _perturbed(self, adj: graph.Adjacency, first: Array, draw: Sequence[Array]) -> Array:
        """Mean [N, D] of the layers that follow from ``first``, with noise on each."""
        layer, total = first, jnp.zeros_like(first)
        for number, uniform in enumerate(draw):
            layer = graph.matmul(adj, layer) if number else layer
            step = jnp.sign(layer) * losses.unit(uniform).astype(layer.dtype)
            layer = lax.optimization_barrier(layer + self.noise * step)
            total += layer
        return total / self.layers


Model = SimGCL
