"""Small configs and data sets that tests make, and how far results are apart."""

from __future__ import annotations

import types
from collections.abc import Iterable

import numpy as np
from ml_collections import ConfigDict

from mmrec_jax.types import Dataset, Interactions, Spec

WIDTHS = {"image": 4, "text": 3, "audio": 2}  # of the features of `circle`


def config(method: types.ModuleType, variant: str | None = "debug", **changes) -> ConfigDict:
    """What ``method``, a module of ``configs``, gives for small synthetic data."""
    made = method.get_config(variant)
    small = {"data.knobs.num_users": 60, "data.knobs.num_items": 40, "train.batch_size": 128}
    made.update_from_flattened_dict({**small, **changes})
    return made


def circle(
    names: Iterable[str] = WIDTHS, missing: Iterable[tuple[str, int]] = (), sold: int = 6
) -> Dataset:
    """Each of 5 users has 3 of the items around a circle of ``sold``, out of 6.

    Features are those of ``names``, without the rows ``(name, item)`` of ``missing``.
    """
    rng = np.random.default_rng(0)
    user = np.repeat(np.arange(5, dtype=np.int32), 3)
    item = (user + np.tile([0, 1, 3], 5)) % sold
    features = {n: rng.normal(size=(6, f)).astype(np.float32) for n, f in WIDTHS.items()}
    features = {n: features[n] for n in names}
    present = {n: np.ones(6, bool) for n in names}
    for name, row in missing:
        present[name][row], features[name][row] = False, 0
    return dataset(user, item, 5, 6, features, present)


def dataset(user, item, users=None, items=None, features=None, present=None, **parts) -> Dataset:
    """These training interactions and, unless ``parts`` say otherwise, nothing held out.

    There are as many users and items as the ids, or the features, say. All rows of the features
    are there but where ``present`` says for a modality which are.
    """
    user, item = np.asarray(user, np.int32), np.asarray(item, np.int32)
    features = features or {}
    users = int(user.max()) + 1 if users is None else int(users)
    if items is None:
        items = len(next(iter(features.values()))) if features else item.max() + 1
    items, none = int(items), Interactions(user[:0], item[:0])
    made = dict(
        name="tiny",
        spec=Spec(users, items, feature_dims=tuple((n, x.shape[1]) for n, x in features.items())),
        train=Interactions(user, item),
        valid=none,
        test=none,
        user_ids=np.arange(users),
        item_ids=np.arange(items),
        features=features,
        present={name: np.ones(items, bool) for name in features} | (present or {}),
    )
    return Dataset(**(made | parts))


def difference(ours, theirs) -> float:
    """Largest absolute difference over the largest entry of ``theirs``."""
    ours, theirs = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    assert ours.shape == theirs.shape
    return float(np.abs(ours - theirs).max() / max(np.abs(theirs).max(), 1e-12))
