"""Beyond accuracy: what lists recommend, whatever their users wanted.

Coverage, concentration, novelty, diversity, popularity bias, and individual item fairness: how
evenly single items are exposed. The letters of the docstrings: n items, m lists of K places, c_i
how often item i is listed, s = sum of c_i (mK if all lists are full), p_i its training
interactions. Empty places hold -1 and expose nothing; lists without any item are left out.

The fairness measures are those of Rampisela et al., "Evaluation Measures of Individual Item
Fairness for Recommender Systems: A Critical Study" (TORS 2023, arXiv:2311.01013), in their original
form and, where the authors correct them, in the corrected one: scaled so that the least and the
most even exposure that lists of this size can have stand at the ends 0 and 1. The unfairest lists
are all alike; the fairest ones expose all items equally often, or nearly so where s is no multiple
of n. Corrected values are NaN where both are the same, as with K = n.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy import sparse

from mmrec_jax import slices
from mmrec_jax.types import Dataset

PATIENCE = 0.8  # chance that a reader goes on to the next place, in II-D and AI-D
_COLUMNS = 128  # features taken at a time: their rows stay in the cache


def measure(data: Dataset, users: np.ndarray, lists: np.ndarray) -> dict:
    """All measures of the test lists.

    Args:
      data: the data set.
      users: int [Q], whose lists these are.
      lists: int32 [Q, K], the best items of each, best first; -1 where there is none.

    Returns:
      Values by name; ``diversity`` by modality; ``fairness`` by measure and form (original,
      corrected).
    """
    popularity = data.train.item_counts(data.spec.num_items)
    trained = int((data.train.user_counts(data.spec.num_users) > 0).sum())
    head = slices.popularity(popularity) == 0
    count = counts(lists, data.spec.num_items)
    row, item = slices.targets(data.test, users)
    hit = slices.ranks(row, item, lists) < lists.shape[1]
    return {
        "k": lists.shape[1],
        "coverage": coverage(count),
        "gini": gini(count),
        "entropy": entropy(count),
        "novelty": novelty(lists, popularity, trained),
        "diversity": {
            name: diversity(lists, values, data.present[name])
            for name, values in data.features.items()
        },
        "arp": arp(lists, popularity),
        "aplt": aplt(lists, head),
        "popreo": popreo(hit, head[item]),
        "fairness": fairness(lists, data.spec.num_items),
    }


def counts(lists: np.ndarray, num_items: int) -> np.ndarray:
    """How often each item is listed, int [I]."""
    return np.bincount(lists[lists >= 0], minlength=num_items)


def coverage(count: np.ndarray) -> float:
    """Share of the items that are listed for anyone. From 0 to 1; higher is broader."""
    return float((count > 0).mean())


def gini(exposure: np.ndarray) -> float:
    """Gini index: mean difference of two items' exposures over twice their mean.

    With exposures in rising order, sum over j of (2j - n - 1) x_j, over n times their sum. From 0
    (all alike) to 1 - 1/n (one item has all); lower is fairer.
    """
    rising, n = np.sort(exposure), len(exposure)
    place = 2.0 * np.arange(1, n + 1) - n - 1
    return _ratio((place * rising).sum(), n * rising.sum())


def entropy(count: np.ndarray) -> float:
    """Shannon entropy of the items' shares c_i / s, in bits. From 0 to log2 n; higher is fairer."""
    share = count[count > 0] / max(count.sum(), 1)
    return float(-(share * np.log2(share)).sum())


def novelty(lists: np.ndarray, popularity: np.ndarray, num_users: int) -> float:
    """Mean self-information of what is listed, log2(users / p_i) bits (Zhou et al., PNAS 2010).

    From 0 (everyone has it) to log2(users); higher is more novel. The users are those with training
    interactions; an item nobody has counts like one that a single user has.
    """
    return _mean_over_lists(lists, np.log2(num_users / np.maximum(popularity, 1)))


def arp(lists: np.ndarray, popularity: np.ndarray) -> float:
    """Average recommendation popularity: mean p_i of a list, averaged over lists.

    From 0 on; lower is less biased to popular items. As in Abdollahpouri et al., FLAIRS 2019.
    """
    return _mean_over_lists(lists, popularity)


def aplt(lists: np.ndarray, head: np.ndarray) -> float:
    """Average percentage of long-tail items: their share of a list, averaged over lists.

    From 0 to 1; higher is less biased to popular items. Long tail is all that is not in the head
    (:func:`slices.popularity`), cold items too. As in Abdollahpouri et al., FLAIRS 2019.
    """
    return _mean_over_lists(lists, ~head)


def popreo(hit: np.ndarray, head: np.ndarray) -> float:
    """Ranking-based equal opportunity of head and long tail (Zhu et al., SIGIR 2020).

    The chance that a target is listed, taken over the targets in the head and over the others; then
    standard deviation over mean of the two chances. From 0 to 1; lower is fairer: 1 means that one
    group is never hit. NaN without hits, or without targets of one group.

    Args:
      hit: bool [E], whether a target is listed.
      head: bool [E], whether it is in the head.
    """
    if head.all() or not head.any():
        return float("nan")
    chance = np.array([hit[head].mean(), hit[~head].mean()])
    return _ratio(chance.std(), chance.mean())


def diversity(lists: np.ndarray, features: np.ndarray, present: np.ndarray) -> float:
    """Intra-list diversity: mean of 1 - cosine over the pairs of a list, averaged over lists.

    From 0 (all point the same way) to 2, for features without negative entries to 1; higher is more
    diverse. Items without a feature row are left out, and lists with fewer than two others. As in
    Ziegler et al., WWW 2005, and Zhang and Hurley, RecSys 2008.

    Args:
      lists: int [Q, K].
      features: float [I, F].
      present: bool [I].
    """
    length = np.linalg.norm(features, axis=1)
    usable = (lists >= 0) & (present & (length > 0))[lists]
    lists, usable = lists[usable.sum(1) > 1], usable[usable.sum(1) > 1]
    if not len(lists):
        return float("nan")
    size = usable.sum(1)
    begin = np.concatenate([[0], np.cumsum(size)])
    item = lists[usable]
    weight = (1 / length[item]).astype(np.float32)
    rows = sparse.csr_matrix((weight, item, begin), shape=(len(lists), len(features)))
    square = np.zeros(len(lists))  # of the sum of a list's unit vectors: its size and all cosines
    for start in range(0, features.shape[1], _COLUMNS):
        total = rows @ np.ascontiguousarray(features[:, start : start + _COLUMNS])
        square += np.einsum("qf,qf->q", total, total)
    return float((1 - (square - size) / (size * (size - 1))).mean())


def fairness(lists: np.ndarray, num_items: int) -> dict[str, dict[str, float]]:
    """Every measure of individual item fairness, in its original and its corrected form."""
    count = counts(lists, num_items)
    even = np.full(num_items, count.sum() // num_items)
    even[: count.sum() % num_items] += 1
    alike = _alike(lists, num_items, np.ones(lists.shape[1]))

    def both(value: Callable[[np.ndarray], float], low: np.ndarray, high: np.ndarray):
        original = value(count)
        return {"original": original, "corrected": _scaled(original, value(low), value(high))}

    return {
        "jain": both(jain, alike, even),
        "qf": both(coverage, alike, even),
        "entropy": both(relative_entropy, alike, even),
        "fsat": fsat(lists, num_items),
        "gini": both(gini, even, alike),
        "gini_w": gini_w(lists, num_items),
        "vocd": {"original": vocd(count)},
        "ii_d": {"original": ii_d(lists, num_items)},
        "ai_d": {"original": ai_d(lists, num_items)},
    }


def jain(count: np.ndarray) -> float:
    """Jain's index: square of s, over n times the sum of squared c_i.

    From K/n to 1; higher is fairer. Jain, Chiu and Hawe, DEC-TR-301, 1984.
    """
    return _ratio(float(count.sum()) ** 2, len(count) * (count.astype(float) ** 2).sum())


def relative_entropy(count: np.ndarray) -> float:
    """Entropy of the shares c_i / s over its largest value, log n. From 0 to 1; higher is fairer.

    An item that is never listed adds nothing. In the authors' code it makes the original form
    undefined, and only the corrected form takes this limit.
    """
    return _ratio(entropy(count), np.log2(len(count)))


def fsat(lists: np.ndarray, num_items: int) -> dict[str, float]:
    """Fraction of satisfied items: those listed at least s // n times (Patro et al., WWW 2020).

    From K/n, which the corrected form maps to 0, to 1; higher is fairer. Always 1 where there are
    fewer places than items, as every item has its share of zero.
    """
    count = counts(lists, num_items)
    original = float((count >= count.sum() // num_items).mean())
    lowest = (_alike(lists, num_items, np.ones(lists.shape[1])) > 0).mean()
    return {"original": original, "corrected": _scaled(original, lowest, 1.0)}


def gini_w(lists: np.ndarray, num_items: int) -> dict[str, float]:
    """Gini index of exposures in which place l, from 1, counts 1 / log2(l + 1).

    From near 0 to 1; lower is fairer. The corrected form takes as fairest that every place shows
    another item, or 0 where there are more places than items.
    """
    weight = 1 / np.log2(np.arange(lists.shape[1]) + 2)
    original = gini(_exposure(lists, num_items, weight))
    alone = np.broadcast_to(weight, lists.shape)[lists >= 0]
    spare = num_items - len(alone)
    lowest = gini(np.pad(alone, (0, spare))) if spare >= 0 else 0.0
    highest = gini(_alike(lists, num_items, weight))
    return {"original": original, "corrected": _scaled(original, lowest, highest)}


def vocd(count: np.ndarray) -> float:
    """Violation of coverage disparity: mean of |c_i - c_j| / max(c_i, c_j) over listed pairs.

    From 0 to 1; lower is fairer. Items that are not listed do not count, so that lists which are
    all alike have the best value; NaN with a single listed item. As in the authors' code, any two
    items count as similar. The authors give no corrected form.
    """
    rising = np.sort(count[count > 0]).astype(float)
    n = len(rising)
    # With counts in rising order a pair i < j has 1 - c_i / c_j: sums of all c_i before each j do.
    before = np.cumsum(rising) - rising
    return _ratio((np.arange(n) - before / rising).sum(), n * (n - 1) / 2)


def ii_d(lists: np.ndarray, num_items: int) -> float:
    """Individual-user-to-individual-item disparity (Wu et al., SIGIR 2022).

    Mean over users and items of (e - a)², where e is the item's exposure to the user, 0.8^(l - 1)
    at place l, and a their mean over all, what random lists give. From 0 on; lower is fairer; as
    lists expose each place to one item, all full lists of K have the same value. The authors of the
    study give no corrected form.
    """
    lists = lists[(lists >= 0).any(1)]
    squares = _places(lists) @ PATIENCE ** (2.0 * np.arange(lists.shape[1]))
    mean = _places(lists) @ PATIENCE ** np.arange(lists.shape[1])
    pairs = len(lists) * num_items
    return _ratio(squares, pairs) - _ratio(mean, pairs) ** 2


def ai_d(lists: np.ndarray, num_items: int) -> float:
    """All-users-to-individual-item disparity (Wu et al., SIGIR 2022).

    Mean over items of (e_i - a)², with e_i the mean over users of the exposure as in
    :func:`ii_d`: the variance of e_i. From 0 to II-D, which it is when all lists are alike; lower
    is fairer. The authors of the study give no corrected form.
    """
    lists = lists[(lists >= 0).any(1)]
    weight = PATIENCE ** np.arange(lists.shape[1])
    return float((_exposure(lists, num_items, weight) / max(len(lists), 1)).var())


def _exposure(lists: np.ndarray, num_items: int, weight: np.ndarray) -> np.ndarray:
    """Sum of the weights [K] of the places that list each item, float [I]."""
    taken = lists >= 0
    weights = np.broadcast_to(weight, lists.shape)[taken]
    return np.bincount(lists[taken], weights, minlength=num_items)


def _alike(lists: np.ndarray, num_items: int, weight: np.ndarray) -> np.ndarray:
    """Exposures [I] if these lists, as long as they are, named all the same items in one order."""
    places = (_places(lists) * weight)[:num_items]
    return np.pad(places, (0, num_items - len(places)))


def _places(lists: np.ndarray) -> np.ndarray:
    """How many lists have an item at each place, int [K]."""
    return (lists >= 0).sum(0)


def _scaled(value: float, low: float, high: float) -> float:
    """``value`` on the scale on which ``low`` is 0 and ``high`` is 1; NaN where they are equal."""
    return float("nan") if np.isclose(low, high, 1e-9, 0) else float((value - low) / (high - low))


def _ratio(part: float, whole: float) -> float:
    return float(part / whole) if whole else float("nan")


def _mean_over_lists(lists: np.ndarray, value: np.ndarray) -> float:
    """Mean over lists of the mean of ``value`` [I] over their items."""
    taken = lists >= 0
    size = taken.sum(1)
    total = np.where(taken, value[lists], 0).sum(1)
    return float((total[size > 0] / size[size > 0]).mean()) if size.any() else float("nan")
