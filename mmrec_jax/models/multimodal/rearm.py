"""REARM: views by modality over graphs of items and of users; what is shared, what is unique."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from mmrec_jax import layers, losses
from mmrec_jax.ops import graph, hypergraph, neighbours, topk
from mmrec_jax.tasks.pairwise import Batch
from mmrec_jax.types import Array, Context, Dataset, Query, Recommender


class REARM(Recommender):
    """Ids and content, over homogeneous graphs, then over the user-item graph; a view each.

    Ma et al., "Refining Contrastive Learning and Homography Relations for Multi-Modal
    Recommendation", ACM MM 2025, https://arxiv.org/abs/2508.13745.

    Follows the authors' code. The content of a user is the mean of that of his items. Graphs of
    items and of users are the sum of one of co-occurrence, softmax over the counts, and of one of
    similar content for each modality. The views of items attend to themselves, then to each other,
    number by number. No gradient passes the layer that compresses the meta-network's knowledge,
    which so stays as it was drawn. Negatives are no training items; theirs are no test items
    either, which gives the test set away. A node that shares hyperedges with fewer than K others
    is linked to these; theirs fills up by repeating some at random. One that shares none is linked
    to the K of most training interactions; theirs counts a user's test items, too. Beyond two
    modalities each attends to the mean over the others, and losses are summed over pairs; with one
    there is neither. All items and users pass in every step, I (M + M (M - 1)) D^2 attention
    weights among it. What a missing feature row would give is 0; the graphs fill it.

    Attributes:
      dim: D.
      layers: propagation steps over the user-item graph.
      item_layers, user_layers: over the graphs of items and of users.
      item_k, user_k: K of co-occurrence and of similarity; a node is among its own similar ones.
      item_shares, user_shares: ``(modality, weight)`` in the graphs of similarity; empty: alike.
      item_co_weight, user_co_weight: of co-occurrence in these graphs; the rest has similarity.
      meta_rank: of the meta-network's matrices.
      self_dropout, cross_dropout: of attention weights.
      contrast_weight, temperature: of the contrast between modalities.
      orthogonal_weight: of the loss that keeps modalities different.
      finetune_features: learn the raw features and those of the users too, as the authors do: for
        its cost see ``layers.Feature``; here it is that of I + U rows.
    """

    dim: int = 64
    layers: int = 4
    item_layers: int = 1
    user_layers: int = 1
    item_k: int = 10
    user_k: int = 40
    item_shares: tuple[tuple[str, float], ...] = ()
    user_shares: tuple[tuple[str, float], ...] = ()
    item_co_weight: float = 0.2
    user_co_weight: float = 0.4
    meta_rank: int = 3
    self_dropout: float = 0.4
    cross_dropout: float = 0.6
    contrast_weight: float = 5e-6
    temperature: float = 0.6
    orthogonal_weight: float = 5e-5
    finetune_features: bool = True

    task = "pairwise"

    @classmethod
    def context(cls, data: Dataset, **hyper) -> Context:
        data.need_features("REARM")
        get = lambda key: hyper.get(key, getattr(cls, key))
        users, items = data.spec.num_users, data.spec.num_items
        user, item = data.train.user, data.train.item
        means = {n: _means(user, item, data.present[n], users) for n in data.features}
        taste, graphs = {}, {"train": graph.bipartite(user, item, users, items)}
        for name, (row, col, weight) in means.items():
            graphs[f"mean_{name}"] = graph.from_edges(row, col, weight, (users, items))
            taste[name] = np.asarray(graph.matmul(graphs[f"mean_{name}"], data.features[name]))
        there = {n: np.bincount(rows[0], minlength=users) > 0 for n, rows in means.items()}
        tables = {f"there_{n}": jnp.asarray(x) for n, x in there.items()}
        if get("finetune_features"):
            tables |= {f"taste_{n}": jnp.asarray(x) for n, x in taste.items()}
        for side, ends, size, features, present in (
            ("item", (item, user), (items, users), data.features, data.present),
            ("user", (user, item), (users, items), taste, there),
        ):
            k, key = get(f"{side}_k"), f"{side}_shares"
            alike = {n: _similar(x, k, present[n]) for n, x in features.items()}
            share = neighbours.shares(get(key), alike, data.name, f"model.{key}")
            parts = {
                "co": hypergraph.co_occurrence_graph(*ends, size, k),
                "alike": neighbours.weighted_sum(alike, share),
            }
            co = get(f"{side}_co_weight")
            edges = neighbours.weighted_sum(parts, {"co": co, "alike": 1.0 - co})
            graphs[side] = graph.from_edges(*edges, size[0])
        return Context.of(data, graphs=graphs, tables=tables)

    def setup(self):
        self.user = self.table("user", self.dim, nn.initializers.normal(0.1))
        self.item = self.table("item", self.dim, nn.initializers.normal(0.1))
        names = self.spec.modalities
        start = layers.xavier_normal
        feature = lambda: layers.Feature(self.dim, self.finetune_features, kernel_init=start)
        self.item_content = {n: feature() for n in names}
        self.user_content = {n: feature() for n in names}
        self.attend = {n: layers.NumberAttention(self.self_dropout) for n in names}
        pairs = itertools.permutations(names, 2)
        self.cross = {f"{o}_{n}": layers.NumberAttention(self.cross_dropout) for o, n in pairs}
        self.norm = nn.LayerNorm(epsilon=1e-5, use_fast_variance=False)
        self.bend = nn.PReLU(negative_slope_init=0.25)
        self.user_meta, self.item_meta = (layers.LowRank(self.meta_rank) for _ in range(2))

    def represent(self, ctx: Context) -> dict[str, Array]:
        ids, *views = self._nodes(ctx, deterministic=True)
        final = self._final(ids, views, self._shared(ids, views))
        return {"user": final[: self.spec.num_users], "item": final[self.spec.num_users :]}

    def loss(self, batch: Batch, ctx: Context) -> tuple[Array, dict[str, Array]]:
        nodes = self._nodes(ctx, deterministic=False)
        rows = batch.nodes(self.spec.num_users)
        ids, *views = (graph.take_rows(x, rows) for x in nodes)
        shared = self._shared(ids, nodes[1:], batch)
        user, item, negative = batch.split(self._final(ids, views, shared))

        size = batch.weight.size
        once = losses.first_of_each(batch.user, batch.weight)
        both = jnp.concatenate([batch.item, batch.negative])
        item_once = losses.first_of_each(both, jnp.tile(batch.weight, 2))
        contrast = orthogonal = jnp.zeros(())
        for a, b in itertools.combinations(views, 2):
            contrast += losses.infonce(a[:size], b[:size], once, self.temperature)
            contrast += losses.infonce(a[size:], b[size:], item_once, self.temperature)
            for x, y in zip(batch.split(a)[:2], batch.split(b)[:2], strict=True):
                orthogonal += losses.orthogonality(x, y, batch.weight)
        parts = {
            "bpr": losses.bpr((user * item).sum(-1), (user * negative).sum(-1), batch.weight),
            "contrast": contrast,
            "orthogonal": orthogonal,
        }
        total = parts["bpr"] + self.contrast_weight * contrast
        return total + self.orthogonal_weight * orthogonal, parts

    def score(self, rep: dict[str, Array], query: Query) -> Array:
        return rep["user"][query.user] @ rep["item"].T

    def _nodes(self, ctx: Context, deterministic: bool) -> list[Array]:
        """Propagated ids, and the view of each modality, [N, D] each."""
        users, items = [self.user], [self.item]
        for name in self.spec.modalities:
            content = self.item_content[name](ctx.features[name])
            items.append(jnp.where(ctx.present[name][:, None], content, 0.0))
            if self.finetune_features:
                content = self.user_content[name](ctx.tables[f"taste_{name}"])
                users.append(jnp.where(ctx.tables[f"there_{name}"][:, None], content, 0.0))
            else:  # the mean of projections is the projection of the mean
                content = self.user_content[name](ctx.features[name])
                users.append(graph.matmul(ctx.graphs[f"mean_{name}"], content))
        users, items = (jnp.concatenate(x, axis=1) for x in (users, items))
        for _ in range(self.user_layers):
            users = graph.matmul(ctx.graphs["user"], users)
        for _ in range(self.item_layers):
            items = graph.matmul(ctx.graphs["item"], items)
        parts = len(self.spec.modalities) + 1
        user_ids, *tastes = jnp.split(losses.unit(users), parts, axis=1)
        item_ids, *views = jnp.split(losses.unit(items), parts, axis=1)
        views = self._attended(views, deterministic)
        users = jnp.concatenate([user_ids, *map(self.bend, tastes)], axis=1)
        nodes = jnp.concatenate([users, jnp.concatenate([item_ids, *views], axis=1)])
        return jnp.split(graph.mean_propagate(ctx.graphs["train"], nodes, self.layers), parts, 1)

    def _attended(self, views: Sequence[Array], deterministic: bool) -> list[Array]:
        """The items' views [I, D], each having attended to itself, then to the others."""
        own = {}
        for name, view in zip(self.spec.modalities, views, strict=True):
            attended = self.attend[name](view, view, deterministic)
            own[name] = self.bend(self.norm(view + attended))
        if len(own) == 1:
            return list(own.values())
        met = []
        for name, view in own.items():
            others = [
                self.cross[f"{o}_{name}"](own[o], view, deterministic) for o in own if o != name
            ]
            met.append(self.bend(self.norm(view + sum(others) / len(others))))
        return met

    def _shared(self, ids: Array, views: list[Array], batch: Batch | None = None) -> Array:
        """What the views share, [N, D] or, with ``ids`` of the rows of a batch, [3B, D]."""
        split = self.spec.num_users if batch is None else batch.user.size
        own = jnp.split(ids, [split])
        know = jnp.split(jnp.concatenate(views, axis=1), [self.spec.num_users])
        rows = (None, None)
        if batch is not None:
            rows = (batch.user, jnp.concatenate([batch.item, batch.negative]))
        metas = (self.user_meta, self.item_meta)
        parts = [m(x, k, r) for m, x, k, r in zip(metas, own, know, rows, strict=True)]
        return jnp.concatenate(parts)

    def _final(self, ids: Array, views: list[Array], shared: Array) -> Array:
        return jnp.concatenate([self.bend(x) + ids for x in (*views, shared)], axis=1)


def _means(user, item, present, num_users):
    """Edges that average over the items of each user that have a feature row."""
    user, item = user[present[item]], item[present[item]]
    return user, item, 1.0 / np.bincount(user, minlength=num_users)[user]


def _similar(features, k, present):
    """Edges to the k most similar, weighted by cosine over the root of both counts of edges."""
    row, col, cosine = topk.knn(features, k, present)
    count = np.bincount(row, minlength=len(features))
    return row, col, cosine / np.sqrt(count[row] * count[col])


Model = REARM
