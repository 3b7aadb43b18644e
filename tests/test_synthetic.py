"""The synthetic set: repeatable, of the size asked for, and worth learning."""

from __future__ import annotations

import numpy as np
import pytest

from configs import base
from mmrec_jax.data import load, synthetic
from mmrec_jax.types import UserError


@pytest.fixture(scope="module")
def data():
    return load("synthetic")


def matrix(data):
    known = np.zeros((data.spec.num_users, data.spec.num_items))
    known[data.train.user, data.train.item] = 1
    return known


def recall(scores, data, k=20):
    """Mean recall on the test items of all users, training items left out."""
    scores = np.where(matrix(data) > 0, -np.inf, scores)
    top = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    truth = np.zeros_like(scores, dtype=bool)
    truth[data.test.user, data.test.item] = True
    tested = truth.any(1)
    hits = np.take_along_axis(truth, top, 1).sum(1)
    return (hits[tested] / truth.sum(1)[tested]).mean()


def test_the_plan_beats_popularity(data):
    known = matrix(data)
    popular = recall(np.tile(known.sum(0), (len(known), 1)), data)
    gram = known.T @ known + 100 * np.eye(known.shape[1])
    inverse = np.linalg.inv(gram)
    weights = -inverse / np.diag(inverse)
    np.fill_diagonal(weights, 0)
    assert recall(known @ weights, data) > 2 * popular
    for features in data.features.values():
        unit = features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-9)
        assert recall(known @ unit @ unit.T, data) > 1.5 * popular


def test_default_sizes(data):
    assert (data.spec.num_users, data.spec.num_items) == (1000, 600)
    assert data.spec.feature_dims == (("image", 64), ("text", 32))
    total = sum(map(len, (data.train, data.valid, data.test)))
    assert total == pytest.approx(20 * 1000, rel=0.1)
    for part, least in ((data.train, 1000), (data.valid, 950), (data.test, 950)):
        assert len(np.unique(part.user)) >= least


def test_popularity_follows_a_power_law():
    shares = {}
    for exponent in (0.0, 1.2):
        table = synthetic.make(taste=0.0, popularity=exponent, cold=0.0)
        counts = np.sort(np.bincount(table.item, minlength=600))[::-1]
        shares[exponent] = counts[:60].sum() / counts.sum()
    assert shares[0.0] < 0.2 < 0.4 < shares[1.2]


def test_cold_items_have_features_and_only_held_out_interactions(data):
    cold = np.flatnonzero(matrix(data).sum(0) == 0)
    assert len(cold) >= 30
    assert np.isin(data.test.item, cold).any()
    assert data.present["image"][cold].any()


def test_missing_rows_are_zero_and_masked(data):
    for name, present in data.present.items():
        assert (~present).sum() == 30
        np.testing.assert_array_equal(data.features[name][~present], 0)
        assert np.abs(data.features[name][present]).sum(1).min() > 0


def test_time_orders_the_split_of_each_user(data):
    for user in (0, 7, 500):
        times = [p.time[p.user == user] for p in (data.train, data.valid, data.test)]
        assert times[0].max() < times[1].min() and times[1].max() < times[2].min()


def fading(drift):
    """How much better the genres of a user's first interactions match soon after than late."""
    table = synthetic.make(num_users=300, mean_interactions=60.0, drift=drift, cold=0.0)
    genre = table.fields["item_genre"]
    place = np.arange(len(table.user)) - np.searchsorted(table.user, table.user)
    progress = place / np.bincount(table.user)[table.user]
    periods = np.zeros((3, 300, genre.max() + 1))
    for row, start in zip(periods, (0.0, 0.25, 0.75), strict=True):
        now = (progress >= start) & (progress < start + 0.25)
        np.add.at(row, (table.user[now], genre[now]), 1)
    early, soon, late = periods / np.maximum(periods.sum(-1, keepdims=True), 1)
    return (early * soon).sum() / (early * late).sum()


def test_taste_drifts():
    assert fading(drift=1.0) > 1.2 * fading(drift=0.0)  # not 1: favourites are used up


def test_fields_belong_to_their_entities():
    table = synthetic.impressions(num_users=100, num_items=50)
    assert list(table.fields) == ["user_group", "item_genre", "price", "hour", "device"]
    for ids, name in (
        (table.user, "user_group"),
        (table.item, "item_genre"),
        (table.item, "price"),
    ):
        pairs = np.unique(np.stack([ids, table.fields[name]]), axis=1)
        assert len(pairs.T) == len(np.unique(ids))
    np.testing.assert_array_equal(table.fields["hour"], table.time // 3600 % 24)


def test_impressions_are_of_the_size_asked_for_and_conversions_follow_clicks():
    table = synthetic.impressions()
    assert len(table.user) == pytest.approx(4 * 20 * 1000, rel=0.1)
    assert 0.15 < table.click.mean() < 0.3 and table.conversion.sum() > 0.2 * table.click.sum()
    assert (table.conversion <= table.click).all()
    trained = np.bincount(table.item[table.label == 0], minlength=600) > 0
    assert 25 <= (~trained).sum() <= 40  # the cold twentieth, shown later only


def test_same_seed_same_data_and_another_seed_another():
    small = {"num_users": 50, "num_items": 40}
    first, again = load("synthetic", knobs=small), load("synthetic", knobs=small)
    other = load("synthetic", knobs=small | {"seed": 1})
    assert first.notes == again.notes
    np.testing.assert_array_equal(first.train.item, again.train.item)
    np.testing.assert_array_equal(first.features["text"], again.features["text"])
    assert first.notes["split_hash"] != other.notes["split_hash"]


def test_other_splits_and_tiny_sizes():
    knobs = {"num_users": 20, "num_items": 10, "mean_interactions": 3.0}
    for split in ("ratio", "leave_one_out", "time"):
        assert len(load("synthetic", knobs=knobs, split=split).train)


def test_the_configuration_states_every_knob_with_the_same_default():
    import inspect

    given = {n: p.default for n, p in inspect.signature(synthetic.make).parameters.items()}
    assert base.get_config().data.knobs.to_dict() == given


def test_the_configuration_is_what_load_takes():
    assert load(**base.get_config().data).notes == load("synthetic").notes


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"num_user": 5}, "did you mean 'num_users'"),
        ({"zzz": 5}, "use one of num_users"),
        ({"num_items": 3}, "num_items is 3; give at least 10"),
        ({"cold": 1.5}, "cold is 1.5; give between 0 and 1"),
    ],
)
def test_errors(knobs, message):
    with pytest.raises(UserError, match=message):
        load("synthetic", knobs=knobs)
