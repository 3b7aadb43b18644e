"""Cost as the work grows: seconds of an epoch and peak memory, as a table and a plot.

    python benchmarks/scaling.py --json=scaling.json --plot=docs/scaling.png [--into=docs/speed.md]

Interactions grow from Baby's 118,551 to 64 times as many, users and items by the root of that, so
that the matrix stays as full; items grow from 10,000 to a million at 4,000,000 interactions. Every
point is a process of its own, since peak memory never falls. An epoch of more than 30 steps is the
time of 30 steps (the median of three turns) times their number. Some 15 minutes.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # as a script it sees only its own folder

BABY = (19_445, 7_050, 118_551)  # users, items, interactions
POINTS = {
    "interactions": [(BABY[0] * n, BABY[1] * n, BABY[2] * n * n) for n in (1, 2, 4, 8)],
    "items": [(200_000, items, 4_000_000) for items in (10_000, 100_000, 1_000_000)],
}
METHODS = ("baseline.mf", "graph.lightgcn")
_STEPS = 30


def main() -> None:
    """Measures all points and writes what the flags name."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--json", help="file for the rows")
    parser.add_argument("--plot", help="file for the plot")
    parser.add_argument("--into", help="Markdown file of which the region `scaling` is replaced")
    parser.add_argument("--threads", type=int, default=2, help="processors")
    parser.add_argument("--point", help=argparse.SUPPRESS)  # what a process of its own measures
    options = parser.parse_args()
    if hasattr(os, "sched_setaffinity"):  # before JAX counts the processors
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: options.threads])
    if options.point:
        method, *sizes = json.loads(options.point)
        print(json.dumps(measure(method, *sizes)))
        return
    rows = []
    for axis, points in POINTS.items():
        for method in METHODS:
            for sizes in points:
                rows.append({"axis": axis, "method": method, **_alone(method, sizes, options)})
                print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
                if options.json:
                    Path(options.json).write_text(json.dumps({"rows": rows}, indent=1) + "\n")
    print(markdown(rows))
    if options.plot:
        plot(rows, options.plot)
    if options.into:
        from mmrec_jax import report

        report.insert(options.into, markdown(rows), "scaling")


def _alone(method: str, sizes: tuple, options) -> dict:
    command = [sys.executable, __file__, f"--threads={options.threads}"]
    command.append(f"--point={json.dumps([method, *sizes])}")
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def measure(method: str, num_users: int, num_items: int, interactions: int) -> dict:
    """Seconds of an epoch and peak memory of one method at one size."""
    import jax
    import jax.numpy as jnp

    from benchmarks import sizes
    from mmrec_jax import memory, train
    from mmrec_jax import run as runs

    size = sizes.Size(num_users, num_items, interactions, num_users, num_users, least=3)
    config = importlib.import_module(f"configs.{method}").get_config()
    run, data, ctx = runs.setup(config, sizes.synthetic(size))
    arrays = run.task.prepare(data, config)
    steps = runs.count_steps(run, arrays).steps
    if steps > _STEPS:  # the graph stays whole
        arrays = arrays.replace(pairs=arrays.pairs[: _STEPS * config.train.batch_size])
    run = runs.count_steps(run, arrays)
    programs = train.Programs(run)
    hyper = {"optim.lr": jnp.float32(config.optim.lr)}
    state = programs.init(jax.random.key(0), hyper, ctx, arrays)
    program = programs.epoch(state, hyper, ctx, arrays)
    seconds = []
    for _ in range(4):
        began = time.perf_counter()
        state, _ = jax.block_until_ready(program(state, hyper, ctx, arrays))
        seconds.append(time.perf_counter() - began)
    step = statistics.median(seconds[1:]) / run.steps
    return {
        "users": num_users,
        "items": num_items,
        "interactions": len(data.train),
        "steps": steps,
        "step_s": step,
        "epoch_s": step * steps,
        "compile_s": programs.compile_seconds,
        "peak_memory_bytes": memory.peak(),
        "forecast_bytes": memory.needed(program),
    }


def markdown(rows: list[dict]) -> str:
    """A table of all points."""
    lines = ["| method | users | items | interactions | s/step | s/epoch | peak memory |"]
    lines.append("|---" + "|---:" * 6 + "|")
    for row in rows:
        sizes = [f"{row[key]:,}" for key in ("users", "items", "interactions")]
        cost = [f"{row['step_s']:.4f}", f"{row['epoch_s']:.2f}"]
        memory = f"{row['peak_memory_bytes'] / 1e6:,.0f} MB"
        lines.append("| " + " | ".join([row["method"], *sizes, *cost, memory]) + " |")
    return "\n".join(lines)


def plot(rows: list[dict], path: str) -> None:
    """Step, epoch and memory over interactions and over items, all axes logarithmic."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 6), layout="constrained")
    shown = {
        "step_s": "seconds per step",
        "epoch_s": "seconds per epoch",
        "peak_memory_bytes": "peak memory, bytes",
    }
    axes = figure.subplots(2, len(shown))
    for place, axis in zip(axes, POINTS, strict=True):
        for panel, (key, label) in zip(place, shown.items(), strict=True):
            for method in METHODS:
                mine = [row for row in rows if (row["axis"], row["method"]) == (axis, method)]
                panel.plot(
                    [row[axis] for row in mine], [row[key] for row in mine], "o-", label=method
                )
            panel.set(xscale="log", yscale="log", xlabel=axis, ylabel=label)
    axes[0][0].legend()
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    main()
