"""Made-up data of the sizes of well-known sets: the degrees are real-looking, the tastes are not.

Users and items have a least number of interactions each and a power-law tail; who meets whom is
left to chance. Speed depends on sizes and degrees alone, so that nothing has to be downloaded.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from mmrec_jax.types import Dataset, Interactions, Spec, UserError

FEATURES = {"image": 4096, "text": 384}
_FACTORS = 16  # width of what the features are made from
_NOISE = 0.5  # deviation of their noise; what they show has 1


@dataclasses.dataclass(frozen=True)
class Size:
    """How large a data set is.

    Attributes:
      num_users, num_items: U and I.
      train, valid, test: interactions of each part, in all at least ``least`` per user and item.
      least: fewest interactions of a user and of an item, no less than 3.
      by_time: whether interactions have a time, and the last ones are held out.
    """

    num_users: int
    num_items: int
    train: int
    valid: int
    test: int
    least: int = 5
    by_time: bool = False


SIZES = {
    "baby": Size(19_445, 7_050, 118_551, 20_559, 21_682),
    "sports": Size(35_598, 18_357, 218_409, 37_899, 40_029),
    "amazon-book": Size(52_643, 91_599, 2_380_730, 0, 603_378, least=10),
    "beauty": Size(22_363, 12_101, 153_776, 22_363, 22_363, by_time=True),
}


def synthetic(size: str | Size, with_features: bool = False, seed: int = 0) -> Dataset:
    """A data set of ``size``, the same for the same seed; every user trains.

    Args:
      size: a name in ``SIZES``, or a size of your own.
      with_features: whether items get an image of width 4096 and a text of width 384.
      seed: of all that is drawn.

    Raises:
      UserError: an unknown name, or fewer interactions than ``least`` asks for.
    """
    name = size if isinstance(size, str) else "synthetic"
    if isinstance(size, str):
        if size not in SIZES:
            raise UserError(f"there is no size {size!r}; use one of {', '.join(SIZES)}")
        size = SIZES[size]
    rng = np.random.default_rng(seed)
    total = size.train + size.valid + size.test
    user_degree = _degrees(rng, size.num_users, total, size.least)
    item_degree = _degrees(rng, size.num_items, total, size.least)
    user = np.repeat(np.arange(size.num_users), user_degree)
    item = _match(rng, user, np.repeat(np.arange(size.num_items), item_degree), size.num_items)
    label = _labels(user, user_degree, size)
    time = np.arange(total) if size.by_time else None  # rises within a user
    every = Interactions(user.astype(np.int32), item.astype(np.int32), time)
    features = {
        modality: random_features(size.num_items, width, seed)
        for modality, width in FEATURES.items()
        if with_features
    }
    return Dataset(
        name=name,
        spec=Spec(
            size.num_users,
            size.num_items,
            feature_dims=tuple((m, x.shape[1]) for m, x in features.items()),
        ),
        train=every.take(label == 0),
        valid=every.take(label == 1),
        test=every.take(label == 2),
        user_ids=np.arange(size.num_users),
        item_ids=np.arange(size.num_items),
        features=features,
        present={modality: np.ones(size.num_items, bool) for modality in features},
        notes={"source": "synthetic", "seed": seed},
    )


def random_features(num_items: int, width: int, seed: int = 0) -> np.ndarray:
    """Projected factors with noise, float32 [num_items, width]."""
    rng = np.random.default_rng([seed, width])
    draw = lambda *shape: rng.standard_normal(shape, dtype=np.float32)
    features = draw(num_items, width)
    features *= _NOISE
    features += draw(num_items, _FACTORS) @ (draw(_FACTORS, width) / np.sqrt(_FACTORS))
    return features


def _degrees(rng, count: int, total: int, least: int) -> np.ndarray:
    """Degrees int64 [count] that add up to ``total``: ``least`` each and a power law's share."""
    if total < count * least:
        raise UserError(f"{total} interactions are too few for {count} with {least} each")
    # The shift keeps the largest degree where real sets of these sizes have it.
    weight = 1.0 / (np.arange(count) + 1 + max(count / 200, 10))
    share = rng.multinomial(total - count * least, weight / weight.sum())
    return least + rng.permutation(share)


def _match(rng, user: np.ndarray, item: np.ndarray, num_items: int) -> np.ndarray:
    """An order of ``item`` in which no pair with ``user`` occurs twice; int64 [E].

    Raises:
      UserError: if none was found, because the interactions fill too much of the matrix.
    """
    item = rng.permutation(item)
    for _ in range(100):
        key = user * num_items + item
        order = np.argsort(key, kind="stable")
        repeated = order[1:][key[order[1:]] == key[order[:-1]]]
        if not repeated.size:
            return item
        others = rng.integers(len(item), size=repeated.size)
        shuffled = np.union1d(repeated, others)
        item[shuffled] = item[rng.permutation(shuffled)]
    raise UserError("the interactions fill too much of the matrix; take more users or items")


def _labels(user: np.ndarray, degree: np.ndarray, size: Size) -> np.ndarray:
    """0 train, 1 valid, 2 test, int8 [E]: of each user's interactions the last are held out.

    Every user has one of each where the counts allow it; the rest falls on long histories.
    """
    end = np.cumsum(degree)[user] - 1 - np.arange(len(user))
    label, taken = np.zeros(len(user), np.int8), np.zeros(len(degree), np.int64)
    for value, count in ((2, size.test), (1, size.valid)):
        each = int(count >= len(degree))
        share = each + _shares(count - each * len(degree), degree - size.least)
        label[(end >= taken[user]) & (end < (taken + share)[user])] = value
        taken += share
    return label


def _shares(count: int, weight: np.ndarray) -> np.ndarray:
    """Whole numbers in proportion to ``weight`` that add up to ``count``, largest remainders up."""
    exact = count * weight / max(weight.sum(), 1)
    whole = np.floor(exact).astype(np.int64)
    up = np.argsort(whole - exact, kind="stable")[: count - whole.sum()]
    whole[up] += 1
    return whole
