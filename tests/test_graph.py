"""Sparse products: against dense ones, forwards and backwards, on awkward graphs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmrec_jax.ops import graph


def skewed_graph(seed, num_users=60, num_items=25, edges=500):
    """Distinct pairs with a heavy head, so that some rows need chunks and some are empty."""
    rng = np.random.default_rng(seed)
    item = np.minimum((rng.pareto(1.0, edges) * 3).astype(int), num_items - 2)  # the last is bare
    pairs = np.unique(rng.integers(0, num_users, edges) * num_items + item)
    return pairs // num_items, pairs % num_items


@pytest.mark.parametrize("widest,bucket_cost", [(2, 0), (4, 30), (32, 3000), (3, 10**9)])
@pytest.mark.parametrize("square", [True, False])
def test_product_and_gradient_equal_the_dense_ones(monkeypatch, widest, bucket_cost, square):
    monkeypatch.setattr(graph, "_WIDEST", widest)
    monkeypatch.setattr(graph, "_BUCKET_COST", bucket_cost)
    row, col = skewed_graph(0)
    shape = (60, 60) if square else (60, 25)
    weight = np.random.default_rng(1).random(row.size).astype(np.float32)
    dense = np.zeros(shape, np.float32)
    dense[row, col] = weight
    adj = graph.from_edges(row, col, weight, shape)
    x, g = (
        np.random.default_rng(s).standard_normal((n, 5)).astype(np.float32)
        for s, n in ((2, shape[1]), (3, shape[0]))
    )
    y, vjp = jax.vjp(lambda x: graph.matmul(adj, x), jnp.asarray(x))
    np.testing.assert_allclose(y, dense @ x, atol=1e-5)
    np.testing.assert_allclose(vjp(jnp.asarray(g))[0], dense.T @ g, atol=1e-5)


def test_bipartite_weights_by_hand():
    # user 0 has items 0 and 1, user 1 has item 1: degrees 2, 1 and 1, 2
    adj = graph.bipartite(np.array([0, 0, 1]), np.array([0, 1, 1]), 2, 2)
    a, b = 1 / np.sqrt(2), 1 / 2
    expected = np.array([[0, 0, a, b], [0, 0, 0, a], [a, 0, 0, 0], [b, a, 0, 0]])
    np.testing.assert_allclose(graph.matmul(adj, jnp.eye(4)), expected, atol=1e-6)
    assert adj.transpose is None  # symmetric, so stored once


def propagation(kind):
    """An adjacency whose rows need buckets, chunks and an inner plan, and its dense twin."""
    user, item = skewed_graph(4)
    if kind == "bipartite":
        adj, size = graph.bipartite(user, item, 60, 25), 85
    else:
        weight = np.random.default_rng(1).random(user.size) / 20
        adj, size = graph.from_edges(user, item, weight, 60), 60
        assert adj.transpose is not None
    return adj, np.asarray(graph.matmul(adj, jnp.eye(size)))


@pytest.mark.parametrize("kind", ["bipartite", "directed"])
@pytest.mark.parametrize("layers", [0, 1, 3])
@pytest.mark.parametrize("rows", [None, [3, 59, 3, 0, 17]])
def test_mean_propagate_is_the_mean_of_powers(monkeypatch, kind, layers, rows):
    monkeypatch.setattr(graph, "_WIDEST", 4)
    monkeypatch.setattr(graph, "_BUCKET_COST", 30)
    adj, dense = propagation(kind)
    powers = sum(np.linalg.matrix_power(dense, k) for k in range(layers + 1)) / (layers + 1)
    powers = powers if rows is None else powers[rows]
    x, g = (
        np.random.default_rng(s).standard_normal((n, 3)).astype(np.float32)
        for s, n in zip((5, 6), powers.shape[::-1], strict=True)
    )
    rows = None if rows is None else jnp.asarray(rows)
    y, vjp = jax.vjp(lambda x: graph.mean_propagate(adj, x, layers, rows), jnp.asarray(x))
    np.testing.assert_allclose(y, powers @ x, atol=1e-5)
    np.testing.assert_allclose(vjp(jnp.asarray(g))[0], powers.T @ g, atol=1e-5)


def test_mean_propagate_maps_over_members_and_keeps_bfloat16(monkeypatch):
    monkeypatch.setattr(graph, "_WIDEST", 4)
    adj, _ = propagation("bipartite")
    x, rows = jax.random.normal(jax.random.key(0), (2, 85, 3)), jnp.array([70, 1, 1])
    loss = lambda x: (graph.mean_propagate(adj, x, 2, rows) ** 2).sum()
    gradient = jax.vmap(jax.grad(loss))(x)
    np.testing.assert_allclose(gradient, jnp.stack([jax.grad(loss)(one) for one in x]), atol=1e-6)
    half = jax.grad(loss)(x[0].astype(jnp.bfloat16))
    assert half.dtype == jnp.bfloat16
    np.testing.assert_allclose(half.astype(jnp.float32), gradient[0], atol=0.05)


def test_a_bipartite_graph_without_edges_and_one_with_an_edge_within_a_kind():
    none = np.zeros(0, int)
    empty = graph.bipartite(none, none, 50, 2)
    assert len(empty.forward.blocks) == 1  # padding of two would point beyond the smaller
    x = jnp.ones((52, 3))
    np.testing.assert_allclose(graph.mean_propagate(empty, x, 2), x / 3, rtol=1e-6)
    with pytest.raises(ValueError, match="of one kind"):
        graph.from_edges(np.array([0]), np.array([1]), np.ones(1), 3, split=2)


def test_reweight_replaces_each_edge_in_both_directions(monkeypatch):
    monkeypatch.setattr(graph, "_WIDEST", 4)
    user, item = skewed_graph(6)
    weight = np.random.default_rng(7).random(user.size).astype(np.float32)
    weight[::3] = 0
    expected = np.zeros((85, 85), np.float32)
    expected[user, item + 60] = expected[item + 60, user] = weight
    adj = graph.reweight(graph.bipartite(user, item, 60, 25), jnp.asarray(weight))
    np.testing.assert_allclose(graph.matmul(adj, jnp.eye(85)), expected, atol=1e-6)


def test_a_nan_reaches_only_its_neighbours():
    adj = graph.bipartite(np.array([1, 1, 2]), np.array([0, 1, 1]), 3, 3)  # user 0, item 2 are bare
    y = graph.matmul(adj, jnp.ones((6, 2)).at[1].set(jnp.nan))
    assert np.isnan(y).any(axis=1).tolist() == [False, False, False, True, True, False]


def test_repeated_entries_add_up_and_an_empty_graph_gives_zeros():
    twice = graph.from_edges(np.array([0, 0]), np.array([1, 1]), np.array([2.0, 3.0]), 2)
    np.testing.assert_allclose(graph.matmul(twice, jnp.eye(2)), [[0, 5], [0, 0]])
    none = graph.from_edges(np.zeros(0, int), np.zeros(0, int), np.zeros(0), 3)
    np.testing.assert_array_equal(graph.matmul(none, jnp.ones((3, 2))), np.zeros((3, 2)))


@pytest.mark.parametrize("row,col", [([0], [3]), ([3], [0]), ([-1], [0])])
def test_an_edge_outside_the_matrix_is_refused(row, col):
    with pytest.raises(ValueError, match="outside the 3 x 3"):
        graph.from_edges(np.array(row), np.array(col), np.ones(1), 3)


def test_random_walk_rows_have_loops_and_sum_to_one():
    adj = graph.random_walk(np.array([0, 0]), np.array([0, 1]), 2, 2)
    third = 1 / 3
    expected = [[third, 0, third, third], [0, 1, 0, 0], [0.5, 0, 0.5, 0], [0.5, 0, 0, 0.5]]
    np.testing.assert_allclose(graph.matmul(adj, jnp.eye(4)), expected, rtol=1e-6)
