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
