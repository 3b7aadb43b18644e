"""Ranking: masks, lists, exact ranks and neighbour graphs against plain NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmrec_jax.ops import topk
from mmrec_jax.types import Query


def make_query(target, masked=(), spare=2):
    """A query whose masked pairs are padded with ``spare`` pairs of row number B."""
    target = np.asarray(target, np.int32)
    size = len(target)
    pairs = np.array([*masked, *[(size, 0)] * spare], np.int32).reshape(-1, 2)
    none = jnp.zeros(0, jnp.int32)
    return Query(
        user=jnp.arange(size),
        valid=jnp.ones(size, bool),
        target=jnp.asarray(target),
        history_row=none,
        history_item=none,
        masked_row=jnp.asarray(pairs[:, 0]),
        masked_item=jnp.asarray(pairs[:, 1]),
        sequence=jnp.zeros((size, 0), jnp.int32),
    )


def ordered(scores, masked):
    """Plain restatement of the order for one query without NaN: the items, best first."""
    items = [i for i in range(len(scores)) if i not in masked and scores[i] > -np.inf]
    return sorted(items, key=lambda i: (-scores[i], i))


def test_hand_worked_block():
    scores = jnp.array([[0.5, 2.0, 2.0, -1.0, 2.0], [0.0, -0.0, 0.0, 3.0, -0.0]])
    query = make_query([[4, 3, -1], [1, 3, -1]], masked=[(0, 1), (1, 3)])
    # Query 0: item 1 is out, 2 and 4 tie, then 0, then 3. Query 1: all zeros are equal.
    np.testing.assert_array_equal(topk.best(scores, query, 4)[0], [[2, 4, 0, 3], [0, 1, 2, 4]])
    np.testing.assert_array_equal(
        topk.target_ranks(scores, query),
        [[1, 3, topk.ABSENT], [1, topk.ABSENT, topk.ABSENT]],
    )


def test_padding_pairs_mask_nothing():
    scores = jnp.arange(6.0).reshape(2, 3)
    np.testing.assert_array_equal(topk.mask(scores, make_query([[0], [0]], spare=5)), scores)


def test_lists_longer_than_the_catalogue_are_padded():
    query = make_query([[0], [0]], masked=[(1, 0), (1, 1), (1, 2)])
    lists = topk.best(jnp.array([[1.0, 3.0, 2.0], [1.0, 3.0, 2.0]]), query, 5)[0]
    assert lists.dtype == jnp.int32
    np.testing.assert_array_equal(lists, [[1, 2, 0, -1, -1], [-1] * 5])


@pytest.mark.parametrize("bad", [np.nan, -np.nan])
def test_nan_is_never_a_hit_and_never_helps(bad):
    scores = jnp.array([[bad, 1.0, bad, 2.0], [bad] * 4], jnp.float32)
    query = make_query([[0, 3, 1], [0, 1, 2]])
    ranks = np.asarray(topk.target_ranks(scores, query))
    np.testing.assert_array_equal(ranks[0], [topk.ABSENT, 2, 3])
    np.testing.assert_array_equal(ranks[1], [topk.ABSENT] * 3)
    np.testing.assert_array_equal(topk.best(scores, query, 4)[0], [[-1, -1, 3, 1], [-1] * 4])


def test_infinite_scores():
    scores = jnp.array([[-jnp.inf, 0.0, jnp.inf, jnp.inf]])
    query = make_query([[0, 1, 3]])
    np.testing.assert_array_equal(topk.best(scores, query, 4)[0], [[2, 3, 1, -1]])
    np.testing.assert_array_equal(topk.target_ranks(scores, query), [[topk.ABSENT, 2, 1]])


def test_targets_need_not_be_packed_to_the_left():
    scores = jnp.array([[3.0, 2.0, 1.0]])
    ranks = topk.target_ranks(scores, make_query([[-1, 2, -1, 0]]))
    np.testing.assert_array_equal(ranks, [[topk.ABSENT, 2, topk.ABSENT, 0]])


def test_ranks_in_given_lists():
    lists = jnp.array([[4, 2, 4, -1], [-1, 0, 1, 3]])
    ranks = topk.ranks_in(lists, make_query([[4, 2, 0], [3, -1, 0]]))
    np.testing.assert_array_equal(ranks, [[0, 1, topk.ABSENT], [3, topk.ABSENT, 1]])


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_ranks_are_places_in_the_sorted_list(data):
    # Few distinct values, so that most scores tie; fixed shapes, so that nothing recompiles.
    size, items, width = 3, 12, 5
    value = st.sampled_from([-np.inf, -1.0, -0.0, 0.0, 0.5, 1.0, np.inf])
    scores = data.draw(
        st.lists(st.lists(value, min_size=items, max_size=items), min_size=3, max_size=3)
    )
    number = st.integers(0, items - 1)
    target = np.full((size, width), -1)
    masked = [set(data.draw(st.lists(number, max_size=4))) for _ in range(size)]
    for row in range(size):
        held_out = data.draw(st.lists(number, max_size=width, unique=True))
        target[row, : len(held_out)] = held_out
    pairs = [(row, item) for row, out in enumerate(masked) for item in out]
    query = make_query(target, pairs, spare=size * 4 - len(pairs))
    scores = np.array(scores, np.float32)
    ranks = np.asarray(RANKS(scores, query))
    lists = np.asarray(BEST(scores, query))
    for row in range(size):
        order = ordered(scores[row], masked[row])
        assert lists[row].tolist() == order + [-1] * (items + 2 - len(order))
        for place, item in enumerate(target[row]):
            expected = order.index(item) if item in order else topk.ABSENT
            assert ranks[row, place] == expected
    np.testing.assert_array_equal(ranks, topk.ranks_in(lists, query))


RANKS = jax.jit(topk.target_ranks)
BEST = jax.jit(lambda scores, query: topk.best(scores, query, 14)[0])


def dense_knn(features, k, present):
    """Neighbour graph through the whole matrix in float64."""
    length = np.linalg.norm(features, axis=1, keepdims=True)
    unit = np.divide(features, length, out=np.zeros_like(features), where=length > 0)
    similarity = np.where(present, unit @ unit.T, -np.inf)
    col = np.argsort(-similarity, axis=1, kind="stable")[:, : min(k, present.sum())]
    row = np.broadcast_to(np.arange(len(features))[:, None], col.shape)[present]
    return row.ravel(), col[present].ravel(), similarity[row, col[present]].ravel()


@pytest.mark.parametrize("block", [1, 7, 64, 1000])
def test_knn_equals_the_dense_graph(block):
    rng = np.random.default_rng(0)
    features = rng.normal(size=(101, 16))
    present = rng.random(101) > 0.2
    got = topk.knn(features.astype(np.float32), 6, present, block=block)
    want = dense_knn(features, 6, present)
    assert [a.dtype for a in got] == [np.int32, np.int32, np.float32]
    np.testing.assert_array_equal(got[0], want[0])
    np.testing.assert_array_equal(got[1], want[1])
    np.testing.assert_allclose(got[2], want[2], atol=1e-6)
    own = got[0] == got[1]
    np.testing.assert_array_equal(got[0][own], np.flatnonzero(present))


def test_knn_breaks_ties_by_smaller_item():
    # Small integers over powers of two are exact, so equal similarities are equal bits.
    features = np.array([[1, 0], [0, 2], [4, 0], [0, 1], [-1, 0], [2, 0]], np.float32)
    row, col, similarity = topk.knn(features, 4, block=4)
    np.testing.assert_array_equal(
        col.reshape(6, 4),
        [[0, 2, 5, 1], [1, 3, 0, 2], [0, 2, 5, 1], [1, 3, 0, 2], [4, 1, 3, 0], [0, 2, 5, 1]],
    )
    np.testing.assert_array_equal(row, np.repeat(np.arange(6), 4))
    np.testing.assert_array_equal(similarity[:4], [1, 1, 1, 0])


def test_knn_of_repeated_rows_lists_the_smaller_items():
    rng = np.random.default_rng(1)
    features = np.tile(rng.normal(size=(40, 64)).astype(np.float32), (5, 1))  # i, i+40, i+80 …
    _, col, _ = topk.knn(features, 3, block=32)
    np.testing.assert_array_equal(
        col.reshape(200, 3), np.tile(np.arange(40)[:, None] + [0, 40, 80], (5, 1))
    )


def test_knn_with_zero_rows_and_more_neighbours_than_items():
    features = np.array([[0, 0], [3, 0], [1e-30, 1e-30], [1e30, 0]], np.float32)
    present = np.array([True, True, True, False])
    row, col, similarity = topk.knn(features, 10, present)
    np.testing.assert_array_equal(row, np.repeat([0, 1, 2], 3))
    np.testing.assert_array_equal(col, [0, 1, 2, 1, 2, 0, 2, 1, 0])
    half = 0.5**0.5
    np.testing.assert_allclose(similarity, [0, 0, 0, 1, half, 0, 1, half, 0], atol=1e-6)


def test_knn_of_nothing_present_is_empty():
    row, col, similarity = topk.knn(np.ones((3, 2), np.float32), 2, np.zeros(3, bool))
    assert row.size == col.size == similarity.size == 0


@pytest.mark.parametrize("block", [2, 512])
def test_nearest_lists_present_rows_inside_jit(block):
    rows = jnp.array([[1.0, 0.0], [0.6, 0.8], [0.0, 1.0], [0.8, 0.6]])
    present = jnp.array([True, True, False, True])
    run = jax.jit(topk.nearest, static_argnums=(2, 3))
    value, row = run(rows, present, 4, block)
    np.testing.assert_array_equal(row[:2, :3], [[0, 3, 1], [1, 3, 0]])
    np.testing.assert_allclose(value[0], [1.0, 0.8, 0.6, -np.inf], rtol=1e-6)
    assert not jax.grad(lambda x: run(x, present, 3, block)[0].sum())(rows).any()
