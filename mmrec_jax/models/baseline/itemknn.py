"""ItemKNN: items like those in the history, alike by who chose them or by their features."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from jax import lax

from mmrec_jax.ops import graph, item_weights, topk
from mmrec_jax.types import Array, Context, Dataset, Query, Recommender, UserError


class ItemKNN(Recommender):
    """Sums, for each item, its cosine similarity to the items of the history; nothing is learned.

    Deshpande and Karypis, "Item-based top-N recommendation algorithms", TOIS 2004, with the
    shrinkage of Ferrari Dacrema et al., "Are We Really Making Much Progress?", RecSys 2019,
    https://arxiv.org/abs/1907.06902: ``s_ij = <x_i, x_j> / (|x_i| |x_j| + shrink)``.

    Which similarities count differs with the signal, as it does in the code compared with.
    ``behaviour`` (RecBole's ItemKNN; x_i marks the users of item i): each candidate counts its own
    k neighbours, itself excluded. ``content`` (MMRec's ItemKNNCBF; x_i joins the item's feature
    vectors, unscaled): each item of the history counts for its own k neighbours, itself among
    them. Equal similarities are settled by smaller item.

    Attributes:
      signal: "behaviour" or "content".
      k: neighbours of an item.
      shrink: draws similarities that rest on little evidence towards 0.
    """

    signal: str = "behaviour"
    k: int = 100
    shrink: float = 0.0

    task = "pairwise"

    @classmethod
    def context(cls, data: Dataset, **hyper) -> Context:
        signal = hyper.get("signal", cls.signal)
        k, shrink = hyper.get("k", cls.k), hyper.get("shrink", cls.shrink)
        if signal not in _EDGES:
            raise UserError(f"model.signal is {signal!r}; it must be one of {', '.join(_EDGES)}")
        if k < 1 or shrink < 0:
            raise UserError(f"model.k is {k} and model.shrink {shrink}; need k >= 1, shrink >= 0")
        edges = _EDGES[signal](data, k, shrink)
        return Context(graphs={"item": graph.from_edges(*edges, data.spec.num_items)})

    def represent(self, ctx: Context) -> graph.Adjacency:
        return ctx.graphs["item"]

    def score(self, rep: graph.Adjacency, query: Query) -> Array:
        return item_weights.add_columns(rep, item_weights.histories(query, self.spec.num_items))


def _behaviour(data: Dataset, k: int, shrink: float):
    """Edges (candidate, neighbour, similarity) from shared users."""
    num_users, num_items = data.spec.num_users, data.spec.num_items
    pairs = np.stack([data.train.user, data.train.item], axis=1)
    user, item = np.unique(pairs, axis=0).T  # a repeated interaction counts once
    ones = np.ones(len(user), np.float32)
    users_of = graph.from_edges(user, item, ones, (num_users, num_items))
    items_of = graph.from_edges(item, user, ones, (num_items, num_users))
    degree = np.bincount(item, minlength=num_items).astype(np.float32)
    operands = (users_of, items_of, degree, np.float32(shrink))
    return topk.neighbours(_shared_users, operands, num_items, k)


def _shared_users(operands, rows: Array) -> Array:
    """Similarity of some items to all by shared users, [b, I]; -inf where there are none."""
    users_of, items_of, degree, shrink = operands
    place = jnp.arange(rows.shape[0])
    chosen = jnp.zeros((degree.shape[0], rows.shape[0]), jnp.float32).at[rows, place].set(1)
    shared = graph.matmul(items_of, graph.matmul(users_of, chosen))  # exact: small integers
    shared = item_weights.transposed(shared).at[place, rows].set(0)
    # One root of the product, not a product of roots: equal similarities stay equal bits.
    similarity = shared / (jnp.sqrt(degree[rows, None] * degree[None]) + shrink)
    return jnp.where(shared > 0, similarity, -jnp.inf)


def _content(data: Dataset, k: int, shrink: float):
    """Edges (neighbour, item of the history, similarity) from all features side by side."""
    if not data.features:
        raise UserError(
            f"{data.name}: ItemKNN on content needs item features; name some in data.features, "
            "or set model.signal to behaviour"
        )
    features = np.concatenate([data.features[name] for name in data.features], axis=1)
    present = np.any([data.present[name] for name in data.features], axis=0)
    length = np.linalg.norm(features, axis=1)
    operands = tuple(map(jnp.asarray, (features, length, present, np.float32(shrink))))
    row, col, similarity = topk.neighbours(_shrunk_cosine, operands, data.spec.num_items, k)
    return col, row, similarity


def _shrunk_cosine(operands, rows: Array) -> Array:
    """Similarity of some items to all by features, [b, I]; -inf where either has none."""
    features, length, present, shrink = operands
    product = jnp.matmul(features[rows], features.T, precision=lax.Precision.HIGHEST)
    scale = length[rows, None] * length[None] + shrink
    similarity = product / jnp.where(scale > 0, scale, 1)
    return jnp.where(present[rows, None] & present[None], similarity, -jnp.inf)


_EDGES = {"behaviour": _behaviour, "content": _content}

Model = ItemKNN
