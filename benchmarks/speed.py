"""Times our work beside PyTorch's, in one run on the same processors: ``speed.md``'s table.

    pip install -e '.[bench]'
    python benchmarks/speed.py --json=speed.json [--mmrec=CHECKOUT] [--into=docs/speed.md]

Sides take turns, so that a noisy moment strikes both; a figure is the median of ``--repeats``
turns after one for warming up, compilation apart. The baseline is the ordinary PyTorch of
``baselines.py`` and ``evaluations.py``, "tuned" compressed rows, the graph's symmetry in reverse
and sampling by numpy; in rows that end in ``best`` also 32-bit indices and single-pass Adam. The
limit is the traffic that the work cannot do without, over the bandwidth measured in the same run.
Data are made up, in the sizes of ``sizes.py``. Three quarters of an hour on two processors;
``--only`` takes parts of it, whose rows join those that the file has already.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # as a script it sees only its own folder

TASKS = (
    "propagate", "lightgcn", "vbpr", "bm3", "freedom", "sasrec", "item_graph", "memory", "start",
    "sweep",
)  # fmt: skip
_FLOAT = 4  # bytes


def main(argv: list[str] | None = None) -> int:
    """Prints the table, writes it where told to, and returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--json", help="file for the rows")
    parser.add_argument("--into", help="Markdown file of which the region `speed` is replaced")
    parser.add_argument("--only", default=",".join(TASKS), help="parts, separated by commas")
    parser.add_argument("--threads", type=int, default=2, help="processors for either side")
    parser.add_argument("--repeats", type=int, default=5, help="timed turns of each side")
    parser.add_argument("--mmrec", help="folder of a checkout of MMRec, to time its own trainer")
    options = parser.parse_args(argv)
    parts = options.only.split(",")
    if unknown := sorted(set(parts) - set(TASKS)):
        parser.error(f"--only: {unknown[0]} is none of {', '.join(TASKS)}")
    if hasattr(os, "sched_setaffinity"):  # before JAX and PyTorch count the processors
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: options.threads])
    bench = Bench(options)
    rows = _earlier(options.json)
    for part in parts:
        for row in getattr(bench, part)():
            rows[row["name"]] = row
            print(json.dumps(row), file=sys.stderr, flush=True)
            if options.json:  # after each row: a run that is cut short keeps what it has
                result = {"machine": bench.machine, "rows": list(rows.values())}
                Path(options.json).write_text(json.dumps(result, indent=1) + "\n")
    text = markdown(bench.machine, list(rows.values()))
    print(text)
    if options.into:
        from mmrec_jax import report

        report.insert(options.into, text, "speed")
    return 0


def _earlier(path: str | None) -> dict[str, dict]:
    """Rows that the file has already, by name."""
    if not path or not Path(path).exists():
        return {}
    return {row["name"]: row for row in json.loads(Path(path).read_text())["rows"]}


@dataclasses.dataclass
class Ours:
    """One of our runs, compiled.

    Attributes:
      epoch: does one epoch and waits.
      evaluate: evaluates "valid" or "test".
      compile_s: seconds to compile the epoch.
      steps: of an epoch.
    """

    epoch: Callable[[], None]
    evaluate: Callable[[str], Any]
    compile_s: float
    steps: int


class Bench:
    """The parts of the benchmark; each yields rows."""

    def __init__(self, options):
        import jax
        import torch

        torch.set_num_threads(options.threads)
        self.repeats, self.mmrec = options.repeats, options.mmrec
        self.threads = options.threads
        self.device = "cuda" if jax.default_backend() == "gpu" else "cpu"
        self._data: tuple = (None, None)
        bandwidth, flops = self._limits()
        self.machine = {
            "device": jax.devices()[0].device_kind if self.device == "cuda" else _processor(),
            "threads": options.threads,
            "bandwidth_gb_s": round(bandwidth / 1e9, 1),
            "gflop_s": round(flops / 1e9),
            "versions": {"jax": jax.__version__, "torch": torch.__version__},
            "load": round(os.getloadavg()[0], 1),
        }

    # Parts

    def propagate(self) -> Iterator[dict]:
        """One layer forward and backward."""
        for size in ("baby", "sports", "amazon-book"):
            yield self._propagate(size)

    def _propagate(self, size: str) -> dict:
        import jax
        import numpy as np

        from benchmarks import baselines
        from mmrec_jax.ops import graph

        spec, train = self.data(size).spec, self.data(size).train
        nodes = spec.num_users + spec.num_items
        adjacency = graph.bipartite(train.user, train.item, spec.num_users, spec.num_items)
        theirs = baselines.propagate_coo(*_edges(train, spec), nodes, 64, 1, self.device)
        x, cotangent = map(jax.numpy.asarray, baselines.propagate_inputs(nodes, 64))

        def forward_and_backward(adjacency, x, cotangent):
            y, back = jax.vjp(lambda x: graph.matmul(adjacency, x), x)
            return y, back(cotangent)[0]

        once = jax.jit(forward_and_backward)(adjacency, x, cotangent)
        for mine, other in zip(once, theirs(), strict=True):
            np.testing.assert_allclose(mine, other.detach().cpu(), atol=1e-4)
        times = 10  # within one program, as an epoch does it: a call has to find memory anew

        @jax.jit
        def repeated(adjacency, x, cotangent):
            step = lambda _, pair: forward_and_backward(adjacency, *pair)
            return jax.lax.fori_loop(0, times, step, (x, cotangent))

        ours = lambda: jax.block_until_ready(repeated(adjacency, x, cotangent))
        all_of_theirs = lambda: [theirs() for _ in range(times)]
        traffic = 2 * times * _layer_bytes(nodes, len(train))
        row = self.compare(f"propagate/{size}/propagate", ours, all_of_theirs, limit=traffic)
        for key in ("ours_s", "baseline_s", "limit_s"):
            row[key] /= times
        return {**row, "edges_per_s": 4 * len(train) / row["ours_s"]}

    def lightgcn(self) -> Iterator[dict]:
        """Epoch, evaluation, and both as a run alternates them."""
        for size in ("baby", "sports"):
            yield from self._lightgcn(size)

    def _lightgcn(self, size: str) -> Iterator[dict]:
        from benchmarks import baselines, evaluations

        data = self.data(size)
        spec, pairs = data.spec, (data.train.user, data.train.item)
        ours, mmrec = self.ours("graph.lightgcn", data), self.of_mmrec("LightGCN", data)
        nodes = spec.num_users + spec.num_items
        plain = baselines.LightGCN(*pairs, spec.num_users, spec.num_items).to(self.device)
        tuned = baselines.TunedLightGCN(*pairs, spec.num_users, spec.num_items).to(self.device)
        batches, quick = (
            baselines.pairwise_batches(*pairs, spec.num_items, tuned=t) for t in (False, True)
        )
        epoch = baselines.epoch(plain, batches)
        tuned_epoch = baselines.epoch(tuned, quick)
        best = baselines.TunedLightGCN(*pairs, spec.num_users, spec.num_items, int32=True)
        best_epoch = baselines.epoch(best.to(self.device), quick, fused=True)
        step = 4 * _layer_bytes(nodes, len(data.train)) + 7 * nodes * 64 * _FLOAT  # 7: Adam
        traffic = ours.steps * step
        row = self.compare(f"lightgcn/{size}/epoch", ours.epoch, epoch, tuned_epoch, traffic)
        yield {
            **row,
            "compile_s": ours.compile_s,
            "edges_per_s": 8 * len(data.train) * ours.steps / row["ours_s"],
            **against(row, mmrec.get("epoch_s")),
        }

        yield self.compare(f"lightgcn/{size}/epoch/best", ours.epoch, tuned=best_epoch)
        wanted = (data.test.user, data.test.item)
        test = evaluations.evaluation(plain, pairs, wanted)
        vectorised = evaluations.tuned_evaluation(tuned, pairs, wanted, spec.num_items)
        mine = lambda: ours.evaluate("test")
        row = self.compare(f"lightgcn/{size}/evaluate", mine, test, vectorised)
        yield {**row, **against(row, mmrec.get("test_s"))}

        valid = evaluations.evaluation(plain, pairs, (data.valid.user, data.valid.item))
        all_of_ours = lambda: (ours.epoch(), ours.evaluate("valid"), ours.evaluate("test"))
        all_of_theirs = lambda: (epoch(), valid(), test())
        row = self.compare(f"lightgcn/{size}/epoch+valid+test", all_of_ours, all_of_theirs)
        whole = sum(mmrec.get(key, 0) for key in ("epoch_s", "valid_s", "test_s"))
        yield {**row, **against(row, whole)}

    def vbpr(self) -> Iterator[dict]:
        """Frozen features; its authors fine-tune none."""
        from benchmarks import baselines

        data = self.data("baby", with_features=True)
        make = lambda finetune: baselines.VBPR(
            data.spec.num_users, data.spec.num_items, data.features, finetune=finetune
        )
        yield from self.content("multimodal.vbpr", "VBPR", make, data, (False,))

    def bm3(self) -> Iterator[dict]:
        """Frozen features, and learned ones as its authors do."""
        from benchmarks import baselines

        data = self.data("baby", with_features=True)
        make = lambda finetune: baselines.BM3(
            data.train.user,
            data.train.item,
            data.spec.num_users,
            data.spec.num_items,
            data.features,
            finetune=finetune,
        )
        yield from self.content("multimodal.bm3", "BM3", make, data, (False, True), negatives=False)

    def freedom(self) -> Iterator[dict]:
        """Frozen features, and learned ones as its authors do."""
        import numpy as np

        from benchmarks import baselines
        from mmrec_jax.ops import neighbours

        data = self.data("baby", with_features=True)
        parts = [neighbours.knn_graph(x, 10) for x in data.features.values()]
        item_graph = [np.concatenate(axis) for axis in zip(*parts, strict=True)]
        item_graph[2] = item_graph[2] / len(parts)
        make = lambda finetune: baselines.Freedom(
            data.train.user,
            data.train.item,
            data.spec.num_users,
            data.spec.num_items,
            data.features,
            item_graph,
            finetune=finetune,
        )
        yield from self.content("multimodal.freedom", "FREEDOM", make, data, (False, True))

    def content(self, config, name, make, data, kinds, negatives=True) -> Iterator[dict]:
        """Epochs of a multimodal method, for each of ``kinds`` of features: learned or not."""
        from benchmarks import baselines

        train, items = data.train, data.spec.num_items
        width = sum(x.shape[1] for x in data.features.values())
        for finetune in kinds:
            over = {"finetune_features": finetune} if len(kinds) > 1 else {}
            ours = self.ours(config, data, **over)
            batches = baselines.pairwise_batches(train.user, train.item, items, negatives=negatives)
            theirs = baselines.epoch(make(finetune).to(self.device), batches)
            as_authors = finetune or len(kinds) == 1
            mmrec = self.of_mmrec(name, data) if as_authors else {}
            distinct = _distinct(train, items, 2048, negatives)
            features = (7 * items + distinct if finetune else 2 * distinct) * width * _FLOAT
            label = f"{name.lower()}/baby/epoch" + ("/finetuned" if finetune else "")
            flops = ours.steps * distinct * width * 64 * (6 if finetune else 4)
            row = self.compare(label, ours.epoch, theirs, limit=ours.steps * features, flops=flops)
            yield {**row, "compile_s": ours.compile_s, **against(row, mmrec.get("epoch_s"))}

    def sasrec(self) -> Iterator[dict]:
        """Cross-entropy over all items; PyTorch as usual, and only over what is no padding."""
        from benchmarks import baselines

        data = self.data("beauty")
        train, spec = data.train, data.spec
        ours = self.ours("sequence.sasrec", data, batch_size=256)
        batches = baselines.sequence_batches(train.user, train.item, train.time, spec.num_users)
        steps = 8  # and their share of an epoch, which takes PyTorch minutes
        plain, tuned = (
            baselines.epoch(
                baselines.SASRec(spec.num_items, tuned=t).to(self.device), batches, steps=steps
            )
            for t in (False, True)
        )
        positions = len(train) - spec.num_users
        flops = 6 * positions * spec.num_items * 64
        row = self.compare("sasrec/beauty/epoch", ours.epoch, plain, tuned, flops=flops)
        for seconds, ratio in (("baseline_s", "ratio"), ("tuned_s", "tuned_ratio")):
            row[seconds] *= ours.steps / steps
            row[ratio] = row[seconds] / row["ours_s"]
        yield {**row, "baseline_steps": steps, "compile_s": ours.compile_s}

    def item_graph(self) -> Iterator[dict]:
        """The ten most similar items by 4,096 features; the largest once, and without PyTorch."""
        from benchmarks import baselines, sizes
        from mmrec_jax.ops import topk

        for items in (7_050, 18_357, 63_000):
            features = sizes.random_features(items, 4096)
            ours = lambda f=features: topk.knn(f, 10)
            flops = 2 * items * items * 4096
            name = f"item_graph/{items}/build"
            if items < 50_000:
                theirs = baselines.item_graph_dense(features, 10, self.device)
                row = self.compare(name, ours, theirs, flops=flops)
            else:  # 16 GB of similarities for PyTorch
                row = self.compare(name, ours, flops=flops, repeats=1)
            yield {**row, "features_bytes": features.nbytes, "block_bytes": 512 * items * _FLOAT}

    def memory(self) -> Iterator[dict]:
        """Peak memory of whole LightGCN runs, each in a process of its own."""
        from benchmarks import mmrec

        data = self.data("baby")
        with tempfile.TemporaryDirectory() as folder:
            mmrec.write(data, Path(folder) / "bench")
            summary = launch(Path(folder), "run", "train.epochs=3")
        row = {
            "name": "lightgcn/baby/memory",
            "ours_bytes": summary["peak_memory_bytes"],
            "forecast_bytes": summary["forecast_memory_bytes"],
        }
        theirs = self.of_mmrec("LightGCN", data).get("peak_memory_bytes")
        if theirs:
            row |= {"mmrec_bytes": theirs, "ratio": theirs / row["ours_bytes"]}
        yield row

    def start(self) -> Iterator[dict]:
        """Seconds until the first step: the first start of a configuration, and the second."""
        from benchmarks import mmrec

        with tempfile.TemporaryDirectory() as folder:
            mmrec.write(self.data("baby"), Path(folder) / "bench")
            first, second = (
                launch(Path(folder), name, "train.epochs=1") for name in ("first", "second")
            )
        yield {
            "name": "lightgcn/baby/compile",
            "first_start_s": first["compile_seconds"],
            "ours_s": second["compile_seconds"],
            "ratio": first["compile_seconds"] / second["compile_seconds"],
        }

    def sweep(self) -> Iterator[dict]:
        """Eight seeds of LightGCN, each tested: runs one after another, and sweeps in each mode."""
        from benchmarks import mmrec

        few = ("train.epochs=5", "sweep.test=all")
        seconds: dict[str, list[float]] = {}
        with tempfile.TemporaryDirectory() as folder:
            mmrec.write(self.data("baby"), Path(folder) / "bench")

            def timed(side: str, turn: int, settings: tuple = (), flags: tuple = (), runs: int = 1):
                began = time.perf_counter()
                for run in range(runs):
                    name = f"{side}-{turn}-{run}"
                    launch(Path(folder), name, *few, f"seed={run}", *settings, flags=flags)
                seconds.setdefault(side, []).append(time.perf_counter() - began)

            flags = ("--mode=sweep", "--sweep=seed=0,1,2,3,4,5,6,7")
            for turn in range(4):  # the first fills the cache of compiled programs
                timed("alone_s", turn, runs=8)
                for mode in ("loop", "map", "vmap"):
                    timed(f"{mode}_s", turn, (f"sweep.mode={mode}",), flags)
        row = {side: statistics.median(values[1:]) for side, values in seconds.items()}
        row |= {"ours_s": row["loop_s" if self.device == "cpu" else "vmap_s"]}
        ratio = row["alone_s"] / row["ours_s"]
        yield {"name": "lightgcn/baby/sweep", "repeats": 3, "ratio": ratio, **row}

    # What they share

    def data(self, size: str, with_features: bool = False):
        """A data set, of which the latest is kept."""
        from benchmarks import sizes

        if self._data[0] != (size, with_features):
            self._data = ((size, with_features), sizes.synthetic(size, with_features))
        return self._data[1]

    def ours(self, name: str, data, batch_size: int = 2048, **fields) -> Ours:
        """Our method ``name`` on ``data``, with other values of its ``fields``."""
        config = importlib.import_module(f"configs.{name}").get_config()
        config.train.batch_size = batch_size
        config.model.update(fields)
        return compiled(config, data)

    def of_mmrec(self, model: str, data) -> dict:
        """What MMRec itself takes; nothing without a checkout."""
        from benchmarks import mmrec

        if not self.mmrec:
            return {}
        found = mmrec.mmrec_epoch(
            self.mmrec, model, data, epochs=self.repeats, threads=self.threads
        )
        return {key: value for key, value in found.items() if key != "result"}

    def compare(
        self, name, ours, theirs=None, tuned=None, limit=0, flops=0, repeats=None
    ) -> dict[str, Any]:
        """A row: medians of each side, which take turns, and their ratios to ours."""
        repeats = repeats or self.repeats
        sides = {"ours_s": ours, "baseline_s": theirs, "tuned_s": tuned}
        sides = {key: side for key, side in sides.items() if side is not None}
        seconds: dict[str, list[float]] = {key: [] for key in sides}
        for side in sides.values():
            if repeats > 1:
                side()
        for _ in range(repeats):
            for key, side in sides.items():
                began = time.perf_counter()
                side()
                seconds[key].append(time.perf_counter() - began)
        row: dict[str, Any] = {"name": name, "repeats": repeats}
        row |= {key: statistics.median(values) for key, values in seconds.items()}
        for key, ratio in (("baseline_s", "ratio"), ("tuned_s", "tuned_ratio")):
            if key in row:
                row[ratio] = row[key] / row["ours_s"]
        if limit:
            row["limit_s"] = limit / self.machine["bandwidth_gb_s"] / 1e9
        if flops:
            row["flop_limit_s"] = flops / self.machine["gflop_s"] / 1e9
        return row

    def _limits(self) -> tuple[float, float]:
        """Bytes and multiply-adds (two operations each) a second."""
        import jax
        import jax.numpy as jnp

        a = jnp.ones(2**26)
        triad = jax.jit(lambda a, b: a + 0.5 * b)
        square = jnp.ones((4096, 4096))
        product = jax.jit(jnp.matmul)
        b = a + 1
        stream, multiply = lambda: triad(a, b), lambda: product(square, square)
        return 3 * a.nbytes / _fastest(stream), 2 * 4096**3 / _fastest(multiply)


def compiled(config, data) -> Ours:
    """A run of ``config`` on ``data``, compiled as a run does it."""
    import jax
    import jax.numpy as jnp

    from mmrec_jax import evaluate, train
    from mmrec_jax import run as runs
    from mmrec_jax.checkpoint import variables_of

    run, data, ctx = runs.setup(config, data)
    arrays = run.task.prepare(data, config)
    run = runs.count_steps(run, arrays)
    programs = train.Programs(run)
    hyper = {"optim.lr": jnp.float32(config.optim.lr)}
    state = programs.init(jax.random.key(0), hyper, ctx, arrays)
    program = programs.epoch(state, hyper, ctx, arrays)
    evaluators = {
        split: evaluate.Evaluator(run, data, split, config)
        for split in ("valid", "test")
        if len(getattr(data, split))
    }

    def epoch():
        nonlocal state
        state, _ = jax.block_until_ready(program(state, hyper, ctx, arrays))

    measure = lambda split: evaluators[split].mean(variables_of(state), {}, ctx)
    return Ours(epoch, measure, programs.compile_seconds, run.steps)


def _fastest(work: Callable) -> float:
    """Seconds that the fastest of some calls took."""
    import jax

    times = []
    for _ in range(6):
        began = time.perf_counter()
        jax.block_until_ready(work())
        times.append(time.perf_counter() - began)
    return min(times[1:])


def against(row: dict, mmrec_s: float | None) -> dict[str, float]:
    """What MMRec takes, and its ratio to ours."""
    return {} if not mmrec_s else {"mmrec_s": mmrec_s, "mmrec_ratio": mmrec_s / row["ours_s"]}


def launch(folder: Path, name: str, *settings: str, flags: tuple = ()) -> dict:
    """The summary of a run of LightGCN on the data in ``folder``, by the launcher."""
    command = [sys.executable, str(ROOT / "launch.py"), f"--workdir={folder / name}", *flags]
    command += ["--config=configs/graph/lightgcn.py"]
    command += [f"--config.data.source={folder / 'bench' / 'bench.inter'}"]
    command += [f"--config.{setting}" for setting in settings]
    home = {**os.environ, "XDG_CACHE_HOME": str(folder / "cache")}
    done = subprocess.run(command, cwd=ROOT, env=home, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr)
    return json.loads((folder / name / "summary.json").read_text())


def _layer_bytes(nodes: int, interactions: int) -> int:
    """Traffic of one product with the graph: vectors in and out, places and weights of edges."""
    return 2 * nodes * 64 * _FLOAT + 2 * interactions * 2 * _FLOAT


def _edges(train, spec):
    """Both directions of every edge, and its normalised weight."""
    import numpy as np

    node = train.item.astype(np.int64) + spec.num_users
    row, col = np.concatenate([train.user, node]), np.concatenate([node, train.user])
    root = (np.bincount(row, minlength=spec.num_users + spec.num_items) + 1e-7) ** -0.5
    return row, col, (root[row] * root[col]).astype(np.float32)


def _distinct(train, num_items: int, batch: int, negatives: bool) -> int:
    """About how many items a batch names."""
    import numpy as np

    share = np.bincount(train.item, minlength=num_items) / len(train)
    absent = (1 - share) ** batch * ((1 - 1 / num_items) ** batch if negatives else 1)
    return int((1 - absent).sum())


def _processor() -> str:
    """The processor's name, as the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(":")[2].strip() for line in lines if "model name" in line)
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def markdown(machine: dict, rows: list[dict]) -> str:
    """The table, under a line about the machine."""
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    lines = [
        f"{machine['device']}, {machine['threads']} threads, {machine['bandwidth_gb_s']} GB/s, "
        f"{machine['gflop_s']} GFLOP/s measured; {versions}. Seconds; in brackets how many times "
        "ours.",
        "",
        "| work | ours | PyTorch, ordinary | PyTorch, tuned | MMRec | limit by bandwidth | "
        "by arithmetic | compile |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for row in rows:
        if "ours_s" not in row or "first_start_s" in row or "alone_s" in row:
            continue
        side = lambda s, r, row=row: f"{_brief(row[s])} ({row[r]:.1f}x)" if s in row else ""
        plain = lambda s, row=row: _brief(row[s]) if s in row else ""
        cells = [row["name"], _brief(row["ours_s"]), side("baseline_s", "ratio")]
        cells += [side("tuned_s", "tuned_ratio"), side("mmrec_s", "mmrec_ratio")]
        cells += [plain("limit_s"), plain("flop_limit_s"), plain("compile_s")]
        lines.append("| " + " | ".join(cells) + " |")
    for row in rows:
        if "ours_bytes" in row:
            theirs = f"; MMRec {row['mmrec_bytes'] / 1e6:.0f} MB" if "mmrec_bytes" in row else ""
            lines += [
                "",
                f"Peak memory, `{row['name']}`: {row['ours_bytes'] / 1e6:.0f} MB{theirs}.",
            ]
        if "first_start_s" in row:
            first, second = row["first_start_s"], row["ours_s"]
            lines += ["", f"Compiling an epoch: {first:.1f} s at the first start of a "]
            lines[-1] += f"configuration, {second:.2f} s at the second."
        if "alone_s" in row:
            sides = ("loop_s", "map_s", "vmap_s")
            modes = ", ".join(f"`{s[:-2]}` {row[s]:.0f} s" for s in sides)
            lines += ["", "Eight seeds of LightGCN, Baby, five epochs each, start and test "]
            lines[-1] += f"included: runs one after another {row['alone_s']:.0f} s; one sweep in "
            lines[-1] += f"mode {modes}."
    return "\n".join(lines)


def _brief(seconds: float) -> str:
    return f"{seconds:.4f}" if seconds < 0.1 else f"{seconds:.2f}"


if __name__ == "__main__":
    sys.exit(main())
