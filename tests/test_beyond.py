"""Measures beyond accuracy: hand-worked values, plain restatements, and the authors' numbers."""

from pathlib import Path

import numpy as np
import pytest

from mmrec_jax import beyond
from mmrec_jax.types import Dataset, Interactions, Spec

LISTS = np.array([[0, 1], [0, 2]], np.int32)  # of four items: counts 2, 1, 1, 0
COUNTS = np.array([2, 1, 1, 0])
W = 1 / np.log2(3)  # weight of the second place in Gini-w


def approx(original, corrected=None):
    forms = {"original": original} | ({} if corrected is None else {"corrected": corrected})
    return pytest.approx(forms, rel=1e-12)


def test_counts_and_coverage():
    np.testing.assert_array_equal(beyond.counts(LISTS, 4), COUNTS)
    np.testing.assert_array_equal(beyond.counts(np.array([[3, -1], [-1, -1]]), 4), [0, 0, 0, 1])
    assert beyond.coverage(COUNTS) == 0.75


def test_concentration():
    assert beyond.gini(COUNTS) == (-1 + 1 + 3 * 2) / (4 * 4)
    assert beyond.gini(np.full(5, 3)) == 0
    assert beyond.entropy(COUNTS) == 1.5
    assert beyond.relative_entropy(COUNTS) == 0.75


def test_novelty_and_popularity():
    popularity = np.array([4, 2, 1, 0])  # of 4 users: 0, 1, 2 bits, and 2 for the unknown one
    assert beyond.novelty(LISTS, popularity, 4) == (0.5 + 1) / 2
    assert beyond.novelty(np.array([[3, -1], [-1, -1]]), popularity, 4) == 2
    assert beyond.arp(LISTS, popularity) == (3 + 2.5) / 2
    assert beyond.arp(np.array([[0, -1], [1, 2], [-1, -1]]), popularity) == (4 + 1.5) / 2
    head = np.array([True, False, False, False])
    assert beyond.aplt(np.array([[0, 1], [0, -1]]), head) == (0.5 + 0) / 2


def test_popreo():
    head = np.array([1, 1, 0, 0, 0, 0], bool)
    assert beyond.popreo(np.array([1, 0, 1, 0, 0, 0], bool), head) == pytest.approx(1 / 3)
    assert beyond.popreo(np.array([1, 0, 0, 0, 0, 0], bool), head) == 1
    assert beyond.popreo(np.array([1, 0, 1, 1, 0, 0], bool), head) == 0
    assert np.isnan(beyond.popreo(np.zeros(6, bool), head))
    assert np.isnan(beyond.popreo(np.ones(6, bool), np.ones(6, bool)))


def test_diversity():
    features = np.array([[1.0, 0], [0, 2], [3, 3], [-1, 0]], np.float32)
    present = np.ones(4, bool)
    cosine = np.sqrt(0.5)
    diversity = lambda *lists: beyond.diversity(np.array(lists), features, present)
    assert diversity([0, 1], [0, 2]) == pytest.approx((1 + 1 - cosine) / 2, abs=1e-6)
    assert diversity([0, 1, 2]) == pytest.approx(1 - 2 * cosine / 3, abs=1e-6)
    assert diversity([0, 3]) == pytest.approx(2, abs=1e-6)
    assert diversity([0, -1, 2], [1, -1, -1]) == pytest.approx(1 - cosine, abs=1e-6)
    present[1] = False
    assert diversity([0, 1], [0, 2]) == pytest.approx(1 - cosine, abs=1e-6)
    features[2] = 0
    assert np.isnan(diversity([0, 1], [0, 2]))


def test_diversity_of_wide_features_equals_a_plain_mean_over_pairs():
    rng = np.random.default_rng(0)
    features = rng.normal(size=(30, 300)).astype(np.float32) + 0.5
    lists = np.stack([rng.permutation(30)[:6] for _ in range(9)])
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    pairs = np.triu_indices(6, 1)
    plain = [1 - (unit[a] @ unit[a].T)[pairs].mean() for a in lists]
    assert beyond.diversity(lists, features, np.ones(30, bool)) == pytest.approx(np.mean(plain))


def test_fairness_by_hand():
    found = beyond.fairness(LISTS, 4)
    # Scaled between two items listed twice and all four listed once.
    assert found["jain"] == approx(16 / (4 * 6), (2 / 3 - 1 / 2) / (1 - 1 / 2))
    assert found["qf"] == approx(3 / 4, (3 - 2) / (4 - 2))
    assert found["entropy"] == approx(1.5 / 2, (0.75 - 0.5) / (1 - 0.5))
    assert found["fsat"] == approx(3 / 4, (3 / 4 - 2 / 4) / (1 - 2 / 4))
    assert found["gini"] == approx(6 / 16, (6 / 16) / (1 - 2 / 4))
    # Exposures 0, W, W, 2; the fairest W, W, 1, 1; the unfairest 0, 0, 2 W, 2.
    assert found["gini_w"] == approx(
        6 / (4 * (2 + 2 * W)), (6 - 4 + 4 * W) / (6 + 2 * W - 4 + 4 * W)
    )
    assert found["vocd"] == approx((1 / 2 + 1 / 2 + 0) / 3)
    # Exposures 1, 0.8 in each list, 1.8 / 4 on average; by item 1, 0.4, 0.4, 0.
    assert found["ii_d"] == approx(1.64 / 4 - 0.45**2)
    assert found["ai_d"] == approx((1 + 0.16 + 0.16) / 4 - 0.45**2)


HIGHER = ("jain", "qf", "entropy", "fsat")
LOWER = ("gini", "gini_w")


@pytest.mark.parametrize("lengths", [(4, 4, 4), (4, 2, 3)])
def test_lists_that_are_alike_are_the_unfairest(lengths):
    lists = np.where(np.arange(4)[None] < np.array(lengths)[:, None], [[5, 2, 6, 0]], -1)
    found = beyond.fairness(lists, 9)  # at least one place for each item
    assert [found[name]["corrected"] for name in HIGHER] == pytest.approx([0] * 4, abs=1e-12)
    assert [found[name]["corrected"] for name in LOWER] == pytest.approx([1] * 2)
    assert found["ai_d"]["original"] == pytest.approx(found["ii_d"]["original"]) or lengths[1] < 4


@pytest.mark.parametrize("num_items", [6, 8])
def test_lists_that_share_nothing_are_the_fairest(num_items):
    found = beyond.fairness(np.array([[0, 3], [4, 1], [2, 5]]), num_items)
    assert [found[name]["corrected"] for name in HIGHER] == pytest.approx([1] * 4)
    assert [found[name]["corrected"] for name in LOWER] == pytest.approx([0] * 2, abs=1e-12)


def test_more_places_than_items():
    found = beyond.fairness(np.array([[0, 1], [1, 2], [2, 0], [0, 1]]), 3)  # counts 3, 3, 2
    assert found["fsat"] == approx(1.0, 1.0)  # 8 // 3 = 2
    assert found["jain"]["corrected"] == pytest.approx(1)
    assert found["gini"]["corrected"] == pytest.approx(0, abs=1e-12)
    assert found["gini_w"]["original"] > 0 and found["gini_w"]["corrected"] > 0


def test_undefined_where_lists_cannot_differ():
    found = beyond.fairness(np.array([[0, 1], [1, 0]]), 2)
    for name in (*HIGHER, "gini"):
        assert np.isnan(found[name]["corrected"]), name
    wider = beyond.fairness(np.array([[0, 1, -1], [1, 0, -1]]), 2)  # K above the catalogue
    np.testing.assert_equal(wider, found)
    assert np.isnan(beyond.vocd(np.array([0, 3])))
    empty = beyond.fairness(np.full((2, 3), -1), 4)
    assert np.isnan(empty["jain"]["original"]) and np.isnan(empty["gini_w"]["corrected"])


def test_disparities_equal_the_dense_forms():
    rng = np.random.default_rng(1)
    lists = np.argsort(rng.random((7, 12)), axis=1)[:, :5]
    lists[3, 2:], lists[5] = -1, -1  # one list is short, one is empty and does not count
    dense = np.zeros((7, 12))
    rows, places = np.nonzero(lists >= 0)
    dense[rows, lists[rows, places]] = 0.8**places
    dense = np.delete(dense, 5, axis=0)
    mean = dense.mean()
    assert beyond.ii_d(lists, 12) == pytest.approx(((dense - mean) ** 2).mean())
    assert beyond.ai_d(lists, 12) == pytest.approx(((dense.mean(0) - mean) ** 2).mean())
    count = beyond.counts(lists, 12)
    listed = count[count > 0]
    pairs = [abs(a - b) / max(a, b) for n, a in enumerate(listed) for b in listed[n + 1 :]]
    assert beyond.vocd(count) == pytest.approx(np.mean(pairs))


@pytest.mark.parametrize("case", ["many", "few", "even"])
def test_fairness_equals_the_authors(case):
    """What theresiavr/individual-item-fairness-measures-recsys at 6c594f28 returned."""
    stored = np.load(Path(__file__).parent / "fixtures" / "fairness.npz", allow_pickle=False)
    lists = stored[f"{case}_lists"]
    found = beyond.fairness(lists, {"many": 20, "few": 40, "even": 16}[case])
    for name, forms in found.items():
        expected = stored[f"{case}_{name}"]
        same = np.array(list(forms.values()))
        if name == "entropy" and np.isnan(expected[0]):  # theirs, with an item never listed
            same, expected = same[1:], expected[1:]
        np.testing.assert_allclose(same, expected, rtol=1e-12, err_msg=name)


def test_measure_of_a_data_set():
    pairs = lambda *p: Interactions(*np.array(p, np.int32).reshape(-1, 2).T)
    data = Dataset(
        "small",
        Spec(3, 4),
        train=pairs((0, 0), (1, 0), (1, 1), (0, 2)),
        valid=pairs(),
        test=pairs((0, 0), (1, 2), (1, 3), (2, 0)),
        user_ids=np.arange(3),
        item_ids=np.arange(4),
        features={"image": np.eye(4, dtype=np.float32)},
        present={"image": np.ones(4, bool)},
    )
    found = beyond.measure(data, np.array([0, 1]), LISTS)
    assert found["k"] == 2 and found["diversity"] == {"image": pytest.approx(1)}
    assert found["novelty"] == (0 + 1 + 0 + 1) / 4  # two users train
    assert found["aplt"] == 0.5 and found["arp"] == 1.5
    assert found["popreo"] == pytest.approx(1 / 3)  # 1 of 1 in the head, 1 of 2 in the tail
    assert found["coverage"] == found["fairness"]["qf"]["original"] == 0.75
    assert found["gini"] == found["fairness"]["gini"]["original"]
