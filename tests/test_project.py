"""Projection of some rows against the plain product."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmrec_jax.ops import project


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    monkeypatch.setattr(project, "_CHUNK", 4)


@pytest.mark.parametrize(
    "rows", [[3], [5, 5, 5], [0, 1, 2, 3], [9, 0, 4, 4, 1], list(range(10)), [7, 7] * 12]
)
def test_products_and_gradients_are_those_of_the_gathered_rows(rows):
    rng = np.random.default_rng(len(rows))
    draw = lambda *shape: jnp.asarray(rng.normal(size=shape), jnp.float32)
    features, kernel, rows = draw(10, 6), draw(6, 3), jnp.asarray(rows)
    weight = draw(rows.size, 3)
    loss = lambda f, k: (features_of(f, k, rows) * weight).sum()
    features_of = project.project
    got = features_of(features, kernel, rows), *jax.jit(jax.grad(loss, (0, 1)))(features, kernel)
    features_of = lambda f, k, rows: f[rows] @ k
    want = features_of(features, kernel, rows), *jax.grad(loss, (0, 1))(features, kernel)
    for a, b in zip(got, want, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


def test_members_of_a_vmap_may_name_different_numbers_of_rows():
    features = jnp.arange(40.0).reshape(10, 4)
    kernels = jnp.stack([jnp.ones((4, 2)), jnp.eye(4, 2)])
    rows = jnp.array([[0, 0, 0, 0, 0, 0], [9, 8, 7, 6, 5, 4]])
    out = jax.vmap(project.project, (None, 0, 0))(features, kernels, rows)
    np.testing.assert_allclose(out[0], features[rows[0]] @ kernels[0])
    np.testing.assert_allclose(out[1], features[rows[1]] @ kernels[1])


def test_all_rows_without_naming_them():
    rng = np.random.default_rng(0)
    features, kernel = (jnp.asarray(rng.normal(size=s), jnp.float32) for s in ((10, 6), (6, 3)))
    loss = lambda f, k, product: jnp.square(product(f, k)).sum()
    for product in (project.project, lambda f, k: f @ k):
        grads = jax.jit(jax.grad(lambda f, k, p=product: loss(f, k, p), (0, 1)))(features, kernel)
        if product is project.project:
            first = grads
    for a, b in zip(first, grads, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)
