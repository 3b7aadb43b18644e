"""CM3: items made of content alone, pushed apart only as far as their content differs."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import linen as nn

from mmrec_jax import layers, losses
from mmrec_jax.ops import graph, neighbours, sphere
from mmrec_jax.tasks.pairwise import Batch
from mmrec_jax.types import Array, Context, Dataset, Query, Recommender


class CM3(Recommender):
    """Alignment and calibrated uniformity on a sphere, with modalities fused along its arcs.

    Zhou, Wang and Shen, "CM3: Calibrating Multimodal Recommendation", 2025,
    https://arxiv.org/abs/2508.01226.

    An item has a channel for each modality and one that they share: a place drawn anew in each
    step, Beta distributed, on the spherical Bezier curve through its projected features. A user
    has a vector for each channel. Items have no id table, so ``table.item`` does not apply.

    Follows the authors' code: losses take vectors of length one, scores the items' own lengths;
    the similarity that calibrates a pair of the batch's negatives is learned, for it is that of
    their shared channels; positives are not pushed apart. The authors score with what the last
    step of training happened to draw; here evaluation takes the middle of the curves, and the
    parameters after that step. Their code has two modalities; more go through De Casteljau's
    construction in the order of the data. An item without a feature row has no part of that
    channel, and its curve runs through what it has; without any, only its users tell of it.
    All items are projected in each step, as each is some user's neighbour.

    Attributes:
      dim: D, of each channel.
      layers: propagation steps over the user-item graph.
      item_layers: propagation steps over the item graph.
      knn_k: K, neighbours of an item in the graph of one modality, itself among them.
      modality_weights: ``(name, weight)`` of each graph that is summed; empty gives each the same
        share of 1. The authors use ``(("image", 0.1), ("text", 0.9))``.
      uniformity_weight: weight of the two uniformity losses' mean (``gamma`` in their code).
      min_similarity, max_similarity: to which the similarity of a pair is clipped.
      concentration: both parameters of the Beta distribution (``alpha``).
    """

    dim: int = 64
    layers: int = 3
    item_layers: int = 1
    knn_k: int = 10
    modality_weights: tuple[tuple[str, float], ...] = ()
    uniformity_weight: float = 0.5
    min_similarity: float = 0.0
    max_similarity: float = 0.8
    concentration: float = 0.5

    task = "pairwise"

    @classmethod
    def context(cls, data: Dataset, **hyper) -> Context:
        data.need_features("CM3")
        weights = hyper.get("modality_weights", cls.modality_weights)
        size = (data.spec.num_users, data.spec.num_items)
        graphs = {
            "train": graph.bipartite(data.train.user, data.train.item, *size),
            "item": neighbours.item_graph(data, hyper.get("knn_k", cls.knn_k), weights),
        }
        return Context.of(data, graphs=graphs)

    def setup(self):
        users, names = self.spec.num_users, self.spec.modalities
        channels = len(names) + 1
        channel_init = nn.initializers.normal((2.0 / (users + self.dim)) ** 0.5)
        self.user = self.table("user", channels * self.dim, channel_init)
        self.fusion = self.param("fusion", layers.xavier_normal, (users, channels))
        self.content = {n: layers.ContentVectors(self.dim, 4 * self.dim) for n in names}
        point = lambda: layers.Feature(self.dim, kernel_init=layers.xavier_normal)
        self.point = {n: point() for n in names}

    def represent(self, ctx: Context) -> dict[str, Array]:
        user, item, _ = self.propagate(ctx, jnp.full(self.spec.num_items, 0.5))
        return {"user": user, "item": item, "channel_weight": nn.softmax(self.fusion)}

    def loss(self, batch: Batch, ctx: Context) -> tuple[Array, dict[str, Array]]:
        ends = (self.concentration, self.concentration)
        mix = jax.random.beta(self.make_rng("dropout"), *ends, (self.spec.num_items,))
        return self.loss_at(mix, batch, ctx)

    def loss_at(self, mix: Array, batch: Batch, ctx: Context) -> tuple[Array, dict[str, Array]]:
        """The loss with the items at the places ``mix`` [I] of their curves."""
        users, items, shared = self.propagate(ctx, mix)
        rows = jnp.concatenate([users, items])[batch.nodes(self.spec.num_users)]
        user, item, negative = batch.split(losses.unit(rows))
        content = losses.unit(shared[batch.negative])
        similarity = jnp.clip(content @ content.T, self.min_similarity, self.max_similarity)
        parts = {
            "alignment": losses.alignment(user, item, batch.weight),
            "user_uniformity": losses.uniformity(user, batch.weight),
            "item_uniformity": losses.uniformity(negative, batch.weight, similarity=similarity),
        }
        uniformity = (parts["user_uniformity"] + parts["item_uniformity"]) / 2
        return parts["alignment"] + self.uniformity_weight * uniformity, parts

    def score(self, rep: dict[str, Array], query: Query) -> Array:
        return rep["user"][query.user] @ rep["item"].T

    def explain(self, rep: dict[str, Array], ctx: Context) -> dict[str, Array]:
        """Mean weight [M + 1] that users give the modalities, in order, and the shared channel."""
        return {"user_channel_weight": rep["channel_weight"].mean(0)}

    def propagate(self, ctx: Context, mix: Array) -> tuple[Array, Array, Array]:
        """Users [U, C x D], items [I, C x D] and the items' shared channel [I, D]."""
        names = self.spec.modalities
        there = [ctx.present[n] for n in names]
        points = [losses.unit(self.point[n](ctx.features[n])) for n in names]
        points = [jnp.where(has[:, None], x, 0.0) for x, has in zip(points, there, strict=True)]
        shared = sphere.bezier(points, there, mix)
        content = [self.content[n]([ctx.features[n]], ctx.present[n]) for n in names]
        channels = jnp.stack([*content, shared], axis=1)  # [I, C, D]

        nodes = jnp.concatenate([self.user.reshape(-1, *channels.shape[1:]), channels])
        nodes = losses.unit(nodes).reshape(len(nodes), -1)
        nodes = graph.mean_propagate(ctx.graphs["train"], nodes, self.layers) * (self.layers + 1)
        users, items = jnp.split(nodes, [self.spec.num_users])
        fused = users.reshape(-1, *channels.shape[1:]) * nn.softmax(self.fusion)[..., None]
        smooth = items
        for _ in range(self.item_layers):
            smooth = graph.matmul(ctx.graphs["item"], smooth)
        return fused.reshape(users.shape), items + smooth, shared


Model = CM3
