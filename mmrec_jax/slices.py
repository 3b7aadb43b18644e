"""Accuracy in parts of the test set: by item popularity, user activity and missing features.

A slice is a set of targets. Lists still rank all items; a user counts in a slice with those of the
own targets that lie in it, and users without any do not count.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mmrec_jax.types import Dataset, Interactions

MISS = 2**30  # the rank of a target that is not listed
POPULARITY = ("head", "mid", "tail", "cold")
ACTIVITY = ("q1", "q2", "q3", "q4", "cold")


def measure(
    data: Dataset, users: np.ndarray, lists: np.ndarray, ks: Sequence[int]
) -> dict[str, dict[str, dict[str, float]]]:
    """Metrics of every slice of the test targets, ``{"popularity": {"head": {...}, ...}, ...}``.

    - ``popularity``: see :func:`popularity`;
    - ``activity``: see :func:`activity`;
    - ``NAME_features``: targets whose feature row of that modality is present or missing.

    Args:
      data: its training part says what is popular, its test part what is wanted.
      users: int [Q], distinct, whose lists these are; the targets of others do not count.
      lists: int [Q, K], the best items of each user, best first; -1 where there is none.
      ks: cuts, none above K.

    Returns:
      By group and slice: the number of ``users`` and ``targets`` in it, then recall, ndcg and hit
      at every cut, as in :mod:`mmrec_jax.metrics`, averaged over its users. Empty slices are left
      out.
    """
    row, item = targets(data.test, users)
    rank = ranks(row, item, lists)
    item_group = popularity(data.train.item_counts(data.spec.num_items))[item]
    user_group = activity(data.train.user_counts(data.spec.num_users)[users])[row]
    groups = {
        "popularity": {name: item_group == n for n, name in enumerate(POPULARITY)},
        "activity": {name: user_group == n for n, name in enumerate(ACTIVITY)},
    }
    for name, present in data.present.items():
        groups[f"{name}_features"] = {"present": present[item], "missing": ~present[item]}
    return {
        group: {
            name: {"users": len(np.unique(row[mask])), "targets": int(mask.sum())}
            | accuracy(row[mask], rank[mask], ks)
            for name, mask in slices.items()
            if mask.any()
        }
        for group, slices in groups.items()
    }


def popularity(counts: np.ndarray) -> np.ndarray:
    """The group of each item, a place in ``POPULARITY``, from its training interactions [I].

    Of the items that have any, by falling count and then by number: the head is the first 20 % of
    these items, the tail the last 20 %, mid what lies between. The others are cold.
    """
    order = np.argsort(-counts, kind="stable")
    known = int((counts > 0).sum())
    groups = np.full(len(counts), 3, np.int8)
    groups[order[:known]] = 2
    groups[order[: -(-4 * known // 5)]] = 1
    groups[order[: -(-known // 5)]] = 0
    return groups


def activity(counts: np.ndarray) -> np.ndarray:
    """The group of each user, a place in ``ACTIVITY``, from the training interactions [Q].

    The quartiles are those of the users that have any; q1 holds the least active ones. Users of
    equal counts are in one group, so that groups may differ in size. The others are cold.
    """
    known = counts[counts > 0]
    edges = np.quantile(known, (0.25, 0.5, 0.75)) if known.size else np.zeros(3)
    return np.where(counts > 0, np.searchsorted(edges, counts), 4)


def targets(wanted: Interactions, users: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The interactions with ``users`` [Q] as (place in ``users``, item), int [E] each."""
    size = int(max(wanted.user.max(initial=0), users.max(initial=0))) + 1
    place = np.full(size, -1)
    place[users] = np.arange(len(users))
    row = place[wanted.user]
    return row[row >= 0], wanted.item[row >= 0]


def ranks(row: np.ndarray, item: np.ndarray, lists: np.ndarray) -> np.ndarray:
    """The 0-based place of each ``item`` [E] in the list ``row`` [E], int [E]; ``MISS`` if none."""
    rows, places = np.nonzero(lists >= 0)
    size = int(max(lists.max(initial=0), item.max(initial=0))) + 1
    listed = rows * size + lists[rows, places]
    order = np.argsort(listed, kind="stable")  # of repeated entries the first counts
    listed = np.append(listed[order], -1)
    wanted = row * size + item
    found = np.searchsorted(listed[:-1], wanted)
    return np.where(listed[found] == wanted, np.append(places[order], MISS)[found], MISS)


def accuracy(row: np.ndarray, rank: np.ndarray, ks: Sequence[int]) -> dict[str, float]:
    """Mean recall, ndcg and hit over users, from the user and the rank of each target [E]."""
    _, user, count = np.unique(row, return_inverse=True, return_counts=True)
    discount = 1 / np.log2(np.arange(max(ks)) + 2)
    ideal = np.cumsum(discount)
    values: dict[str, dict[int, float]] = {"recall": {}, "ndcg": {}, "hit": {}}
    for k in ks:
        hit = rank < k
        hits = np.bincount(user[hit], minlength=len(count))
        gain = np.bincount(user[hit], discount[rank[hit]], minlength=len(count))
        values["recall"][k] = float((hits / count).mean())
        values["ndcg"][k] = float((gain / ideal[np.minimum(count, k) - 1]).mean())
        values["hit"][k] = float((hits > 0).mean())
    return {f"{name}@{k}": value for name, at in values.items() for k, value in at.items()}
