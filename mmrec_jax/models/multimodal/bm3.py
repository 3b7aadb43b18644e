"""BM3: bootstrapped multimodal recommendation without negative samples."""

from __future__ import annotations

import jax.numpy as jnp
import optax
from flax import linen as nn
from jax import lax

from mmrec_jax import layers, losses
from mmrec_jax.ops import graph
from mmrec_jax.tasks.pairwise import Batch
from mmrec_jax.types import Array, Context, Dataset, Query, Recommender


class BM3(Recommender):
    """Predicts a dropped-out copy of each interaction's other side, and of the item's content.

    Zhou et al., "Bootstrap Latent Representations for Multi-modal Recommendation", WWW 2023,
    https://arxiv.org/abs/2207.05969.

    Follows the authors' code in MMRec: the regulariser takes the norms of the whole propagated
    tables, divided by the number of items; scores are products of *predicted* vectors. The
    batch's negatives are not used. Here dropout is drawn for each row of the batch rather than
    once per user and item, so an item that stands twice in a batch gets two masks. Any number
    of modalities; content terms average over the items that have a feature row.

    Attributes:
      dim: D.
      layers: propagation steps over the user-item graph.
      dropout: share of the target vectors' entries that is dropped.
      reg_weight: weight of the regulariser.
      content_weight: weight of the content terms (``cl_weight`` in the authors' code).
      finetune_features: learn the raw features too, as the authors do; for its cost see
        ``layers.Feature``.
    """

    dim: int = 64
    layers: int = 1
    dropout: float = 0.3
    reg_weight: float = 0.1
    content_weight: float = 2.0
    finetune_features: bool = True

    task = "pairwise"

    @classmethod
    def context(cls, data: Dataset, **hyper) -> Context:
        data.need_features("BM3")
        size = (data.spec.num_users, data.spec.num_items)
        train = graph.bipartite(data.train.user, data.train.item, *size)
        return Context.of(data, graphs={"train": train})

    def setup(self):
        self.user = self.table("user", self.dim)
        self.item = self.table("item", self.dim)
        bias_init = layers.uniform_bias(self.dim)
        self.predictor = nn.Dense(self.dim, kernel_init=layers.xavier_normal, bias_init=bias_init)
        self.content = {
            name: layers.Feature(self.dim, self.finetune_features, kernel_init=layers.xavier_normal)
            for name in self.spec.modalities
        }

    def represent(self, ctx: Context) -> dict[str, Array]:
        user, item = self._propagate(ctx)
        return {"user": self.predictor(user), "item": self.predictor(item)}

    def loss(self, batch: Batch, ctx: Context) -> tuple[Array, dict[str, Array]]:
        users, items = self._propagate(ctx)
        rows = jnp.concatenate([batch.user, batch.item + self.spec.num_users])
        online = jnp.concatenate([users, items])[rows]  # [2B, D]
        user_target, item_target = jnp.split(self._target(online), 2)
        user, item = jnp.split(self.predictor(online), 2)

        parts = {
            "user_item": _distance(user, item_target, batch.weight),
            "item_user": _distance(item, user_target, batch.weight),
        }
        content = {}
        for name in self.spec.modalities:
            where = jnp.where(ctx.present[name][batch.item], batch.weight, 0.0)
            online = self.content[name](ctx.features[name], batch.item)
            target, predicted = self._target(online), self.predictor(online)
            content[f"{name}_item"] = _distance(predicted, item_target, where)
            content[f"{name}_{name}"] = _distance(predicted, target, where)
        reg = (_norm(users) + _norm(items)) / self.spec.num_items
        total = sum(parts.values()) + self.content_weight * sum(content.values())
        return total + self.reg_weight * reg, {**parts, **content, "reg": reg}

    def score(self, rep: dict[str, Array], query: Query) -> Array:
        return rep["user"][query.user] @ rep["item"].T

    def _propagate(self, ctx: Context) -> tuple[Array, Array]:
        nodes = jnp.concatenate([self.user, self.item])  # [N, D]
        nodes = graph.mean_propagate(ctx.graphs["train"], nodes, self.layers)
        return nodes[: self.spec.num_users], nodes[self.spec.num_users :] + self.item

    def _target(self, online: Array) -> Array:
        return layers.dropout(self.make_rng("dropout"), lax.stop_gradient(online), self.dropout)


def _norm(x: Array) -> Array:
    return losses.safe_sqrt(jnp.sum(jnp.square(x.astype(jnp.float32))))


def _distance(a: Array, b: Array, where: Array) -> Array:
    """Mean of one minus the cosine of rows [B, D]."""
    a, b = a.astype(jnp.float32), b.astype(jnp.float32)
    return losses.masked_mean(1.0 - optax.losses.cosine_similarity(a, b, epsilon=1e-16), where)


Model = BM3
