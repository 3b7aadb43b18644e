"""LATTICE: an item graph learned from projected content, rebuilt in each epoch."""

from __future__ import annotations

import jax.numpy as jnp
from flax import linen as nn
from jax import lax

from mmrec_jax import layers, losses
from mmrec_jax.ops import graph, neighbours, topk
from mmrec_jax.tasks.pairwise import Batch
from mmrec_jax.types import Array, Context, Dataset, Query, Recommender


class Lattice(Recommender):
    """LightGCN plus item embeddings smoothed over the graph of nearest *projected* features.

    Zhang et al., "Mining Latent Structures for Multimedia Recommendation", ACM MM 2021,
    https://arxiv.org/abs/2104.09036.

    Follows the authors' code in MMRec with its LightGCN backbone (no NGCF; ``layers=0`` is its
    matrix factorisation). The graph of an epoch, its neighbours and its weights, is that of the
    parameters at the epoch's start and stays through the epoch. As there, gradients reach the
    projections and the modality weights only in the epoch's first batch, through the cosines of
    neighbours, which of them are neighbours being given; in the other batches these parameters
    have gradient 0, on which Adam's momentum still moves them, as in the PyTorch that the authors
    used. Evaluation rebuilds the graph. The regulariser is divided here by the examples of the
    batch, also of the last, shorter one. The authors hold I x I matrices; here an item has M K
    neighbours and no matrix is whole. Any number of modalities, whose weights start equal; an
    item without a feature row has no edges in that modality's graph.

    Attributes:
      dim: D.
      feature_dim: width of the projected features.
      layers: propagation steps over the user-item graph.
      item_layers: propagation steps over the item graph.
      knn_k: K, neighbours of an item in the graph of one modality, itself among them.
      original_weight: share of the graph of the raw features (``lambda_coeff`` in the code).
      reg_weight: weight of the regulariser.
      finetune_features: learn the raw features too, as the authors do; for its cost see
        ``layers.Feature``.
    """

    dim: int = 64
    feature_dim: int = 64
    layers: int = 2
    item_layers: int = 1
    knn_k: int = 10
    original_weight: float = 0.9
    reg_weight: float = 1e-4
    finetune_features: bool = True

    task = "pairwise"

    @classmethod
    def context(cls, data: Dataset, **hyper) -> Context:
        graphs, _ = neighbours.view_graphs(data, hyper.get("knn_k", cls.knn_k))
        del graphs["user_item"]
        train = data.train
        size = (data.spec.num_users, data.spec.num_items)
        graphs["train"] = graph.random_walk(train.user, train.item, *size)
        return Context.of(data, graphs=graphs)

    def setup(self):
        self.user = self.table("user", self.dim)
        self.item = self.table("item", self.dim)
        names = self.spec.modalities
        project = lambda: layers.Feature(self.feature_dim, self.finetune_features)
        self.content = {n: project() for n in names}
        init = nn.initializers.constant(1.0 / max(len(names), 1))
        self.modality_weight = self.param("modality_weight", init, (len(names),))

    def refresh(self, ctx: Context) -> Context:
        near, cosine = {}, {}
        for name in self.spec.modalities:
            unit, present = losses.unit(self.content[name](ctx.features[name])), ctx.present[name]
            value, near[name] = topk.nearest(unit, present, self.knn_k)
            cosine[name] = jnp.where((value > -jnp.inf) & present[:, None], value, 0.0)
        begun = self.get_variable("steps", "done", jnp.zeros((), jnp.int32))
        built = {"near": near, "cosine": cosine, "begun": begun}
        built["share"] = nn.softmax(self.modality_weight)
        return ctx.replace(tables={**ctx.tables, **built})

    def represent(self, ctx: Context) -> dict[str, Array]:
        ctx = self.refresh(ctx)
        share = ctx.tables["share"]
        user, item = self._propagate(ctx, ctx.tables["cosine"], share)
        return {"user": user, "item": item, "modality_weight": share}

    def loss(self, batch: Batch, ctx: Context) -> tuple[Array, dict[str, Array]]:
        if "near" not in ctx.tables:
            ctx = self.refresh(ctx)
        users, items = self._propagate(ctx, *self._weights(ctx))
        rows = jnp.concatenate([users, items])[batch.nodes(self.spec.num_users)]
        user, item, negative = final = batch.split(rows)
        parts = {
            "bpr": losses.bpr((user * item).sum(-1), (user * negative).sum(-1), batch.weight),
            "reg": losses.batch_squares(final, batch.weight),
        }
        return parts["bpr"] + self.reg_weight * parts["reg"], parts

    def score(self, rep: dict[str, Array], query: Query) -> Array:
        return rep["user"][query.user] @ rep["item"].T

    def explain(self, rep: dict[str, Array], ctx: Context) -> dict[str, Array]:
        """The learned weight [M] of each modality's graph."""
        return {"modality_weight": rep["modality_weight"]}

    def _weights(self, ctx: Context) -> tuple[dict[str, Array], Array]:
        """Cosines [I, K] by modality and their shares [M], learned in an epoch's first batch."""
        begun = ctx.tables["begun"]
        done = self.get_variable("steps", "done", begun)
        if self.is_mutable_collection("steps"):
            self.put_variable("steps", "done", done + (not self.is_initializing()))
        if self.is_initializing():
            return self._learned(ctx)
        return nn.cond(done == begun, Lattice._learned, Lattice._given, self, ctx)

    def _learned(self, ctx: Context) -> tuple[dict[str, Array], Array]:
        cosine = {}
        for name, near in ctx.tables["near"].items():
            unit = losses.unit(self.content[name](ctx.features[name]))
            terms = [jnp.sum(unit * unit[near[:, k]], axis=-1) for k in range(near.shape[1])]
            used = ctx.tables["cosine"][name] != 0
            cosine[name] = jnp.where(used, jnp.stack(terms, axis=1), 0.0)
        return cosine, nn.softmax(self.modality_weight)

    def _given(self, ctx: Context) -> tuple[dict[str, Array], Array]:
        cosine = {n: c.astype(jnp.float32) for n, c in ctx.tables["cosine"].items()}
        return cosine, ctx.tables["share"].astype(self.modality_weight.dtype)

    def _propagate(
        self, ctx: Context, cosine: dict[str, Array], share: Array
    ) -> tuple[Array, Array]:
        """Users [U, D] and items [I, D]."""
        names, near = self.spec.modalities, ctx.tables["near"]
        weight = jnp.concatenate([share[m] * cosine[n] for m, n in enumerate(names)], axis=1)
        column = jnp.concatenate([near[n] for n in names], axis=1)  # [I, M K]
        degree = weight.sum(axis=1, keepdims=True)
        root = jnp.where(degree > 0, lax.rsqrt(jnp.where(degree > 0, degree, 1.0)), 0.0)
        smooth = self.item
        for _ in range(self.item_layers):
            learned = root * neighbours.gather_sum(root * smooth, column, weight)
            given = [share[m] * graph.matmul(ctx.graphs[n], smooth) for m, n in enumerate(names)]
            smooth = self.original_weight * sum(given) + (1 - self.original_weight) * learned
        nodes = jnp.concatenate([self.user, self.item])
        nodes = graph.mean_propagate(ctx.graphs["train"], nodes, self.layers)
        user, item = jnp.split(nodes, [self.spec.num_users])
        return user, item + losses.unit(smooth).astype(item.dtype)


Model = Lattice
