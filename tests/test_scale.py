"""Interactions that stay on disk, queries of a sample of users, and what a budget forbids."""

from __future__ import annotations

import dataclasses
import importlib
import json
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pandas
import pytest

from configs.baseline import mf
from mmrec_jax import data as datasets
from mmrec_jax import (
    evaluate,
    logs,
    optimize,
    queries,
    recommend,
    streamed,
    sweep,
    train,
)
from mmrec_jax import run as runs
from mmrec_jax.data import prepared, synthetic
from mmrec_jax.ops import sampling
from mmrec_jax.streamed import Parts, Streamed
from mmrec_jax.tasks import pairwise
from mmrec_jax.types import Interactions, TrainState, UserError

BUDGET = 900


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A prepared set of 300 users in records of about 120 rows."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prepared, "BLOCK", 120)
        knobs = {"num_users": 300, "num_items": 240}
        loaded = datasets.load("synthetic", knobs=knobs)
        shuffled = np.random.default_rng(0).permutation(len(loaded.train))
        loaded = dataclasses.replace(loaded, train=loaded.train.take(shuffled))
        return prepared.write(loaded, tmp_path_factory.mktemp("tfds"), "scale", by_user=True)


@pytest.fixture(scope="module")
def whole(folder):
    return datasets.load(str(folder))


@pytest.fixture(scope="module")
def stream(folder):
    return datasets.load(str(folder), budget=BUDGET)


def pairs(part):
    return sorted(zip(part.user.tolist(), part.item.tolist(), strict=True))


def configured(folder, budget=BUDGET, **changes):
    config = mf.get_config("debug")
    config.data.source, config.data.budget = str(folder), budget
    config.train.batch_size, config.optim.lr, config.eval.block = 128, 1e-2, 64
    config.model.dim, config.eval.users = 16, 40
    config.update_from_flattened_dict(changes)
    return config


# What is stored, and what is read of it.


def test_records_end_where_users_do(monkeypatch):
    monkeypatch.setattr(prepared, "BLOCK", 4)
    user = np.repeat([0, 1, 2, 3, 4, 5], [3, 2, 2, 9, 1, 3])
    cuts = prepared._between_users({"user": user})
    assert cuts.tolist() == [0, 3, 7, 16, 20]
    blocks = list(prepared._blocks({"user": user}, cuts))
    assert [block["user"].tolist() for block in blocks[:2]] == [[0] * 3, [1, 1, 2, 2]]


def test_what_is_stored_to_be_streamed_is_the_same_set(folder, whole):
    fresh = datasets.load("synthetic", knobs={"num_users": 300, "num_items": 240})
    for split in ("train", "valid", "test"):
        assert pairs(getattr(whole, split)) == pairs(getattr(fresh, split))
    assert (np.diff(whole.train.user) >= 0).all()
    assert whole.notes["split_hash"] == fresh.notes["split_hash"]


def test_a_budget_leaves_training_on_disk(whole, stream):
    assert isinstance(stream.train, Streamed) and not isinstance(whole.train, Streamed)
    assert len(stream.train) == len(whole.train) and repr(stream.train)
    assert stream.train.parts == -(-len(whole.train) // BUDGET) > 2
    assert stream.notes["passport"] == whole.notes["passport"]
    for count, size in (("user_counts", 300), ("item_counts", 240)):
        got, want = (getattr(data.train, count)(size) for data in (stream, whole))
        np.testing.assert_array_equal(got, want)


def test_a_budget_that_suffices_changes_nothing(folder, whole):
    data = datasets.load(str(folder), budget=len(whole.train))
    assert not isinstance(data.train, Streamed) and pairs(data.train) == pairs(whole.train)


def test_an_epoch_has_every_record_once_and_whole_users(whole, stream):
    parts = list(stream.train.epoch([1, 2]))
    assert len(parts) == stream.train.parts
    assert sorted(sum(map(pairs, parts), [])) == pairs(whole.train)
    users = [set(part.user.tolist()) for part in parts]
    assert sum(map(len, users)) == len(set().union(*users))
    assert max(map(len, parts)) <= stream.train.room <= BUDGET + 2 * 120
    again, other = (list(stream.train.epoch(seed)) for seed in ([1, 2], [1, 3]))
    assert [pairs(part) for part in again] == [pairs(part) for part in parts]
    assert [pairs(part) for part in other] != [pairs(part) for part in parts]


def test_only_asked_records_are_read(whole):
    seen = []

    def read(numbers):
        seen.extend(numbers)
        return [{"user": np.array([n]), "item": np.array([n + 1])} for n in numbers]

    train = Streamed(read, np.ones(10, int), 4, 10, 11)
    assert train.parts == 3 and train.room == 4
    first = next(train.epoch([0]))
    assert sorted(seen) == sorted(first.user.tolist()) and len(first) == 4
    assert train.of(np.arange(10) == 7).item.tolist() == [8]


def test_negatives_of_a_part_are_exact(whole, stream):
    task = pairwise.prepare(stream, None)
    like = jax.tree.map(lambda x: (x.shape, x.dtype), streamed.example(task))
    trained = set(pairs(whole.train))
    seen = []
    for part in stream.train.epoch([0]):
        arrays = task.make(part, stream.train.room)
        assert jax.tree.map(lambda x: (x.shape, x.dtype), arrays) == like
        index = jnp.arange(stream.train.room)
        weight = jnp.ones(stream.train.room)
        batch = pairwise.batch(jax.random.key(0), arrays, index, weight)
        real = np.asarray(batch.weight) > 0
        assert real.sum() == len(part)
        user, item, negative = (
            np.asarray(x)[real].tolist() for x in (batch.user, batch.item, batch.negative)
        )
        assert not trained & set(zip(user, negative, strict=True))
        seen += zip(user, item, strict=True)
    assert sorted(seen) == pairs(whole.train)


def test_room_changes_no_negative():
    data = Interactions(np.array([0, 0, 1, 2]), np.array([1, 2, 0, 4]))
    plain = sampling.Positives.of(data, 3, 6)
    roomy = sampling.Positives.of(data, 3, 6, room=50, longest=40)
    assert roomy.gaps.shape == (50,) and roomy.steps == 6
    user = jnp.arange(300) % 3
    draw = lambda positives: sampling.negatives(jax.random.key(1), user, positives)
    np.testing.assert_array_equal(draw(plain), draw(roomy))


# Training.


def run_of(config, workdir):
    summary = train.train(config, workdir)
    return summary, logs.read(workdir)


def test_a_streamed_run_learns_and_resumes_exactly(folder, tmp_path, monkeypatch):
    config = configured(folder, **{"train.epochs": 8, "checkpoint.every": 1})
    summary, log = run_of(config, tmp_path / "a")
    losses = [record["loss"] for record in log]
    assert losses[-1] < 0.8 * losses[0]
    assert summary["valid"]["recall@20"] > 0.12  # at random 20 of 225 items: 0.09
    assert summary["slices"]["activity"] and summary["exposure"]["training"]

    make, made = Parts.epoch, []

    def killed(self, *given):
        made.append(1)
        if len(made) == 4:
            raise KeyboardInterrupt
        return make(self, *given)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Parts, "epoch", killed)
        train.train(config, tmp_path / "b")
    resumed, _ = run_of(config, tmp_path / "b")
    assert resumed["test"] == summary["test"]
    assert [record["loss"] for record in logs.read(tmp_path / "b")] == losses

    means = evaluate.evaluate(tmp_path / "a")
    assert means == pytest.approx(summary["test"])
    frame = recommend.recommend(tmp_path / "a", users=[3, 9], k=5)
    known = datasets.load(str(folder)).train
    mine = set(known.item[np.isin(known.user, [3, 9])].tolist())
    assert len(frame) == 10 and not mine & set(frame[frame.user == 3].item) & set(
        known.item[known.user == 3].tolist()
    )


def test_parts_count_as_one_epoch(folder, stream, monkeypatch):
    build = optimize.build
    config = configured(folder, **{"optim.schedule": "linear", "train.epochs": 2})
    run, data, ctx = runs.setup(config)
    arrays = run.task.prepare(data, config)
    run = runs.count_steps(run, arrays)
    room = stream.train.room
    assert (run.calls, run.steps) == (stream.train.parts, -(-room // 128))
    planned = []
    monkeypatch.setattr(optimize, "build", lambda *given: planned.append(given) or build(*given))
    programs = train.Programs(run)
    hyper = {"optim.lr": jnp.float32(1e-2)}
    state = programs.init(jax.random.key(0), hyper, ctx, streamed.example(arrays))
    key = np.asarray(jax.random.key_data(state.key))
    program = programs.epoch(state, hyper, ctx, arrays)
    state, logs = train._epoch(run, program, state, hyper, ctx, arrays)
    assert int(state.epoch) == 1 and logs["bad_step"] == -1
    np.testing.assert_array_equal(np.asarray(jax.random.key_data(state.key)), key)
    counts = [leaf for leaf in jax.tree.leaves(state.opt_state) if leaf.shape == ()]
    assert {int(count) for count in counts} == {run.steps * run.calls}
    assert {(steps, epochs) for *_, steps, epochs in planned} == {(run.steps * run.calls, 2)}


def test_means_and_the_bad_step_are_of_all_parts():
    def read(numbers):
        rows = [[0] * 3, [1], [2] * 2]
        return [{"user": np.array(rows[n]), "item": np.array(rows[n])} for n in numbers]

    stream = Streamed(read, np.array([3, 1, 2]), 2, 3, 3)
    parts = Parts(stream, lambda part, room: (part, room))
    keys = []

    def program(state, arrays):
        part, room = arrays
        assert room == 3 and int(state.epoch) == 5
        keys.append(tuple(np.asarray(jax.random.key_data(state.key)).tolist()))
        size = float(len(part))
        bad = 4 if len(part) == 1 else -1
        new = state.replace(epoch=state.epoch + 1)
        return new, {"loss": jnp.float32(size), "bad_step": jnp.int32(bad)}

    state = TrainState({}, {}, (), jax.random.key(3), jnp.int32(5))
    state, logs = parts.epoch(program, state, steps=10)
    assert int(state.epoch) == 6 and len(set(keys)) == 3
    assert logs["loss"] == pytest.approx((9 + 1 + 4) / 6)
    assert logs["bad_step"] % 10 == 4
    order = [len(part) for part in stream.epoch([*np.asarray(jax.random.key_data(state.key)), 5])]
    assert logs["bad_step"] // 10 == order.index(1)


# What a budget forbids.


@pytest.mark.parametrize("name", ["graph.lightgcn", "sequence.sasrec", "baseline.itemknn"])
def test_what_needs_all_interactions_says_so(folder, tmp_path, name):
    config = importlib.import_module(f"configs.{name}").get_config("debug")
    config.data.source, config.data.split = str(folder), "auto"
    config.data.budget, config.eval.users = BUDGET, 20
    with pytest.raises(UserError, match=rf"all \d+ training interactions.*data.budget = {BUDGET}"):
        train.train(config, tmp_path / "run")


def test_mistakes_with_a_budget(folder, whole, stream, tmp_path):
    config = configured(folder)
    config.data.source = "synthetic"
    with pytest.raises(UserError, match="only prepared data are streamed"):
        train.train(config, tmp_path / "run")
    plain = prepared.write(whole, tmp_path, "plain")
    with pytest.raises(UserError, match="stored without a budget"):
        datasets.load(str(plain), budget=BUDGET)
    with pytest.raises(UserError, match="ask fewer"):
        stream.train.of(np.ones(300, bool))
    with pytest.raises(UserError, match="a sweep needs"):
        sweep.sweep(configured(folder), {"seed": (0, 1)}, tmp_path / "sweep")


# A sample of users.


def test_a_sample_of_users_is_asked(whole):
    config = configured("x", **{"eval.users": 0})
    everyone = queries.ranking(whole, "test", config)
    config.eval.users = 50
    some = queries.ranking(whole, "test", config)
    again = queries.ranking(whole, "test", config)
    asked = np.sort(some.user[some.valid])
    assert len(asked) == len(np.unique(asked)) == 50
    np.testing.assert_array_equal(some.user, again.user)

    def facts(query, user):
        block, row = np.argwhere((query.user == user) & query.valid)[0]
        history, masked = (
            set(items[block][rows[block] == row].tolist())
            for rows, items in (
                (query.history_row, query.history_item),
                (query.masked_row, query.masked_item),
            )
        )
        target = query.target[block, row]
        return sorted(target[target >= 0].tolist()), history, masked

    for user in asked.tolist():
        assert facts(some, user) == facts(everyone, user)
    config.eval.users = 10**6
    np.testing.assert_array_equal(queries.ranking(whole, "test", config).user, everyone.user)


def test_a_sample_has_the_sequences_and_times_of_the_whole(whole):
    config = configured("x", **{"eval.users": 0})
    everyone = queries.ranking(whole, "test", config, sequences=True)
    config.eval.users = 40
    some = queries.ranking(whole, "test", config, sequences=True)
    flat = lambda x: x.reshape(-1, x.shape[-1])
    row = {u: n for n, u in enumerate(everyone.user.reshape(-1).tolist()) if everyone.valid.flat[n]}
    for n, user in enumerate(some.user.reshape(-1).tolist()):
        if some.valid.flat[n]:
            at = row[user]
            for name in ("sequence", "times"):
                got, want = flat(getattr(some, name))[n], flat(getattr(everyone, name))[at]
                np.testing.assert_array_equal(got, want)


def test_a_run_measures_the_sample(folder, tmp_path):
    summary, _ = run_of(configured(folder, **{"eval.users": 20, "train.epochs": 1}), tmp_path)
    assert len(pandas.read_parquet(tmp_path / "per_user_test.parquet")) == 20
    assert sum(part["users"] for part in summary["slices"]["activity"].values()) <= 20


# The synthetic set.


def test_guided_search_is_a_binary_search():
    rng = np.random.default_rng(0)
    for weight in (np.ones(7), rng.random(1000) ** 8, (1.0 + np.arange(500)) ** -2):
        bounds = np.cumsum(weight) / weight.sum()
        values = np.concatenate([rng.random(5000), bounds[:-1], bounds[:-1] - 1e-17, [0.0]])
        values = values[(values >= 0) & (values < 1)].reshape(1, -1)
        want = np.minimum(np.searchsorted(bounds, values, side="right"), len(bounds) - 1)
        got = synthetic._search(bounds, synthetic._guide(bounds), values)
        np.testing.assert_array_equal(got, want)


# The benchmark.


@pytest.mark.slow
def test_the_benchmark_runs_at_a_thousandth(tmp_path):
    page = tmp_path / "scale.md"
    page.write_text("<!-- scale:start -->\n<!-- scale:end -->\n")
    command = [sys.executable, "benchmarks/scale.py", "--share=0.001", f"--folder={tmp_path}"]
    root = Path(__file__).parent.parent
    subprocess.run([*command, f"--into={page}", f"--json={tmp_path}/r.json"], cwd=root, check=True)
    stages = json.loads((tmp_path / "r.json").read_text())["stages"]
    assert {"prepare", "train"} <= {stage["stage"] for stage in stages}
    assert all(stage["seconds"] > 0 for stage in stages)
    assert "| prepare |" in page.read_text()
