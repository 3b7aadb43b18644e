"""Splits on hand-worked cases, and what every split must keep."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from configs.baseline import ease
from configs.sequence import sasrec
from mmrec_jax import data as datasets
from mmrec_jax import train
from mmrec_jax.data import splits
from mmrec_jax.ops import bag
from mmrec_jax.types import UserError


def test_ratio_takes_at_least_one_and_leaves_one():
    user = np.repeat([0, 1, 2, 3], [1, 2, 3, 20])
    part = splits.by_ratio(user, np.random.default_rng(0).random(26), (0.8, 0.1, 0.1))
    counts = np.array([np.bincount(part[user == u], minlength=3) for u in range(4)])
    np.testing.assert_array_equal(counts, [[1, 0, 0], [1, 0, 1], [1, 1, 1], [16, 2, 2]])


def test_ratio_orders_by_the_random_numbers():
    part = splits.by_ratio(np.zeros(4, int), np.array([0.9, 0.1, 0.5, 0.7]), (0.5, 0.25, 0.25))
    np.testing.assert_array_equal(part, [2, 0, 0, 1])


def test_leave_one_out_by_time_with_ties_in_file_order():
    user = np.array([0, 0, 0, 0, 1, 1, 2, 2, 2])
    time = np.array([30, 10, 40, 20, 1, 2, 5, 5, 5])
    np.testing.assert_array_equal(splits.leave_one_out(user, time), [1, 0, 2, 0, 0, 0, 0, 1, 2])


def test_time_cuts_all_users_at_once_and_keeps_ties_together():
    time = np.array([5, 1, 2, 3, 4, 4, 4, 8, 9, 10])
    part = splits.by_time(time, (0.5, 0.3, 0.2))  # the fifth of ten falls on a 4
    np.testing.assert_array_equal(part, [1, 0, 0, 0, 0, 0, 0, 1, 2, 2])


def test_time_boundaries_are_exact_despite_float_sums():
    part = splits.by_time(np.arange(10), (0.1, 0.2, 0.7))
    np.testing.assert_array_equal(np.bincount(part), [1, 2, 7])


def test_labels_are_kept():
    label = np.array([0, 2, 1, 0])
    part, facts = splits.assign(np.array([0, 0, 0, 1]), label=label)
    np.testing.assert_array_equal(part, label)
    assert facts == {"rule": "label", "valid": "as labelled"}


def test_missing_validation_is_carved_out_of_training():
    user = np.repeat([0, 1], [12, 2])
    label = np.array([0] * 10 + [2, 2] + [0, 2])
    part, _ = splits.assign(user, label=label, ratios=(0.8, 0.2, 0.0))
    np.testing.assert_array_equal(np.bincount(part[:12]), [8, 2, 2])
    np.testing.assert_array_equal(part[12:], [0, 2])  # a lone training interaction stays
    whole, facts = splits.assign(user, label=label, ratios=(1, 0, 0))
    np.testing.assert_array_equal(whole, label)
    assert facts["valid"].startswith("none")


@pytest.mark.parametrize(
    ("time", "label", "rule"),
    [
        (None, [0, 0, 1, 2], "label"),
        ([1, 2, 3, 4], [0, 0, 1, 2], "label"),
        ([1, 2, 3, 4], None, "leave_one_out"),
        (None, None, "ratio"),
    ],
)
def test_auto(time, label, rule):
    asarray = lambda a: None if a is None else np.array(a)
    assert splits.assign(np.zeros(4, int), asarray(time), asarray(label))[1]["rule"] == rule


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rule": "leave_one_ot"}, "did you mean 'leave_one_out'"),
        ({"rule": "time"}, "needs a time column .* config.data.columns.time"),
        ({"rule": "leave_one_out"}, "needs a time column"),
        ({"rule": "label"}, "needs a label column"),
        ({"label": np.array([1, 2, 2])}, "training split is empty"),
        ({"label": np.array([0, 0, 1])}, "test split is empty"),
        ({"ratios": (0.8, 0.2)}, "three shares"),
        ({"ratios": (0.0, 0.5, 0.5)}, "the first is positive"),
        ({"ratios": (0.9, -0.1, 0.2)}, "none is negative"),
        ({"rule": "time", "time": np.ones(3)}, "validation split is empty"),
    ],
)
def test_errors(options, message):
    with pytest.raises(UserError, match=message):
        splits.assign(np.zeros(3, int), **options)


def test_k_core_is_repeated_until_nothing_changes():
    # Item 2 has one user; without it user 2 has one item; without that item 1 has one user, ...
    user = np.array([0, 0, 1, 1, 2, 2, 3, 3, 4, 4])
    item = np.array([0, 3, 0, 3, 1, 2, 1, 4, 4, 0])
    np.testing.assert_array_equal(splits.k_core(user, item, 2), [0, 1, 2, 3])
    assert len(splits.k_core(user, item, 3)) == 0


pairs = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 9)), min_size=1, max_size=60)


@settings(max_examples=100, deadline=None)
@given(pairs, st.integers(1, 4))
def test_k_core_is_the_largest(pairs, k):
    user, item = np.array(pairs).T
    kept = splits.k_core(user, item, k)
    left = set(range(len(pairs)))
    while True:  # the definition, one interaction at a time
        weak = [
            n
            for n in left
            if sum(user[m] == user[n] for m in left) < k
            or sum(item[m] == item[n] for m in left) < k
        ]
        if not weak:
            break
        left -= {weak[0]}
    assert kept.tolist() == sorted(left)


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 6), st.integers(0, 4)), min_size=1, max_size=60),
    st.sampled_from([(0.8, 0.1, 0.1), (0.5, 0.5, 0.0), (0.2, 0.0, 0.8), (1.0, 0.0, 0.0)]),
    st.integers(0, 3),
)
def test_every_user_trains_and_held_out_items_come_last(pairs, ratios, seed):
    user, time = np.array(pairs).T
    random = np.random.default_rng(seed).random(len(user))
    for part, order in (
        (splits.by_ratio(user, random, ratios), random),
        (splits.leave_one_out(user, time), time),
    ):
        assert part.dtype == np.int8 and set(part) <= {0, 1, 2}
        for u in np.unique(user):
            mine = part[user == u][np.argsort(order[user == u], kind="stable")]
            assert mine[0] == 0 and (np.diff(mine) >= 0).all()


def test_cold_takes_shares_of_the_items_in_random_order():
    item = np.array([7, 3, 7, 9, 3, 1, 9, 7])  # distinct: 1, 3, 7, 9
    random = np.array([0.2, 0.9, 0.1, 0.5, 0, 0, 0, 0])
    part = splits.cold(item, random, (0.5, 0.25, 0.25))  # 3 has the largest, then 9
    np.testing.assert_array_equal(part, [0, 2, 0, 1, 2, 0, 1, 0])


@settings(max_examples=60, deadline=None)
@given(st.integers(3, 60), st.sampled_from(splits.COLD), st.integers(0, 9))
def test_cold_parts_are_disjoint_and_complete(count, rule, seed):
    user, item = np.random.default_rng(seed).integers(0, count, (2, 3 * count))
    user[:count] = item[:count] = np.arange(count)
    part, facts = splits.assign(user, item=item, rule=rule, ratios=(0.6, 0.2, 0.2), seed=seed)
    assert facts["rule"] == rule and len(part) == len(user)
    entity = item if rule == "item_cold" else user
    held = [set(entity[part == p]) for p in range(3)]
    assert not (held[0] & held[1] or held[0] & held[2] or held[1] & held[2])
    assert len(held[0] | held[1] | held[2]) == count
    assert [len(h) for h in held[1:]] == [max(int(0.2 * count + 1e-6), 1)] * 2
    again, _ = splits.assign(user, item=item, rule=rule, ratios=(0.6, 0.2, 0.2), seed=seed)
    np.testing.assert_array_equal(part, again)


def test_the_seed_decides_which_are_cold():
    user, item = np.arange(60), np.arange(60) % 30
    parts = [splits.assign(user, item=item, rule="item_cold", seed=n)[0] for n in (0, 1)]
    assert (parts[0] != parts[1]).any()


def planted(split, **options):
    knobs = {"num_users": 60, "num_items": 50, "mean_interactions": 8.0}
    return datasets.load("synthetic", split=split, knobs=knobs, ratios=(0.6, 0.2, 0.2), **options)


def test_a_cold_item_has_no_training_interactions():
    data = planted("item_cold")
    parts = (data.train, data.valid, data.test)
    items = [set(part.item) for part in parts]
    assert not (items[0] & items[1] or items[0] & items[2] or items[1] & items[2])
    assert sum(map(len, parts)) == data.notes["interactions"]["read"]  # all users train
    user = np.concatenate([np.repeat([100, 101], 10), np.arange(10)])  # ten have a single item
    columns = {"user": user, "item": np.tile(np.arange(10), 3)}
    data = datasets.from_frames(columns, split="item_cold", ratios=(0.6, 0.2, 0.2))
    assert data.notes["interactions"]["untrained_users_dropped"] == 4
    assert [len(part) for part in (data.train, data.valid, data.test)] == [18, 4, 4]


def test_a_cold_user_keeps_all_held_out_interactions(tmp_path):
    data = planted("user_cold")
    parts = (data.train, data.valid, data.test)
    users = [set(part.user) for part in parts]
    assert not (users[0] & users[1] or users[0] & users[2] or users[1] & users[2])
    assert sum(map(len, parts)) == data.notes["interactions"]["read"] and len(data.test)
    assert len(users[0] | users[1] | users[2]) == data.spec.num_users
    gone = data.user_ids[data.train.user[0]]
    (tmp_path / "forget.csv").write_text(f"user\n{gone}\n")
    left = planted("user_cold", forget=str(tmp_path / "forget.csv"))
    assert len(left.test) == len(data.test) and len(left.train) < len(data.train)


def test_impressions_have_no_cold_splits():
    with pytest.raises(UserError, match="split=user_cold is for interactions"):
        datasets.load("synthetic", split="user_cold", impressions=True)


def test_a_bag_of_no_pairs_is_zero():
    none = jnp.zeros(0, jnp.int32)
    sums = bag.embedding_bag(jnp.ones((3, 2)), none, none, none.astype(jnp.float32), 4)
    np.testing.assert_array_equal(sums, np.zeros((4, 2)))


@pytest.mark.parametrize("module", [ease, sasrec])
def test_users_without_history_are_ranked_for(module, tmp_path):
    config = module.get_config("debug")
    config.data.knobs.num_users, config.data.knobs.num_items = 60, 50
    config.data.split = "user_cold"
    if config.train.epochs:
        config.train.epochs = 1
    summary = train.train(config, tmp_path)
    assert summary["slices"]["activity"].keys() == {"cold"}
    assert summary["test"]["recall@20"] > 0
