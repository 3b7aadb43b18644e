import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from mmrec_jax.ops import graph, neighbours
from mmrec_jax.types import Dataset, Interactions, Spec, UserError

FEATURES = np.array([[1.0, 0.0], [2.0, 0.0], [0.6, 0.8], [0.0, 0.0]])


def _dense(edges, size=4):
    row, col, weight = edges
    return np.asarray(graph.matmul(graph.from_edges(row, col, weight, size), jnp.eye(size)))


def test_normalise_divides_by_the_roots_of_both_row_sums():
    row, col = np.array([0, 0, 1, 2]), np.array([0, 1, 0, 1])
    weight = np.array([1.0, 3.0, 1.0, 0.0])
    # row sums 4, 1 and 0: the last row gives nothing, nor does its edge
    expected = [1 / 4, 3 / 2, 1 / 2, 0.0]
    np.testing.assert_allclose(neighbours.normalise(row, col, weight, 3), expected)


@pytest.mark.parametrize("weighted", [False, True])
def test_knn_graph_by_hand(weighted):
    present = np.array([True, True, True, False])
    dense = _dense(neighbours.knn_graph(FEATURES, 2, present, weighted))
    # items 0 and 1 point at each other and themselves, item 2 at itself and item 0 (cosine 0.6)
    cosine = np.array([[1, 1, 0, 0], [1, 1, 0, 0], [0.6, 0, 1, 0], [0, 0, 0, 0]])
    edges = cosine if weighted else (cosine > 0).astype(float)
    degree = np.maximum(edges.sum(1), 1e-9)
    np.testing.assert_allclose(dense, edges / np.sqrt(np.outer(degree, degree)), rtol=1e-5)


def test_gather_sum_is_the_product_with_the_matrix():
    x = jnp.array([[1.0, 10.0], [2.0, 20.0], [4.0, 40.0]])
    column, weight = jnp.array([[0, 2], [1, 1]]), jnp.array([[1.0, 0.5], [3.0, -1.0]])
    expected = [[3.0, 30.0], [4.0, 40.0]]
    np.testing.assert_allclose(neighbours.gather_sum(x, column, weight), expected)


def test_view_graphs_by_hand():
    train = Interactions(np.array([0, 0, 1], np.int32), np.array([0, 2, 2], np.int32))
    data = Dataset(
        name="tiny",
        spec=Spec(2, 4, feature_dims=(("text", 2), ("audio", 2))),
        train=train,
        valid=train.take(np.zeros(0, int)),
        test=train.take(np.zeros(0, int)),
        user_ids=np.arange(2),
        item_ids=np.arange(4),
        features={"text": FEATURES, "audio": FEATURES},
        present={"text": np.array([1, 1, 1, 0], bool), "audio": np.array([1, 0, 0, 0], bool)},
    )
    graphs, there = neighbours.view_graphs(data, 2)
    # user 1 has only item 2, which has no audio
    expected = [[1, 1], [1, 0], [1, 1], [1, 0], [1, 0], [0, 0]]
    np.testing.assert_array_equal(there, np.array(expected, bool))
    half = 2**-0.5
    product = graph.matmul(graphs["user_item"], jnp.eye(4))
    np.testing.assert_allclose(product, [[half, 0, 1 / 2, 0], [0, 0, half, 0]], rtol=1e-6)
    edges = neighbours.knn_graph(FEATURES, 2, data.present["text"], weighted=True)
    np.testing.assert_allclose(graph.matmul(graphs["text"], jnp.eye(4)), _dense(edges))
    with pytest.raises(UserError, match="tiny: the method needs item features"):
        neighbours.view_graphs(dataclasses.replace(data, features={}), 2)


def test_weighted_sum_by_hand():
    a = (np.array([0]), np.array([1]), np.array([3.0]))
    b = (np.array([1, 0]), np.array([1, 1]), np.array([5.0, 7.0]))
    row, col, weight = neighbours.weighted_sum({"a": a, "b": b}, {"b": 2.0, "a": 10.0})
    np.testing.assert_array_equal([row, col], [[1, 0, 0], [1, 1, 1]])
    np.testing.assert_array_equal(weight, [10.0, 14.0, 30.0])
    assert neighbours.weighted_sum({"a": a, "b": b}, {"a": 1.0})[2] == [3.0]
