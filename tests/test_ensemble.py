"""The late ensemble, worked out from its parts."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import made
import numpy as np
import pytest

from mmrec_jax.models.baseline.ease import EASE
from mmrec_jax.models.baseline.ensemble import Ensemble
from mmrec_jax.ops import graph, item_weights
from mmrec_jax.types import Query, UserError


def make_query(rows, items, size):
    """A block whose history is the given pairs, in order, with padding."""
    empty = jnp.zeros(0, jnp.int32)
    return Query(
        user=jnp.zeros(size, jnp.int32),
        valid=jnp.ones(size, bool),
        target=jnp.full((size, 1), -1),
        history_row=jnp.asarray([*rows, size], jnp.int32),
        history_item=jnp.asarray([*items, 0], jnp.int32),
        masked_row=empty,
        masked_item=empty,
        sequence=jnp.zeros((size, 0), jnp.int32),
    )


def scores(method, data, query, **hyper):
    ctx, model = method.context(data, **hyper), method(data.spec, **hyper)
    rep = model.apply({}, ctx, method="represent")
    return np.asarray(model.apply({}, rep, query, method="score"))


@pytest.fixture
def data():
    """Six items; item 5 has no features, item 4 only a text."""
    rng = np.random.default_rng(0)
    pairs = np.unique(np.stack([rng.integers(0, 12, 40), rng.integers(0, 6, 40)], 1), axis=0)
    image, text = rng.random((6, 3)).astype(np.float32), rng.random((6, 2)).astype(np.float32)
    seen = {"image": np.arange(6) < 4, "text": np.arange(6) < 5}
    features = {"image": image * seen["image"][:, None], "text": text * seen["text"][:, None]}
    return made.dataset(*pairs.T, items=6, features=features, present=seen)


def content(data):
    """Mean of the modalities' graphs of all pairs of items, worked out without the package's."""
    whole = np.zeros((6, 6))
    for rows in data.features.values():
        length = np.linalg.norm(rows, axis=1)
        unit = rows / np.where(length > 0, length, 1)[:, None]
        cosine = unit @ unit.T
        degree = cosine.sum(1)
        root = np.where(degree > 0, degree, np.inf) ** -0.5
        whole += root[:, None] * cosine * root[None] / len(data.features)
    return whole


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_scores_are_the_weighted_sum_of_both_parts(data, share):
    histories = [[0, 2], [1, 3, 4], []]
    query = make_query([0, 0, 1, 1, 1], [0, 2, 1, 3, 4], 3)
    behaviour = scores(EASE, data, query, reg=2.0)
    got = scores(Ensemble, data, query, reg=2.0, k=6, share=share)
    for row, history in enumerate(histories):
        near = content(data)[:, history].sum(1)
        counted = [item for item in range(5) if item not in history]  # 5 has no features
        z = lambda x, c=counted: (x - x[c].mean()) / (x[c].std() or 1)
        want = (1 - share) * z(behaviour[row]) + share * z(near)
        want[5] = z(behaviour[row])[5]
        np.testing.assert_allclose(got[row], want, rtol=1e-4, atol=2e-5)


def test_without_a_share_the_order_is_that_of_ease(data):
    query = make_query([0, 0, 1], [0, 3, 5], 2)
    alone = scores(EASE, data, query, reg=2.0)
    joint = scores(Ensemble, data, query, reg=2.0, share=0.0)
    np.testing.assert_array_equal(np.argsort(alone), np.argsort(joint))


def test_it_takes_ready_made_graphs():
    row, col = np.array([0, 1]), np.array([1, 0])
    graphs = {"text": (row, col, np.ones(2, np.float32))}
    data = made.dataset([0, 0, 1, 2], [0, 1, 2, 3], items=4, item_graphs=graphs)
    got = scores(Ensemble, data, make_query([0], [0], 1), reg=1.0, share=1.0)
    alone = scores(EASE, data, make_query([0], [0], 1), reg=1.0)
    # Only items 0 and 1 are in the graph, and 0 is in the history, so that 1 stands at the mean
    # of both parts; 2 and 3 have EASE's score, less that of item 1, as nothing deviates.
    np.testing.assert_allclose(got[0, 1], 0, atol=1e-7)
    np.testing.assert_allclose(got[0, 2:], alone[0, 2:] - alone[0, 1], atol=1e-6)


def test_features_count_only_as_they_are(data):
    """Other features, other scores; a user without history has none to tell apart."""
    query = make_query([0, 0], [0, 2], 2)
    back = np.array([1, 0, 3, 2, 4, 5])
    shuffled = dataclasses.replace(data, features={n: x[back] for n, x in data.features.items()})
    first, second = (scores(Ensemble, d, query, reg=2.0, k=2) for d in (data, shuffled))
    assert np.abs(first[0] - second[0]).max() > 1e-3
    np.testing.assert_array_equal(first[1], 0)


@pytest.mark.parametrize(
    ("hyper", "said"),
    [
        ({"share": 1.5}, "model.share 1.5.*in \\[0, 1\\]"),
        ({"share": -0.1}, "model.share -0.1"),
        ({"k": 0}, "model.k is 0"),
        ({"reg": 0.0}, "model.reg is 0.0"),
    ],
)
def test_it_says_what_is_wrong(data, hyper, said):
    with pytest.raises(UserError, match=said):
        Ensemble.context(data, **hyper)


def test_without_features_it_says_so_in_one_line():
    with pytest.raises(UserError, match="tiny: the ensemble needs item features") as caught:
        Ensemble.context(made.dataset([0, 1], [0, 1], items=2))
    assert "\n" not in str(caught.value)


def test_sparse_and_dense_weights_add_up_alike():
    rng = np.random.default_rng(2)
    weight = rng.random((7, 7)).astype(np.float32) * (rng.random((7, 7)) < 0.4)
    query = make_query([0, 0, 0, 2, 2], [1, 1, 4, 0, 6], 3)  # a repeated item counts once
    dense = item_weights.add_rows(jnp.asarray(weight), query)
    sparse = graph.from_edges(*np.nonzero(weight.T), weight.T[np.nonzero(weight.T)], 7)
    history = item_weights.histories(query, 7)
    want = np.stack([weight[[1, 4]].sum(0), np.zeros(7), weight[[0, 6]].sum(0)])
    np.testing.assert_allclose(dense, want, rtol=1e-6)
    got = jax.jit(item_weights.add_columns)(sparse, history)
    np.testing.assert_allclose(got, want, rtol=1e-6)
