from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from mmrec_jax import layers


def test_initial_values_are_those_of_pytorch():
    normal = np.asarray(layers.xavier_normal(jax.random.key(0), (300, 100)))
    deviation = np.sqrt(2 / 400)
    np.testing.assert_allclose(normal.std(), deviation, rtol=0.02)
    assert np.abs(normal).max() > 3.5 * deviation  # not truncated

    bound = 1 / np.sqrt(300)
    for uniform in (
        layers.uniform_fan_in(jax.random.key(1), (300, 100)),
        layers.uniform_bias(300)(jax.random.key(2), (30_000,)),
    ):
        assert 0.999 * bound < np.abs(uniform).max() <= bound
        np.testing.assert_allclose(np.std(uniform), bound / np.sqrt(3), rtol=0.02)


def test_dropout_keeps_the_mean_under_a_traced_rate():
    x = jnp.full((400, 100), 3.0)
    dropped = jax.jit(layers.dropout)(jax.random.key(0), x, jnp.float32(0.3))
    values, counts = np.unique(np.asarray(dropped), return_counts=True)
    np.testing.assert_allclose(values, [0.0, 3.0 / 0.7], rtol=1e-6)
    np.testing.assert_allclose(counts / x.size, [0.3, 0.7], atol=0.015)
    np.testing.assert_array_equal(layers.dropout(jax.random.key(0), x, 0.0), x)


def test_feature_projects_rows_and_learns_the_raw_ones_if_told():
    features = jnp.arange(12.0).reshape(4, 3)
    rows = jnp.array([2, 0])
    for finetune in (False, True):
        module = layers.Feature(dim=2, finetune=finetune)
        params = module.init(jax.random.key(0), features, rows)["params"]
        dense = params["project"]
        expected = features[rows] @ dense["kernel"] + dense["bias"][None]
        out = module.apply({"params": params}, features, rows)
        np.testing.assert_allclose(out, expected, rtol=1e-6)
        assert set(params) == ({"project", "features"} if finetune else {"project"})
    np.testing.assert_array_equal(params["features"], features)
    moved = {**params, "features": features + 1.0}
    assert not np.allclose(module.apply({"params": moved}, features, rows), out)


def test_feature_projects_all_rows_unless_told_which():
    features = jnp.arange(12.0).reshape(4, 3)
    module = layers.Feature(dim=2)
    params = module.init(jax.random.key(0), features)
    every = module.apply(params, features)
    np.testing.assert_allclose(every, module.apply(params, features, jnp.arange(4)), rtol=1e-6)


def test_content_vectors_by_hand():
    one, two = jnp.array([[1.0], [2.0], [3.0]]), jnp.array([[1.0, 0.0], [0.0, 1.0], [5.0, 5.0]])
    module = layers.ContentVectors(dim=1, hidden=2)
    kernel = jnp.array([[1.0, -1.0], [2.0, 0.0], [0.0, -97.0]])
    hidden = {"kernel": kernel, "bias": jnp.array([0.5, -1.0])}
    params = {"ProjectRows_0": hidden, "Dense_0": {"kernel": jnp.array([[1.0], [10.0]])}}
    got = module.apply({"params": params}, [one, two], jnp.array([True, True, False]))
    # Before the leaky ReLU 3.5 and -2; 2.5 and -100.
    np.testing.assert_allclose(got, [[3.5 - 0.2], [2.5 - 10.0], [0.0]], rtol=1e-5)


def test_gate_lets_through_what_the_signal_asks_for():
    value, signal = jnp.array([[2.0, -4.0]]), jnp.array([[1.0]])
    dense = {"kernel": jnp.array([[jnp.log(3.0), 0.0]]), "bias": jnp.array([0.0, -jnp.log(3.0)])}
    out = layers.Gate().apply({"params": {"Dense_0": dense}}, value, signal)
    np.testing.assert_allclose(out, [[2.0 * 0.75, -4.0 * 0.25]], rtol=1e-6)


def test_view_fusion_by_hand():
    """One number wide; the query is 1 for a and 0 for b and c, all gates stand half open."""
    views = {"a": jnp.full((4, 1), 6.0), "b": jnp.zeros((4, 1)), "c": jnp.zeros((4, 1))}
    views["b"] = views["b"].at[0].set(3.0)
    there = jnp.array([[1, 1, 0], [1, 0, 0], [0, 0, 0], [1, 1, 1]], bool)
    views["a"] = views["a"].at[2].set(0.0)
    views["b"] = views["b"].at[3].set(3.0)
    half = {"Dense_0": {"kernel": jnp.zeros((1, 1)), "bias": jnp.zeros(1)}}
    level = {"kernel": jnp.zeros((1, 1)), "bias": jnp.zeros(1)}
    params = {"Dense_0": level, "Dense_1": {"kernel": jnp.ones((1, 1))}}
    params |= {f"gate_{n}": half for n in views}
    fuse = layers.ViewFusion()
    out, weight = fuse.apply({"params": params}, views, jnp.zeros((4, 1)), there)
    third = 1 / 3
    np.testing.assert_allclose(
        weight, [[0.5, 0.5, 0], [1, 0, 0], [0, 0, 0], [third, third, third]], rtol=1e-6
    )
    # Shared 4.5, 6, 0 and 3; the gated differences sum to 0 where weights are equal.
    np.testing.assert_allclose(out[:, 0], [4.5 / 4, 6 / 4, 0, 3 / 4], rtol=1e-6)

    shut = {"Dense_0": {"kernel": jnp.zeros((1, 1)), "bias": jnp.full(1, -jnp.inf)}}
    params["gate_b"] = shut
    out, _ = fuse.apply({"params": params}, views, jnp.zeros((4, 1)), there)
    np.testing.assert_allclose(out[0, 0], (4.5 + 0.5 * 1.5) / 4, rtol=1e-6)

    params["Dense_0"] = {"kernel": jnp.ones((1, 1)), "bias": jnp.zeros(1)}
    _, weight = fuse.apply({"params": params}, views, jnp.zeros((4, 1)), there)
    query = np.exp(np.tanh([6.0, 3.0]))
    np.testing.assert_allclose(weight[0, :2], query / query.sum(), rtol=1e-6)


def test_view_fusion_leaves_a_single_view_alone():
    view = jnp.array([[1.0, 2.0]])
    inputs = ({"a": view}, view, jnp.ones((1, 1), bool))
    (out, weight), params = layers.ViewFusion().init_with_output(jax.random.key(0), *inputs)
    assert not params
    np.testing.assert_array_equal(out, view)
    np.testing.assert_array_equal(weight, [[1.0]])


def test_item_norm_counts_only_what_is_there():
    x = jnp.array([[1.0, 5.0], [3.0, 5.0], [100.0, -7.0]])
    params = {"scale": jnp.array([2.0, 1.0]), "bias": jnp.array([0.0, 4.0])}
    where = jnp.array([True, True, False])
    out = layers.ItemNorm().apply({"params": params}, x, where)
    np.testing.assert_allclose(out[:2], [[-2.0, 4.0], [2.0, 4.0]], rtol=1e-4)


def test_low_rank_by_hand():
    """Perceptrons that say nothing: softmaxes are even, so all share the mean, as often as r."""
    module = layers.LowRank(rank=2)
    x, knowledge = jnp.array([[1.0, 3.0], [5.0, 7.0]]), jnp.ones((4, 3))
    rows = jnp.array([3, 1])
    made = module.init(jax.random.key(0), x, knowledge, rows)
    params = made["params"]
    nothing = jax.tree.map(jnp.zeros_like, params)
    out = module.apply({**made, "params": nothing}, x, knowledge, rows)
    np.testing.assert_allclose(out, [[2.0, 2.0], [6.0, 6.0]], rtol=1e-6)
    # The last biases of both factors (0, 1, 0, 0): unit length, and as much again by the mean.
    one = jax.tree.map(jnp.zeros_like, params)
    for last in ("Dense_1", "Dense_3"):
        one[last]["bias"] = one[last]["bias"].at[1].set(9.0)
    out = module.apply({**made, "params": one}, x, knowledge, rows)
    part = np.exp(2) / (np.exp(2) + 1)
    even, odd = x.mean(1), part * x[:, 0] + (1 - part) * x[:, 1]  # number 0 leads in column 1
    both = (even + odd) / 2, part * even + (1 - part) * odd  # row 0 leads in column 1
    np.testing.assert_allclose(out, np.stack(both, axis=1), rtol=1e-6)


def test_low_rank_takes_its_mean_over_all_nodes_whatever_the_rows():
    module = layers.LowRank(rank=2)
    x = jnp.arange(8.0).reshape(4, 2)
    knowledge = jnp.sin(jnp.arange(12.0)).reshape(4, 3)
    params = module.init(jax.random.key(0), x, knowledge)
    every = module.apply(params, x, knowledge)
    rows = jnp.array([2, 0, 2])
    np.testing.assert_allclose(
        module.apply(params, x[rows], knowledge, rows), every[rows], rtol=1e-5
    )
