"""Negatives, shuffles and weighted draws: exact supports, and laws within chance."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmrec_jax.ops import sampling
from mmrec_jax.types import Interactions

TRAIN = Interactions(np.array([0, 0, 0, 2, 2, 2, 2, 2]), np.array([0, 3, 4, 0, 1, 2, 3, 4]))


def test_negatives_are_uniform_over_the_items_a_user_lacks():
    positives = sampling.Positives.of(TRAIN, 4, 6)
    user = jnp.repeat(jnp.array([0, 1, 2, 3]), 30_000)
    drawn = np.asarray(sampling.negatives(jax.random.key(0), user, positives)).reshape(4, -1)
    lacking = [[1, 2, 5], [0, 1, 2, 3, 4, 5], [5], [0, 1, 2, 3, 4, 5]]
    for row, items in zip(drawn, lacking, strict=True):
        values, count = np.unique(row, return_counts=True)
        assert values.tolist() == items
        share = 30_000 / len(items)
        assert np.abs(count - share).max() < 5 * np.sqrt(share)  # five standard deviations


def test_a_user_with_every_item_gets_a_legal_number():
    everything = Interactions(np.zeros(3, int), np.arange(3))
    drawn = sampling.negatives(
        jax.random.key(0), jnp.zeros(9, jnp.int32), sampling.Positives.of(everything, 1, 3)
    )
    assert set(np.asarray(drawn).tolist()) <= {0, 1, 2}


def test_repeated_interactions_do_not_shift_the_negatives():
    doubled = Interactions(np.tile(TRAIN.user, 2), np.tile(TRAIN.item, 2))
    one, two = (sampling.Positives.of(t, 4, 6) for t in (TRAIN, doubled))
    np.testing.assert_array_equal(one.gaps, two.gaps)


@pytest.mark.parametrize("n", [1, 2, 3, 5, 17, 1000, 4096, 118_551])
def test_permutation_holds_every_number_once_and_depends_on_the_key(n):
    make = jax.jit(sampling.permutation, static_argnums=1)
    first, second = (np.asarray(make(jax.random.key(k), n)) for k in (0, 1))
    np.testing.assert_array_equal(np.sort(first), np.arange(n))
    np.testing.assert_array_equal(np.sort(second), np.arange(n))
    if n >= 1000:
        assert (first == second).mean() < 0.01
        assert abs(np.corrcoef(first, np.arange(n))[0, 1]) < 5 / np.sqrt(n)


def test_draws_without_replacement_follow_the_sequential_law():
    weight = np.array([0.5, 0.3, 0.2])
    keys = jax.random.split(jax.random.key(0), 20_000)
    draw = jax.vmap(lambda key: sampling.without_replacement(key, jnp.log(weight), 2))
    drawn = np.asarray(draw(keys))
    assert (drawn[:, 0] != drawn[:, 1]).all()
    included = np.array([(drawn == i).any(1).mean() for i in range(3)])
    p = weight
    expected = [p[i] + sum(p[j] * p[i] / (1 - p[j]) for j in range(3) if j != i) for i in range(3)]
    np.testing.assert_allclose(included, expected, atol=0.015)
