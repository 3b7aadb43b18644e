"""MambaRec: MGCN on content refined by branches of attention and aligned by discrepancy."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import linen as nn

from mmrec_jax import layers, losses
from mmrec_jax.ops import graph, neighbours, project
from mmrec_jax.tasks.pairwise import Batch
from mmrec_jax.types import Array, Context, Dataset, Query, Recommender

_FAN_IN = (1, 9, 9, 9, 1)  # taps of each branch's convolution, which its initial values reckon with


class MambaRec(Recommender):
    """MGCN's views, gated by refined content, whose modalities are drawn together as a whole.

    Ren, Ju and Lee, "Modality Alignment with Multi-scale Bilateral Attention for Multimodal
    Recommendation", CIKM 2025, https://arxiv.org/abs/2509.09114.

    Follows the authors' code (rkl71/MambaRec), with what it says in other words left out. Their
    dilated convolutions run over maps of one pixel, where only the middle tap meets anything, so
    that the scales of the paper are dense layers side by side. Every bias before a batch norm
    cancels. The narrowing of wide features and the projection after it have nothing between them,
    so their kernels are multiplied first, an eighth of the work for the same values. A batch of
    the norm is all items that have the modality; evaluation takes the statistics of that batch
    too, where theirs takes running means, which lag by some steps. The discrepancy is summed over
    all pairs of modalities, between items that have both. The rest is as in MGCN, its notes too.

    Attributes:
      dim: D.
      layers: propagation steps over the user-item graph.
      item_layers: propagation steps over the item graphs.
      knn_k: K, neighbours of an item in the graph of one modality, itself among them.
      narrowed: modalities whose projection passes through fewer columns, where the data has them.
      reduction: how many times fewer.
      dropout: share of the entries of the refined content that is dropped.
      reg_weight: weight of the regulariser.
      contrast_weight: weight of the contrastive loss (``cl_loss`` in the authors' code).
      temperature: of that loss.
      mmd_weight: weight of the maximum mean discrepancy.
      bandwidth: of its kernel.
      finetune_features: learn the raw features too, as the authors do; for its cost see
        ``layers.Feature``.
    """

    dim: int = 64
    layers: int = 4
    item_layers: int = 1
    knn_k: int = 10
    narrowed: tuple[str, ...] = ("image",)
    reduction: int = 8
    dropout: float = 0.2
    reg_weight: float = 1e-4
    contrast_weight: float = 0.01
    temperature: float = 0.2
    mmd_weight: float = 0.1
    bandwidth: float = 1.5
    finetune_features: bool = True

    task = "pairwise"

    @classmethod
    def context(cls, data: Dataset, **hyper) -> Context:
        graphs, there = neighbours.view_graphs(data, hyper.get("knn_k", cls.knn_k))
        return Context.of(data, graphs=graphs, tables={"there": jnp.asarray(there)})

    def setup(self):
        self.user = self.table("user", self.dim)
        self.item = self.table("item", self.dim)
        names, finetune = self.spec.modalities, self.finetune_features
        narrow = lambda n: self.reduction if n in self.narrowed else 1
        self.content = {n: Projection(self.dim, narrow(n), finetune) for n in names}
        self.dream = {n: Dream() for n in names}
        self.norm = nn.LayerNorm(epsilon=1e-5, use_fast_variance=False)
        self.drop = layers.Dropout(self.dropout)
        self.purify = {n: layers.Gate() for n in names}
        self.fuse = layers.ViewFusion()

    def represent(self, ctx: Context) -> dict[str, Array]:
        behaviour, views = self._views(ctx, self._refine(ctx), deterministic=True)
        side, weight = self.fuse(views, behaviour, ctx.tables["there"])
        user, item = jnp.split(behaviour + side, [self.spec.num_users])
        return {"user": user, "item": item, "view_weight": weight}

    def loss(self, batch: Batch, ctx: Context) -> tuple[Array, dict[str, Array]]:
        rows = batch.nodes(self.spec.num_users)
        content = self._refine(ctx)
        behaviour, views = self._views(ctx, content, deterministic=False)
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
        total += self.contrast_weight * parts["contrast"]
        rows_of = {n: losses.unit(c[batch.item]) for n, c in content.items()}
        for one, two in itertools.combinations(content, 2):
            both = ctx.present[one][batch.item] & ctx.present[two][batch.item]
            where = jnp.where(both, batch.weight, 0.0)
            gap = losses.mmd(rows_of[one], rows_of[two], where, self.bandwidth)
            parts[f"mmd_{one}_{two}"] = gap
            total += self.mmd_weight * gap
        return total, parts

    def score(self, rep: dict[str, Array], query: Query) -> Array:
        return rep["user"][query.user] @ rep["item"].T

    def explain(self, rep: dict[str, Array], ctx: Context) -> dict[str, Array]:
        """Mean attention [M] that users and items pay to each modality."""
        user, item = jnp.split(rep["view_weight"], [self.spec.num_users])
        return {"user_modality_weight": user.mean(0), "item_modality_weight": item.mean(0)}

    def _refine(self, ctx: Context) -> dict[str, Array]:
        """Refined content [I, D] by modality."""
        return {
            name: self.dream[name](self.content[name](ctx.features[name]), ctx.present[name])
            for name in self.spec.modalities
        }

    def _views(
        self, ctx: Context, content: dict[str, Array], deterministic: bool
    ) -> tuple[Array, dict[str, Array]]:
        """The user-item view [N, D], and that of each modality [N, D]."""
        nodes = jnp.concatenate([self.user, self.item])
        behaviour = graph.mean_propagate(ctx.graphs["train"], nodes, self.layers)
        items = {}
        for name, refined in content.items():
            gated = self.purify[name](self.item, self.drop(self.norm(refined), deterministic))
            items[name] = jnp.where(ctx.present[name][:, None], gated, 0.0)
        return behaviour, neighbours.spread(ctx.graphs, items, self.item_layers)


class Projection(nn.Module):
    """Projects all features, perhaps through fewer columns, without a bias.

    Attributes:
      dim: D.
      reduction: how many times fewer; 1 projects straight.
      finetune: learn the raw features too.
    """

    dim: int
    reduction: int
    finetune: bool

    @nn.compact
    def __call__(self, features: Array) -> Array:
        """[I, D] of ``features`` [I, F]."""
        width, given = features.shape[1], features
        if self.finetune:
            features = self.param("features", lambda _: given)
        inner = max(width // self.reduction, 1) if self.reduction > 1 else width
        kernel = self.param("kernel", layers.uniform_fan_in, (inner, self.dim))
        if self.reduction > 1:
            kernel = self.param("narrow", layers.uniform_fan_in, (width, inner)) @ kernel
        return project.project(features, kernel)


class Dream(nn.Module):
    """Dilated refinement attention: five dense branches, weighed as a whole, and merged."""

    @nn.compact
    def __call__(self, x: Array, where: Array) -> Array:
        """[I, D] of ``x`` [I, D]; only rows marked in ``where`` [I] count for the norms."""
        dim, wide = x.shape[1], len(_FAN_IN) * x.shape[1]
        kernel = self.param("branches", _branches, (dim, wide))
        branches = nn.relu(layers.ItemNorm(name="branch_norm")(x @ kernel, where))
        one = lambda name: nn.Dense(1, use_bias=False, kernel_init=layers.uniform_fan_in, name=name)
        # Channel and spatial attention are one number per item each; the larger one counts.
        weight = jnp.maximum(
            nn.relu(one("channel")(branches)), nn.sigmoid(one("spatial")(branches))
        )
        merge = nn.Dense(dim, use_bias=False, kernel_init=layers.uniform_fan_in, name="merge")
        merged = merge(weight * jnp.square(branches))
        return nn.relu(layers.ItemNorm(name="merge_norm")(merged, where))


def _branches(key: Array, shape: tuple[int, int], dtype: Callable = jnp.float32) -> Array:
    """PyTorch's initial values of the five convolutions' middle taps, side by side."""
    bound = jnp.repeat(jnp.sqrt(1.0 / (shape[0] * jnp.array(_FAN_IN))), shape[0])
    return jax.random.uniform(key, shape, dtype, -1.0, 1.0) * bound[None]


Model = MambaRec
