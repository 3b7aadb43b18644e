"""The trie of a catalogue, and beam search in it against enumeration."""

from __future__ import annotations

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmrec_jax.ops import beam
from mmrec_jax.types import Query

# Prefix (0,) has three items, (2, 1) has one alone, and level 1 uses codes 0, 1 and 3 of 4.
UNEVEN = np.array([[2, 1, 0], [0, 3, 1], [0, 0, 2], [0, 3, 0], [1, 0, 0], [1, 1, 0]], np.int32)


def query(size: int, masked=()) -> Query:
    rows = np.array([row for row, _ in masked], np.int32)
    items = np.array([item for _, item in masked], np.int32)
    none = np.zeros(0, np.int32)
    known = np.ones(size, bool)
    pairs = none, none, rows, items
    return Query(np.arange(size), known, np.zeros((size, 0), np.int32), *pairs, none)


def advance(tables, level, state, code):
    """A model whose log-probabilities depend on all codes before; ``state`` is their number."""
    if code is None:
        state = jnp.zeros((tables[0].shape[0], 1), jnp.int32)
    else:
        state = state * 7 + code  # every code is below 7
    rows = jnp.arange(state.shape[0])[:, None]
    return tables[level][rows, state], state


def model(rng, size: int, codes: np.ndarray, spread=1.0):
    """Random log-probabilities [size, 7^level, codes of level] of each level."""
    sizes = codes.max(axis=0) + 1
    logits = [rng.normal(size=(size, 7**level, k)) * spread for level, k in enumerate(sizes)]
    return [jax.nn.log_softmax(jnp.asarray(x, jnp.float32)) for x in logits]


def likelihood(tables, codes) -> np.ndarray:
    """Score of every item, [B, I], by looking each of its codes up."""
    total = np.zeros((tables[0].shape[0], len(codes)), np.float32)
    for item, code in enumerate(codes):
        prefix = 0
        for level, c in enumerate(code):
            total[:, item] += np.asarray(tables[level])[:, prefix, c]
            prefix = prefix * 7 + int(c)
    return total


@functools.partial(jax.jit, static_argnums=(3, 4))
def search(tables, trie, asked, beams, k):
    return beam.search(functools.partial(advance, tables), None, trie, asked, beams, k)


def catalogue(rng, count: int, sizes) -> np.ndarray:
    every = np.array([*itertools.product(*map(range, sizes))], np.int32)
    return every[rng.permutation(len(every))[:count]]


def expected(scores: np.ndarray, k: int, masked=()):
    """Best unmasked items and scores of each row, by sorting."""
    scores = scores.copy()
    for row, item in masked:
        scores[row, item] = -np.inf
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    value = np.take_along_axis(scores, order, axis=1)
    order = np.where(value > -np.inf, order, -1)
    fill = ((0, 0), (0, k - order.shape[1]))
    pad = lambda x, v: np.pad(x, fill, constant_values=v) if fill[1][1] > 0 else x
    return pad(order, -1), pad(value, -np.inf)


def test_the_trie_by_hand():
    trie = beam.Trie.of(UNEVEN)
    np.testing.assert_array_equal(trie.item, [2, 3, 1, 4, 5, 0])
    assert [c.tolist() for c in trie.code] == [[0, 1, 2], [0, 3, 0, 1, 1], [2, 0, 1, 0, 0, 0]]
    assert [c.tolist() for c in trie.child] == [[0, 3], [0, 2, 4, 5], [0, 1, 3, 4, 5, 6]]
    assert [c.tolist() for c in trie.leaf] == [[0, 3, 5, 6], [0, 1, 3, 4, 5, 6], [*range(7)]]
    assert trie.branching == (3, 2, 2)


def test_items_with_the_same_codes_make_no_trie():
    with pytest.raises(ValueError, match="3 items have only 2 different codes"):
        beam.Trie.of(np.array([[0, 1], [1, 1], [0, 1]]))


@pytest.mark.parametrize("seed", range(6))
def test_a_beam_as_wide_as_the_catalogue_ranks_as_enumeration_does(seed):
    rng = np.random.default_rng(seed)
    codes = catalogue(
        rng, [1, 5, 17, 40, 60, 9][seed], [(7,), (5, 3), (4, 3, 5), (2, 7, 3, 2)][seed % 4]
    )
    tables = model(rng, 3, codes)
    k = len(codes) + 2  # two places too many
    items, scores = search(tables, beam.Trie.of(codes), query(3), len(codes), k)
    wanted, value = expected(likelihood(tables, codes), k)
    np.testing.assert_array_equal(items, wanted)
    np.testing.assert_allclose(scores, value, rtol=1e-5)


@pytest.mark.parametrize("beams", [1, 2, 3, 5])
def test_a_narrow_beam_keeps_the_best_prefixes_of_each_level(beams):
    rng = np.random.default_rng(beams)
    codes = catalogue(rng, 30, (4, 4, 4))
    tables = model(rng, 4, codes, spread=2.0)
    scores = likelihood(tables, codes)
    items, found = search(tables, beam.Trie.of(codes), query(4), beams, beams)
    for row in range(4):
        live = {()}
        for level in range(3):
            legal = {tuple(map(int, code[: level + 1])) for code in codes}
            step = lambda p, row=row: sum(
                float(
                    tables[n][
                        row, int(sum(c * 7 ** (n - 1 - i) for i, c in enumerate(p[:n]))), p[n]
                    ]
                )
                for n in range(len(p))
            )
            below = [p for p in legal if p[:-1] in live]
            live = set(sorted(below, key=step, reverse=True)[:beams])
        kept = {int(np.flatnonzero((codes == p).all(axis=1))[0]) for p in live}
        assert {int(i) for i in items[row]} - {-1} == kept
        own = np.asarray(items[row])
        np.testing.assert_allclose(found[row], scores[row, own], rtol=1e-5)
        assert (np.diff(found[row]) <= 0).all()


def test_no_illegal_code_comes_out_however_likely():
    tables = [jnp.full((2, 7**level, k), -20.0) for level, k in enumerate((3, 4, 3))]
    tables[1] = tables[1].at[:, :, 2].set(0.0)  # no item has code 2 at level 1
    tables[2] = tables[2].at[:, :, 1].set(0.0)  # one item has code 1 at level 2
    items, scores = search(tables, beam.Trie.of(UNEVEN), query(2), 4, 8)
    np.testing.assert_array_equal(np.sort(items, axis=1)[:, 2:], [[0, 1, 2, 3, 4, 5]] * 2)
    np.testing.assert_array_equal(items[:, 0], [1, 1])
    np.testing.assert_array_equal(items[:, 6:], [[-1, -1]] * 2)
    assert np.isneginf(scores[:, 6:]).all()


def test_masked_items_leave_their_places_to_others():
    rng = np.random.default_rng(3)
    codes = catalogue(rng, 40, (5, 5, 5))
    tables = model(rng, 4, codes)
    scores = likelihood(tables, codes)
    masked = [(row, int(item)) for row in range(3) for item in np.argsort(-scores[row])[: 10 * row]]
    masked += [(3, item) for item in range(38)]  # two are left
    masked.append((4, 0))  # padding
    items, found = search(tables, beam.Trie.of(codes), query(4, masked), 40, 12)
    wanted, value = expected(scores, 12, masked[:-1])
    np.testing.assert_array_equal(items, wanted)
    np.testing.assert_allclose(found, value, rtol=1e-5)
    # A narrow beam loses good items but no place: dead branches are never entered.
    items, _ = search(tables, beam.Trie.of(codes), query(4, masked), 1, 6)
    np.testing.assert_array_equal((items >= 0).sum(axis=1), [6, 6, 6, 2])
    pairs = {(row, int(item)) for row in range(4) for item in items[row]}
    assert not pairs & set(masked)


def test_equal_scores_stand_by_smaller_item():
    tables = [jnp.zeros((1, 7**level, k)) for level, k in enumerate((3, 4, 3))]
    items, _ = search(tables, beam.Trie.of(UNEVEN), query(1), 6, 6)
    np.testing.assert_array_equal(items, [[0, 1, 2, 3, 4, 5]])


def test_a_score_that_is_no_number_lists_nothing():
    tables = [jnp.full((1, 7**level, k), jnp.nan) for level, k in enumerate((3, 4, 3))]
    items, _ = search(tables, beam.Trie.of(UNEVEN), query(1), 3, 3)
    np.testing.assert_array_equal(items, [[-1, -1, -1]])
