"""Item graphs from content: each item's nearest by cosine, normalised, one graph per modality."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mmrec_jax.ops import graph, topk
from mmrec_jax.types import Dataset, UserError

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
    share = dict(weights) or dict.fromkeys(graphs, 1.0 / len(graphs))
    if unknown := sorted(set(share) - set(graphs)):
        raise UserError(
            f"model.modality_weights names {', '.join(unknown)}, but {data.name} has "
            f"{', '.join(graphs)}; use those names"
        )
    row, col = (np.concatenate([graphs[name][axis] for name in share]) for axis in (0, 1))
    weight = np.concatenate([s * graphs[name][2] for name, s in share.items()])
    return graph.from_edges(row, col, weight, data.spec.num_items)
