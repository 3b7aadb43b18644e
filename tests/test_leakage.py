"""Leaked preferences: the data, the same queries with and without, and the score."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from configs.baseline import ease, mf
from configs.ctr import deepfm
from mmrec_jax import data as datasets
from mmrec_jax import evaluate, leakage, queries, store, train
from mmrec_jax import run as runs
from mmrec_jax.data import leak, prepared
from mmrec_jax.types import Dataset, Interactions, Spec, UserError


def _part(user, item, time=None, rating=None):
    as_type = lambda a, kind: None if a is None else np.array(a, kind)
    return Interactions(
        np.array(user, np.int32), np.array(item, np.int32), as_type(time, np.int64),
        as_type(rating, np.float32),
    )  # fmt: skip


@pytest.fixture
def small():
    """Users a, b, c with items 10, 20, 30, 40; c has no training interaction."""
    return Dataset(
        name="small",
        spec=Spec(3, 4),
        train=_part([0, 0, 1], [0, 1, 1], [5, 3, 4], [1, 2, 6]),
        valid=_part([0], [2], [6], [4]),
        test=_part([0, 1], [3, 3], [8, 11], [5, 2]),
        user_ids=np.array(["a", "b", "c"]),
        item_ids=np.array([10, 20, 30, 40]),
        notes={"split_hash": "before", "interactions": {"train": 3, "test": 2}},
    )


def _table(folder, text):
    (folder / "likes.csv").write_text(text)
    return folder / "likes.csv"


def test_pairs_of_a_table_become_training_interactions(small, tmp_path):
    path = _table(tmp_path, "item,user\n40,a\n30,a\n20,b\n40,c\n40,a\n10, b\n")
    data = leak.given(small, path)
    rows = zip(data.train.user, data.train.item, data.train.time, data.train.rating, strict=True)
    assert [tuple(map(float, row)) for row in rows] == [
        (0, 0, 5, 1), (0, 1, 3, 2), (1, 1, 4, 6),  # as before
        (0, 2, 6, 4), (0, 3, 8, 5),  # of validation and test
        (1, 0, 4, 3), (2, 3, 5, 3),  # new: latest time of the user or of all, mean rating
    ]  # fmt: skip
    assert data.train.user.dtype == np.int32 and data.train.time.dtype == np.int64
    assert data.known is small.train and data.test is small.test and data.valid is small.valid
    assert data.notes["LEAKED"] == {
        "from": str(path), "pairs": 5, "known_already": 1, "of_valid": 1, "of_test": 1,
    }  # fmt: skip
    assert data.name == "small + LEAKED PREFERENCES"
    assert data.notes["interactions"]["train"] == 7
    assert data.notes["split_hash"] != "before"


def test_shares_of_test_hold_the_smaller_ones():
    whole = datasets.load("synthetic")
    pairs = lambda part: set(zip(part.user.tolist(), part.item.tolist(), strict=True))
    given = [pairs(datasets.load("synthetic", leak=f"test={r}").train) for r in (0.1, 0.5, 1)]
    new = [got - pairs(whole.train) for got in given]
    assert [len(got) for got in new] == [round(r * len(whole.test)) for r in (0.1, 0.5, 1)]
    assert new[0] < new[1] < new[2] == pairs(whole.test)


@pytest.mark.parametrize("protocol", ["mmrec", "strict", "none"])
@pytest.mark.parametrize("split", ["valid", "test"])
def test_queries_are_the_same_with_and_without_a_leak(split, protocol):
    """Targets are not masked, histories do not grow, the sequences end where they did."""
    config = ease.get_config("debug")
    config.eval.protocol = protocol
    knobs = config.data.knobs.to_dict()
    plain, leaked = (datasets.load("synthetic", knobs=knobs, leak=what) for what in ("", "test=1"))
    asked = [queries.ranking(data, split, config, sequences=True) for data in (plain, leaked)]
    jax.tree.map(np.testing.assert_array_equal, *asked)
    targets, masked = asked[1].target, asked[1].masked_item
    assert (targets >= 0).any() and (masked.size > 0) == (protocol != "none")


def test_a_method_that_learned_the_leak_is_given_credit(tmp_path):
    """With all test pairs in training, a memory of training ranks every target first."""
    config = mf.get_config("debug")
    config.data.leak, config.train.epochs = "test=1", 1
    config.eval.ks, config.eval.metrics = (50,), ("recall",)
    config.eval.metric = "recall@50"
    run, data, ctx = runs.setup(config)
    train_matrix = np.zeros((data.spec.num_users, data.spec.num_items), np.float32)
    train_matrix[data.train.user, data.train.item] = 1
    identity = np.eye(data.spec.num_items, dtype=np.float32)
    model = dataclasses.replace(run, fields={**run.fields, "dim": data.spec.num_items})
    variables = {"params": {"user": train_matrix, "item": identity}}
    found = evaluate.Evaluator(model, data, "test", config).mean(variables, {}, ctx)
    assert found["recall@50"] == 1.0


def test_scores_by_hand():
    plain = [{"recall@5": np.array([0.0, 0.5, 0.5, 1.0]), "mrr@5": np.zeros(4)}] * 2
    leaked = [
        {"recall@5": np.array([0.5, 0.5, 1.0, 1.0]), "mrr@5": np.ones(4)},
        {"recall@5": np.array([0.5, 1.0, 1.0, 1.0]), "mrr@5": np.ones(4)},
    ]
    found = leakage.scores(plain, leaked)
    score = found["recall@5"]
    assert np.isclose(score["plain"], 0.5) and np.isclose(score["leaked"], 0.8125)
    assert np.isclose(score["lis"], 0.3125) and np.isclose(score["relative"], 0.625)
    np.testing.assert_allclose(score["by_seed"], [0.25, 0.375])
    # by user, over the seeds: .5, .25, .5, 0; no mean of four of these leaves 0 to .5
    assert 0 <= score["low"] < 0.3125 < score["high"] <= 0.5
    assert np.isclose(score["relative_low"], score["low"] / 0.5)
    assert np.isclose(score["relative_high"], score["high"] / 0.5)
    assert found["mrr@5"]["lis"] == 1 and found["mrr@5"]["relative"] is None
    assert "| - | - |" in leakage._cells(found["mrr@5"])


@pytest.fixture(scope="module")
def curve(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("leak")
    return leakage.leakage(
        ease.get_config("debug"), workdir, seeds=(0, 1), rates=(0.2, 1.0)
    ), workdir


def test_more_of_test_is_worth_more(curve):
    result, _ = curve
    few, every = (entry["scores"]["recall@20"] for entry in result["leaks"])
    assert 0 < few["lis"] < every["lis"] and every["low"] > 0
    assert few["plain"] == every["plain"]
    assert [entry["leak"]["from"] for entry in result["leaks"]] == ["test=0.2", "test=1"]


def test_runs_with_and_without_are_runs_like_any_other(curve, tmp_path):
    result, workdir = curve
    config = ease.get_config("debug")
    assert result["metric"] == "recall@20" and result["seeds"] == [0, 1]
    lone = train.train(config, tmp_path / "lone")["test"]
    assert np.isclose(lone["recall@20"], result["leaks"][0]["scores"]["recall@20"]["plain"])
    summary = json.loads((workdir / "leaked-test-1-1" / "summary.json").read_text())
    assert summary["seed"] == 1 and summary["config"]["data"]["leak"] == "test=1"
    score = result["leaks"][1]["scores"]["recall@20"]
    again = evaluate.evaluate(workdir / "leaked-test-1-1")["recall@20"]
    assert np.isclose(summary["test"]["recall@20"], score["leaked"]) and np.isclose(
        again, score["leaked"]
    )


def test_every_result_says_that_it_is_no_test(curve):
    result, workdir = curve
    assert result["warning"].startswith("NO TEST RESULTS OF THE METHOD")
    assert store.read_json(workdir / "leakage.json", "") == result
    text = (workdir / "leakage.md").read_text()
    assert text.startswith("**NO TEST RESULTS OF THE METHOD")
    assert text.startswith(leakage.table(result))
    assert text.count("| ndcg@10 |") == 2
    for folder in ("leaked-test-0.2-0", "leaked-test-1-0"):
        summary = json.loads((workdir / folder / "summary.json").read_text())
        assert "LEAKED" in summary["data"] and summary["data_notes"]["LEAKED"]["of_test"] > 0
    plain = json.loads((workdir / "plain-0" / "summary.json").read_text())
    assert "LEAKED" not in plain["data"] and plain["split_hash"] != summary["split_hash"]


def test_a_table_of_preferences(tmp_path, monkeypatch):
    config = ease.get_config("debug")
    data = datasets.load(**config.data)
    rows = [
        f"{data.user_ids[u]},{data.item_ids[i]}"
        for u, i in zip(data.test.user, data.test.item, strict=True)
    ]
    path = _table(tmp_path, "user,item\n" + "\n".join(rows) + "\n")
    result = leakage.leakage(config, tmp_path / "leak", str(path))
    (entry,) = result["leaks"]
    assert entry["leak"]["of_test"] == len(rows) and entry["scores"]["recall@20"]["lis"] > 0
    assert (tmp_path / "leak" / "leaked-table-0" / "summary.json").exists()
    monkeypatch.setattr(train, "train", None)  # what has ended is kept
    assert leakage.leakage(config, tmp_path / "leak", str(path)) == result


def test_epochs_are_trained_with_the_leak(tmp_path):
    config = mf.get_config("debug")
    config.train.epochs, config.optim.lr = 15, 0.02
    result = leakage.leakage(config, tmp_path, rates=(1.0,))
    assert result["leaks"][0]["scores"]["recall@50"]["lis"] > 0


@pytest.mark.parametrize(
    "text,said",
    [
        ("user,item\na,10\nz,10\n", "likes.csv: line 3: unknown user 'z' in small"),
        ("user,item\na,10\na,11\n", "likes.csv: line 3: unknown item '11' in small"),
        ("user,liked\na,10\n", "no column seems to hold the item"),
        ("user,item\n", "no preferences"),
    ],
)
def test_mistakes_in_a_table(small, tmp_path, text, said):
    with pytest.raises(UserError, match=said):
        leak.given(small, _table(tmp_path, text))


def test_other_mistakes(small, tmp_path):
    for what in ("test=0", "test=1.5", "test=all"):
        with pytest.raises(UserError, match="give a share of test above 0"):
            leak.given(small, what)
    config = ease.get_config("debug")
    config.data.leak = "test=1"
    with pytest.raises(UserError, match="--mode=leak sets it"):
        leakage.leakage(config, tmp_path)
    with pytest.raises(UserError, match="these are impressions"):
        leakage.leakage(deepfm.get_config("debug"), tmp_path)
    with pytest.raises(UserError, match="data with a leak are not stored"):
        prepared.write(datasets.load(**config.data), tmp_path, "leaked")
    assert not list(tmp_path.iterdir())
