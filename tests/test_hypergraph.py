"""Hypergraphs by hand, and co-occurrence against the dense product."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from mmrec_jax.ops import hypergraph

# Users 0 and 1 share items 0 and 1, user 2 shares item 1 with both, user 3 is alone with item 2.
USER = np.array([0, 0, 1, 1, 2, 3, 3])
ITEM = np.array([0, 1, 0, 1, 1, 2, 2])  # the last is said twice


def test_sharing_by_hand():
    hyper = hypergraph.sharing(USER, ITEM, (4, 3))
    third = 1 / 3
    expected = [[0, 2 * third, third, 0], [2 * third, 0, third, 0], [0.5, 0.5, 0, 0], [0] * 4]
    product = jax.jit(hypergraph.matmul)
    dense = product(hyper, jnp.eye(4))
    np.testing.assert_allclose(dense, expected, atol=1e-6)
    back = jax.vjp(lambda x: product(hyper, x), jnp.eye(4))[1](jnp.eye(4))[0]
    np.testing.assert_allclose(back, np.transpose(expected), atol=1e-6)


def test_a_square_symmetric_incidence_is_its_own_transpose():
    hyper = hypergraph.sharing(np.array([0, 1]), np.array([1, 0]), (2, 2))
    plain = hypergraph.Hypergraph(hyper.incidence)
    assert hyper.incidence.transpose is None
    np.testing.assert_allclose(hypergraph.matmul(plain, jnp.eye(2)), jnp.eye(2))
    np.testing.assert_allclose(hypergraph.matmul(hyper, jnp.eye(2)), jnp.zeros((2, 2)))


def test_co_occurrence_by_hand():
    row, col, count = hypergraph.co_occurrence(USER, ITEM, (4, 3), 1)
    np.testing.assert_array_equal([row, col, count], [[0, 1, 2], [1, 0, 0], [2, 2, 1]])
    row, col, weight = hypergraph.co_occurrence_graph(USER, ITEM, (4, 3), 2)
    np.testing.assert_array_equal(row, [0, 0, 1, 1, 2, 2, 3, 3])
    np.testing.assert_array_equal(col, [1, 2, 0, 2, 0, 1, 0, 1])
    two = np.exp([2, 1]) / np.exp([2, 1]).sum()
    np.testing.assert_allclose(weight, [*two, *two, *[0.5] * 4], rtol=1e-6)  # the last: 2/4, 2/4


def test_co_occurrence_in_blocks_is_that_of_the_dense_product(monkeypatch):
    rng = np.random.default_rng(0)
    incidence = rng.random((40, 25)) < 0.15
    node, edge = np.nonzero(incidence)
    whole = hypergraph.co_occurrence(node, edge, (40, 25), 5)
    monkeypatch.setattr(hypergraph, "_ENTRIES", 50)
    for ours, theirs in zip(hypergraph.co_occurrence(node, edge, (40, 25), 5), whole, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    shared = incidence.astype(int) @ incidence.T.astype(int)
    np.fill_diagonal(shared, 0)
    order = np.argsort(-shared, axis=1, kind="stable")[:, :5]
    count = np.take_along_axis(shared, order, 1)
    np.testing.assert_array_equal(whole[1], order[count > 0])
    np.testing.assert_array_equal(whole[2], count[count > 0])
