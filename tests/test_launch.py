"""The launcher end to end: flags in, files out, mistakes in one line."""

import gzip
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

ROOT = Path(__file__).parent.parent
CONFIG = "--config=configs/graph/lightgcn.py:debug"


def launch(*flags, **options):
    return subprocess.run(
        [sys.executable, "launch.py", *flags], cwd=ROOT, capture_output=True, text=True, **options
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("run")
    done = launch(CONFIG, f"--workdir={workdir}")
    assert done.returncode == 0, done.stderr
    return workdir, done


def test_train_shows_progress_prints_a_table_and_writes_its_results(run):
    workdir, done = run
    assert "epoch 3/3, loss" in done.stderr and "ETA" in done.stderr
    assert "recall" in done.stdout and str(workdir) in done.stdout
    summary = json.loads((workdir / "summary.json").read_text())
    wanted = {
        "test", "valid", "protocol", "split_hash", "seed", "versions", "device", "best_epoch",
        "seconds_per_epoch", "seconds_per_evaluation", "compile_seconds", "peak_memory_bytes",
    }  # fmt: skip
    assert wanted <= set(summary) and None not in [summary[name] for name in wanted]
    assert len((workdir / "metrics.jsonl").read_text().splitlines()) == 3
    assert (workdir / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert list((workdir / "events").iterdir())
    assert json.loads((workdir / "config.json").read_text())["model"]["name"] == "graph.lightgcn"
    users = pd.read_parquet(workdir / "per_user_test.parquet")
    assert np.isclose(users["recall@20"].mean(), summary["test"]["recall@20"])


def test_a_second_start_compiles_nothing_and_a_profile_can_be_opened(tmp_path):
    home = {**os.environ, "XDG_CACHE_HOME": str(tmp_path)}
    home.pop("JAX_COMPILATION_CACHE_DIR")
    home.pop("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS")
    entries = []
    for start in ("first", "second"):
        done = launch(CONFIG, f"--workdir={tmp_path / start}", "--profile", env=home)
        assert done.returncode == 0, done.stderr
        entries.append(sorted(path.name for path in (tmp_path / "mmrec_jax").glob("*-cache")))
    assert len(entries[0]) > 10 and entries[0] == entries[1]
    (trace,) = (tmp_path / "second").rglob("perfetto_trace.json.gz")
    events = json.loads(gzip.decompress(trace.read_bytes()))["traceEvents"]
    assert any("train_epoch" in event.get("name", "") for event in events)


def test_eval_needs_nothing_but_the_workdir(run):
    workdir, done = run
    again = launch("--mode=eval", f"--workdir={workdir}")
    assert again.returncode == 0, again.stderr
    assert again.stdout.strip() in done.stdout


def test_recommend_speaks_the_users_ids_and_leaves_out_what_they_have(run, tmp_path):
    from mmrec_jax import run as runs

    workdir, _ = run
    _, data, _, _ = runs.load(workdir)
    users = [str(data.user_ids[3]), str(data.user_ids[0])]
    output = tmp_path / "list.csv"
    flags = ["--mode=recommend", f"--workdir={workdir}", f"--users={','.join(users)}", "--k=5"]
    done = launch(*flags, f"--output={output}")
    assert done.returncode == 0, done.stderr
    frame = pd.read_csv(output)
    assert frame["user"].astype(str).tolist() == [u for u in users for _ in range(5)]
    assert frame["rank"].tolist() == [1, 2, 3, 4, 5] * 2
    assert (frame.groupby("user")["score"].diff().dropna() <= 0).all()
    raw = {str(i): number for number, i in enumerate(data.item_ids)}
    for number, user in ((3, users[0]), (0, users[1])):
        listed = {raw[str(i)] for i in frame[frame["user"].astype(str) == user]["item"]}
        parts = (data.train, data.valid, data.test)
        assert not listed & {int(i) for part in parts for i in part.item[part.user == number]}
    shown = launch(*flags)
    assert all(str(item) in shown.stdout for item in frame["item"])


@pytest.mark.parametrize(
    "flags,words",
    [
        (["--config.optim.lrr=1"], ["lrr", "lr"]),
        (["--wokdir=x"], ["wokdir", "workdir"]),
        (["--mode=eval"], ["--workdir"]),
        (["--mode=eval", "--workdir=nowhere"], ["nowhere", "--mode=train"]),
        (["--config.eval.metric=recall@7"], ["recall@7", "recall@20"]),
        (["--config.data.source=no_such_file.csv"], ["no_such_file.csv"]),
        (["--config=configs/baseline/ease.py", "--config.train.epochs=2"], ["EASE", "epochs to 0"]),
        (["--config.optim.name=adamm"], ["adamm", "adamw"]),
        (["train"], ["train", "--"]),
    ],
)
def test_a_mistake_is_one_line_and_leaves_nothing(tmp_path, flags, words):
    workdir = tmp_path / "run"
    if not any(flag.startswith(("--mode", "--workdir")) for flag in flags):
        own = [] if any(flag.startswith("--config=") for flag in flags) else [CONFIG]
        flags = [*own, f"--workdir={workdir}", *flags]
    done = launch(*flags)
    assert done.returncode != 0
    message = done.stderr.strip()
    assert "Traceback" not in message, message
    assert all(word in message for word in words), message
    assert not workdir.exists()


def test_recommend_names_an_unknown_user(run):
    done = launch("--mode=recommend", f"--workdir={run[0]}", "--users=nobody")
    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()) == 1 and "unknown user nobody" in done.stderr


def test_a_prepared_set_trains_like_its_source(run, tmp_path):
    prepare = ["--mode=prepare", CONFIG, f"--workdir={tmp_path / 'sets'}"]
    done = launch(*prepare)
    assert done.returncode == 0, done.stderr
    folder = Path(done.stdout.strip())
    assert folder.parent.parent == tmp_path / "sets"
    again = launch(CONFIG, f"--config.data.source={folder}", f"--workdir={tmp_path / 'run'}")
    assert again.returncode == 0, again.stderr
    mine, theirs = (
        json.loads((path / "summary.json").read_text()) for path in (tmp_path / "run", run[0])
    )
    assert (mine["split_hash"], mine["test"]) == (theirs["split_hash"], theirs["test"])
    assert launch(*prepare).returncode == 2  # the version exists


def test_a_run_killed_at_any_moment_ends_as_if_it_had_not_been(tmp_path):
    flags = [CONFIG, "--config.train.epochs=40", "--config.checkpoint.every=2"]
    whole = launch(*flags, f"--workdir={tmp_path / 'whole'}")
    assert whole.returncode == 0, whole.stderr
    workdir = tmp_path / "killed"
    log = workdir / "metrics.jsonl"
    for epoch in (1, 9, 23):  # killed during whatever follows the log of that epoch
        process = subprocess.Popen(
            [sys.executable, "launch.py", *flags, f"--workdir={workdir}"], cwd=ROOT,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and process.poll() is None:
            if log.exists() and log.read_text().count("\n") >= epoch:
                break
            time.sleep(0.002)
        assert process.poll() is None, "the run ended before it could be killed"
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    last = launch(*flags, f"--workdir={workdir}")
    assert last.returncode == 0, last.stderr
    summaries = [
        json.loads((path / "summary.json").read_text()) for path in (workdir, tmp_path / "whole")
    ]
    for part in ("test", "valid", "best_epoch", "epochs"):
        assert summaries[0][part] == summaries[1][part]
    import jax

    from mmrec_jax import run as runs

    mine, theirs = (jax.tree.leaves(runs.load(path)[3]) for path in (workdir, tmp_path / "whole"))
    for a, b in zip(mine, theirs, strict=True):
        np.testing.assert_array_equal(a, b)
