"""Sweeps: spaces, members that equal lone runs, halving, resumption, and the lock on test."""

import csv
import dataclasses
import json
import random
import re
import subprocess
import sys
from pathlib import Path

import jax
import made
import numpy as np
import pytest

from configs.baseline import ease, mf
from configs.multimodal import freedom
from mmrec_jax import data as datasets
from mmrec_jax import evaluate, logs, memory, page, report, side_by_side, space, store, sweep, train
from mmrec_jax import run as runs
from mmrec_jax.group import form
from mmrec_jax.types import UserError

ROOT = Path(__file__).parent.parent
MODES = ("loop", "vmap", "map")
# The first member stops before the others; of the learning rates, 1e38 would diverge.
GRID = {"optim.lr": (0.3, 0.02), "model.reg_weight": (1e-2,), "seed": (0, 3)}


def tiny(method=mf, **changes):
    few = {"eval.patience": 1, "checkpoint.every": 2}
    if method.get_config().train.epochs:
        few |= {"train.epochs": 6, "model.dim": 4}
    config = made.config(method, **{**few, **changes})
    config.lock()
    return config


def rows_of(workdir):
    """The rows of results.csv by run, with the values that are varied as Python has them."""
    keys = [*json.loads((workdir / "sweep.json").read_text())["settings"][0], "seed"]
    with open(workdir / "results.csv") as file:
        rows = {row["run"]: row for row in csv.DictReader(file)}
    for row in rows.values():
        row["values"] = {key: json.loads(row[key]) for key in keys}
    return rows


def summary_of(workdir):
    return json.loads((workdir / "summary.json").read_text())


def assert_same_run(mine, lone):
    """The same epochs, the same best parameters, the same validation."""
    summary, wanted = summary_of(mine), summary_of(lone)
    for key in ("epochs", "best_epoch", "seed", "split_hash"):
        assert summary[key] == wanted[key], key
    for name, value in wanted["valid"].items():
        assert summary["valid"][name] == pytest.approx(value, abs=1e-6), name
    records, others = logs.read(mine), logs.read(lone)
    assert [r["epoch"] for r in records] == [r["epoch"] for r in others]
    np.testing.assert_allclose([r["loss"] for r in records], [r["loss"] for r in others], rtol=1e-5)
    best, expected = (jax.tree.leaves(runs.load(path)[3]) for path in (mine, lone))
    for a, b in zip(best, expected, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


@pytest.fixture(autouse=True)
def without_plots(monkeypatch):
    """Plots take longer than the runs here."""
    monkeypatch.setattr(report, "curves", lambda *_: None)
    monkeypatch.setattr(page, "look", lambda *_: {})
    monkeypatch.setattr(page, "attach", lambda *_: None)


# --- spaces ---


def test_a_flag_is_read_as_its_keys_want_it():
    config = tiny()
    found = space.parse(
        "optim.lr=1e-3, 1; model.dim=8,16;optim.name=adam, sgd;seed=0,1,2;"
        "data.features=('a.npy',),('b.npy','c.npy');model.reg_weight=log(1e-4, 1e-2)",
        config,
    )
    assert found == {
        "optim.lr": (1e-3, 1.0),
        "model.dim": (8, 16),
        "optim.name": ("adam", "sgd"),
        "seed": (0, 1, 2),
        "data.features": (("a.npy",), ("b.npy", "c.npy")),
        "model.reg_weight": space.Range(1e-4, 1e-2, True),
    }
    assert isinstance(found["optim.lr"][1], float)
    assert space.plain(found)["model.reg_weight"] == "log(0.0001,0.01)"
    own = space.parse("file;seed=1,2;model.reg_weight=0.5", config, mf.sweep())
    assert own == {**mf.sweep(), "model.reg_weight": (0.5,), "seed": (1, 2)}
    assert space.parse("file", config, mf.sweep()) == mf.sweep()


@pytest.mark.parametrize(
    "text,words",
    [
        ("", "nothing to sweep over"),
        ("file", r"has no sweep\(\)"),
        ("optim.lr", "'optim.lr' is no KEY=VALUES"),
        ("optim.lrr=1", "no such key; did you mean optim.lr"),
        ("reg_weight=1", "did you mean model.reg_weight"),
        ("optim.lr=", "there are no values"),
        ("optim.lr=a,b", "cannot read 'a,b'; write values like 0.001"),
        ("optim.lr=1,'b'", "'b' is no float"),
        ("model.dim=1.5", "1.5 is no int"),
        ("model.dim=True", "True is no int"),
        ("seed=1,1", "has a value twice"),
        ("seed=uniform(0,9)", "takes a list"),
        ("optim.name=log(1,2)", "takes a list"),
        ("optim.lr=log(0,1)", "empty, or logarithmic from 0"),
        ("optim.lr=uniform(1,1)", "is empty"),
        ("optim.lr=uniform(a,b)", "no range of numbers"),
        ("data.k_core=0,5", "it cannot vary, for it changes the split"),
        ("data.knobs.noise=0.1", "it cannot vary, for it changes the split"),
        ("eval.metric=ndcg@10,recall@10", "it cannot vary"),
        ("sweep.halving=2", "steers the sweep itself"),
    ],
)
def test_a_faulty_space_is_named_in_one_line(text, words):
    with pytest.raises(UserError, match=words) as caught:
        space.parse(text, tiny())
    assert "\n" not in str(caught.value)


def test_grids_and_draws():
    config = tiny()
    grid = {"optim.lr": (0.1, 0.2), "model.dim": (4, 8), "seed": (0, 1)}
    whole = space.settings(grid, config, 0, 0)
    assert whole == [{"optim.lr": a, "model.dim": b} for a in (0.1, 0.2) for b in (4, 8)]
    assert space.settings(grid, config, 9, 0) == whole
    some = space.settings(grid, config, 2, 0)
    assert len(some) == 2 and all(setting in whole for setting in some)
    assert space.settings({"seed": (0, 1)}, config, 0, 0) == [{}]
    ranged = {"optim.lr": space.Range(1e-4, 1e-1, True), "model.dim": space.Range(4, 64, False)}
    with pytest.raises(UserError, match="sweep of optim.lr: from a range, say how many"):
        space.settings(ranged, config, 0, 0)
    drawn = space.settings(ranged, config, 200, 0)
    assert drawn == space.settings(ranged, config, 200, 0) != space.settings(ranged, config, 200, 1)
    lr = np.array([setting["optim.lr"] for setting in drawn])
    assert lr.min() >= 1e-4 and lr.max() <= 1e-1
    assert 0.4 < (lr < 10**-2.5).mean() < 0.6  # half of them below the geometric middle
    assert all(isinstance(s["model.dim"], int) and 4 <= s["model.dim"] <= 64 for s in drawn)
    few = space.settings({"model.dim": space.Range(1, 3, False)}, config, 20, 0)
    assert sorted(s["model.dim"] for s in few) == [1, 2, 3]
    assert space.Range(1, 2, False).draw(random.Random(0), False) == 1.844


# --- members against lone runs ---


def test_members_equal_lone_runs_in_every_mode(tmp_path):
    for mode in MODES:
        summary = sweep.sweep(tiny(**{"sweep.mode": mode}), GRID, tmp_path / mode)
        assert summary["mode"] == mode
    rows = rows_of(tmp_path / "loop")
    assert len({row["epochs"] for row in rows.values()}) > 1, "none stopped before another"
    winner = summary["winner"]["members"]
    for name, row in rows.items():
        config = tiny()
        config.update_from_flattened_dict(row["values"])
        lone = tmp_path / f"lone{name}"
        train.train(config, lone)
        for mode in MODES:
            mine = tmp_path / mode / name
            assert_same_run(mine, lone)
            stored = store.read_config(mine)
            assert stored | {"sweep": config.sweep.to_dict()} == json.loads(config.to_json())
            assert ("test" in summary_of(mine)) == (name in winner)
            if name in winner:
                assert set(summary_of(mine)) == set(summary_of(lone)) | {"test_evaluations"}
                wanted = summary_of(lone)["test"]
                assert summary_of(mine)["test"] == pytest.approx(wanted, abs=1e-6)
                assert evaluate.evaluate(mine) == pytest.approx(wanted, abs=1e-6)


@pytest.mark.parametrize("mode", MODES)
def test_a_member_that_diverges_disturbs_no_other(tmp_path, mode):
    config = tiny(**{"sweep.mode": mode, "optim.name": "sgd", "train.epochs": 3})
    both = sweep.sweep(config, {"optim.lr": (0.5, 1e38)}, tmp_path / "both")
    assert both["diverged"] == ["001"] and both["winner"]["members"] == ["000"]
    message = (tmp_path / "both" / "001" / "diverged.txt").read_text()
    epoch = int(re.search(r"not finite from step \d+ of \d+ in epoch (\d+)", message)[1])
    assert len(logs.read(tmp_path / "both" / "001")) == epoch - 1  # and nothing after it
    assert not (tmp_path / "both" / "001" / "summary.json").exists()
    assert [row["status"] for row in rows_of(tmp_path / "both").values()] == ["ended", "diverged"]
    config = tiny(**{"optim.name": "sgd", "train.epochs": 3, "optim.lr": 0.5})
    train.train(config, tmp_path / "lone")
    assert_same_run(tmp_path / "both" / "000", tmp_path / "lone")


def test_when_all_diverge_that_is_said(tmp_path):
    config = tiny(**{"optim.name": "sgd"})
    with pytest.raises(UserError, match="every setting has a run that diverged"):
        sweep.sweep(config, {"optim.lr": (1e37, 1e38)}, tmp_path)


def test_weight_decay_varies_from_nothing_on(tmp_path):
    config = tiny(**{"train.epochs": 2, "sweep.mode": "vmap"})
    group = form(
        member_of(config, **{"optim.weight_decay": 0.0}),
        datasets.load(**config.data),
        ["optim.weight_decay"],
    )
    assert group.traced == ("optim.weight_decay",)
    sweep.sweep(config, {"optim.weight_decay": (0.0, 0.1)}, tmp_path / "sweep")
    for number, decay in enumerate((0.0, 0.1)):
        lone = tmp_path / str(decay)
        train.train(tiny(**{"train.epochs": 2, "optim.weight_decay": decay}), lone)
        assert_same_run(tmp_path / "sweep" / f"00{number}", lone)


# --- groups ---


def member_of(config, **values):
    (member,) = sweep._members(config, [values], (config.seed,), Path("nowhere"))
    return member


def test_what_cannot_be_traced_is_found_out():
    config = tiny(freedom, **{"data.knobs.num_users": 60})
    values = {
        "model.dropout": 0.5,
        "model.reg_weight": 0.1,
        "optim.lr": 0.01,
        "optim.clip_norm": 1.0,
    }
    member = member_of(config, **values)
    group = form(member, datasets.load(**config.data), [*values, "seed"])
    assert set(group.traced) == {"model.reg_weight", "optim.lr", "seed"}
    assert group.run.fields["dropout"] == 0.5
    assert group.takes(member_of(config, **values | {"optim.lr": 1.0}))
    assert not group.takes(member_of(config, **values | {"model.dropout": 0.2}))


def test_a_value_that_the_host_reads_is_not_traced(monkeypatch):
    def context(cls, data, **hyper):
        return mf_context(data, **hyper).replace(tables={"scale": np.float32(hyper["reg_weight"])})

    config = tiny()
    member = member_of(config, **{"model.reg_weight": 0.1})
    data = datasets.load(**config.data)
    keys = ["model.reg_weight", "seed"]
    assert form(member, data, keys).traced == tuple(keys)
    method = runs.setup(config, data)[0].method
    mf_context = method.context
    monkeypatch.setattr(method, "context", classmethod(context))
    assert form(member, data, keys).traced == ("seed",)


def test_one_program_serves_a_group(tmp_path, monkeypatch):
    compiled, original = [], train._compile
    monkeypatch.setattr(train, "_compile", lambda *a: compiled.append(a) or original(*a))
    config = tiny(**{"train.epochs": 1})
    wanted = {"model.dim": (4, 8), "optim.lr": (0.1, 0.2), "model.reg_weight": (0.1, 1.0)}
    summary = sweep.sweep(config, wanted, tmp_path)
    assert len(compiled) == 2 and summary["runs"] == 8
    dims = [row["values"]["model.dim"] for row in rows_of(tmp_path).values()]
    assert sorted(dims) == [4] * 4 + [8] * 4


def test_more_members_than_fit_are_split(tmp_path, monkeypatch):
    config = tiny(**{"train.epochs": 1, "sweep.mode": "vmap"})
    members = sweep._members(config, [{"optim.lr": lr} for lr in (0.1, 0.2, 0.3)], (0,), tmp_path)
    group = form(members[0], datasets.load(**config.data), ["optim.lr"])
    sizes = {n: side_by_side.SideBySide(group, members[:n], "vmap").memory_bytes for n in (1, 2, 3)}
    assert sizes[1] < sizes[2] < sizes[3]
    limit = (sizes[2] + sizes[3]) / 2 / sweep._MEMORY_SHARE
    monkeypatch.setattr(memory, "available", lambda: limit)
    parts = lambda options: [
        (len(part), programs.size)
        for part, programs in sweep.Sweep(members, (), options)._parts(group, members, "vmap")
    ]
    assert parts(config.sweep) == [(1, 1)] * 3  # three are too many, and half of that is one
    config.sweep.max_members = 2
    assert parts(config.sweep) == [(2, 2), (1, 2)]
    sweep.sweep(config, {"optim.lr": (0.1, 0.2, 0.3)}, tmp_path / "split")
    config.sweep.max_members = 3
    sweep.sweep(config, {"optim.lr": (0.1, 0.2, 0.3)}, tmp_path / "whole")
    for name in ("000", "001", "002"):
        assert_same_run(tmp_path / "split" / name, tmp_path / "whole" / name)


@pytest.mark.parametrize("mode", ["vmap", "map"])
def test_who_has_stopped_stays_as_it_is(tmp_path, mode):
    config = tiny()
    members = sweep._members(config, [{"optim.lr": 0.1}, {"optim.lr": 0.2}], (0,), tmp_path)
    group = form(members[0], datasets.load(**config.data), ["optim.lr"])
    programs = side_by_side.SideBySide(group, members, mode)
    keys, hyper = side_by_side.stacked(group, members)
    states = programs.init(keys, hyper, group.ctx, group.arrays)
    before = jax.device_get(states.params)
    states, _ = programs.epoch(states, (hyper, np.array([True, False])), group.ctx, group.arrays)
    assert list(states.epoch) == [1, 0]
    for old, new in zip(jax.tree.leaves(before), jax.tree.leaves(states.params), strict=True):
        np.testing.assert_array_equal(old[1], new[1])
        assert (old[0] != np.asarray(new[0])).any()


def test_auto_measures_where_there_is_an_accelerator(tmp_path, monkeypatch):
    config = tiny(**{"train.epochs": 1})
    assert sweep.sweep(config, {"seed": (0, 1)}, tmp_path / "cpu")["mode"] == "loop"
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    summary = sweep.sweep(config, {"seed": (0, 1)}, tmp_path / "gpu")
    seconds = summary["seconds_per_epoch_by_mode"]
    assert set(seconds) == set(MODES) and all(value > 0 for value in seconds.values())
    assert summary["mode"] == min(seconds, key=seconds.get)


def test_closed_forms_are_swept_too(tmp_path):
    summary = sweep.sweep(tiny(ease), {"model.reg": (1.0, 50.0, 1e4)}, tmp_path)
    values = [float(row["valid/recall@20"]) for row in rows_of(tmp_path).values()]
    assert len(set(values)) > 1 and values == sorted(values, reverse=True)
    train.train(
        tiny(ease, **{"model.reg": summary["winner"]["values"]["model.reg"]}), tmp_path / "a"
    )
    lone = summary_of(tmp_path / "a")
    assert summary["winner"]["test"]["ndcg@10"]["mean"] == lone["test"]["ndcg@10"]


# --- choosing ---


def test_a_setting_is_chosen_by_its_mean_over_seeds(tmp_path):
    config = tiny()
    members = sweep._members(config, [{"optim.lr": lr} for lr in (1.0, 2.0, 3.0)], (0, 1), tmp_path)
    logs = [[0.1, 0.9], [0.2, 0.3], [0.6], [0.5, 0.4], [0.7, 0.7], [0.7]]
    for member, values in zip(members, logs, strict=True):
        member.open()
        lines = [
            json.dumps({"epoch": n, f"valid/{config.eval.metric}": value}) + "\n"
            for n, value in enumerate(values, 1)
        ]
        (member.workdir / "metrics.jsonl").write_text("".join(lines))
    order = lambda *until: [choice.setting for choice in sweep.ranking(members, *until)]
    assert order() == [2, 0, 1]  # means .7, .6, .55
    assert order(1) == [2, 1, 0]  # means .7, .55, .15
    (members[4].workdir / "diverged.txt").write_text("")
    assert order() == [0, 1, 2]


@pytest.mark.parametrize("mode", ["loop", "vmap"])
def test_halving_trains_the_better_half_on(tmp_path, mode):
    options = {"sweep.halving": 2, "sweep.min_epochs": 1, "sweep.mode": mode}
    options |= {"train.epochs": 4, "eval.patience": 0}
    config = tiny(**options)
    seeds = (0, 1) if mode == "loop" else (0,)
    wanted = {"optim.lr": (1e-6, 0.01, 0.03, 0.1), "seed": seeds}
    summary = sweep.sweep(config, wanted, tmp_path / "halving")
    plan = json.loads((tmp_path / "halving" / "sweep.json").read_text())
    rounds = [(r["until_epoch"], r["settings"]) for r in plan["budget"]["rounds"]]
    assert rounds == [(1, 4), (2, 2), (4, 1)]
    most = len(seeds) * (4 * 1 + 2 * 1 + 1 * 2)
    assert plan["budget"]["epochs_at_most"] == most == summary["epochs"]
    assert plan["space"] == {"optim.lr": [1e-6, 0.01, 0.03, 0.1], "seed": list(seeds)}
    rows = rows_of(tmp_path / "halving")
    epochs = [int(row["epochs"]) for _, row in sorted(rows.items())]
    assert sorted(epochs[:: len(seeds)]) == [1, 1, 2, 4]
    assert epochs[:: len(seeds)] == epochs[len(seeds) - 1 :: len(seeds)]  # settings stay together
    scores = {}
    for name, row in rows.items():  # the first round by hand
        first = logs.read(tmp_path / "halving" / name)[0]["valid/recall@20"]
        scores.setdefault(row["values"]["optim.lr"], []).append(first)
    kept = sorted(scores, key=lambda lr: -np.mean(scores[lr]))[:2]
    went_on = {row["values"]["optim.lr"] for row in rows.values() if int(row["epochs"]) > 1}
    assert went_on == set(kept)
    name = summary["winner"]["members"][0]
    train.train(tiny(**options | {"optim.lr": rows[name]["values"]["optim.lr"]}), tmp_path / "lone")
    assert_same_run(tmp_path / "halving" / name, tmp_path / "lone")


class Poison:
    """A test part that must not be looked at."""

    def __getattr__(self, name="itself"):
        raise AssertionError(f"the test part was read: {name}")

    __len__ = __iter__ = __array__ = __getattr__


@pytest.mark.parametrize("mode", ["loop", "vmap"])
def test_nothing_reads_test_before_the_choice(tmp_path, monkeypatch, mode):
    load, begin = datasets.load, sweep.Sweep.test
    true, poisoned = {}, []

    def poisoning(**options):
        data = load(**options)
        true["test"] = data.test
        poisoned.append(dataclasses.replace(data, test=Poison()))
        return poisoned[-1]

    def lift(self, members):
        true["chosen"] = [member.workdir.name for member in members]
        with pytest.raises(AssertionError, match="the test part was read"):
            len(poisoned[-1].test)
        object.__setattr__(poisoned[-1], "test", true["test"])
        begin(self, members)

    monkeypatch.setattr(datasets, "load", poisoning)
    monkeypatch.setattr(sweep.Sweep, "test", lift)
    options = {"sweep.mode": mode, "sweep.halving": 2, "sweep.min_epochs": 2}
    wanted = {"optim.lr": (0.3, 0.02), "seed": (0, 3)}
    summary = sweep.sweep(tiny(**options), wanted, tmp_path)
    assert true["chosen"] == summary["winner"]["members"] and len(true["chosen"]) == 2
    assert summary["test_evaluations"] == 2
    counts = [summary_of(tmp_path / f"00{n}")["test_evaluations"] for n in range(4)]
    assert sum(counts) == 2 and max(counts) == 1


def test_other_test_labels_change_nothing_but_the_test_results(tmp_path, monkeypatch):
    load = datasets.load

    def relabelled(**options):
        data = load(**options)
        item = (data.test.item + 7) % data.spec.num_items
        return dataclasses.replace(data, test=dataclasses.replace(data.test, item=item))

    wanted = {"optim.lr": (0.3, 0.02), "seed": (0, 3)}
    first = sweep.sweep(tiny(), wanted, tmp_path / "first")
    monkeypatch.setattr(datasets, "load", relabelled)
    second = sweep.sweep(tiny(), wanted, tmp_path / "second")
    assert first["winner"].pop("test") != second["winner"].pop("test")
    assert first["winner"] == second["winner"]
    for name in ("000", "001", "002", "003"):
        assert_same_run(tmp_path / "first" / name, tmp_path / "second" / name)


def test_all_are_tested_once_where_that_is_asked_for(tmp_path):
    wanted = {"optim.lr": (0.3, 0.02)}
    config = tiny(**{"train.epochs": 1})
    assert sweep.sweep(config, wanted, tmp_path)["test_evaluations"] == 1
    assert sweep.sweep(config, wanted, tmp_path)["test_evaluations"] == 1  # nothing is left to do
    config.sweep.test = "all"
    assert sweep.sweep(config, wanted, tmp_path)["test_evaluations"] == 2
    assert "test recall@20" in (tmp_path / "results.md").read_text()
    assert all(row["test/recall@20"] for row in rows_of(tmp_path).values())


# --- interruptions ---


class KilledError(Exception):
    pass


@pytest.mark.parametrize("mode", ["loop", "vmap"])
def test_a_killed_sweep_goes_on_where_it_was(tmp_path, monkeypatch, mode):
    config = tiny(**{"sweep.mode": mode, "eval.patience": 0})
    sweep.sweep(config, GRID, tmp_path / "whole")
    written, write = [], logs.Log.write

    def stop(self, record):
        written.append((self._workdir.name, record["epoch"]))
        if len(written) == limit:
            raise KilledError
        write(self, record)

    limit = 15  # loop: in epoch 3 of the third member; vmap: of the third one in epoch 4
    monkeypatch.setattr(logs.Log, "write", stop)
    with pytest.raises(KilledError):
        sweep.sweep(config, GRID, tmp_path / "killed")
    first, limit = list(written), 0
    written.clear()
    summary = sweep.sweep(config, GRID, tmp_path / "killed")
    if mode == "loop":  # whole members, then the rest of the third from its checkpoint
        assert first[-1] == ("002", 3) and written[0] == ("002", 3)
    else:  # all from the checkpoint at epoch 2
        assert first[-1] == ("002", 4) and {epoch for _, epoch in written} == {3, 4, 5, 6}
    assert summary["test_evaluations"] == 2
    for name in ("000", "001", "002", "003"):
        assert_same_run(tmp_path / "killed" / name, tmp_path / "whole" / name)


def test_a_group_may_go_on_in_another_mode(tmp_path, monkeypatch):
    config = tiny(**{"sweep.mode": "vmap", "eval.patience": 0})
    sweep.sweep(config, GRID, tmp_path / "whole")
    finish = sweep.Sweep._finish
    monkeypatch.setattr(sweep.Sweep, "_finish", lambda *a, **k: (_ for _ in ()).throw(KilledError))
    save, saved = side_by_side._save, []

    def stop(*arguments):
        save(*arguments)
        saved.append(1)
        if len(saved) == 2:
            raise KilledError

    monkeypatch.setattr(side_by_side, "_save", stop)
    with pytest.raises(KilledError):
        sweep.sweep(config, GRID, tmp_path / "killed")
    monkeypatch.setattr(sweep.Sweep, "_finish", finish)
    config.sweep.mode = "loop"
    sweep.sweep(config, GRID, tmp_path / "killed")
    for name in ("000", "003"):
        assert_same_run(tmp_path / "killed" / name, tmp_path / "whole" / name)


def test_another_sweep_does_not_go_into_the_same_folder(tmp_path):
    config = tiny(**{"train.epochs": 1})
    sweep.sweep(config, {"seed": (0, 1)}, tmp_path)
    with pytest.raises(UserError, match="a sweep of another space and budget and seeds; name"):
        sweep.sweep(config, {"seed": (0, 1, 2)}, tmp_path)
    config.model.dim = 3
    with pytest.raises(UserError, match="a sweep of another config; name"):
        sweep.sweep(config, {"seed": (0, 1)}, tmp_path)
    with pytest.raises(UserError, match="holds a run; name another"):
        sweep.sweep(config, {"seed": (0, 1)}, tmp_path / "000")


@pytest.mark.parametrize(
    "changes,words",
    [
        ({"sweep.mode": "pmap"}, "sweep.mode is 'pmap'; it must be one of auto, loop, vmap, map"),
        ({"sweep.test": "none"}, "sweep.test is 'none'; it must be one of winner, all"),
        ({"sweep.halving": 1}, "sweep.halving is 1; it must be 2 or more"),
        ({"sweep.min_epochs": 0}, "sweep.min_epochs is 0; it must be at least 1"),
        ({"eval.metric": "recall@7"}, "eval.metric is 'recall@7'"),
        ({"data.split": "time", "data.ratios": (0.9, 0.0, 0.1)}, "no validation split|ratios"),
    ],
)
def test_mistakes_are_one_line_and_leave_nothing(tmp_path, changes, words):
    with pytest.raises(UserError, match=words) as caught:
        sweep.sweep(tiny(**changes), {"optim.lr": (0.1,)}, tmp_path / "sweep")
    assert "\n" not in str(caught.value) and not (tmp_path / "sweep").exists()


def test_the_launcher_sweeps(tmp_path):
    flags = ["--config=configs/baseline/mf.py:debug", "--mode=sweep", "--config.model.dim=4"]
    flags += [f"--workdir={tmp_path}", "--sweep=file;optim.lr=0.1;model.reg_weight=1,0.1;seed=0,1"]
    command = [sys.executable, "launch.py", *flags]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    header = "| model.reg_weight | optim.lr | runs | epochs | valid recall@20 | test recall@20 |"
    assert header in done.stdout
    assert " ± " in done.stdout and str(tmp_path) in done.stdout
    assert "sweep: 0/4 runs ended, 000 epoch 1, loss" in done.stderr and "ETA" in done.stderr
