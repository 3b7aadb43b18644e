"""Losses against values worked out by hand, at their edges, and under masks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from mmrec_jax import losses


def test_bpr_by_hand_and_padding_does_not_count():
    positive, negative = jnp.array([2.0, 0.0, 9.0]), jnp.array([1.0, 0.0, -9.0])
    # -log sigmoid(1) = log(1 + e^-1) = 0.3132617, -log sigmoid(0) = log 2 = 0.6931472
    value = losses.bpr(positive, negative, jnp.array([1.0, 1.0, 0.0]))
    np.testing.assert_allclose(value, (0.3132617 + 0.6931472) / 2, rtol=1e-6)


@pytest.mark.parametrize("margin", [-1e4, 1e4])
def test_bpr_has_finite_gradients_at_extreme_margins(margin):
    ones = jnp.ones(1)
    grad = jax.grad(lambda x: losses.bpr(x, jnp.zeros(1), ones))(jnp.array([margin]))
    np.testing.assert_allclose(grad, [-1.0 if margin < 0 else 0.0], atol=1e-6)


def test_an_all_masked_batch_is_zero_and_a_nan_surfaces():
    nothing = jnp.zeros(2)
    assert losses.bpr(jnp.ones(2), jnp.ones(2), nothing) == 0
    assert losses.batch_norms((jnp.ones((2, 3)),), nothing) == 0
    assert losses.batch_squares((jnp.ones((2, 3)),), nothing) == 0
    assert np.isnan(losses.bpr(jnp.array([jnp.nan, 1.0]), jnp.ones(2), jnp.ones(2)))


def test_regularisers_by_hand():
    rows = (jnp.array([[3.0, 4.0], [0.0, 0.0]]), jnp.array([[1.0, 0.0], [5.0, 5.0]]))
    # norms 5 and 1 over a batch of 1, as the second row is padding
    where = jnp.array([1.0, 0.0])
    np.testing.assert_allclose(losses.batch_norms(rows, where), 6.0)
    np.testing.assert_allclose(losses.batch_squares(rows, where), (25 + 1) / 2)
    # both rows: sqrt(25 + 0) + sqrt(1 + 50), over 2; half of 25 + 51, over 2
    both = jnp.ones(2)
    np.testing.assert_allclose(losses.batch_norms(rows, both), (5 + np.sqrt(51)) / 2, rtol=1e-6)
    np.testing.assert_allclose(losses.batch_squares(rows, both), (25 + 51) / 4)


def test_the_norm_of_nothing_has_a_gradient():
    grad = jax.grad(lambda x: losses.batch_norms((x,), jnp.ones(1)))(jnp.zeros((1, 2)))
    np.testing.assert_array_equal(grad, np.zeros((1, 2)))


def test_infonce_by_hand():
    # unit vectors at 0, 90 and 180 degrees: cosines 1, 0, -1; lengths must not matter
    anchor = jnp.array([[2.0, 0.0], [0.0, 3.0]])
    positive = jnp.array([[5.0, 0.0], [-1.0, 0.0]])
    e = np.exp
    first = -np.log(e(2) / (e(2) + e(-2)))  # t = 1/2: logits 2 and -2, its own the first
    second = -np.log(e(0) / (e(0) + e(0)))
    both = losses.infonce(anchor, positive, jnp.ones(2), 0.5)
    np.testing.assert_allclose(both, (first + second) / 2, rtol=1e-6)
    # a row of padding is no candidate and does not count
    alone = losses.infonce(anchor, positive, jnp.array([1.0, 0.0]), 0.5)
    np.testing.assert_allclose(alone, 0.0, atol=1e-6)


def test_alignment_and_uniformity_by_hand():
    rows = jnp.array([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])
    where = jnp.array([1.0, 1.0, 0.0])
    np.testing.assert_allclose(losses.alignment(rows, rows[::-1], where), 4 / 2)
    np.testing.assert_allclose(losses.uniformity(rows, where), -2 * 2, rtol=1e-6)
    # squared distances 2, 4, 2
    three = np.log((2 * np.exp(-4) + np.exp(-8)) / 3)
    np.testing.assert_allclose(losses.uniformity(rows, jnp.ones(3)), three, rtol=1e-6)
    # Cosine 1/2 stands for a squared distance of 1, -1 for 4; the diagonal has no part.
    similarity = jnp.array([[9.0, 0.5, -1.0], [0.5, 9.0, 0.5], [-1.0, 0.5, 9.0]])
    calibrated = np.log((2 * np.exp(-(2 - 1)) + np.exp(0)) / 3)
    got = losses.uniformity(rows, jnp.ones(3), scale=1.0, similarity=similarity)
    np.testing.assert_allclose(got, calibrated, rtol=1e-6)


def test_losses_over_all_pairs_have_the_gradient_of_their_value():
    draw = lambda seed: jax.random.normal(jax.random.key(seed), (6, 3))
    where, other = jnp.array([1.0, 1.0, 0.0, 1.0, 1.0, 1.0]), draw(1)
    alike = other @ other.T / 9
    for loss in (
        lambda x: losses.uniformity(x / 2, where, similarity=alike),
        lambda x: losses.mmd(x, other, where, 1.5),
        lambda x: losses.mmd(other, x, where, 1.5),
        lambda x: losses.similarity_gap(x, alike, where),
        lambda x: losses.infonce(x, other, where, 0.5),
        lambda x: losses.infonce(other, x, where, 0.5),
    ):
        check_grads(loss, (draw(0),), order=1, modes=("rev",), rtol=1e-2, atol=1e-3)


def test_contrastive_losses_of_nothing_are_zero_with_zero_gradients():
    def total(x):
        x = losses.unit(x)
        nothing = jnp.zeros(2)
        return losses.infonce(x, x, nothing, 0.2) + losses.uniformity(x, nothing)

    rows = jnp.array([[0.0, 0.0], [1.0, 1.0]])
    assert total(rows) == 0
    np.testing.assert_array_equal(jax.grad(total)(rows), np.zeros((2, 2)))


def test_mmd_by_hand():
    first = jnp.array([[1.0, 0.0], [0.0, 1.0], [9.0, 9.0]])
    second = jnp.array([[1.0, 0.0], [-1.0, 0.0], [7.0, 7.0]])
    where = jnp.array([1.0, 1.0, 0.0])
    k = lambda square: np.exp(-square / (2 * 1.5**2))
    # within the first 0 and 2, within the second 0 and 4, between them 0, 4, 2 and 2
    expected = (1 + k(2)) / 2 + (1 + k(4)) / 2 - 2 * (1 + k(4) + 2 * k(2)) / 4
    np.testing.assert_allclose(losses.mmd(first, second, where, 1.5), expected, rtol=1e-5)
    np.testing.assert_allclose(losses.mmd(first, first, where, 1.5), 0.0, atol=1e-6)
    assert losses.mmd(first, second, jnp.zeros(3), 1.5) == 0


def test_grace_is_the_sum_over_both_views_whatever_the_blocks(monkeypatch):
    rng = np.random.default_rng(0)
    first, second = (jnp.asarray(rng.normal(size=(11, 3)), jnp.float32) for _ in "ab")

    def plain(first, second, temperature):
        a, b = (x / jnp.linalg.norm(x, axis=1, keepdims=True) for x in (first, second))
        within, between = (jnp.exp(a @ x.T / temperature) for x in (a, b))
        total = within.sum(1) + between.sum(1) - jnp.diag(within)
        return -jnp.log(jnp.diag(between) / total).mean()

    expected = jax.value_and_grad(plain, argnums=(0, 1, 2))(first, second, 0.4)
    for logits in (2**23, 4 * 22):  # one block; blocks of eight rows, the last one padded
        monkeypatch.setattr(losses, "_LOGITS", logits)
        jax.clear_caches()
        run = jax.jit(jax.value_and_grad(losses.grace, argnums=(0, 1, 2)))
        got = run(first, second, 0.4)
        jax.tree.map(
            lambda x, y: np.testing.assert_allclose(x, y, rtol=2e-5, atol=1e-6), got, expected
        )
        np.testing.assert_allclose(losses.grace(first, second, 0.4), expected[0], rtol=1e-5)
    # Alone there is nothing but the positive, and a small temperature does not overflow.
    assert losses.grace(first[:1], second[:1], 0.4) == pytest.approx(0.0, abs=1e-6)
    assert np.isfinite(losses.grace(first, second, 1e-3))


def test_orthogonality_by_hand():
    where = jnp.array([1.0, 1.0, 0.0])
    first = jnp.array([[3.0, 1.0], [1.0, 1.0], [9.0, 9.0]])  # centred: (1, 0), (-1, 0)
    second = jnp.array([[0.0, 3.0], [0.0, -1.0], [7.0, 0.0]])  # centred: (0, 2), (0, -2)
    # Rows of length one: columns meet in one of four products only, 1 * 1 + -1 * -1.
    value, grad = jax.value_and_grad(losses.orthogonality)(first, second, where)
    np.testing.assert_allclose(value, 2.0**2 / 4, rtol=1e-5)
    # As if lengths were constants: d/dx of (x_0 - x_1)^2 / 4, which the centring keeps.
    np.testing.assert_allclose(grad, [[1.0, 0.0], [-1.0, 0.0], [0.0, 0.0]], atol=1e-5)
    constant = jnp.ones((3, 2))
    value, grad = jax.value_and_grad(losses.orthogonality)(constant, second, where)
    assert value == 0.0 and np.isfinite(grad).all()
