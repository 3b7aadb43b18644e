"""Which interactions train, validate and test: arrays [E] in, parts [E] out.

A part is 0 for training, 1 for validation, 2 for test.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence

import numpy as np

from mmrec_jax.types import UserError

RULES = ("label", "ratio", "leave_one_out", "time", "item_cold", "user_cold", "auto")
COLD = ("item_cold", "user_cold")


def assign(
    user: np.ndarray,
    time: np.ndarray | None = None,
    label: np.ndarray | None = None,
    item: np.ndarray | None = None,
    *,
    rule: str = "auto",
    ratios: Sequence[float] = (0.8, 0.1, 0.1),
    seed: int = 0,
    origin: str = "interactions",
) -> tuple[np.ndarray, dict]:
    """The part of every interaction, int8 [E], and the facts of the split for the notes.

    ``auto`` takes labels where there are any, else leave-one-out where there are times, else
    per-user ratios. Where labels name no validation, each user gives up a random share
    ``ratios[1] / (ratios[0] + ratios[1])`` of the training interactions for it, and none where
    that is zero; validation is then empty, so that nothing can stop training early.

    Args:
      user: user numbers [E].
      time: numbers [E]; ties fall in the order of the arrays.
      label: parts as published [E].
      item: item numbers [E], which ``item_cold`` needs.
      rule: one of ``RULES``.
      ratios: shares of training, validation and test; of the items or users if the rule is in
        ``COLD``.
      seed: of all random choices: ``ratio``, ``COLD`` and a missing validation part.
      origin: what errors call the source.

    Raises:
      UserError: unknown rule, ratios that are none, a rule that lacks its column, or an empty part.
    """
    shares = _shares(ratios)
    rule = _resolve(rule, user, time, label, origin)
    random = np.random.default_rng(seed).random(len(user))
    if rule == "label":
        part, facts = _by_label(user, label, random, shares)
        required = (True, "carved" in facts["valid"], bool(np.any(label == 2)) or shares[2] > 0)
    elif rule in ("ratio", *COLD):
        cut = by_ratio if rule == "ratio" else cold
        part = cut(item if rule == "item_cold" else user, random, shares)
        facts, required = {"ratios": shares, "seed": seed}, [share > 0 for share in shares]
    elif rule == "time":
        part = by_time(time, shares)
        facts, required = {"ratios": shares}, [share > 0 for share in shares]
    else:
        part = leave_one_out(user, time)
        facts, required = {}, (True, True, True)
    counts = np.bincount(part, minlength=3)
    names = ("training", "validation", "test")
    for name, count, needed in zip(names, counts, required, strict=True):
        if needed and not count:
            raise UserError(
                f"{origin}: the {name} split is empty after the rule '{rule}'; "
                "set config.data.split or config.data.ratios to one that fills it"
            )
    return part, {"rule": rule, **facts}


def by_ratio(user: np.ndarray, random: np.ndarray, ratios: Sequence[float]) -> np.ndarray:
    """Per-user shares in random order, int8 [E].

    Test and validation get the floor of their share, at least one where the share is positive,
    as long as one interaction is left to train: a user with two trains and tests.
    """
    position, count = _position(user, np.lexsort((random, user)))
    test, valid = _quotas(count, ratios)
    return _tail(position, count, valid, test)


def cold(entity: np.ndarray, random: np.ndarray, ratios: Sequence[float]) -> np.ndarray:
    """Shares of the distinct users or items, each with all its interactions, int8 [E].

    The counts are those of :func:`by_ratio`, for one user who has each of them once.

    Args:
      entity: user or item numbers [E].
      random: [E]; as many as there are distinct numbers are used.
      ratios: shares of training, validation and test.
    """
    distinct, place = np.unique(entity, return_inverse=True)
    return by_ratio(np.zeros(len(distinct), np.int64), random[: len(distinct)], ratios)[place]


def leave_one_out(user: np.ndarray, time: np.ndarray) -> np.ndarray:
    """Each user's last interaction tests and the one before validates, int8 [E].

    Users with fewer than three interactions only train.
    """
    position, count = _position(user, np.lexsort((time, user)))
    enough = (count >= 3).astype(np.int64)
    return _tail(position, count, enough, enough)


def by_time(time: np.ndarray, ratios: Sequence[float]) -> np.ndarray:
    """Cuts all interactions at two moments, int8 [E]; equal times stay in the earlier part."""
    ordered = np.sort(time)
    part = np.zeros(len(time), np.int8)
    for share in np.cumsum(ratios)[:2]:
        last = int(np.ceil(round(share * len(time), 6))) - 1
        part += time > ordered[last]
    return part


def k_core(user: np.ndarray, item: np.ndarray, k: int) -> np.ndarray:
    """Indices of the interactions left when every user and item has at least ``k`` of them."""
    kept = np.arange(len(user))
    while len(kept):
        users, items = np.bincount(user[kept]), np.bincount(item[kept])
        stays = (users[user[kept]] >= k) & (items[item[kept]] >= k)
        if stays.all():
            break
        kept = kept[stays]
    return kept


def _shares(ratios) -> list[float]:
    """The three ratios, which sum to one but for rounding."""
    try:
        values = [float(share) for share in ratios]
    except (TypeError, ValueError):
        values = []
    fit = len(values) == 3 and min(values) >= 0 and values[0] > 0
    if not fit or not abs(sum(values) - 1) < 1e-6:
        raise UserError(
            f"config.data.ratios is {tuple(ratios)}; give three shares (train, valid, test) "
            "of which none is negative and the first is positive, and that sum to 1"
        )
    return [share / sum(values) for share in values]


def _resolve(rule: str, user, time, label, origin: str) -> str:
    """The rule that is meant, after checking that its column is there."""
    if rule == "auto":
        rule = "label" if label is not None else "ratio" if time is None else "leave_one_out"
    if rule not in RULES:
        near = difflib.get_close_matches(str(rule), RULES, n=1)
        hint = f"; did you mean '{near[0]}'?" if near else ""
        raise UserError(f"config.data.split is '{rule}', not one of {', '.join(RULES)}{hint}")
    needs = {"label": ("label", label), "time": ("time", time), "leave_one_out": ("time", time)}
    column, values = needs.get(rule, ("", user))
    if values is None:
        raise UserError(
            f"{origin}: the split '{rule}' needs a {column} column and there is none; "
            f"set config.data.columns.{column} or another config.data.split"
        )
    return rule


def _by_label(user, label, random, shares) -> tuple[np.ndarray, dict]:
    """Parts as published, with validation carved out of training where none is labelled."""
    part = label.astype(np.int8)
    if np.any(part == 1):
        return part, {"valid": "as labelled"}
    share = shares[1] / (shares[0] + shares[1])
    if not share:
        return part, {"valid": "none: training is left whole"}
    train = np.flatnonzero(part == 0)
    part[train] = by_ratio(user[train], random[train], (1 - share, share, 0.0))
    return part, {"valid": f"carved out of training, a share of {share:.6g} per user"}


def _position(user: np.ndarray, order: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Place of each interaction among its user's in ``order`` (by user), and their count."""
    counts = np.bincount(user)
    position = np.empty(len(user), np.int64)
    position[order] = np.arange(len(user)) - np.repeat(np.cumsum(counts) - counts, counts)
    return position, counts[user]


def _quotas(count: np.ndarray, ratios) -> tuple[np.ndarray, np.ndarray]:
    """How many interactions of a user with ``count`` test and validate."""
    quota = lambda share: np.maximum(np.floor(share * count + 1e-6).astype(np.int64), share > 0)
    test = np.minimum(quota(ratios[2]), count - 1)
    return test, np.minimum(quota(ratios[1]), count - 1 - test)


def _tail(position, count, valid, test) -> np.ndarray:
    """Parts int8 [E] where the last ``test`` places test and the ``valid`` before them validate."""
    return ((position >= count - test - valid).astype(np.int8)) + (position >= count - test)
