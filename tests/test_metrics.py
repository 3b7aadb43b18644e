"""Metrics against hand-worked values, a plain restatement and MMRec's own evaluator."""

import math
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from mmrec_jax import metrics
from mmrec_jax.ops import topk
from mmrec_jax.types import Query, UserError

NAMES = ("recall", "ndcg", "precision", "map", "mrr", "hit")
FIXTURE = Path(__file__).parent / "fixtures" / "mmrec_metrics.npz"


def compute(ranks, target, ks, names=NAMES):
    """Metrics of one block as NumPy arrays."""
    ranks, target = jnp.asarray(ranks, jnp.int32), jnp.asarray(target, jnp.int32)
    return {k: np.asarray(v) for k, v in metrics.from_ranks(ranks, target, names, ks).items()}


def test_hand_worked_values():
    # Targets at ranks 0, 3 and 7, in any order; the padding's rank must not matter.
    got = compute([[3, 0, 7, 0]], [[5, 6, 9, -1]], (2, 5))
    log = math.log2
    want = {
        "recall@2": 1 / 3,
        "recall@5": 2 / 3,
        "precision@2": 1 / 2,
        "precision@5": 2 / 5,
        "hit@2": 1,
        "hit@5": 1,
        "mrr@2": 1,
        "mrr@5": 1,
        "ndcg@2": 1 / (1 + 1 / log(3)),
        "ndcg@5": (1 + 1 / log(5)) / (1 + 1 / log(3) + 1 / log(4)),
        "map@2": (1 / 1) / 2,
        "map@5": (1 / 1 + 2 / 4) / 3,
    }
    assert got.keys() == want.keys()
    for name, value in want.items():
        assert got[name].dtype == np.float32
        np.testing.assert_allclose(got[name], [value], rtol=1e-6, err_msg=name)


def test_late_hit_miss_and_no_targets():
    ranks = [[2, topk.ABSENT], [topk.ABSENT, topk.ABSENT], [0, 0]]
    got = compute(ranks, [[1, 4], [1, 4], [-1, -1]], (3,))
    np.testing.assert_allclose(got["mrr@3"], [1 / 3, 0, 0], rtol=1e-6)
    np.testing.assert_allclose(got["hit@3"], [1, 0, 0])
    np.testing.assert_allclose(got["recall@3"], [0.5, 0, 0])
    np.testing.assert_allclose(got["map@3"], [1 / 3 / 2, 0, 0], rtol=1e-6)
    np.testing.assert_allclose(got["ndcg@3"], [0.5 / (1 + 1 / math.log2(3)), 0, 0], rtol=1e-6)


def test_block_without_any_target():
    got = compute(np.zeros((2, 0)), np.zeros((2, 0)), (1, 3))
    assert all(value.tolist() == [0, 0] for value in got.values())


@pytest.mark.parametrize(
    ("names", "ks", "said"),
    [
        (("recall", "ndgc"), (5,), "unknown metric 'ndgc'.*recall, ndcg, precision"),
        (("recall",), (0,), "at least 1, not 0"),
        (("recall",), (2.5,), "whole number"),
        (("recall",), (True,), "whole number"),
    ],
)
def test_unknown_metric_or_cut(names, ks, said):
    with pytest.raises(UserError, match=said):
        compute([[0]], [[0]], ks, names)


def restated(order, held_out, k):
    """All metrics of one user from a ranked list of items and a set, by definition."""
    if not held_out:
        return dict.fromkeys(NAMES, 0.0)
    found = [item in held_out for item in order[:k]]
    best = min(k, len(held_out))
    gains = [1 / math.log2(place + 2) for place in range(k)]
    precisions = [sum(found[: place + 1]) / (place + 1) for place in range(len(found))]
    return {
        "recall": sum(found) / len(held_out),
        "precision": sum(found) / k,
        "hit": float(any(found)),
        "mrr": 1 / (found.index(True) + 1) if any(found) else 0.0,
        "ndcg": sum(g for g, f in zip(gains, found, strict=False) if f) / sum(gains[:best]),
        "map": sum(p for p, f in zip(precisions, found, strict=True) if f) / best,
    }


def block(scores, target, masked_row, masked_item):
    """A query of just what ranking reads."""
    empty, size = jnp.zeros(0, jnp.int32), len(scores)
    return Query(
        user=jnp.arange(size),
        valid=jnp.ones(size, bool),
        target=jnp.asarray(target, jnp.int32),
        history_row=empty,
        history_item=empty,
        masked_row=jnp.asarray(masked_row, jnp.int32),
        masked_item=jnp.asarray(masked_item, jnp.int32),
        sequence=jnp.zeros((size, 0), jnp.int32),
    )


@pytest.mark.parametrize("seed", range(5))
def test_equals_a_plain_restatement(seed):
    rng = np.random.default_rng(seed)
    users, items, ks = 40, 15, (1, 3, 10, 15, 40)  # cuts up to well beyond the catalogue
    scores = rng.integers(0, 4, (users, items)).astype(np.float32)  # ties everywhere
    target = np.full((users, 6), -1)
    masked_row, masked_item, orders, sets = [], [], [], []
    for user in range(users):
        shuffled = rng.permutation(items)
        held_out, seen = np.split(shuffled[: rng.integers(0, 12)], [rng.integers(0, 7)])
        target[user, : len(held_out)] = held_out
        masked_row += [user] * len(seen)
        masked_item += seen.tolist()
        left = sorted(set(range(items)) - set(seen.tolist()))
        orders.append(sorted(left, key=lambda item: (-scores[user, item], item)))  # noqa: B023
        sets.append(set(held_out.tolist()))
    assert not all(sets)  # some users hold nothing out
    query = block(scores, target, masked_row, masked_item)
    ranks = topk.target_ranks(jnp.asarray(scores), query)
    listed = topk.ranks_in(topk.best(jnp.asarray(scores), query, 40)[0], query)
    for got in (compute(ranks, target, ks), compute(listed, target, ks)):
        for k in ks:
            want = [restated(order, held, k) for order, held in zip(orders, sets, strict=True)]
            for name in NAMES:
                expected = [values[name] for values in want]
                np.testing.assert_allclose(got[f"{name}@{k}"], expected, rtol=2e-6, atol=1e-7)


@pytest.mark.parametrize("score", [np.nan, -np.inf])
def test_broken_scores_earn_nothing_at_any_cut(score):
    scores = jnp.full((2, 4), score)
    query = block(scores, [[0, 1], [3, -1]], [], [])
    got = compute(topk.target_ranks(scores, query), query.target, (1, 4, 100))
    assert all(value.tolist() == [0, 0] for value in got.values())


def test_conforms_to_mmrec():
    """The fixture holds what MMRec's TopKEvaluator says of its own scores and split."""
    with np.load(FIXTURE, allow_pickle=False) as stored:
        case = dict(stored)
    scores, row, item = case["scores"], case["test_row"], case["test_col"]
    order = np.argsort(row, kind="stable")
    row, item = row[order], item[order]
    counts = np.bincount(row, minlength=len(scores))
    target = np.full((len(scores), counts.max()), -1)
    target[row, np.arange(len(row)) - np.repeat(np.cumsum(counts) - counts, counts)] = item
    query = block(scores, target, case["train_row"], case["train_col"])
    ks = case["ks"].tolist()
    got = compute(topk.target_ranks(jnp.asarray(scores), query), target, ks)
    for name in ("recall", "ndcg", "precision", "map"):
        for k, want in zip(ks, case[name], strict=True):
            mean = got[f"{name}@{k}"][counts > 0].mean(dtype=np.float64)
            assert mean == pytest.approx(want, abs=1e-6), f"{name}@{k}"
