"""The benchmarks: made-up data, the driver of MMRec, baselines (of torch), reproduction."""

from __future__ import annotations

import argparse
import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from benchmarks import mmrec, originals, reproduce, sizes
from mmrec_jax.types import Dataset, Interactions, Spec, UserError

ROOT = Path(__file__).parents[1]
SMALL = sizes.Size(50, 30, train=300, valid=60, test=70)


def _keys(data: Dataset) -> list[np.ndarray]:
    parts = (data.train, data.valid, data.test)
    return [part.user.astype(np.int64) * data.spec.num_items + part.item for part in parts]


@pytest.mark.parametrize("name", ["baby", "beauty"])
def test_named_sizes_have_the_published_counts(name):
    published = {
        "baby": (19_445, 7_050, 118_551, 20_559, 21_682),
        "beauty": (22_363, 12_101, 198_502 - 2 * 22_363, 22_363, 22_363),
    }
    data = sizes.synthetic(name)
    counts = (len(data.train), len(data.valid), len(data.test))
    assert (data.spec.num_users, data.spec.num_items, *counts) == published[name]
    key = np.concatenate(_keys(data))
    assert np.unique(key).size == key.size
    for ids, size in ((key // data.spec.num_items, 0), (key % data.spec.num_items, 1)):
        degree = np.bincount(ids, minlength=published[name][size])
        assert degree.min() >= 5
        assert degree.max() > 10 * degree.mean()
    for part in (data.train, data.valid, data.test):
        assert np.unique(part.user).size == data.spec.num_users


def test_the_same_seed_gives_the_same_data_and_another_does_not():
    keys = [np.concatenate(_keys(sizes.synthetic(SMALL, seed=seed))) for seed in (0, 0, 1)]
    np.testing.assert_array_equal(keys[0], keys[1])
    assert not np.array_equal(keys[0], keys[2])


def test_a_crowded_matrix_gets_no_pair_twice():
    data = sizes.synthetic(
        sizes.Size(40, 30, train=240, valid=40, test=40)
    )  # a quarter of all pairs
    key = np.concatenate(_keys(data))
    assert np.unique(key).size == 320


def test_the_last_interaction_tests_and_the_one_before_validates():
    size = sizes.Size(50, 30, train=330, valid=50, test=50, by_time=True)
    data = sizes.synthetic(size)
    last = {"train": np.zeros(50, int), "valid": np.zeros(50, int), "test": np.zeros(50, int)}
    for name, latest in last.items():
        part = getattr(data, name)
        np.maximum.at(latest, part.user, part.time)
    assert (last["train"] < last["valid"]).all()
    assert (last["valid"] < last["test"]).all()


def test_shares_follow_the_weights_and_add_up():
    # 7 * (0, 1, 2, 4) / 7 is whole; 5 * (1, 1, 2) / 4 = 1.25, 1.25, 2.5: the half goes up
    np.testing.assert_array_equal(sizes._shares(7, np.array([0, 1, 2, 4])), [0, 1, 2, 4])
    np.testing.assert_array_equal(sizes._shares(5, np.array([1, 1, 2])), [1, 1, 3])


def test_features_are_float32_and_described():
    data = sizes.synthetic(sizes.Size(60, 40, train=240, valid=60, test=60), with_features=True)
    assert data.spec.feature_dims == (("image", 4096), ("text", 384))
    assert {x.dtype for x in data.features.values()} == {np.dtype(np.float32)}
    assert data.features["image"].shape == (40, 4096)
    strength = np.linalg.svd(data.features["image"], compute_uv=False)
    assert 0.9 < data.features["text"].var() / 1.25 < 1.1  # 1 shown and 0.25 of noise
    assert strength[15] > 1.5 * strength[16]  # 16 factors stand out
    assert data.present["text"].all()


def test_bad_sizes_say_what_is_wrong():
    with pytest.raises(UserError, match="no size 'toys'; use one of baby"):
        sizes.synthetic("toys")
    with pytest.raises(UserError, match="10 interactions are too few for 5 with 5 each"):
        sizes.synthetic(sizes.Size(5, 5, train=8, valid=1, test=1))
    with pytest.raises(UserError, match="fill too much"):
        sizes.synthetic(sizes.Size(6, 5, train=28, valid=1, test=3))  # 32 pairs of 30


def _tiny() -> Dataset:
    part = lambda user, item: Interactions(np.array(user, np.int32), np.array(item, np.int32))
    return Dataset(
        name="tiny",
        spec=Spec(2, 3, feature_dims=(("text", 2),)),
        train=part([0, 1], [2, 0]),
        valid=part([0], [1]),
        test=part([1], [2]),
        user_ids=np.arange(2),
        item_ids=np.arange(3),
        features={"text": np.arange(6, dtype=np.float32).reshape(3, 2)},
    )


def test_data_is_written_as_mmrec_reads_it(tmp_path):
    mmrec.write(_tiny(), tmp_path / "bench")
    lines = (tmp_path / "bench" / "bench.inter").read_text().splitlines()
    assert lines == ["userID\titemID\tx_label", "0\t2\t0", "1\t0\t0", "0\t1\t1", "1\t2\t2"]
    np.testing.assert_array_equal(
        np.load(tmp_path / "bench" / "text.npy"), [[0, 1], [2, 3], [4, 5]]
    )


TRAINER = """
import time
class Trainer:
    def __init__(self, model): self.model = model
    def _train_epoch(self, data): time.sleep(.01)
    def _valid_epoch(self, data): time.sleep(data); return 0, {"recall@20": .5}
    def fit(self):
        for _ in range(3):
            self.model.pre_epoch_processing()
            self._train_epoch(None)
            self._valid_epoch(.03)
            self._valid_epoch(.06)
"""
QUICK_START = """
import pathlib, time
from common.trainer import Trainer
class Model:
    def pre_epoch_processing(self): time.sleep(.02)
def quick_start(model, dataset, config, save_model):
    assert pathlib.Path(config["data_path"], dataset, config["inter_file_name"]).exists()
    assert pathlib.Path("configs/overall.yaml").exists()
    Trainer(Model()).fit()
"""


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """What the driver needs of MMRec and of torch, and no more."""
    monkeypatch.delenv("PYTHONDONTWRITEBYTECODE", raising=False)
    files = {
        "torch.py": "def set_num_threads(n): assert n == 2\n",
        "common/trainer.py": TRAINER,
        "utils/quick_start.py": QUICK_START,
        "configs/overall.yaml": "",
    }
    for name, text in files.items():
        path = tmp_path / "src" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path


def test_mmrec_is_timed_by_epoch_and_evaluation_and_left_as_it_was(checkout):
    before = sorted(checkout.rglob("*"))
    times = mmrec.mmrec_epoch(checkout, "LightGCN", _tiny(), epochs=3)
    assert 0.03 <= times["epoch_s"] < 0.06 + 1  # what precedes the epoch counts
    assert 0.03 <= times["valid_s"]
    assert 0.06 <= times["test_s"]
    assert times["result"] == {"recall@20": 0.5}
    assert times["peak_memory_bytes"] > 1e6
    assert sorted(checkout.rglob("*")) == before


def test_a_failing_mmrec_is_one_line(checkout, tmp_path):
    (checkout / "src/torch.py").write_text("raise ImportError('no torch here')\n")
    with pytest.raises(UserError, match="LightGCN in .* failed: ImportError: no torch here$"):
        mmrec.mmrec_epoch(checkout, "LightGCN", _tiny())
    with pytest.raises(UserError, match="no checkout of MMRec"):
        mmrec.mmrec_epoch(tmp_path / "elsewhere", "LightGCN", _tiny())


BASELINES = """
import numpy as np, torch
from benchmarks import baselines, evaluations
torch.manual_seed(0)
rng = np.random.default_rng(0)
user, item = np.divmod(rng.permutation(40 * 60)[:300], 60)
train, held = (user[:240], item[:240]), (user[240:], item[240:])
plain, tuned = (make(*train, 40, 60, dim=8) for make in
                (baselines.LightGCN, baselines.TunedLightGCN))
with torch.no_grad():
    tuned.nodes.copy_(torch.cat([plain.user.weight, plain.item.weight]))
batch = [torch.from_numpy(rng.integers(40, size=64)) for _ in range(3)]
losses = [model.loss(*batch) for model in (plain, tuned)]
for loss in losses:
    loss.backward()
torch.testing.assert_close(*losses)
gradient = torch.cat([plain.user.weight.grad, plain.item.weight.grad])
torch.testing.assert_close(tuned.nodes.grad, gradient)
means = evaluations.evaluation(plain, train, held, block=16)()
assert means["recall@20"] > 0
other = evaluations.tuned_evaluation(tuned, train, held, 60, block=16)()
assert all(abs(other[name] - value) < 1e-5 for name, value in means.items()), (means, other)
for fast in (False, True):
    batches = baselines.pairwise_batches(*train, 60, batch_size=100, tuned=fast)
    users, items, negatives = (torch.cat(column).tolist() for column in zip(*batches()))
    pairs = set(zip(*(column.tolist() for column in train)))
    assert set(zip(users, items)) == pairs and not set(zip(users, negatives)) & pairs
    run = baselines.epoch(tuned if fast else plain, batches, lr=0.05)
    first = run()
    assert [run() for _ in range(20)][-1] < first - 0.05
"""


def test_plain_and_tuned_baselines_agree():
    if importlib.util.find_spec("torch") is None:
        pytest.skip("torch is not installed")
    command = [sys.executable, "-W", "ignore", "-c", BASELINES]  # torch stays out of this process
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert not done.returncode, done.stderr


def test_a_missing_checkout_is_left_out_in_one_line(tmp_path, capsys):
    arguments = [f"--checkouts={tmp_path}", "--only=mgcn", f"--json={tmp_path / 'rows.json'}"]
    assert originals.main([*arguments, "--threads=10000"]) == 1  # so many keep all processors
    said = capsys.readouterr()
    where = tmp_path.resolve() / "mmrec"
    assert said.err == f"mgcn: left out, no {where} (github.com/enoche/MMRec)\n"
    assert not said.out
    assert not (tmp_path / "rows.json").exists()


def test_an_original_that_fails_is_one_line(tmp_path):
    job = {"method": "simgcl", "checkout": str(tmp_path), "threads": 1}
    missing = "^theirs: ModuleNotFoundError: No module named '(torch|model|util)'$"
    with originals.Side("theirs", job) as side, pytest.raises(RuntimeError, match=missing):
        side.answer()


def test_rows_replace_earlier_ones_and_become_a_table():
    where = {"device": "CPU", "threads": 2, "versions": {"jax": "1", "torch": "2"}}
    row = {"name": "mgcn/baby/epoch", "original": "a/b", "ours_s": 2.0, "baseline_s": 5.0}
    row |= {"ratio": 2.5, "repeats": 5}
    failed = {"name": "rearm/baby/epoch", "original": "c/d", "failed": "theirs: no | memory"}
    result = originals.merge({"rows": []}, where, failed)
    result = originals.merge(result, where, {**row, "ours_s": 9.0})
    result = originals.merge(result, where, row)
    assert result == {"machine": where, "rows": [row, failed]}
    assert originals.markdown(result).splitlines() == [
        "CPU, 2 threads; jax 1, torch 2. Seconds of an epoch.",
        "",
        "| method | ours | original | ratio | turns | code |",
        "|---|---:|---:|---:|---:|---|",
        "| mgcn | 2.00 | 5.00 | 2.5x | 5 | `a/b` |",
        "| rearm | | | | | `c/d`: theirs: no / memory |",
    ]


ORIGINAL = """
import sys, time, types
from pathlib import Path
import torch
from benchmarks import authors, sizes
from configs.graph import ngcf
config = ngcf.get_config("baby")
data = sizes.synthetic(sizes.Size(50, 30, train=300, valid=60, test=70))
turn = authors.turns("ngcf", Path(sys.argv[1]), config, data)
one, many = turn(1), turn(101)
assert .1 < one < 1 and 1 + one < many < 20, (one, many)  # a first step, and 100 others
"""
NGCF = """
import time, torch
class NGCF(torch.nn.Module):
    def __init__(self, users, items, graph, args):
        super().__init__()
        assert (users, items, graph.shape) == (50, 30, (80, 80))
        assert args.layer_size == "[64, 64, 64]" and args.mess_dropout == [.1] * 3
        self.table, self.calls = torch.nn.Parameter(torch.ones(3)), 0
    def forward(self, user, item, negative, drop_flag):
        assert user.shape == item.shape == negative.shape == (2048,) and self.training
        time.sleep(.01 if self.calls % 4 else .1)
        self.calls += 1
        return tuple(self.table)
    def create_bpr_loss(self, user, item, negative):
        return user * item - negative, None, None
"""


def test_an_epoch_of_theirs_is_its_first_step_and_as_many_others(tmp_path):
    if importlib.util.find_spec("torch") is None:
        pytest.skip("torch is not installed")
    (tmp_path / "NGCF.py").write_text(NGCF)
    command = [sys.executable, "-W", "ignore", "-c", ORIGINAL, str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert not done.returncode, done.stderr


def test_reproducing_searches_with_the_first_seed_and_repeats_nothing(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    pairs = pd.DataFrame({"user": np.repeat(np.arange(40), 12), "item": rng.zipf(1.3, 480) % 90})
    pairs.drop_duplicates().to_csv(tmp_path / "tiny.csv", index=False)
    fast = {"train.epochs": (3,), "train.batch_size": (128,), "model.dim": (4,)}
    rows = [
        ("mf", "baseline.mf:debug", {**fast, "optim.lr": (1e-7, 0.03)}),
        ("popularity", "baseline.popularity:debug", {}),
    ]
    monkeypatch.setitem(reproduce.SECTIONS, "tiny", ("tiny.csv", ("recall@20",), rows))
    given = argparse.Namespace(
        section="tiny", data=tmp_path, runs=tmp_path / "runs", only=None, seeds=2
    )
    table = reproduce.section(given)
    folder = tmp_path / "runs" / "tiny"
    found = json.loads((folder / "mf.json").read_text())
    read = lambda run: json.loads((Path(run) / "summary.json").read_text())
    runs = [read(run) for run in found["chosen"]]
    assert [run["config"]["seed"] for run in runs] == [0, 1]
    assert all(run["config"]["model"]["dim"] == 4 for run in runs)
    tried = [
        json.loads(path.read_text()) for path in sorted(folder.glob("mf/search/0*/summary.json"))
    ]
    reached = [run["valid"]["recall@20"] for run in tried]
    assert reached[0] < reached[1]
    assert (
        {run["config"]["optim"]["lr"] for run in runs} == {found["setting"]["optim.lr"]} == {0.03}
    )
    assert sum("test" in run for run in tried) == 1  # the test part is for what was chosen
    assert len(json.loads((folder / "popularity.json").read_text())["chosen"]) == 1
    assert "| baseline.mf | 2 |" in table and "| baseline.popularity | 1 |" in table

    monkeypatch.setattr(reproduce.sweep, "sweep", None)  # would fail if it were called
    assert reproduce.section(given) == table
    monkeypatch.setattr(reproduce, "PUBLISHED", [("tiny", "mf", "a paper", 0.5)])
    row = reproduce.published(tmp_path / "runs").splitlines()[2]
    assert f"lr={found['setting']['optim.lr']}" in row and "| 0.5000 |" in row

    monkeypatch.undo()
    monkeypatch.setitem(reproduce.SECTIONS, "tiny", ("tiny.csv", ("recall@20",), rows[:1]))
    given.seeds = 3  # one more is one run more, not another table of two
    assert "| baseline.mf | 3 |" in reproduce.section(given)
    rows[0][2]["optim.lr"] = (1e-7, 0.02)
    with pytest.raises(UserError, match="mf/search holds a sweep of another space"):
        reproduce.section(given)
