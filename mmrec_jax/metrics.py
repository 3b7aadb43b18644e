"""Accuracy of ranked lists, per query, from the ranks of the held-out items.

Per query, let ``n`` be the number of targets and ``r_1 < r_2 < ...`` their 0-based ranks; those
below the cut ``k`` are hits. Every metric is 0 for a query without targets; whoever averages
leaves such queries out.

    recall@k     hits / n
    precision@k  hits / k, also where k exceeds the catalogue
    hit@k        1 if there is a hit
    mrr@k        1 / (r_1 + 1) if r_1 is a hit
    ndcg@k       sum over hits of 1 / log2(r_j + 2), over the largest possible such sum, that of
                 min(k, n) hits in the first places
    map@k        sum over hits of j / (r_j + 1), which is the precision at the j-th hit, over
                 min(k, n)
"""

from __future__ import annotations

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np

from mmrec_jax.types import Array, UserError


def _recall(rank, hit, count, k):
    return hit.sum(1) / jnp.maximum(count, 1)


def _precision(rank, hit, count, k):
    return hit.sum(1) / k


def _hit(rank, hit, count, k):
    return hit.any(1)


def _mrr(rank, hit, count, k):
    return jnp.max(jnp.where(hit, 1 / (rank + 1), 0), axis=1, initial=0)


def _ndcg(rank, hit, count, k):
    places = np.arange(rank.shape[1])
    ideal = np.concatenate([[1.0], np.cumsum(1 / np.log2(places + 2))]).astype(np.float32)
    gain = jnp.where(hit, 1 / jnp.log2(rank + 2.0), 0).sum(1)
    return gain / jnp.asarray(ideal)[jnp.minimum(count, k)]


def _map(rank, hit, count, k):
    place = 1 + jnp.arange(rank.shape[1])[None]
    return jnp.where(hit, place / (rank + 1), 0).sum(1) / jnp.clip(count, 1, k)


METRICS = {
    "recall": _recall,
    "ndcg": _ndcg,
    "precision": _precision,
    "map": _map,
    "mrr": _mrr,
    "hit": _hit,
}


def from_ranks(
    ranks: Array, target: Array, names: Sequence[str], ks: Sequence[int]
) -> dict[str, Array]:
    """Every metric at every cut, for each query.

    Args:
      ranks: int32 [B, T], 0-based rank of each target; any value from the cut on is a miss.
      target: int32 [B, T], padded with -1; ranks of padding are ignored.
      names: metrics, of those described at the top of this module.
      ks: cuts of the list.

    Returns:
      ``{"recall@20": float32 [B], ...}``, by metric, then by cut.

    Raises:
      UserError: a metric or cut is not known.
    """
    check(names, ks)
    real = target >= 0
    count = real.sum(1)
    rank = jnp.sort(jnp.where(real, ranks, np.iinfo(np.int32).max - 2), axis=1)
    values = {}
    for name in names:
        for k in ks:
            value = METRICS[name](rank, rank < k, count, k)
            values[f"{name}@{k}"] = value.astype(jnp.float32)
    return values


def labels(names: Sequence[str], ks: Sequence[int]) -> list[str]:
    """The keys of what :func:`from_ranks` returns."""
    return [f"{name}@{k}" for name in names for k in ks]


def check(names: Sequence[str], ks: Sequence[int]) -> None:
    """Raises UserError unless every metric is known and every cut a positive whole number."""
    if not names or not ks:
        raise UserError("eval.metrics and eval.ks must not be empty; name a metric and a cut")
    unknown = [name for name in names if name not in METRICS]
    if unknown:
        raise UserError(f"unknown metric {unknown[0]!r}; known metrics: {', '.join(METRICS)}")
    wrong = [k for k in ks if isinstance(k, bool) or not isinstance(k, int | np.integer) or k < 1]
    if wrong:
        raise UserError(f"a cut K must be a whole number of at least 1, not {wrong[0]!r}")
