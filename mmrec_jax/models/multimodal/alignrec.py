"""AlignRec: one content vector per item, aligned with item ids, and users with their items."""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp
from jax import lax

from mmrec_jax import layers, losses
from mmrec_jax.ops import graph, neighbours
from mmrec_jax.tasks.pairwise import Batch
from mmrec_jax.types import Array, Context, Dataset, Query, Recommender

_VIEW = "unified"


class AlignRec(Recommender):
    """LightGCN plus one content view, held together by three alignments.

    Liu et al., "AlignRec: Aligning and Training in Multimodal Recommendations", CIKM 2024,
    https://arxiv.org/abs/2403.12384; their code github.com/sjtulyf123/AlignRec_CIKM24.

    1. Between contents: vision and text become one vector beforehand, by an encoder trained to
       predict what is masked. That vector is given here, as the data set's one feature modality.
       Several modalities are put side by side instead (``neighbours.unified``), which aligns
       nothing; ``mmrec_jax.alignment`` tells what given features are worth.
    2. Between content and id: a contrastive loss between the content view and the user-item view
       of the batch's items, and of its users.
    3. Between user and item: the cosine of the two.

    And the inner products of content views are regressed on the cosines of the features, so that
    views keep what those tell.

    Follows the authors' code: the content gates the id embedding; the regression takes the norm of
    the difference (over the batch's positive items), not its square; cosine and regression have
    weights of their own, the former as their script sets it; the target of the regression are the
    cosines of the fine-tuned features, which share memory with the given ones there
    (``fixed_similarity`` takes those of the given). Left out are the options that they switch off
    and the layers that they never call. Features are read at full width in each step: all are
    projected, I x F x D, as each item is some other's neighbour, and the cosines of the batch take
    B x B x F. A modality that an item lacks has no part in its content; an item without any has no
    content view, and no part in the alignments that need one, nor has a user all of whose items
    lack it.

    Attributes:
      dim: D.
      layers: propagation steps over the user-item graph.
      item_layers: propagation steps over the item graph.
      knn_k: K, neighbours of an item in that graph, itself among them.
      reg_weight: weight of the regulariser.
      contrast_weight: weight of the contrastive loss (``cl_loss`` in the authors' code).
      temperature: of that loss.
      cosine_weight: weight of the user-item cosine (``ui_cosine_loss_weight``).
      similarity_weight: weight of the regression on similarity (``sim_weight``).
      finetune_features: learn the raw features too, as the authors do; the graph stays with the
        given ones. For its cost see ``layers.Feature``.
      fixed_similarity: regress on the cosines of the given features while others are learned.
    """

    dim: int = 64
    layers: int = 2
    item_layers: int = 1
    knn_k: int = 10
    reg_weight: float = 1e-4
    contrast_weight: float = 0.01
    temperature: float = 0.2
    cosine_weight: float = 0.1
    similarity_weight: float = 0.1
    finetune_features: bool = True
    fixed_similarity: bool = False

    task = "pairwise"

    @classmethod
    def context(cls, data: Dataset, **hyper) -> Context:
        rows, share = neighbours.unified(data)
        one = dataclasses.replace(
            data,
            spec=dataclasses.replace(data.spec, feature_dims=((_VIEW, rows.shape[1]),)),
            features={_VIEW: rows},
            present={_VIEW: share.any(axis=1)},
        )
        graphs, there = neighbours.view_graphs(one, hyper.get("knn_k", cls.knn_k))
        tables = {
            "share": share,
            "there": there[:, 0],
            "edge_user": data.train.user,
            "edge_item": data.train.item,
        }
        tables = {name: jnp.asarray(table) for name, table in tables.items()}
        return Context.of(data, graphs=graphs, tables=tables)

    def setup(self):
        self.user = self.table("user", self.dim)
        self.item = self.table("item", self.dim)
        width = sum(width for _, width in self.spec.feature_dims)
        init = layers.uniform_bias(width)  # PyTorch's for one layer over all modalities
        self.content = {
            n: layers.Feature(self.dim, self.finetune_features, use_bias=False, kernel_init=init)
            for n in self.spec.modalities
        }
        self.content_bias = self.param("content_bias", init, (self.dim,))
        self.purify = layers.Gate()

    def represent(self, ctx: Context) -> dict[str, Array]:
        behaviour, content = self._views(ctx)
        user, item = jnp.split(behaviour + content, [self.spec.num_users])
        return {"user": user, "item": item}

    def loss(self, batch: Batch, ctx: Context) -> tuple[Array, dict[str, Array]]:
        rows = batch.nodes(self.spec.num_users)
        behaviour, content = (graph.take_rows(view, rows) for view in self._views(ctx))
        user, item, negative = final = batch.split(behaviour + content)
        there = [batch.weight * part for part in batch.split(ctx.tables["there"][rows])[:2]]
        pairs = zip(batch.split(content)[:2], batch.split(behaviour)[:2], there, strict=True)
        cosine = (losses.unit(user) * losses.unit(item)).sum(-1)
        parts = {
            "bpr": losses.bpr((user * item).sum(-1), (user * negative).sum(-1), batch.weight),
            "reg": losses.batch_squares(final, batch.weight),
            "contrast": sum(losses.infonce(*pair, self.temperature) for pair in pairs),
            "cosine": losses.masked_mean(1.0 - cosine, batch.weight),
            "similarity": losses.similarity_gap(
                batch.split(content)[1], self._similarity(batch.item, ctx), there[1]
            ),
        }
        total = parts["bpr"] + self.reg_weight * parts["reg"]
        total += self.contrast_weight * parts["contrast"] + self.cosine_weight * parts["cosine"]
        return total + self.similarity_weight * parts["similarity"], parts

    def score(self, rep: dict[str, Array], query: Query) -> Array:
        return rep["user"][query.user] @ rep["item"].T

    def explain(self, rep: dict[str, Array], ctx: Context) -> dict[str, Array]:
        """How well each pair of views is aligned: mean cosine of pairs, and of mismatched ones.

        ``content_id_user`` and ``content_id_item`` compare the two views of those that have both,
        ``user_item`` the final vectors of training interactions.
        """
        behaviour, content = self._views(ctx)
        split = lambda x: jnp.split(x, [self.spec.num_users])
        views = zip(split(content), split(behaviour), split(ctx.tables["there"]), strict=True)
        chosen = rep["user"][ctx.tables["edge_user"]], rep["item"][ctx.tables["edge_item"]]
        of_users, of_items = (_matched(*view) for view in views)
        ones = jnp.ones(chosen[0].shape[0])
        return {
            "content_id_user": of_users,
            "content_id_item": of_items,
            "user_item": _matched(*chosen, ones),
        }

    def _views(self, ctx: Context) -> tuple[Array, Array]:
        """The user-item view and the content view, [N, D] each."""
        nodes = jnp.concatenate([self.user, self.item])
        behaviour = graph.mean_propagate(ctx.graphs["train"], nodes, self.layers)
        content = self.content_bias[None]
        for number, name in enumerate(self.spec.modalities):
            has = ctx.tables["share"][:, number, None] > 0
            content += jnp.where(has, self.content[name](ctx.features[name]), 0.0)
        there = ctx.tables["there"][self.spec.num_users :, None]
        gated = jnp.where(there, self.purify(self.item, content), 0.0)
        return behaviour, neighbours.spread(ctx.graphs, {_VIEW: gated}, self.item_layers)[_VIEW]

    def _similarity(self, item: Array, ctx: Context) -> Array:
        """Cosines [B, B] of the content of items int32 [B], what :meth:`_views` has read."""
        similarity = jnp.zeros((), jnp.float32)
        for number, (name, content) in enumerate(self.content.items()):
            features = ctx.features[name]
            if self.finetune_features and not self.fixed_similarity:
                features = lax.stop_gradient(content.get_variable("params", "features"))
            rows = losses.unit(features[item]) * ctx.tables["share"][item, number, None]
            similarity += rows @ rows.T
        return similarity


def _matched(first: Array, second: Array, where: Array) -> Array:
    """Mean cosine of the rows [B, D] of both, and of each with one half of them away, [2]."""
    first, second = losses.unit(first), losses.unit(second)
    cosine = lambda other: losses.masked_mean((first * other).sum(-1), where)
    return jnp.stack([cosine(second), cosine(jnp.roll(second, len(second) // 2, axis=0))])


Model = AlignRec
