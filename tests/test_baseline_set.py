"""The standing baseline set: equal budgets, chosen on validation, resumable, in one table."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

from configs.baseline import ease
from configs.sequence import sasrec
from mmrec_jax import baselines, space, sweep, train
from mmrec_jax.types import UserError

FAST = ("popularity", "ease", "ials")


def tiny(**changes):
    config = ease.get_config("debug")
    small = {"data.knobs.num_users": 80, "data.knobs.num_items": 40, "eval.block": 64}
    config.update_from_flattened_dict({**small, **changes})
    return config


@pytest.fixture(scope="module")
def lone(tmp_path_factory):
    """A run of the method that is studied, with settings of its own."""
    workdir = tmp_path_factory.mktemp("lone") / "run"
    changes = {"seed": 7, "eval.protocol": "strict", "eval.metric": "ndcg@5", "model.reg": 3.0}
    train.train(tiny(**changes), workdir)
    return workdir


def plan_of(path):
    return json.loads((path / "sweep.json").read_text())


def summary_of(path):
    return json.loads((path / "summary.json").read_text())


@pytest.fixture
def small_ials(monkeypatch):
    """The default iALS in two epochs of two dimensions."""
    module = importlib.import_module("configs.baseline.ials")
    full = module.get_config

    def get_config(arg=None):
        config = full(arg)
        config.model.dim, config.train.epochs = 2, 2
        return config

    monkeypatch.setattr(module, "get_config", get_config)
    monkeypatch.setattr(module, "sweep", lambda: {"model.reg": (0.01, 0.1, 1.0)})


@pytest.fixture
def small_ease(monkeypatch):
    """EASE with a grid of three settings."""
    monkeypatch.setattr(ease, "sweep", lambda: {"model.reg": (1.0, 10.0, 100.0)})


@pytest.mark.parametrize("name", baselines.MEMBERS)
def test_every_member_has_a_space_of_its_own(name):
    module = importlib.import_module(f"configs.baseline.{name}")
    config = module.get_config()
    if name == "popularity":  # has nothing to tune
        assert not hasattr(module, "sweep")
        return
    settings = space.settings(space.check(module.sweep(), config), config, 0, 0)
    assert 6 <= len(settings) <= 60
    assert all(key in dict(space.leaves(config)) for key in settings[0])


def test_members_take_data_metrics_protocol_and_seed_but_not_the_method(lone):
    studied = baselines.studied(lone)
    assert (studied.trials, studied.seeds, studied.runs) == (1, (7,), (lone,))
    own = baselines.adopt(ease.get_config(), studied.config)
    assert own.data.to_dict() == studied.config.data.to_dict()
    assert (own.eval.metric, own.eval.protocol, own.seed) == ("ndcg@5", "strict", 7)
    assert own.model.reg == ease.get_config().model.reg != studied.config.model.reg
    sequential = sasrec.get_config("debug")
    sequential.data.max_len, sequential.eval.every, sequential.eval.patience = 9, 5, 3
    own = baselines.adopt(ease.get_config(), sequential)
    assert own.data.max_len == 9 and (own.eval.every, own.eval.patience) == (1, 20)


def test_each_gets_the_same_budget_or_its_whole_grid(lone, tmp_path, small_ials, small_ease):
    config = baselines.studied(lone).config
    paths = baselines.tune(config, 2, tmp_path, seeds=(7, 8), members=FAST)
    assert [path.name for path in paths] == list(FAST)
    popularity, closed, learned = map(plan_of, paths)
    assert [len(plan["settings"]) for plan in (popularity, closed, learned)] == [1, 2, 2]
    # What learns is run with all seeds; what nothing is drawn in is run once.
    assert [plan["seeds"] for plan in (popularity, closed, learned)] == [[7], [7], [7, 8]]
    chosen = json.loads((paths[1] / "summary.json").read_text())
    assert chosen["metric"] == "ndcg@5" and chosen["test_evaluations"] == 1
    assert chosen["split_hash"] == summary_of(lone)["split_hash"]
    everything = baselines.tune(config, 99, tmp_path / "all", members=("ease",))
    assert len(plan_of(everything[0])["settings"]) == 3


def test_a_budget_of_one_takes_the_settings_of_the_files(lone, tmp_path):
    (path,) = baselines.tune(baselines.studied(lone).config, 1, tmp_path, members=("ease",))
    assert plan_of(path)["settings"] == [{}]
    (run,) = baselines.studied(path).runs
    assert summary_of(run)["config"]["model"]["reg"] == ease.get_config().model.reg


def test_what_has_ended_is_not_run_again(lone, tmp_path):
    config = baselines.studied(lone).config
    tune = lambda: baselines.tune(config, 2, tmp_path, members=("popularity", "ease"))
    first = tune()
    files = sorted(tmp_path.glob("*/0*/summary.json"))
    times = [path.stat().st_mtime_ns for path in files]
    (first[1] / "summary.json").unlink()  # as if killed at the end of the second
    assert tune() == first and (first[1] / "summary.json").exists()
    assert len(files) == 3 and times == [path.stat().st_mtime_ns for path in files]


def test_the_budget_is_that_of_the_sweep_and_all_stand_in_one_table(tmp_path, monkeypatch):
    monkeypatch.setattr(baselines, "MEMBERS", ("popularity", "ease"))
    monkeypatch.setattr(baselines.tune, "__defaults__", (None, ("popularity", "ease")))
    wanted = {"model.reg": (1.0, 10.0, 100.0), "seed": (1, 2)}
    sweep.sweep(tiny(), wanted, tmp_path / "sweep")
    text = baselines.against(tmp_path / "sweep")
    assert len(plan_of(tmp_path / "sweep" / "baselines-3" / "ease")["settings"]) == 3
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines()[2:5]]
    assert [row[:3] for row in rows] == [
        ["baseline.ease (studied)", "3", "2"],
        ["baseline.popularity", "1", "1"],
        ["baseline.ease", "3", "1"],
    ]
    own = summary_of(tmp_path / "sweep" / "baselines-3" / "ease")["winner"]
    assert rows[2][3:] == [
        f"{own[split][name]['mean']:.4f}"
        for split, name in (("valid", "recall@20"), ("test", "recall@20"), ("test", "ndcg@20"))
    ]
    assert "Budget: 3 settings of each baseline, 3 of baseline.ease." in text
    assert "untuned" not in text and "Nothing was tuned" not in text
    command = text.splitlines()[-1].partition(": ")[2].split()
    assert command[:3] == ["python", "launch.py", "--mode=compare"]
    assert [Path(path).name for path in command[3:]] == ["sweep", "popularity", "ease"]


def test_without_content_the_ensemble_is_left_out(lone, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(baselines, "_has_content", lambda config: False)
    assert baselines.tune(baselines.studied(lone).config, 1, tmp_path, members=("ensemble",)) == []
    assert "ensemble left out" in capsys.readouterr().err


def test_content_is_seen(lone):
    assert baselines._has_content(baselines.studied(lone).config)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda c, p: baselines.studied(p), "summary.json: no finished run or sweep"),
        (lambda c, p: baselines.tune(c, 0, p), "--trials is 0"),
        (lambda c, p: baselines.tune(c, 1, p, members=("eaes",)), "eaes.py is not to be found"),
    ],
)
def test_it_says_what_is_wrong(tmp_path, call, said):
    with pytest.raises(UserError, match=said):
        call(tiny(), tmp_path)


def test_the_launcher_needs_a_run():
    command = [sys.executable, "launch.py", "--mode=baselines"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2 and "--mode=baselines needs --workdir" in done.stderr
