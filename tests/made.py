"""Small data sets that tests make, and how far results are apart."""

from __future__ import annotations

import numpy as np

from mmrec_jax.types import Dataset, Interactions, Spec


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
