"""Item graphs from content: each item's nearest by cosine, normalised, one graph per modality."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import jax.numpy as jnp
import numpy as np

from mmrec_jax.ops import graph, topk
from mmrec_jax.types import Array, Dataset, UserError

Edges = tuple[np.ndarray, np.ndarray, np.ndarray]  # row, col and weight, [E] each


def normalise(row: np.ndarray, col: np.ndarray, weight: np.ndarray, size: int) -> np.ndarray:
    """``w_ij / sqrt(d_i d_j)`` of a square matrix, d being the sums of its rows; float32 [E].

    Rows that sum to nothing, or less, give 0, as in the field's code.
    """
    degree = np.bincount(row, weight, minlength=size)
    root = np.where(degree > 0, degree, np.inf) ** -0.5
    return (root[row] * weight * root[col]).astype(np.float32)


def knn_graph(
    features: np.ndarray, k: int, present: np.ndarray | None = None, weighted: bool = False
) -> Edges:
    """Directed graph of each item's k most similar items, itself among them, normalised.

    Args:
      features: [I, F].
      k: neighbours.
      present: bool [I], False where the row is missing; such items have no edges.
      weighted: whether edges keep the cosine; if not, each counts 1 before normalisation.
    """
    row, col, cosine = topk.knn(features, k, present)
    weight = cosine if weighted else np.ones_like(cosine)
    return row, col, normalise(row, col, weight, len(features))


def modality_graphs(data: Dataset, k: int, weighted: bool = False) -> dict[str, Edges]:
    """The ready-made item graphs of ``data``, or else the graph of each of its modalities.

    Raises:
      UserError: if there is neither.
    """
    if data.item_graphs:
        return dict(data.item_graphs)
    if not data.features:
        raise UserError(
            f"{data.name}: the method needs item features or an item graph; "
            "name some in data.features or data.item_graphs"
        )
    present = data.present
    return {n: knn_graph(x, k, present.get(n), weighted) for n, x in data.features.items()}


def item_graph(
    data: Dataset, k: int, weights: Sequence[tuple[str, float]] = (), weighted: bool = False
) -> graph.Adjacency:
    """The weighted sum of :func:`modality_graphs`; without ``weights``, their mean.

    Raises:
      UserError: if there is neither a graph nor a feature, or ``weights`` names what is not there.
    """
    graphs = modality_graphs(data, k, weighted)
    share = shares(weights, graphs, data.name, "model.modality_weights")
    return graph.from_edges(*weighted_sum(graphs, share), data.spec.num_items)


def shares(
    weights: Sequence[tuple[str, float]], names: Collection[str], data: str, key: str
) -> dict[str, float]:
    """``weights`` by name; without any, the same share of 1 for each of ``names``.

    Raises:
      UserError: if ``weights``, which the user knows as ``key``, names what ``data`` has not.
    """
    share = dict(weights) or dict.fromkeys(names, 1.0 / len(names))
    if unknown := sorted(set(share) - set(names)):
        raise UserError(
            f"{key} names {', '.join(unknown)}, but {data} has {', '.join(names)}; use those names"
        )
    return share


def weighted_sum(graphs: Mapping[str, Edges], share: Mapping[str, float]) -> Edges:
    """Edges of the sum of those ``graphs`` that have a ``share``, each times that."""
    row, col = (np.concatenate([graphs[name][axis] for name in share]) for axis in (0, 1))
    weight = np.concatenate([part * graphs[name][2] for name, part in share.items()])
    return row, col, weight


def unified(data: Dataset) -> tuple[np.ndarray, np.ndarray]:
    """One vector of length one per item, its modalities side by side with equal shares.

    The cosine of two items that have all modalities is the mean of those by modality.

    Returns:
      The vectors, float32 [I, sum of F], zero for an item without any modality; and the length of
      each modality's part in them, float32 [I, M], 0 where missing.

    Raises:
      UserError: if there are no features.
    """
    data.need_features()
    parts, there = [], []
    for name in data.spec.modalities:
        length = np.linalg.norm(data.features[name], axis=1)
        there.append(data.present[name] & (length > 0))
        rows = np.where(there[-1][:, None], data.features[name], 0)
        parts.append(rows / np.where(there[-1], length, 1)[:, None])
    has = np.stack(there, axis=1)
    share = (has / np.sqrt(np.maximum(has.sum(axis=1, keepdims=True), 1))).astype(np.float32)
    return np.concatenate([p * share[:, m, None] for m, p in enumerate(parts)], axis=1), share


def view_graphs(data: Dataset, k: int) -> tuple[dict[str, graph.Adjacency], np.ndarray]:
    """The graphs of a method with one view per modality, and who has which view.

    Returns:
      ``train``, the user-item graph on N nodes; ``user_item``, its upper right part [U, I]; by
      modality its item graph, edges weighted by cosine. And bool [N, M]: False for an item without
      a feature row and for a user all of whose items lack it.

    Raises:
      UserError: if there are no features.
    """
    data.need_features()
    user, item = data.train.user, data.train.item
    size = (data.spec.num_users, data.spec.num_items)
    root = np.bincount(user, minlength=size[0]), np.bincount(item, minlength=size[1])
    weight = (root[0][user] * root[1][item].astype(np.float64)) ** -0.5
    graphs = {
        "train": graph.bipartite(user, item, *size),
        "user_item": graph.from_edges(user, item, weight, size),
    }
    there = []
    for name in data.spec.modalities:
        present = data.present[name]
        edges = knn_graph(data.features[name], k, present, weighted=True)
        graphs[name] = graph.from_edges(*edges, size[1])
        seen = np.bincount(user, present[item], minlength=size[0]) > 0
        there.append(np.concatenate([seen, present]))
    return graphs, np.stack(there, axis=1)


def spread(
    graphs: Mapping[str, graph.Adjacency], items: Mapping[str, Array], steps: int
) -> dict[str, Array]:
    """Views of all nodes [N, D] from those of the items [I, D], by modality.

    Items are propagated ``steps`` times over the item graph of the view's name, then users gather
    theirs; ``graphs`` is as :func:`view_graphs` makes it.
    """
    spread_out = []
    for name, view in items.items():
        for _ in range(steps):
            view = graph.matmul(graphs[name], view)
        spread_out.append(view)
    users = graph.matmul(graphs["user_item"], jnp.concatenate(spread_out, axis=1))
    users = jnp.split(users, len(items), axis=1)  # one gather for all modalities
    both = [jnp.concatenate(pair) for pair in zip(users, spread_out, strict=True)]
    return dict(zip(items, both, strict=True))


def gather_sum(x: Array, column: Array, weight: Array) -> Array:
    """Rows ``sum_k weight[i, k] x[column[i, k]]`` of x [C, D], both others [R, K]; may be learned.

    For a graph that changes on the device; ``graph.matmul`` is faster for one that does not.
    """
    terms = (graph.take_rows(x, column[:, k]) * weight[:, k, None] for k in range(column.shape[1]))
    return sum(terms, jnp.zeros((column.shape[0], x.shape[1]), x.dtype))
