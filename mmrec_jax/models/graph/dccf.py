"""DCCF: each layer mixes the graph, shared intents, and the graph reweighted by likeness."""

from __future__ import annotations

import jax.numpy as jnp
from flax import linen as nn
from jax import lax

from mmrec_jax import losses
from mmrec_jax.layers import xavier_normal
from mmrec_jax.ops import edges, graph
from mmrec_jax.tasks.pairwise import Batch
from mmrec_jax.types import Array, Context, Dataset, Query, Recommender


class DCCF(Recommender):
    """Disentangled intents, and two adaptive masks of the graph, contrasted layer by layer.

    Ren et al., "Disentangled Contrastive Collaborative Filtering", SIGIR 2023,
    https://arxiv.org/abs/2305.02759.

    Follows the authors' PyTorch code: gradients flow through the masks and the sums that normalise
    them; both masks act on the layer's input; the contrast's anchors are the graph view's rows of
    the distinct users and positives of the batch; both regularisers are sums of squares, over the
    batch and not its mean. Repeated interactions are one edge, as there. Its contrast has 1e-8
    inside the logarithm, which is left out here. Its epoch draws users evenly, and for each one of
    their items; here it passes through all interactions.

    Attributes:
      dim: D.
      layers: propagation steps.
      intents: K, prototypes of the users and as many of the items.
      contrast_weight: weight of the contrastive loss (``ssl_reg`` in the authors' code).
      temperature: of that loss.
      reg_weight: weight of the squares of the batch's embeddings.
      intent_reg_weight: weight of the squares of the prototypes.
    """

    dim: int = 32
    layers: int = 2
    intents: int = 128
    contrast_weight: float = 0.1
    temperature: float = 1.0
    reg_weight: float = 2.5e-5
    intent_reg_weight: float = 5e-3

    task = "pairwise"

    @classmethod
    def context(cls, data: Dataset, **hyper) -> Context:
        train = data.train
        size = (data.spec.num_users, data.spec.num_items)
        return Context(graphs={"train": edges.bipartite(train.user, train.item, *size)})

    def setup(self):
        self.user = self.table("user", self.dim, xavier_normal)
        self.item = self.table("item", self.dim, xavier_normal)
        self.user_intent = self.param("user_intent", xavier_normal, (self.dim, self.intents))
        self.item_intent = self.param("item_intent", xavier_normal, (self.dim, self.intents))

    def represent(self, ctx: Context) -> dict[str, Array]:
        nodes, _ = self._propagate(ctx.graphs["train"])
        return {"user": nodes[: self.spec.num_users], "item": nodes[self.spec.num_users :]}

    def loss(self, batch: Batch, ctx: Context) -> tuple[Array, dict[str, Array]]:
        nodes, views = self._propagate(ctx.graphs["train"])
        rows = batch.nodes(self.spec.num_users)
        user, item, negative = batch.split(graph.take_rows(nodes, rows))
        own = batch.split(graph.take_rows(self._nodes(), rows))
        parts = {
            "bpr": losses.bpr((user * item).sum(-1), (user * negative).sum(-1), batch.weight),
            "reg": 2 * batch.weight.sum() * losses.batch_squares(own, batch.weight),
            "intent_reg": sum(jnp.sum(c**2) for c in (self.user_intent, self.item_intent)),
            "contrast": self._contrast(views, batch),
        }
        total = parts["bpr"] + self.reg_weight * parts["reg"]
        total += self.intent_reg_weight * parts["intent_reg"]
        return total + self.contrast_weight * parts["contrast"], parts

    def score(self, rep: dict[str, Array], query: Query) -> Array:
        return rep["user"][query.user] @ rep["item"].T

    def _nodes(self) -> Array:
        return jnp.concatenate([self.user, self.item])  # [N, D]

    def _propagate(self, train: edges.Edges) -> tuple[Array, tuple[Array, ...]]:
        """Sum [N, D] of all layers; and the four views of each, [layers, N, D], the graph's first.

        A loop, as it takes its time to compile each product that is written out.
        """

        def step(carry: tuple[Array, Array], _):
            layer, total = carry
            propagated = graph.matmul(train.adj, layer)
            intent = lax.optimization_barrier(self._intent(layer))
            masked = (self._masked(train, likeness, layer) for likeness in (propagated, intent))
            views = (propagated, intent, *masked)
            # Without the barrier XLA:CPU computes the sum anew inside each gather that reads it.
            layer = lax.optimization_barrier(layer + sum(views))
            return (layer, total + layer), views

        nodes = self._nodes()
        (_, total), views = lax.scan(step, (nodes, nodes), length=self.layers)
        return total, views

    def _intent(self, layer: Array) -> Array:
        """Mixtures [N, D] of the prototypes that are like each row of ``layer`` [N, D]."""
        user, item = jnp.split(layer, [self.spec.num_users])
        pairs = ((user, self.user_intent), (item, self.item_intent))
        return jnp.concatenate([nn.softmax(x @ c) @ c.T for x, c in pairs])

    def _masked(self, train: edges.Edges, likeness: Array, layer: Array) -> Array:
        """Mean of the neighbours in ``layer``, by cosine with them in ``likeness``, [N, D] each."""
        directions = lax.optimization_barrier(losses.unit(likeness))
        weight = (1 + edges.dots(train, directions)) / 2
        return edges.mean(train, weight, layer)

    def _contrast(self, views: tuple[Array, ...], batch: Batch) -> Array:
        """InfoNCE of the graph's view with each other one, of users and items, over all layers."""
        users, items = self.spec.num_users, self.spec.num_items
        user, user_once = _distinct(batch.user, batch.weight, users)
        item, item_once = _distinct(batch.item, batch.weight, items)
        rows = jnp.concatenate([user, item + users])
        total = jnp.zeros((), jnp.float32)
        for number in range(self.layers):
            wide = jnp.concatenate([view[number] for view in views], axis=1)  # one scatter back
            sides = jnp.split(graph.take_rows(wide, rows), [user.size])
            for side, once in zip(sides, (user_once, item_once), strict=True):
                anchor, *others = jnp.split(side, len(views), axis=1)
                for other in others:
                    total += losses.infonce(anchor, other, once, self.temperature)
        return total


def _distinct(ids: Array, weight: Array, count: int) -> tuple[Array, Array]:
    """Rows that hold each of ``ids`` [B] of positive ``weight``, and 1 for each of them once.

    At most ``count`` rows, as there are not more ids: the contrast is quadratic in them.
    """
    if ids.size < count:
        return ids, losses.first_of_each(ids, (weight > 0).astype(jnp.float32))
    seen = jnp.zeros(count, bool).at[ids].max(weight > 0)
    return jnp.arange(count), seen.astype(jnp.float32)


Model = DCCF
