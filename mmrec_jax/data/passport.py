"""The passport of a split: what its numbers stand on, and what to beware of.

Only counts leave this module; who trains or chooses learns nothing of a single test interaction.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from mmrec_jax.types import Dataset, Impressions, Interactions

SPLITS = ("train", "valid", "test")
_NAMED = 3  # cold ids in a warning


def passport(data: Dataset) -> dict[str, Any]:
    """Facts about the split, JSON-able; :func:`mmrec_jax.data.load` keeps them in the notes.

    Where the data are impressions, these are what is counted.

    Returns:
      ``hash``; ``rule``; ``counts``, what the interactions are; ``users``, ``items``; ``train``,
      ``valid`` and ``test`` with their interactions, users and items; ``density``; ``cold``, the
      users, items and interactions in test without training interactions of the user or the item;
      ``overlap``, see :func:`overlap`; ``dropped``, what the filters took (None where they were not
      applied or did not say); ``warnings``, a line each.
    """
    parts = {split: data.impressions.get(split, getattr(data, split)) for split in SPLITS}
    interactions = sum(map(len, parts.values()))
    spec, rule = data.spec, dict(data.notes.get("split", {})).get("rule")
    cold = {entity: _cold(parts, entity) for entity in ("user", "item")}
    times = None if _places(data.notes) else overlap(parts["train"], parts["test"])
    return {
        "hash": data.notes.get("split_hash"),
        "rule": rule,
        "counts": "impressions" if data.impressions else "interactions",
        "users": spec.num_users,
        "items": spec.num_items,
        **{split: _counts(part) for split, part in parts.items()},
        "density": interactions / max(spec.num_users * spec.num_items, 1),
        "cold": {
            "users": len(np.unique(parts["test"].user[cold["user"]])),
            "items": len(np.unique(parts["test"].item[cold["item"]])),
            "interactions": int((cold["user"] | cold["item"]).sum()),
        },
        "overlap": times,
        "dropped": _dropped(data.notes),
        "warnings": [
            *_of_time(rule, times, parts["test"]),
            *_of_cold(parts["test"], "user", cold["user"], data.user_ids),
            *_of_cold(parts["test"], "item", cold["item"], data.item_ids),
        ],
    }


def of(data: Dataset) -> dict[str, Any]:
    """The passport that the data were loaded with, or else a new one."""
    return data.notes.get("passport") or passport(data)


def overlap(
    train: Interactions | Impressions, test: Interactions | Impressions
) -> dict[str, float] | None:
    """How much of training comes later than what is tested; None without times.

    Returns:
      Shares of the training interactions: ``after_first_test``, later than the earliest test
      interaction; ``after_median_test``, later than the median one.
    """
    if train.time is None or test.time is None or not len(train) or not len(test):
        return None
    share = lambda moment: float((train.time > moment).mean())
    middle = np.sort(test.time)[(len(test) - 1) // 2]  # a mean of two could lose digits
    return {"after_first_test": share(test.time.min()), "after_median_test": share(middle)}


def _places(notes: Mapping[str, Any]) -> bool:
    """Whether times are places in each user's own list, which no two users can be compared by."""
    return "the user's" in notes.get("time", "")


def _counts(part: Interactions | Impressions) -> dict[str, int]:
    return {
        "interactions": len(part),
        "users": len(np.unique(part.user)),
        "items": len(np.unique(part.item)),
    }


def _cold(parts: Mapping[str, Interactions | Impressions], entity: str) -> np.ndarray:
    """Which test interactions are of a user or item that training does not have, bool [E]."""
    return ~np.isin(getattr(parts["test"], entity), getattr(parts["train"], entity))


def _dropped(notes: Mapping[str, Any]) -> dict[str, Any]:
    counts, core = notes.get("interactions", {}), notes.get("k_core")
    if core is not None:
        core = {
            "k": core["k"],
            "users": core["users_dropped"],
            "items": core["items_dropped"],
            "interactions": counts.get("k_core_dropped"),
        }
    return {
        "repeats": counts.get("repeats_dropped"),
        "of_untrained_users": counts.get("untrained_users_dropped"),
        "k_core": core,
    }


def _of_time(
    rule: str | None, times: Mapping[str, float] | None, test: Interactions | Impressions
) -> list[str]:
    """A warning if each user's last interaction is tested while others still train."""
    published = rule == "label" and len(test) == len(np.unique(test.user))
    if times is None or not times["after_first_test"] or not (rule == "leave_one_out" or published):
        return []
    first, median = times["after_first_test"], times["after_median_test"]
    return [
        f"leave-one-out over overlapping times: {first:.1%} of the training interactions come "
        f"after the earliest test interaction, {median:.1%} after the median one; "
        "config.data.split=time trains on the past alone"
    ]


def _of_cold(
    test: Interactions | Impressions, entity: str, cold: np.ndarray, ids: np.ndarray
) -> list[str]:
    """A warning if test has users, or items, that training does not have."""
    numbers = getattr(test, entity)
    found = np.unique(numbers[cold])
    if not len(found):
        return []
    names = ", ".join(str(ids[n]) for n in found[:_NAMED]) + ", …" * (len(found) > _NAMED)
    return [
        f"{len(found)} of {len(np.unique(numbers))} {entity}s in test are cold, without training "
        f"interactions: {names}; {int(cold.sum())} of {len(test)} test interactions are theirs"
    ]
