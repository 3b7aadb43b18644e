"""Losses of the next item, and what each sequence method owes users of every kind."""

from __future__ import annotations

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import base
from mmrec_jax import evaluate, losses, train
from mmrec_jax import run as runs
from mmrec_jax.models.sequence.gru4rec import GRU4Rec
from mmrec_jax.models.sequence.hstu import HSTU
from mmrec_jax.models.sequence.sasrec import SASRec
from mmrec_jax.ops import attention
from mmrec_jax.tasks import sequence
from mmrec_jax.types import Context, Dataset, Spec, UserError

ONE = jnp.ones(1)
ITEMS = 40
METHODS = {
    SASRec: {"dim": 16, "layers": 1, "dropout": 0.1},
    GRU4Rec: {"dim": 16, "hidden": 16, "dropout": 0.1},
    HSTU: {"dim": 16, "layers": 1, "heads": 1, "dropout": 0.1, "temperature": 0.2},
}
OBJECTIVES = {
    "ce": {},
    "bce": {"num_negatives": 1},
    "sampled": {"num_negatives": 8},
    "gbce": {"num_negatives": 8},
    "popular": {"objective": "sampled", "num_negatives": 8, "sampler": "popularity"},
}
METHOD = pytest.mark.parametrize("method", METHODS, ids=lambda method: method.__name__)


def test_losses_by_hand():
    two, zero = math.log(2), jnp.zeros(1)
    assert losses.bce(zero, jnp.zeros((1, 3)), ONE) == pytest.approx(4 * two)
    # A positive of odds 3 (1 in 4 is missing) and a negative of odds 1/3.
    odds = jnp.log(jnp.asarray([3.0]))
    assert losses.bce(odds, -odds[:, None], ONE) == pytest.approx(2 * math.log(4 / 3))
    # 2 of 4 other items are drawn: a power of 1/2 at full calibration, of 3/4 half way.
    for calibration, power in ((0.0, 1.0), (0.5, 0.75), (1.0, 0.5)):
        loss = losses.gbce(zero, jnp.zeros((1, 2)), ONE, 5, calibration)
        assert loss == pytest.approx((power + 2) * two / 3)
    scores = jnp.log(jnp.asarray([[1.0, 3.0]]))
    assert losses.sampled_softmax(jnp.log(2 * ONE), scores, ONE) == pytest.approx(math.log(3))


def test_losses_mask():
    positive, negative = jnp.asarray([0.0, jnp.nan]), jnp.zeros((2, 3))
    where = jnp.asarray([1.0, 0.0])
    finite = positive.at[1].set(9.0)
    for loss in (losses.bce, losses.sampled_softmax):
        assert loss(finite, negative, where) == loss(finite[:1], negative[:1], ONE) > 0
        assert loss(finite, negative, jnp.zeros(2)) == 0
        assert not jnp.isfinite(loss(positive, negative, jnp.ones(2)))
    assert losses.gbce(finite, negative, jnp.zeros(2), 9, 0.5) == 0


# next_item


def inputs():
    """Two histories, the first of a single position, with scores that are easy to work out."""
    targets = jnp.asarray([[-1, 2], [0, 1]])
    mask = jnp.asarray([[0.0, 1], [1, 1]])
    items = jnp.where(mask > 0, 3, -1)
    batch = sequence.Batch(
        jnp.zeros(2, jnp.int32),
        items,
        targets,
        jnp.asarray([[0, 3], [1, 2]]),
        mask,
        2,
        log=jnp.asarray([0, 0, 1, 2, 2, 2, 2, 3]),
        log_share=jnp.log(jnp.asarray([2, 1, 4, 1]) / 8),
    )
    table = jnp.log(jnp.asarray([1.0, 2, 4, 8]))[:, None]
    return jnp.ones((2, 2, 1)), table, batch, attention.padded(items)


def value(objective, num_negatives=2, sampler="uniform", calibration=0.75, key=0):
    states, table, batch, layout = inputs()
    options = dict(objective=objective, num_negatives=num_negatives, sampler=sampler)
    return sequence.next_item(
        jax.random.key(key), states, table, batch, layout, **options, calibration=calibration
    )


def test_one_negative_is_the_batchs_own():
    # odds of targets 4, 1, 2 and of negatives 8, 2, 4
    expected = np.log1p([1 / 4, 1, 1 / 2]) + np.log1p([8, 2, 4])
    assert value("bce", 1) == pytest.approx(expected.mean())
    assert value("sampled", 1) == pytest.approx(np.log([3, 3, 3]).mean())


def test_drawn_negatives_are_shared_by_a_row_and_spare_its_targets(monkeypatch):
    monkeypatch.setattr(sequence, "_draw", lambda *_: jnp.asarray([[2, 3], [0, 0]]))
    # item 2 is the first row's target, item 0 that of the second row's first position
    sums = [[8.0], [], [1.0, 1.0]]
    odds = [4.0, 1.0, 2.0]
    bce = [np.log1p(1 / o) + np.log1p(s).sum() for o, s in zip(odds, sums, strict=True)]
    assert value("bce") == pytest.approx(np.mean(bce))
    sampled = [np.log((o + np.sum(s)) / o) for o, s in zip(odds, sums, strict=True)]
    assert value("sampled") == pytest.approx(np.mean(sampled))
    power = 1 - 0.75 * (1 - 2 / 3)
    gbce = [
        (power * np.log1p(1 / o) + np.log1p(s).sum()) / 3 for o, s in zip(odds, sums, strict=True)
    ]
    assert value("gbce") == pytest.approx(np.mean(gbce))


def test_popular_negatives_are_corrected_for(monkeypatch):
    monkeypatch.setattr(sequence, "_draw", lambda *_: jnp.asarray([[3, 1], [2, 2]]))
    # odds over shares: items 0..3 have 1 / .25, 2 / .125, 4 / .5, 8 / .125
    corrected = np.asarray([4.0, 16, 8, 64])
    expected = [(8 + 64 + 16) / 8, (4 + 8 + 8) / 4, (16 + 8 + 8) / 16]
    assert value("sampled", sampler="popularity") == pytest.approx(np.log(expected).mean())
    assert corrected[2] == 8
    # the other losses know no correction
    assert value("bce", sampler="popularity") == pytest.approx(value("bce"))


@pytest.mark.parametrize("sampler", ["uniform", "popularity"])
def test_negatives_follow_their_law(sampler):
    _, table, batch, _ = inputs()
    drawn = sequence._draw(jax.random.key(0), (200, 200), batch, sampler, len(table))
    share = np.bincount(np.ravel(drawn), minlength=4) / drawn.size
    expected = np.full(4, 0.25) if sampler == "uniform" else np.exp(batch.log_share)
    np.testing.assert_allclose(share, expected, atol=0.01)  # five standard errors


def test_shares_are_those_of_the_training_interactions():
    data = tiny(split="leave_one_out")
    arrays = sequence.prepare(data, config())
    counts = np.bincount(data.train.item, minlength=data.spec.num_items)
    np.testing.assert_allclose(
        np.exp(arrays.log_share), np.maximum(counts, 1) / len(data.train), rtol=1e-5
    )
    np.testing.assert_array_equal(np.bincount(arrays.item, minlength=len(counts)), counts)


@METHOD
@pytest.mark.parametrize(
    ("field", "name"), [("objective", "bpr"), ("sampler", "hard")], ids=["objective", "sampler"]
)
def test_unknown_choices_are_errors(method, field, name):
    model = method(Spec(num_users=3, num_items=5), **{field: name})
    with pytest.raises(UserError, match=f"model.{field} is '{name}'; it must be one of"):
        model.init({"params": jax.random.key(0)}, Context(), method="represent")


# Every method, every objective, both splits, users of every kind


def tiny(split: str) -> Dataset:
    """People walk around a circle of 40 items, one step at a time.

    Some have a single interaction, some 20 and thus more than the window of 6 holds. They set out
    at various times, so that a split at one moment finds people who are about to start.
    """
    rng = np.random.default_rng(1)
    lengths = rng.choice([1, 4, 7, 20], 120, p=[0.1, 0.3, 0.3, 0.3])
    user = np.repeat(np.arange(120), lengths)
    step = np.arange(len(user)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    item = (rng.integers(0, ITEMS, 120)[user] + step) % ITEMS
    time = 100 * (rng.integers(0, 40, 120)[user] + step)
    return Dataset.from_frames(
        {"user": user, "item": item, "time": time}, split=split, max_len=6, name="circle"
    )


def config():
    config = base.get_config()
    config.train.batch_size, config.eval.block, config.eval.protocol = 32, 32, "none"
    config.eval.metrics, config.eval.ks, config.optim.lr = ("hit",), (1,), 1e-2
    return config


@functools.cache
def fitted(method, split, objective="", epochs=40):
    """Test hits at 1 by user after training, and the data."""
    data, options = tiny(split), config()
    choice = {"objective": objective} | OBJECTIVES.get(objective, {}) if objective else {}
    fields = {"spec": data.spec, **METHODS[method], **choice}
    arrays = sequence.prepare(data, options)
    run = runs.Run(method, fields, sequence, options, -(-sequence.size(arrays) // 32))
    ctx = method.context(data)
    state = jax.jit(functools.partial(runs.init_state, run))(jax.random.key(0), {}, ctx, arrays)
    epoch = jax.jit(functools.partial(train.train_epoch, run))
    for _ in range(epochs):
        state, logs = epoch(state, {}, ctx, arrays)
    assert np.isfinite(logs["loss"])
    evaluator = evaluate.Evaluator(run, data, "test", options)
    return evaluator.users, evaluator({"params": state.params}, {}, ctx)["hit@1"], data


@pytest.mark.parametrize("objective", [name for name in OBJECTIVES if name != "ce"])
def test_every_objective_teaches_the_next_item(objective):
    _, hits, _ = fitted(SASRec, "leave_one_out", objective)
    assert hits.mean() > 0.2  # chance has 1 / 40


@METHOD
def test_every_method_hands_its_choices_to_the_loss(method, monkeypatch):
    given = {}
    monkeypatch.setattr(sequence, "next_item", lambda *_, **fields: given.update(fields) or 0.0)
    fields = dict(objective="gbce", num_negatives=3, sampler="popularity", calibration=0.5)
    model = method(Spec(num_users=3, num_items=4, max_len=2), **METHODS[method], **fields)
    keys = {"params": jax.random.key(0), "dropout": jax.random.key(1)}
    model.init(keys, inputs()[2], Context(), method="loss")
    assert given == fields


@METHOD
def test_leave_one_out_asks_all_who_have_something_to_leave(method):
    users, hits, data = fitted(method, "leave_one_out", "ce")
    counts = np.bincount(data.train.user, minlength=data.spec.num_users)
    assert set(users) == set(data.test.user) and (counts == 1).any()
    assert counts.max() > data.spec.max_len + 1
    for group in (counts[users] <= data.spec.max_len, counts[users] > data.spec.max_len):
        assert hits[group].mean() > 0.9


@METHOD
def test_a_split_in_time(method):
    users, hits, data = fitted(method, "time", "ce")
    counts = np.bincount(data.train.user, minlength=data.spec.num_users)
    targets = np.bincount(data.test.user, minlength=data.spec.num_users)
    assert set(users) == set(data.test.user) and targets.max() > 1
    assert (counts[users] == 1).any()  # known by one training interaction, no example by itself
    assert hits.mean() > 0.9  # what comes next is among the targets


@METHOD
def test_people_without_a_history_are_asked_too(method):
    data, options = tiny("time"), config()
    absent = np.unique(data.test.user)[:3]
    known = lambda part: part.take(~np.isin(part.user, absent))
    data = dataclasses.replace(data, train=known(data.train), valid=known(data.valid))
    run = runs.Run(method, {"spec": data.spec, **METHODS[method]}, sequence, options)
    arrays, ctx = sequence.prepare(data, options), method.context(data)
    state = jax.jit(functools.partial(runs.init_state, run))(jax.random.key(0), {}, ctx, arrays)
    evaluator = evaluate.Evaluator(run, data, "test", options)
    assert set(absent) <= set(evaluator.users)
    hits = evaluator({"params": state.params}, {}, ctx)["hit@1"]
    assert len(hits) == len(evaluator.users) and np.isfinite(hits).all()

    query = sequence.queries(data, "test", options)
    query = jax.tree.map(lambda x: jnp.asarray(x.reshape(-1, *x.shape[2:])), query)
    empty = np.isin(query.user, absent) & query.valid
    score = lambda model: model.score(model.represent(ctx), query)
    scores = run.model({}).apply({"params": state.params}, method=score)
    assert jnp.isfinite(scores).all() and empty.sum() == 3
    np.testing.assert_array_equal(*jnp.broadcast_arrays(scores[empty], scores[empty][:1]))


@METHOD
def test_later_items_and_padding_change_no_earlier_state(method):
    model = method(Spec(num_users=3, num_items=12, max_len=6), **METHODS[method])
    rng = np.random.default_rng(0)
    items = jnp.asarray(rng.integers(0, 12, (4, 6))).at[1, :3].set(-1)
    times = jnp.asarray(np.sort(rng.integers(0, 10**6, (4, 7))))

    def states(model, items, times):
        if method is GRU4Rec:
            return model.encode(items, deterministic=True).swapaxes(0, 1)
        extra = (times,) if method is HSTU else ()
        return model.encode(items, *extra, attention.padded(items), deterministic=True)

    keys = {"params": jax.random.key(0)}
    before, variables = model.init_with_output(keys, items, times, method=states)
    changed = items.at[:, 4:].set((items[:, 4:] + 5) % 12)
    moved = times.at[:, 5:].add(10**6)  # when the items after position 3 came to be
    after = model.apply(variables, changed, moved, method=states)
    np.testing.assert_allclose(after[:, :4], before[:, :4], atol=1e-6)
    assert (jnp.abs(after[:, 4:] - before[:, 4:]).max(axis=-1) > 1e-4).all()
    # row 1 alone, its padding holding another number below zero
    other = model.apply(variables, jnp.where(items < 0, -7, items), times, method=states)
    np.testing.assert_allclose(other[:, 3:], before[:, 3:], atol=1e-6)
