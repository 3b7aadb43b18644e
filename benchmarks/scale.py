r"""A million users, a million items and fifty million interactions: seconds and memory by stage.

    python benchmarks/scale.py [--share=0.02] [--into=docs/scale.md]

Prepares a synthetic set, trains MF on it for an epoch and evaluates a sample of users, each by the
launcher in a process of its own, whose peak memory is the stage's. ``--share`` is the share of the
users, items and interactions, for a rehearsal. A stage that has ended is not run again. With
``--estimate`` nothing is run: the compiler is asked for the bytes that a step moves at full size,
and what that means on a TPU v5e and an H100 is printed.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # as a script it sees only its own folder

USERS = ITEMS = 1_000_000
INTERACTIONS = 50  # per user
CONFIG = "configs/baseline/mf.py"
HELD = 10  # parts that the training interactions are read in
BATCH, DIM = 131_072, 64
SAMPLE = 2_000  # users that are evaluated
CHIPS = {  # published: bytes a second and bytes of memory
    "TPU v5e, one chip": (819e9, 16e9, 1),
    "TPU v5e-8": (819e9, 16e9, 8),
    "H100 SXM": (3.35e12, 80e9, 1),
}
ESTIMATED = (100_000_000, 65_536)  # interactions and batch


def main() -> None:
    """Runs all stages, or estimates."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--share", type=float, default=1.0, help="of the full size")
    parser.add_argument("--folder", default="runs/scale", help="for the data and the run")
    parser.add_argument("--json", help="file for what was measured")
    parser.add_argument("--into", help="Markdown file of which a region is replaced")
    parser.add_argument("--estimate", action="store_true", help="accelerators, by arithmetic")
    options = parser.parse_args()
    if options.estimate:
        text, region, told = estimate(), "estimate", {}
    else:
        told = measure(options.share, Path(options.folder))
        text, region = markdown(told), "scale"
    print(text)
    if options.json:
        Path(options.json).write_text(json.dumps(told, indent=1) + "\n")
    if options.into:
        from mmrec_jax import report

        report.insert(options.into, text, region)


def commands(share: float, folder: Path) -> dict[str, list[str]]:
    """The launcher's arguments by stage; what they have in common is the budget."""
    size = lambda full: max(round(full * share), 100)
    budget = size(USERS * INTERACTIONS * 4 // 5) // HELD
    knobs = {"num_users": size(USERS), "num_items": size(ITEMS)}
    knobs |= {"mean_interactions": float(INTERACTIONS), "image_dim": 1, "text_dim": 1}
    prepare = [f"--config.data.knobs.{name}={value}" for name, value in knobs.items()]
    train = {
        "data.source": folder / "data" / "synthetic",
        "model.dim": DIM,
        "optim.lr": 0.01,
        "train.epochs": 1,
        "train.batch_size": max(round(BATCH * min(1.0, share * 10)), 128),
        "eval.users": max(round(SAMPLE * min(1.0, share * 5)), 50),
        "eval.block": 64,
    }
    common = [f"--config={CONFIG}", f"--config.data.budget={budget}"]
    return {
        "prepare": ["--mode=prepare", f"--workdir={folder / 'data'}", *common, *prepare],
        "train": [
            f"--workdir={folder / 'run'}",
            *common,
            *(f"--config.{key}={value}" for key, value in train.items()),
        ],
    }


def measure(share: float, folder: Path) -> dict:
    """Stages with their seconds and peak memory, and the facts of the run."""
    folder.mkdir(parents=True, exist_ok=True)
    done = folder / "stages.json"
    stages = json.loads(done.read_text()) if done.exists() else []
    told = {"stages": stages, "share": share, "processors": len(os.sched_getaffinity(0))}
    for stage, arguments in commands(share, folder).items():
        if any(row["command"] == arguments for row in stages):
            continue
        print(" ".join(["launch.py", *arguments]), file=sys.stderr, flush=True)
        began = time.perf_counter()
        child = subprocess.Popen([sys.executable, "launch.py", *arguments], cwd=ROOT)
        _, status, used = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        if child.returncode:
            raise SystemExit(f"{stage} failed with status {child.returncode}")
        seconds = time.perf_counter() - began
        row = {"stage": stage, "seconds": seconds, "peak_memory_bytes": used.ru_maxrss * 1024}
        row |= {"processor_seconds": used.ru_utime + used.ru_stime, "command": arguments}
        stages.append(row)
        done.write_text(json.dumps(stages, indent=1) + "\n")
        print(json.dumps(row), file=sys.stderr, flush=True)
    summary = json.loads((folder / "run" / "summary.json").read_text())
    log = json.loads((folder / "run" / "metrics.jsonl").read_text().splitlines()[0])
    split = summary["split"]
    told["facts"] = {
        "users": split["users"],
        "items": split["items"],
        **{name: split[name]["interactions"] for name in ("train", "valid", "test")},
        "epoch_s": log["seconds"],
        "evaluation_s": log["evaluation_seconds"],
        "loss": log["loss"],
        "recall@20": summary["test"]["recall@20"],
        "budget": summary["config"]["data"]["budget"],
        "batch_size": summary["config"]["train"]["batch_size"],
        "sample": summary["config"]["eval"]["users"],
        "disk_bytes": sum(p.stat().st_size for p in (folder / "data").rglob("*") if p.is_file()),
        **{key: summary[key] for key in ("compile_seconds", "forecast_memory_bytes")},
    }
    return told


def markdown(told: dict) -> str:
    """A table of the stages, and a line on what the run was."""
    facts = told["facts"]
    lines = ["| stage | seconds | processor seconds | peak memory |", "|---|---:|---:|---:|"]
    for row in told["stages"]:
        used = f"{row['peak_memory_bytes'] / 1e9:.1f} GB"
        spent = f"{row['seconds']:,.0f} | {row['processor_seconds']:,.0f}"
        lines.append(f"| {row['stage']} | {spent} | {used} |")
    lines.append(f"| – the epoch alone | {facts['epoch_s']:,.0f} | | |")
    lines.append(f"| – one evaluation alone | {facts['evaluation_s']:,.0f} | | |")
    counts = {name: f"{facts[name]:,}" for name in ("users", "items", "train", "valid", "test")}
    lines += [
        "",
        "{users} users, {items} items; {train} interactions train, {valid} validate and "
        "{test} test, ".format(**counts)
        + f"{facts['disk_bytes'] / 1e9:.1f} GB on disk. Batch {facts['batch_size']:,}, budget "
        f"{facts['budget']:,}, {facts['sample']:,} users asked. After the epoch: loss "
        f"{facts['loss']:.4f}, test recall@20 {facts['recall@20']:.4f}. "
        f"On {told['processors']} processors that others use too.",
    ]
    return "\n".join(lines)


def step_bytes(num_users: int, num_items: int, batch_size: int) -> dict[str, float]:
    """What one step of MF moves and holds, as the compiler counts; nothing is allocated."""
    import functools

    import jax
    import jax.numpy as jnp
    import numpy as np

    from configs.baseline import mf
    from mmrec_jax import memory, train
    from mmrec_jax import run as runs
    from mmrec_jax.models.baseline.mf import MF
    from mmrec_jax.ops.sampling import Positives
    from mmrec_jax.tasks import pairwise
    from mmrec_jax.types import Context, Spec

    config = mf.get_config()
    config.train.batch_size = batch_size
    fields = {"spec": Spec(num_users, num_items), "dim": DIM, "reg_weight": 1e-2}
    run = runs.Run(MF, fields, pairwise, config, steps=1)
    shape = lambda *sizes: jax.ShapeDtypeStruct(sizes, np.int32)
    positives = Positives(shape(num_users + 1), shape(batch_size), num_items, 10)
    arrays = pairwise.Arrays(shape(batch_size, 2), positives)
    hyper, ctx = {"optim.lr": jax.ShapeDtypeStruct((), jnp.float32)}, Context()
    key = jax.eval_shape(jax.random.key, 0)
    state = jax.eval_shape(functools.partial(runs.init_state, run), key, hyper, ctx, arrays)
    epoch = jax.jit(functools.partial(train.train_epoch, run), donate_argnums=0)
    program = epoch.lower(state, hyper, ctx, arrays).compile()
    return {
        "moved": (program.cost_analysis() or {})["bytes accessed"],
        "held": memory.needed(program),
        "table": 4.0 * DIM * (num_users + num_items),
    }


def estimate() -> str:
    """Seconds of an epoch and memory on accelerators, from bytes and published bandwidths."""
    interactions, batch = ESTIMATED
    step = step_bytes(USERS, ITEMS, batch)
    steps = -(-interactions // batch)
    lines = [
        f"A step at batch {batch:,} moves {step['moved'] / 1e9:.2f} GB, "
        f"{step['moved'] / step['table']:.1f} times the tables' {step['table'] / 1e9:.3f} GB, and "
        f"holds {step['held'] / 1e9:.2f} GB; an epoch has {steps:,} steps.",
        "",
        "| device | bandwidth | a step | an epoch | memory, of |",
        "|---|---:|---:|---:|---:|",
    ]
    for name, (bandwidth, capacity, chips) in CHIPS.items():
        seconds = step["moved"] / chips / bandwidth
        held = step["held"] / chips + 12 * interactions
        lines.append(
            f"| {name} | {chips * bandwidth / 1e12:.2f} TB/s | {1e3 * seconds:.2f} ms | "
            f"{steps * seconds:.1f} s | {held / 1e9:.1f} GB of {capacity / 1e9:.0f} GB a chip |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
