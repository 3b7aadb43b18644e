"""Progress, curves and tables of runs."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from mmrec_jax import logs, memory, report, store
from mmrec_jax.types import UserError


def write_run(folder, recall, seed=0, name="graph.lightgcn", data="baby", dim=64, **more):
    """A finished run, as far as the results table reads it."""
    folder.mkdir()
    test = {"recall@20": recall, "ndcg@20": recall / 2}
    summary = {"name": name, "data": data, "protocol": "mmrec", "split_hash": "0123456789ab"}
    summary |= {"test": test, "best_epoch": 10, "seconds_per_epoch": 1.5, "seed": seed} | more
    summary["config"] = {"seed": seed, "model": {"name": name, "dim": dim}}
    store.write_json(folder / "summary.json", summary)
    return folder


def test_importing_loads_no_plotting_no_tensorboard_no_tables():
    heavy = "{'matplotlib', 'tensorboardX', 'pyarrow', 'pandas', 'tqdm', 'tensorflow', 'torch'}"
    code = f"import sys, mmrec_jax.report; print({heavy} & set(sys.modules))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "set()"


def test_progress_in_a_log_is_one_line_at_first_and_one_at_the_end(capsys):
    bar = report.Progress(total=50)
    for epoch in range(1, 51):
        bar.update(epoch, 1 / epoch, "recall@20", None if epoch == 1 else 0.5, stop=epoch + 20)
    bar.close()
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert lines[0].startswith("epoch 1/50, loss 1.0000, ETA 0:0")
    assert lines[1] == "epoch 50/50, loss 0.0200, recall@20 0.5000, ETA 0:00"


def test_progress_on_a_terminal_is_a_bar(monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    bar = report.Progress(total=4, start=2)
    bar.update(3, 0.25, "recall@20", 0.5, stop=4)
    bar.close()
    last = capsys.readouterr().err.rstrip().split("\r")[-1]
    assert "epoch 3/4 |" in last and "loss 0.2500, recall@20 0.5000, ETA 0:0" in last


def test_remaining_names_the_earliest_and_the_latest_end():
    assert report.remaining(2.0, epoch=10, stop=30, total=100) == "0:40 to 3:00"
    assert report.remaining(2.0, epoch=90, stop=100, total=100) == "0:20"
    assert report.remaining(100.0, epoch=0, stop=36, total=36) == "1:00:00"


def test_pace_leaves_out_the_first_epoch_which_compiles(monkeypatch, capsys):
    clock = iter([0.0, 100.0, 101.0, 102.0])  # built; then the ends of three epochs
    monkeypatch.setattr(report.time, "monotonic", lambda: next(clock))
    bar = report.Progress(total=12, interval=0.0)
    for epoch in (1, 2, 3):
        bar.update(epoch, 1.0, "recall@20", None, stop=12)
    etas = [line.partition("ETA ")[2] for line in capsys.readouterr().err.splitlines()]
    assert etas == ["18:20", "0:10", "0:09"]


def test_environment_and_peak_memory():
    found = report.environment()
    assert found["versions"]["python"].startswith(f"3.{sys.version_info.minor}.")
    assert found["versions"]["jax"][0].isdigit() and found["device"]["count"] >= 1
    before = memory.peak()
    np.ones(2**26, np.uint8).sum()  # 64 MiB
    assert 2**26 < before <= memory.peak() < 2**40


def test_curves_mark_the_first_best_epoch_and_work_without_epochs(tmp_path, monkeypatch):
    from matplotlib.axes import Axes

    marked, drawn = [], []
    vertical, plot = Axes.axvline, Axes.plot
    record = lambda self, x, **kw: (marked.append(x), vertical(self, x, **kw))[1]
    monkeypatch.setattr(Axes, "axvline", record)
    line = lambda self, *args, **kw: (drawn.append((kw["label"], args)), plot(self, *args, **kw))[1]
    monkeypatch.setattr(Axes, "plot", line)
    log = logs.Log(tmp_path)
    for epoch, recall in enumerate([0.1, None, 0.3, 0.3], start=1):
        scores = {} if recall is None else {"valid/recall@20": recall, "valid/recall@5": 0.0}
        log.write({"epoch": epoch, "loss": 1 / epoch} | scores)
    log.close()
    assert report.curves(tmp_path, "recall@20").read_bytes().startswith(b"\x89PNG")
    assert marked == [3]
    expected = [("loss", ((1, 2, 3, 4), (1, 1 / 2, 1 / 3, 1 / 4)))]
    assert drawn == expected + [("recall@20", ((1, 3, 4), (0.1, 0.3, 0.3)))]

    empty = tmp_path / "closed_form"
    empty.mkdir()
    assert report.curves(empty).stat().st_size > 0


def test_table_has_a_row_per_metric_and_a_column_per_cut():
    test = {"recall@5": 0.1, "recall@20": 0.25, "ndcg@20": 0.125, "ndcg@5": None}
    assert report.table({"test": test, "valid": {"recall@20": 1 / 3}}).splitlines() == [
        "test             @5      @20",
        "recall       0.1000   0.2500",
        "ndcg              -   0.1250",
        "",
        "valid           @20",
        "recall       0.3333",
    ]


def test_results_average_over_seeds_only(tmp_path):
    runs = [
        write_run(tmp_path / "a", 0.10, seed=0),
        write_run(tmp_path / "b", 0.12, seed=1),
        write_run(tmp_path / "c", 0.2, dim=32, best_epoch=None),
        write_run(tmp_path / "d", 0.3, name="baseline.ease", data="lastfm2k"),
    ]
    assert report.results(runs, ["recall@20"]).splitlines() == [
        "**baby**, protocol `mmrec`, split `01234567`",
        "",
        "| method | runs | recall@20 | best epoch | s/epoch | s/evaluation |",
        "|---|---:|---:|---:|---:|---:|",
        "| graph.lightgcn (dim=64) | 2 | 0.1100 ± 0.0141 | 10 ± 0 | 1.50 ± 0.00 | - |",
        "| graph.lightgcn (dim=32) | 1 | 0.2000 | - | 1.50 | - |",
        "",
        "**lastfm2k**, protocol `mmrec`, split `01234567`",
        "",
        "| method | runs | recall@20 | best epoch | s/epoch | s/evaluation |",
        "|---|---:|---:|---:|---:|---:|",
        "| baseline.ease | 1 | 0.3000 | 10 | 1.50 | - |",
    ]


def test_results_go_between_the_marks_and_nowhere_else(tmp_path, capsys):
    run, readme = str(write_run(tmp_path / "a", 0.1)), tmp_path / "README.md"
    marks = ["<!-- results:start -->", "<!-- results:end -->"]
    readme.write_text("\n".join(["before é", marks[0], "old", marks[1], "after", ""]), "utf-8")
    for _ in range(2):  # a second time changes nothing more
        assert report.main([run, "--into", str(readme)]) == 0
        lines = readme.read_text("utf-8").splitlines()
        assert lines[:2] == ["before é", marks[0]] and lines[-2:] == [marks[1], "after"]
        assert lines[2:-2] == report.results([run], ["recall@20", "ndcg@20"]).splitlines()

    readme.write_text("no marks")
    assert report.main([run, "--into", str(readme)]) == 2
    assert "<!-- results:start -->" in capsys.readouterr().err
    assert readme.read_text() == "no marks"


def test_results_name_the_run_that_cannot_be_read(tmp_path):
    with pytest.raises(UserError, match="summary.json: no finished run"):
        report.results([tmp_path], ["recall@20"])
    run = write_run(tmp_path / "a", 0.1)
    with pytest.raises(UserError, match="a/summary.json: test has no recall@7"):
        report.results([run], ["recall@7"])
