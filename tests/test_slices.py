"""Slices of the test set, on hand-worked cases and against the metrics of everything."""

import json

import jax.numpy as jnp
import numpy as np
import pytest

from configs.ctr import deepfm
from configs.generative import rkmeans
from configs.graph import lightgcn
from mmrec_jax import evaluate, metrics, report, slices, train
from mmrec_jax import run as runs
from mmrec_jax.types import Dataset, Interactions, Spec

W = 1 / np.log2(3)  # discount of the second place


def interactions(*pairs):
    user, item = np.array(pairs, np.int32).T
    return Interactions(user, item)


@pytest.fixture
def small():
    """Item counts 3, 2, 1, 0, 0 and user counts 3, 2, 1, 0 in training."""
    none = Interactions(np.zeros(0, np.int32), np.zeros(0, np.int32))
    return Dataset(
        "small",
        Spec(4, 5),
        train=interactions((0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (2, 0)),
        valid=none,
        test=interactions((3, 4), (0, 3), (1, 2), (1, 3), (2, 1), (3, 0)),
        user_ids=np.arange(4),
        item_ids=np.arange(5),
        present={"image": np.array([True, False, True, True, False])},
    )


LISTS = np.array([[3, 4], [2, 4], [2, 1], [1, 0]], np.int32)


def row(users, targets, recall, ndcg, hit):
    names = [f"{name}@{k}" for name in ("recall", "ndcg", "hit") for k in (1, 2)]
    return dict(users=users, targets=targets) | dict(
        zip(names, [*recall, *ndcg, *hit], strict=True)
    )


def check(found, expected):
    assert list(found) == list(expected)
    for name, values in expected.items():
        assert found[name] == pytest.approx(values), name


def test_by_item_popularity(small):
    found = slices.measure(small, np.arange(4), LISTS, (1, 2))["popularity"]
    expected = {
        "head": row(1, 1, (0, 1), (0, W), (0, 1)),  # item 0, second for user 3
        "mid": row(2, 2, (0.5, 1), (0.5, (1 + W) / 2), (0.5, 1)),  # items 1 and 2
        "cold": row(3, 3, [1 / 3] * 2, [1 / 3] * 2, [1 / 3] * 2),  # items 3 and 4
    }
    check(found, expected)  # there is no tail


def test_by_user_activity(small):
    found = slices.measure(small, np.arange(4), LISTS, (1, 2))["activity"]
    half = 1 / (1 + W)  # one of two targets, in the first place
    expected = {
        "q1": row(1, 1, (0, 1), (0, W), (0, 1)),  # user 2
        "q2": row(1, 2, (0.5, 0.5), (1, half), (1, 1)),  # user 1
        "q4": row(1, 1, (1, 1), (1, 1), (1, 1)),  # user 0
        "cold": row(1, 2, (0, 0.5), (0, W * half), (0, 1)),  # user 3
    }
    check(found, expected)


def test_by_feature_row(small):
    found = slices.measure(small, np.arange(4), LISTS, (1, 2))["image_features"]
    expected = {
        "present": row(
            3, 4, (0.5, (1 + 0.5 + 1) / 3), (2 / 3, (1 + 1 / (1 + W) + W) / 3), (2 / 3, 1)
        ),
        "missing": row(2, 2, (0, 0.5), (0, W / 2), (0, 0.5)),
    }
    check(found, expected)


def test_only_the_users_asked_count_and_in_their_order(small):
    found = slices.measure(small, np.array([3, 1]), LISTS[[3, 1]], (1, 2))["activity"]
    expected = {  # user 1 is the only trained one and thus the first quartile
        "q1": row(1, 2, (0.5, 0.5), (1, 1 / (1 + W)), (1, 1)),
        "cold": row(1, 2, (0, 0.5), (0, W / (1 + W)), (0, 1)),
    }
    check(found, expected)


def test_popularity_groups():
    counts = np.array([1, 9, 0, 1, 5, 5, 1, 1, 2, 3, 1])
    # Ten items are known: two head (1, then 4 before 5), six mid, and the last two by number.
    np.testing.assert_array_equal(slices.popularity(counts), [1, 0, 3, 1, 0, 1, 1, 2, 1, 1, 2])
    np.testing.assert_array_equal(slices.popularity(np.zeros(3, int)), [3, 3, 3])


def test_equal_activity_stays_together():
    groups = slices.activity(np.array([2, 2, 2, 2, 2, 7, 9, 0]))
    np.testing.assert_array_equal(groups, [0, 0, 0, 0, 0, 3, 3, 4])
    np.testing.assert_array_equal(slices.activity(np.zeros(2, int)), [4, 4])


def test_ranks_of_absent_repeated_and_missing_places():
    lists = np.array([[4, 2, 4], [-1, -1, -1], [0, -1, 1]])
    found = slices.ranks(np.array([0, 0, 0, 1, 2, 2]), np.array([4, 2, 0, 0, 1, 9]), lists)
    miss = slices.MISS
    np.testing.assert_array_equal(found, [0, 1, miss, miss, 2, miss])
    np.testing.assert_array_equal(slices.ranks(np.array([0]), np.array([0]), lists[1:2]), [miss])


def test_a_slice_of_everything_equals_the_metrics():
    rng = np.random.default_rng(0)
    num_users, num_items, ks = 40, 60, (1, 5, 20)
    lists = np.argsort(rng.random((num_users, num_items)), axis=1)[:, :20].astype(np.int32)
    wanted = rng.random((num_users, num_items)) < 0.15
    wanted[:, 0] = True
    user, item = np.nonzero(wanted)
    target = np.full((num_users, wanted.sum(1).max()), -1, np.int32)
    ranks = np.full(target.shape, slices.MISS, np.int32)
    for u in range(num_users):
        mine = np.flatnonzero(wanted[u])
        target[u, : len(mine)] = mine
        for t, i in enumerate(mine):
            place = np.flatnonzero(lists[u] == i)
            ranks[u, t] = place[0] if len(place) else slices.MISS
    names = ("recall", "ndcg", "hit")
    expected = metrics.from_ranks(jnp.asarray(ranks), jnp.asarray(target), names, ks)
    found = slices.accuracy(user, slices.ranks(user, item, lists), ks)
    assert list(found) == list(expected)
    for name, value in expected.items():
        assert found[name] == pytest.approx(float(value.mean()), abs=1e-6), name


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    config = lightgcn.get_config("debug")
    config.data.knobs.num_users, config.data.knobs.num_items = 150, 80
    config.model.dim, config.train.epochs, config.eval.block = 8, 2, 64
    workdir = tmp_path_factory.mktemp("run")
    return config, workdir, train.train(config, workdir)


def test_lists_are_those_that_are_measured(trained):
    config, workdir, _ = trained
    run, data, ctx, variables = runs.load(workdir)
    test = evaluate.Evaluator(run, data, "test", config)
    assert test.ranks
    lists = test.top(variables, {}, ctx, 50)
    assert lists.shape == (len(test.users), 50) and lists.dtype == np.int32
    known = np.zeros((data.spec.num_users, data.spec.num_items), bool)
    known[data.train.user, data.train.item] = True
    assert not known[test.users[:, None], lists].any()
    row, item = slices.targets(data.test, test.users)
    found = slices.accuracy(row, slices.ranks(row, item, lists), config.eval.ks)
    means = test.mean(variables, {}, ctx)
    assert found == pytest.approx({name: means[name] for name in found}, abs=1e-6)


def test_places_beyond_the_catalogue_are_empty(trained):
    config, workdir, _ = trained
    run, data, ctx, variables = runs.load(workdir)
    test = evaluate.Evaluator(run, data, "test", config)
    lists = test.top(variables, {}, ctx, 100)
    seen = np.bincount(data.train.user, minlength=data.spec.num_users)[test.users]
    np.testing.assert_array_equal((lists >= 0).sum(1), data.spec.num_items - seen)


def test_a_run_shows_slices_and_what_lies_beyond(trained):
    _, workdir, summary = trained
    written = json.loads((workdir / "summary.json").read_text())
    assert set(written["slices"]) == {"popularity", "activity", "image_features", "text_features"}
    popularity = written["slices"]["popularity"]
    _, data, _, _ = runs.load(workdir)
    assert sum(entry["targets"] for entry in popularity.values()) == len(data.test)
    assert popularity["cold"]["recall@50"] <= 1 and written["beyond"]["k"] == 20
    lines = report.table(summary).splitlines()[-2:]
    assert lines[0].startswith("recall@20   head 0.") and " cold " in lines[0]
    assert lines[1].startswith("test@20     coverage ")


@pytest.mark.parametrize("module", [deepfm, rkmeans])
def test_what_ranks_no_items_has_no_slices(module):
    config = module.get_config("debug")
    run, data, _ = runs.setup(config)
    assert not evaluate.Evaluator(run, data, "test", config).ranks
