"""What item features are worth before any training: zero-shot, item-CF and masked modalities.

Liu et al., "AlignRec", CIKM 2024, https://arxiv.org/abs/2403.12384, judge features by three
measures. Their code has none of the first two, which are made after the paper's description:

* **zero-shot**: a user is the mean of the feature vectors of the items in the history, and items
  rank by their cosine with it; nothing is learned. Tells whether features show what a user likes.
  :func:`evaluate` scales the vectors to length one first.
* **item-CF**: an item of the history recommends the k items with the most similar features, by
  their cosine, and an item's score is the sum. Tells whether like items have like features.
* **mask-modality**: both again, or any method's training, with one modality taken from a share of
  the items, drawn at random. Tells how much the features lose when content is missing; in training
  it is ``--config.data.knockout=image:missing=0.5``.

    from mmrec_jax import alignment
    for features, told in alignment.evaluate(data).items():
        print(features, told)
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from mmrec_jax import losses, metrics, queries
from mmrec_jax.data import knockout
from mmrec_jax.ops import bag, graph, item_weights, neighbours, topk
from mmrec_jax.types import Array, Dataset, Query, UserError


def zero_shot(features: Array | np.ndarray, query: Query) -> Array:
    """Cosine [B, I] of every item with the mean features of each query's history.

    Args:
      features: [I, F], zero where missing; such items count for nobody and score 0.
      query: reads the histories.
    """
    features = jnp.asarray(features, jnp.float32)
    row, item, size = query.history_row, query.history_item, query.user.shape[0]
    once = bag.distinct(row, item, size)
    total = bag.embedding_bag(features, row, item, once.astype(jnp.float32), size)
    return losses.unit(total) @ losses.unit(features).T  # the cosine with a sum is that with a mean


def neighbours_of(features: Array | np.ndarray, present: np.ndarray, k: int) -> graph.Adjacency:
    """Entry (n, i) is the cosine of item i with n, if n is among its k nearest, as is i itself.

    Args:
      features: [I, F].
      present: bool [I], False where the row is missing; such items are nobody's neighbours.
      k: neighbours of an item.
    """
    row, col, cosine = topk.knn(features, k, present)
    return graph.from_edges(col, row, cosine, len(features))


def item_cf(neighbours: graph.Adjacency, query: Query, num_items: int) -> Array:
    """Sums [B, I] of the cosines with those items of the history whose neighbour an item is.

    Args:
      neighbours: by :func:`neighbours_of`.
      query: reads the histories.
      num_items: I.
    """
    return item_weights.add_columns(neighbours, item_weights.histories(query, num_items))


def evaluate(
    data: Dataset,
    split: str = "test",
    share: float = 0.5,
    k: int = 10,
    names: Sequence[str] = ("recall", "ndcg"),
    ks: Sequence[int] = (20,),
    seed: int = 0,
) -> dict[str, dict[str, dict[str, float]]]:
    """All three measures of the features of ``data``, by mmrec's protocol (``queries.ranking``).

    Args:
      data: the data set.
      split: "test" or "valid".
      share: of the items that have a modality, how many lose it where it is masked.
      k: neighbours of an item, itself among them, in item-CF.
      names, ks: metrics and cuts.
      seed: of what is masked.

    Returns:
      ``{features: {"zero_shot": {"recall@20": ...}, "item_cf": {...}}}``, for each modality, for
      all of them side by side ("unified", if there are several), and for the latter with each
      modality masked in turn.

    Raises:
      UserError: no features, nobody to ask, or a share, metric or cut that is none.
    """
    if not 0 <= share <= 1:
        raise UserError(f"share is {share}; give a share of the items, from 0 to 1")
    if not len(getattr(data, split)):
        raise UserError(f"{data.name} has no interactions in its {split} split")
    metrics.check(names, ks)
    data = dataclasses.replace(data, item_graphs={})
    query = queries.ranking(data, split, ConfigDict({"eval": {"protocol": "mmrec", "block": 512}}))
    tell = lambda data: _measure(*neighbours.unified(data), query, k, tuple(names), tuple(ks))
    several = len(data.features) > 1
    told = {name: tell(_only(data, name)) for name in data.features} if several else {}
    whole = "unified" if several else next(iter(data.features), "")
    told[whole] = tell(data)
    for name in data.features:
        masked = knockout.knock_out(data, f"{name}:missing={share}", seed)
        told[f"{whole}, {name} masked"] = tell(masked)
    return told


def _only(data: Dataset, name: str) -> Dataset:
    """``data`` with one of its modalities."""
    dims = ((name, data.features[name].shape[1]),)
    return dataclasses.replace(
        data,
        spec=dataclasses.replace(data.spec, feature_dims=dims),
        features={name: data.features[name]},
        present={name: data.present[name]},
    )


def _measure(rows, share, query, k, names, ks) -> dict[str, dict[str, float]]:
    """Metrics of both ways to rank by vectors [I, F], means over the users asked."""
    near = neighbours_of(rows, share.any(axis=1), k)
    measured = _measure_blocks(jnp.asarray(rows), near, query, names, ks)
    valid = np.asarray(query.valid)
    mean = lambda value: float(np.asarray(value)[valid].mean(dtype=np.float64))
    return {way: {n: mean(v) for n, v in values.items()} for way, values in measured.items()}


@partial(jax.jit, static_argnums=(3, 4))
def _measure_blocks(rows, near, query, names, ks):
    """Per query, [blocks, B] by way to rank and metric."""

    def block(query):
        scores = {
            "zero_shot": zero_shot(rows, query),
            "item_cf": item_cf(near, query, rows.shape[0]),
        }
        ranks = {way: topk.target_ranks(score, query) for way, score in scores.items()}
        return {
            way: metrics.from_ranks(rank, query.target, names, ks) for way, rank in ranks.items()
        }

    return jax.lax.map(block, jax.tree.map(jnp.asarray, query))
