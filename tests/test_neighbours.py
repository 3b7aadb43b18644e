import jax.numpy as jnp
import numpy as np
import pytest

from mmrec_jax.ops import graph, neighbours

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
