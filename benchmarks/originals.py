"""Times epochs of fourteen methods beside their authors' own PyTorch code, on one machine.

    pip install -e '.[bench]'
    python benchmarks/originals.py --checkouts=DIR --json=originals.json --into=docs/speed.md

DIR holds checkouts in the folders of ``REPOSITORIES``; what is not there is left out. Data are made
up, in the size of Baby, with 4096-d image and 384-d text features; batch sizes and hyper-parameters
are those of our configuration on both sides.

Each side is a process of its own, and they take turns; a figure is the median of ``--turns`` turns
after one for warming up, or of fewer once a minute has passed; where the first takes a minute, it
is the figure. Compilation and the making of graphs are apart. Ours is the whole compiled epoch of a
run. Theirs is what they do before an epoch, its first step, and for the rest the mean of three
steps: their drawing of batches and negatives is left out, in their favour. Half an hour on two
processors; ``--only`` takes parts of it, whose rows join those that the file has already.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import importlib
import importlib.metadata
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # as a script it sees only its own folder

REPOSITORIES = {
    "mmrec": "enoche/MMRec",
    "NGCF-PyTorch": "huangtinglin/NGCF-PyTorch",
    "SELFRec": "Coder-Yu/SELFRec",
    "dccf": "HKUDS/DCCF",
    "alpharec": "LehengTHU/AlphaRec",
    "MambaRec": "rkl71/MambaRec",
    "CM3": "enoche/CM3",
    "LIRDRec": "enoche/LIRDRec",
    "alignrec": "sjtulyf123/AlignRec_CIKM24",
    "MMHCL": "Xu107/MMHCL",
    "REARM": "MrShouxingMa/REARM",
    "dgvae": "enoche/DGVAE",
}
_LONG = 60  # seconds after which no other turn is begun
_WORDS = 2000


# Our configuration, the folder of the original, where in it Python has to look.
METHODS = {
    "layergcn": ("graph.layergcn:baby", "mmrec", "src"),
    "ngcf": ("graph.ngcf:baby", "NGCF-PyTorch", "NGCF"),
    "simgcl": ("graph.simgcl:baby", "SELFRec", "."),
    "dccf": ("graph.dccf:baby", "dccf", "."),
    "alpharec": ("graph.alpharec:", "alpharec", "."),
    "lattice": ("multimodal.lattice:", "mmrec", "src"),
    "mgcn": ("multimodal.mgcn:", "mmrec", "src"),
    "mambarec": ("multimodal.mambarec:", "MambaRec", "src"),
    "cm3": ("multimodal.cm3:image_text", "CM3", "src"),
    "lirdrec": ("multimodal.lirdrec:image_text", "LIRDRec", "src"),
    "alignrec": ("multimodal.alignrec:", "alignrec", "src"),
    "mmhcl": ("multimodal.mmhcl:", "MMHCL", "codes"),
    "rearm": ("multimodal.rearm:baby", "REARM", "."),
    "dgvae": ("multimodal.dgvae:", "dgvae", "code"),
}
FIELDS = {
    "alpharec": {"hidden": 2240},  # theirs is half as wide as the features
    "dgvae": {"words": ("words",), "modality_weights": (("image", 0.04), ("text", 0.96))},
}


def main(argv: list[str] | None = None) -> int:
    """Prints the table, writes it where told to, and returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--checkouts", required=True, help="folder of the authors' repositories")
    parser.add_argument("--json", help="file for the rows")
    parser.add_argument("--into", help="Markdown file of which the region `originals` is replaced")
    parser.add_argument("--only", default=",".join(METHODS), help="methods, separated by commas")
    parser.add_argument("--turns", type=int, default=5, help="timed turns of each side")
    parser.add_argument("--threads", type=int, default=2, help="processors for either side")
    options = parser.parse_args(argv)
    names = options.only.split(",")
    if unknown := sorted(set(names) - set(METHODS)):
        parser.error(f"--only: {unknown[0]} is none of {', '.join(METHODS)}")
    if hasattr(os, "sched_setaffinity"):  # the processes inherit it
        processors = sorted(os.sched_getaffinity(0))[: options.threads]
        os.sched_setaffinity(0, processors)
        options.threads = len(processors)
    result = _earlier(options.json)
    for name in names:
        folder = METHODS[name][1]
        checkout, repository = Path(options.checkouts).resolve() / folder, REPOSITORIES[folder]
        if not checkout.is_dir():
            print(f"{name}: left out, no {checkout} (github.com/{repository})", file=sys.stderr)
            continue
        row = measure(name, checkout, options.turns, options.threads)
        print(json.dumps(row), file=sys.stderr, flush=True)
        result = merge(result, machine(options.threads), row)
        if options.json:  # after each row: a run that is cut short keeps what it has
            Path(options.json).write_text(json.dumps(result, indent=1) + "\n")
    if not result["rows"]:
        return 1
    text = markdown(result)
    print(text)
    if options.into:
        from mmrec_jax import report

        report.insert(options.into, text, "originals")
    return 0


def _earlier(path: str | None) -> dict:
    """What the file has already."""
    if not path or not Path(path).exists():
        return {"rows": []}
    return json.loads(Path(path).read_text())


def merge(result: dict, machine: dict, row: dict) -> dict:
    """``result`` with this row, in place of an earlier one of its name; in the order of methods."""
    rows = {**{old["name"]: old for old in result["rows"]}, row["name"]: row}
    known = [f"{name}/baby/epoch" for name in METHODS]
    return {"machine": machine, "rows": sorted(rows.values(), key=lambda r: known.index(r["name"]))}


def machine(threads: int) -> dict:
    """Where and with what it was measured."""
    from benchmarks import speed

    versions = {name: importlib.metadata.version(name) for name in ("jax", "torch")}
    return {"device": speed._processor(), "threads": threads, "versions": versions}


def measure(name: str, checkout: Path, turns: int, threads: int) -> dict:
    """A row: medians of both sides and their ratio, or the reason why there are none."""
    row: dict = {"name": f"{name}/baby/epoch", "original": REPOSITORIES[METHODS[name][1]]}
    job = {"method": name, "checkout": str(checkout), "threads": threads}
    seconds: dict[str, list[float]] = {"ours": [], "theirs": []}
    try:
        with contextlib.ExitStack() as stack:
            ours, theirs = (stack.enter_context(Side(side, job)) for side in seconds)
            steps, compile_s = ours.answer()
            theirs.answer()
            began = time.perf_counter()
            while len(seconds["ours"]) <= turns and time.perf_counter() - began < _LONG:
                for side in (ours, theirs):
                    seconds[side.name].append(side.ask(steps))
    except RuntimeError as error:
        return {**row, "failed": str(error)}
    taken = [values[1:] or values for values in seconds.values()]
    ours_s, baseline_s = map(statistics.median, taken)
    row |= {"ours_s": ours_s, "baseline_s": baseline_s, "ratio": baseline_s / ours_s}
    return {**row, "repeats": len(taken[0]), "steps": steps, "compile_s": compile_s}


class Side:
    """A process, in a folder of its own, that answers each line with the seconds of an epoch."""

    def __init__(self, name: str, job: dict):
        self.name = name
        self.folder, self.errors = tempfile.TemporaryDirectory(), tempfile.TemporaryFile("w+")
        code = f"from benchmarks import originals; originals.serve({name!r}, {job!r})"
        self.process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", code],
            cwd=self.folder.name,
            env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            text=True,
        )

    def __enter__(self) -> Side:
        return self

    def __exit__(self, *_) -> None:
        self.process.kill()
        self.process.communicate()
        self.errors.close()
        self.folder.cleanup()

    def ask(self, steps: int) -> float:
        """Seconds of an epoch of ``steps`` steps."""
        with contextlib.suppress(BrokenPipeError):  # the answer says why
            print(steps, file=self.process.stdin, flush=True)
        return self.answer()

    def answer(self):
        """The next line.

        Raises:
          RuntimeError: the process has ended; the last line that it wrote tells why.
        """
        assert self.process.stdout is not None
        if line := self.process.stdout.readline():
            return json.loads(line)
        lines = [f"ended with status {self.process.wait()}"]  # negative: by a signal
        if self.process.returncode > 0:
            self.errors.seek(0)
            lines += self.errors.read().strip().splitlines()
        raise RuntimeError(f"{self.name}: {lines[-1][:200]}")


# In the processes


def serve(side: str, job: dict) -> None:
    """Prepares one side, then does a turn for each line it reads."""
    channel = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what the originals print is no answer
    answer = lambda value: print(json.dumps(value), file=channel, flush=True)
    config, data = setting(job["method"])
    turn = (_ours if side == "ours" else _theirs)(job, config, data, answer)
    for line in sys.stdin:
        answer(turn(int(line)))


def setting(name: str):
    """Our configuration of a method, and data for it."""
    from benchmarks import sizes

    file, variant = METHODS[name][0].split(":")
    config = importlib.import_module(f"configs.{file}").get_config(variant)
    config.model.update(FIELDS.get(name, {}))
    reads_features = file.startswith("multimodal") or name == "alpharec"
    data = sizes.synthetic("baby", with_features=reads_features)
    return config, _with_words(data) if "words" in config.model else data


def _with_words(data):
    """``data`` whose items have forty of two thousand words each, besides."""
    drawn = np.random.default_rng(0).random((data.spec.num_items, _WORDS), dtype=np.float32)
    words = (drawn < 0.02).astype(np.float32)
    widths = (*data.spec.feature_dims, ("words", _WORDS))
    return dataclasses.replace(
        data,
        spec=dataclasses.replace(data.spec, feature_dims=widths),
        features={**data.features, "words": words},
        present={**data.present, "words": np.ones(len(words), bool)},
    )


def _ours(job: dict, config, data, answer) -> Callable[[int], float]:
    from benchmarks import speed

    run = speed.compiled(config, data)
    answer([run.steps, run.compile_s])

    def turn(_) -> float:
        began = time.perf_counter()
        run.epoch()
        return time.perf_counter() - began

    return turn


def _theirs(job: dict, config, data, answer) -> Callable[[int], float]:
    import torch

    torch.set_num_threads(job["threads"])
    from benchmarks import authors

    inside = Path(job["checkout"]) / METHODS[job["method"]][2]
    turn = authors.turns(job["method"], inside, config, data)
    answer("ready")
    return turn


def markdown(result: dict) -> str:
    """The table, under a line about the machine."""
    where = result["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in where["versions"].items())
    lines = [
        f"{where['device']}, {where['threads']} threads; {versions}. Seconds of an epoch.",
        "",
        "| method | ours | original | ratio | turns | code |",
        "|---|---:|---:|---:|---:|---|",
    ]
    for row in result["rows"]:
        name, code = row["name"].partition("/")[0], f"`{row['original']}`"
        if "failed" in row:
            lines.append(f"| {name} | | | | | {code}: {row['failed'].replace('|', '/')} |")
            continue
        seconds = f"{row['ours_s']:.2f} | {row['baseline_s']:.2f} | {row['ratio']:.1f}x"
        lines.append(f"| {name} | {seconds} | {row['repeats']} | {code} |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
