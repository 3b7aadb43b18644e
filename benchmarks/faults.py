"""What becomes of a run that is killed, stopped, damaged, or out of disk: tried, not argued.

    python benchmarks/faults.py --kills=30 --json=faults.json --into=docs/robustness.md

Runs and sweeps of seconds are started by ``launch.py``, each in a process of its own, disturbed at
random moments or in random bytes, and started again. A case has survived if the end is that of an
undisturbed run (parameters bit for bit, metrics, log, results by user) or one clear line of error
that names the file and leaves the last good state as it was. Filling a disk and a disk to read
only need the right to mount; without it those cases are left out, and the table says so. Some 15
minutes on two processors.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import functools
import hashlib
import json
import multiprocessing
import os
import random
import re
import runpy
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # as a script it sees only its own folder

CONFIG = [
    "--config=configs/graph/lightgcn.py:debug",
    "--config.train.batch_size=64",
    "--config.checkpoint.every=3",
    "--config.eval.patience=0",
]
TRAIN = [*CONFIG, "--config.train.epochs=12"]
SWEEP = [*CONFIG, "--config.train.epochs=6", "--mode=sweep", "--sweep=optim.lr=1e-3,1e-2"]
STAGES = ("epoch", "save", "evaluation", "results", "sweep")
# Of a summary, what is of one session and no other, and how often test was read.
VOLATILE = ("seconds", "seconds_per_epoch", "seconds_per_evaluation", "compile_seconds")
VOLATILE += ("peak_memory_bytes", "forecast_memory_bytes", "test_evaluations", "crc32")
VOLATILE += ("mode", "seconds_per_epoch_by_mode")
GROUPS = {
    "kill": "SIGKILL",
    "stop": "SIGTERM and Ctrl-C",
    "damage": "flipped and missing bytes",
    "full": "a full disk",
    "read-only": "a disk to read only",
    "two": "two runs in one workdir",
}


@dataclasses.dataclass
class Case:
    """One fault and what became of it.

    Attributes:
      group: key of ``GROUPS``.
      what: the fault.
      outcome: ``same`` result, clear ``error``, ``skipped``, or ``FAILED``.
      lost: finished epochs that had to be repeated.
      note: the line of error, what differs, or why it was skipped.
      seconds: from a request to stop to the end.
    """

    group: str
    what: str
    outcome: str
    lost: int | None = None
    note: str = ""
    seconds: float | None = None


# --- a run that disturbs itself ---


# What a process of ours has loaded when it begins, so that starting it takes no seconds.
LOADED = ["matplotlib.figure", "pandas", "pyarrow.parquet", "tensorboardX", "tqdm", "absl.app"]
LOADED += [f"mmrec_jax.{name}" for name in ("train", "sweep", "recommend", "compare", "hosts")]


def launched(argv: list[str], told: str, env: dict[str, str], plan: dict[str, Any] | None) -> None:
    """What a process does: ``launch.py``, its output in the files ``told`` with endings."""
    for number, ending in ((1, "out"), (2, "err")):
        with open(f"{told}.{ending}", "wb") as file:
            os.dup2(file.fileno(), number)
    sys.stdout, sys.stderr = (open(n, "w", buffering=1, closefd=False) for n in (1, 2))
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ.update(env)
    os.chdir(ROOT)
    sys.argv = ["launch.py", *argv]
    if plan is not None:
        disturb(plan, told)
    runpy.run_path("launch.py", run_name="__main__")


def disturb(plan: dict[str, Any], told: str) -> None:
    """Has this process sent a signal ``plan["delay"]`` seconds into some stage of a run.

    What was going on by then is written to the file ``told``.
    """
    from mmrec_jax import checkpoint, evaluate, train

    counts: dict[str, int] = dict.fromkeys(STAGES, 0)
    going: set[str] = set()

    def strike():
        time.sleep(plan["delay"])
        Path(told).write_text(json.dumps([sorted(going), time.time()]))
        os.kill(os.getpid(), plan["signal"])

    def stage(name: str, function: Callable) -> Callable:
        @functools.wraps(function)
        def within(*args, **options):
            counts[name] += 1
            going.add(name)
            if name == plan["stage"] and counts[name] == plan["count"]:
                threading.Thread(target=strike, daemon=True).start()
            try:
                return function(*args, **options)
            finally:
                going.discard(name)

        return within

    def epoch(programs, *args):
        program = compiled(programs, *args)
        return stage("epoch", lambda *inputs: _finished(program(*inputs)))

    compiled, train.Programs.epoch = train.Programs.epoch, epoch
    checkpoint.Checkpoints.save = stage("save", checkpoint.Checkpoints.save)
    evaluate.Evaluator.mean = stage("evaluation", evaluate.Evaluator.mean)
    train.summarise = stage("results", train.summarise)


def _finished(outputs: Any) -> Any:
    """What a program returned, once it is there."""
    import jax

    return jax.block_until_ready(outputs)


# --- starting runs, and comparing how they end ---


class Bench:
    """Where the harness works.

    Attributes:
      folder: of all that it writes.
      rng: draws moments and bytes.
      cases: what has been tried so far, also in the file ``told`` if that is named.
    """

    def __init__(self, folder: Path, seed: int, told: str | None = None):
        self.folder, self.rng, self.cases = folder, random.Random(seed), []
        self._file = told
        self._number = 0
        self._processes = multiprocessing.get_context("forkserver")
        self._processes.set_forkserver_preload(LOADED)

    def add(self, *args: Any, **facts: Any) -> None:
        """Takes note of a case and shows it."""
        self.cases.append(case := Case(*args, **facts))
        print(f"{len(self.cases):3d} {case}", file=sys.stderr, flush=True)
        self.save()

    def save(self) -> None:
        """Writes the cases, if there is a file for them."""
        from mmrec_jax import store

        if self._file:
            cases = [dataclasses.asdict(case) for case in self.cases]
            store.write_json(self._file, {"cases": cases})

    def new(self, like: Path | None = None) -> Path:
        """A workdir that is not there yet, or a copy of ``like``."""
        self._number += 1
        path = self.folder / f"{self._number:03d}"
        if like is not None:
            shutil.copytree(like, path)
        return path

    def start(self, flags: Sequence[str], workdir: Path, plan: dict | None = None):
        """Starts ``launch.py``, disturbed if there is a plan."""
        self._told(workdir).parent.mkdir(exist_ok=True)
        self._told(workdir).unlink(missing_ok=True)
        env = {"XDG_CACHE_HOME": str(self.folder / "cache")}
        named = any(flag.startswith("--workdir=") for flag in flags)
        argv = [*flags, *([] if named else [f"--workdir={workdir}"])]
        arguments = (argv, str(self._told(workdir)), env, plan)
        process = self._processes.Process(target=launched, args=arguments)
        process.start()
        return process

    def end(self, process: Any, workdir: Path) -> Done:
        """Waits for a process that was started for a workdir."""
        process.join(600)
        if process.exitcode is None:
            process.kill()
            process.join()
        told = self._told(workdir)
        out, err = (Path(f"{told}.{ending}").read_text() for ending in ("out", "err"))
        return Done(process.exitcode, out, err)

    def run(self, flags: Sequence[str], workdir: Path, plan: dict | None = None) -> Done:
        """Starts ``launch.py`` and waits for its end."""
        return self.end(self.start(flags, workdir, plan), workdir)

    def told(self, workdir: Path) -> tuple[list[str], float] | None:
        """What was going on when the plan for a workdir struck, and when; None if it did not."""
        path = self._told(workdir)
        return tuple(json.loads(path.read_text())) if path.exists() else None

    def _told(self, workdir: Path) -> Path:
        return self.folder / "told" / re.sub(r"\W", "-", str(workdir.relative_to(self.folder)))


@dataclasses.dataclass
class Done:
    """A process that has ended."""

    status: int
    out: str
    err: str

    @property
    def error(self) -> str:
        """The line of error, if that is how it ended: status 2, one line, no traceback."""
        lines = [line for line in self.err.splitlines() if line.startswith("error: ")]
        shown = "Traceback" in self.err or "Exception" in self.err
        return lines[0] if self.status == 2 and len(lines) == 1 and not shown else ""


def differences(mine: Path, whole: Path) -> list[str]:
    """Names of what a run or a sweep does not have in common with an undisturbed one."""
    if (whole / "sweep.json").exists():
        members = sorted(path.name for path in whole.iterdir() if path.name.isdigit())
        found = [f"{m}/{name}" for m in members for name in differences(mine / m, whole / m)]
        if (mine / "results.csv").read_text() != (whole / "results.csv").read_text():
            found.append("results.csv")
        return found + _unlike(mine, whole) + leftovers(mine)
    from mmrec_jax import logs, store

    found = _unlike(mine, whole)
    logs = [
        [{k: v for k, v in record.items() if "seconds" not in k} for record in logs.read(w)]
        for w in (mine, whole)
    ]
    found += ["metrics.jsonl"] * (logs[0] != logs[1])
    tables = sorted(path.name for path in whole.glob("per_*.parquet"))
    read = store.read_per_query
    found += [name for name in tables if not read(mine / name).equals(read(whole / name))]
    drawn = ("curves.png", "report.html")
    found += [name for name in drawn if not (mine / name).exists()]
    return found + ["parameters"] * (not _same_parameters(mine, whole)) + leftovers(mine)


def sound_differences(mine: Path, whole: Path) -> list[str]:
    """The same where a file may still be damaged."""
    from mmrec_jax.types import UserError

    try:
        return differences(mine, whole)
    except UserError as error:
        return [str(error)]


def _unlike(mine: Path, whole: Path) -> list[str]:
    summaries = [json.loads((path / "summary.json").read_text()) for path in (mine, whole)]
    return [
        f"summary.json:{key}"
        for key in dict.fromkeys([*summaries[0], *summaries[1]])
        if key not in VOLATILE and summaries[0].get(key) != summaries[1].get(key)
    ]


def _same_parameters(mine: Path, whole: Path) -> bool:
    """Whether the best parameters are the same bit for bit, and so is the last state's checksum."""
    import jax
    import numpy as np

    from mmrec_jax import run as runs

    last = []
    for path in (mine, whole):
        newest = max((path / "checkpoints/latest").glob("[0-9]*"), key=lambda p: int(p.name))
        meta = json.loads((newest / "meta/metadata").read_text())
        last.append((newest.name, meta["crc32"], meta["progress"]))
    best = [jax.tree.leaves(runs.load(path)[3]) for path in (mine, whole)]
    pairs = zip(*best, strict=True)
    return last[0] == last[1] and all(np.asarray(a).tobytes() == b.tobytes() for a, b in pairs)


def leftovers(workdir: Path) -> list[str]:
    """What is half written and still there."""
    found = [*workdir.rglob(".*.part"), *workdir.rglob("*orbax-checkpoint-tmp*")]
    return [f"left over: {path.name}" for path in found]


def unfinished(workdir: Path) -> int:
    """Epochs that were finished in a workdir but that its next start repeats."""
    lost = 0
    for log in [*workdir.glob("metrics.jsonl"), *workdir.glob("*/metrics.jsonl")]:
        if not (log.parent / "summary.json").exists():
            saved = (log.parent / "checkpoints/latest").glob("[0-9]*")
            steps = [int(path.name) for path in saved if path.name.isdigit()]
            lost += max(log.read_bytes().count(b"\n") - max(steps, default=0), 0)
    return lost


def snapshot(workdir: Path) -> dict[str, str]:
    """Digests of all files of a workdir."""
    digest = lambda path: hashlib.sha256(path.read_bytes()).hexdigest()
    files = (path for path in workdir.rglob("*") if path.is_file() and path.name != ".lock")
    return {str(path.relative_to(workdir)): digest(path) for path in files}


# --- the faults ---


def signalled(bench: Bench, stage: str, number: int, whole: Path, swept: Path) -> Case:
    """Sends a signal at a random moment of a stage, starts again, and compares."""
    rng, sweeping = bench.rng, stage == "sweep"
    flags, like = (SWEEP, swept) if sweeping else (TRAIN, whole)
    inner = rng.choice(STAGES[:-1]) if sweeping else stage
    most = {"epoch": 12, "evaluation": 12, "save": 4, "results": 3 if sweeping else 1}[inner]
    longest = {"epoch": 0.05, "evaluation": 0.02, "save": 0.15, "results": 0.6}[inner]
    plan = {"stage": inner, "count": rng.randint(1, most), "delay": rng.uniform(0, longest)}
    workdir = bench.new()
    done = bench.run(flags, workdir, plan | {"signal": int(number)})
    ended, told = time.time(), bench.told(workdir)
    what = f"{signal.Signals(number).name} in {'a sweep, ' * sweeping}{inner} {plan['count']}"
    if told is None:
        return Case("", what, "FAILED", note=f"the moment did not come: {done.err[-300:]}")
    half = "half a checkpoint on disk" if list(workdir.rglob("*checkpoint-tmp*")) else ""
    lost = unfinished(workdir)
    note = ", ".join(filter(None, [f"during {' and '.join(told[0]) or 'what lies between'}", half]))
    case = Case("", what, "same", lost, note, ended - told[1])
    if number != signal.SIGKILL and (done.status or told[0]):  # else it came too late
        lines = [line for line in done.err.splitlines() if line.startswith("stopped by")]
        if done.status != 128 + number or len(lines) != 1 or "Traceback" in done.err:
            return dataclasses.replace(case, outcome="FAILED", note=done.err[-500:])
        case.note = lines[0]
    again = bench.run(flags, workdir)
    if again.status or (found := differences(workdir, like)):
        note = again.err[-500:] if again.status else f"{note}; differs: {found}"
        return dataclasses.replace(case, outcome="FAILED", note=note)
    shutil.rmtree(workdir)
    return case


def kills(bench: Bench, count: int, whole: Path, swept: Path) -> None:
    """SIGKILL, in all stages in turn."""
    for number in range(count):
        case = signalled(bench, STAGES[number % len(STAGES)], signal.SIGKILL, whole, swept)
        bench.add(**dataclasses.asdict(case) | {"group": "kill"})


def stops(bench: Bench, count: int, whole: Path, swept: Path) -> None:
    """SIGTERM, and Ctrl-C each third time."""
    for place in range(count):
        number = signal.SIGINT if place % 3 == 2 else signal.SIGTERM
        stage = ("epoch", "sweep", "evaluation", "save", "epoch", "results")[place % 6]
        case = signalled(bench, stage, number, whole, swept)
        bench.add(**dataclasses.asdict(case) | {"group": "stop"})


def flip(path: Path, rng: random.Random) -> None:
    """Changes one bit in a file."""
    content = bytearray(path.read_bytes())
    content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    path.write_bytes(content)


def cut(path: Path, rng: random.Random) -> None:
    """Takes away the end of a file, at least a byte."""
    content = path.read_bytes()
    path.write_bytes(content[: rng.randrange(len(content))])


_WAYS = {flip: "flipped", cut: "cut"}


def damaged(
    bench: Bench, like: Path, name: str, how: Callable, flags: Sequence[str], whole: Path | None
) -> None:
    """Damages a file of a copy of ``like``, starts a command there, and looks at what it does.

    Args:
      bench: where to.
      like: a sound workdir.
      name: pattern of the file; of the newest that match, the largest is taken.
      how: ``flip`` or ``cut``.
      flags: of the command.
      whole: what it must lead to if it succeeds; None: to what it prints undamaged.
    """
    workdir = bench.new(like)
    rank = lambda path: (_step(path.relative_to(workdir)), path.stat().st_size)
    newest = max(workdir.glob(name), key=rank)
    sound = bench.run(flags, workdir) if whole is None else None
    how(newest, bench.rng)
    before = snapshot(workdir)
    done = bench.run(flags, workdir)
    file = re.sub("[0-9a-f]{32}", "*", str(newest.relative_to(workdir)))
    mode = next((flag for flag in flags if flag.startswith("--mode")), "--mode=train")
    what = f"{file} {_WAYS[how]}, {mode}"
    outcome, note = "FAILED", done.err[-500:]
    if done.status == 0:
        found = ["output"] if sound is not None and sound.out != done.out else []
        found += sound_differences(workdir, whole) if whole is not None else []
        outcome, note = ("FAILED", f"differs: {found}") if found else ("same", "")
    elif done.error:
        named = newest.name in done.error or f"{newest.parent.name}/" in done.error
        named = named or any(part in done.error for part in ("checkpoints/best", "metadata.json"))
        intact = _good(snapshot(workdir), like) == _good(before, like)
        outcome = "error" if named and intact else "FAILED"
        note = done.error + ("" if named else " (names no file)")
        note += "" if intact else " (and something changed)"
    bench.add("damage", what, outcome, note=note.replace(str(bench.folder), "…"))
    shutil.rmtree(workdir)


def _good(files: dict[str, str], like: Path) -> dict[str, str]:
    """Files of a snapshot, less what a killed save had left that no finished state speaks of."""
    states = [p for p in like.glob("checkpoints/latest/*") if p.name.isdigit()]
    last = max(map(_step, (path.relative_to(like) for path in states)), default=0)
    newer = lambda path: path.startswith("checkpoints/") and _step(Path(path)) > last
    return {p: d for p, d in files.items() if "checkpoint-tmp" not in p and not newer(p)}


def _step(path: Path) -> int:
    """The epoch in the name of a checkpoint's folder; 0 for other files."""
    return max((int(part) for part in path.parts if part.isdigit()), default=0)


def damages(
    bench: Bench, share: str, half: Path, whole: Path, half_swept: Path, swept: Path
) -> None:
    """Damages files of unfinished and finished runs and sweeps, and of prepared data.

    Every kind of file both ways, or a ``share`` of that: "1/3" is the first of three.
    """
    state = ("tree/ocdbt.process_0/d/*", "tree/manifest.ocdbt", "tree/_METADATA", "meta/metadata")
    state += ("_CHECKPOINT_METADATA", "tree/_sharding", "tree/d/*")
    best = ("tree/ocdbt.process_0/d/*", "tree/_METADATA", "meta/metadata")
    goes_on = [f"checkpoints/latest/*/{name}" for name in state]
    goes_on += [f"checkpoints/best/*/{name}" for name in best]
    goes_on += ["config.json", "metrics.jsonl"]
    ended = ("summary.json", "metrics.jsonl", "per_user_test.parquet", "events/*")
    members = ("sweep.json", "000/summary.json", "000/metrics.jsonl", "000/config.json")
    evaluate, recommend = ["--mode=eval", "--split=valid"], ["--mode=recommend", "--k=5"]
    stored = _stored(bench)
    trials = []
    for how in (flip, cut):
        own = functools.partial(functools.partial, damaged, bench, how=how)
        trials += [own(like=half, name=name, flags=TRAIN, whole=whole) for name in goes_on]
        trials += [own(like=whole, name=name, flags=TRAIN, whole=whole) for name in ended]
        for name in ("config.json", "checkpoints/best/*/tree/ocdbt.process_0/d/*"):
            trials.append(own(like=whole, name=name, flags=evaluate, whole=None))
        trials.append(own(like=whole, name="config.json", flags=recommend, whole=None))
        trials += [own(like=half_swept, name=name, flags=SWEEP, whole=swept) for name in members]
        trials.append(own(like=swept, name="summary.json", flags=SWEEP, whole=swept))
        for name in ("per_user_test.parquet", "summary.json"):
            trials.append(functools.partial(_compared, bench, whole, name, how))
        for name in ("metadata.json", "dataset_info.json", "features.json", "*train*", "items/*r*"):
            trials.append(functools.partial(_prepared, bench, stored, name, how))
    first, parts = map(int, share.split("/"))
    for trial in trials[first - 1 :: parts]:
        trial()


def _compared(bench: Bench, whole: Path, name: str, how: Callable) -> None:
    """Damage to what ``--mode=compare`` reads."""
    other, output = bench.new(whole), bench.new()
    how(other / name, bench.rng)
    flags = ["--mode=compare", str(whole), str(other), f"--output={output}"]
    _refused(bench, f"{name} {_WAYS[how]}, --mode=compare", flags, output, name)


def _stored(bench: Bench) -> Path:
    """Prepared data."""
    folder = bench.folder / "prepared"
    bench.run([*CONFIG, "--mode=prepare"], folder)
    (stored,) = (path for path in folder.glob("*/*") if path.is_dir())
    return stored


def _prepared(bench: Bench, stored: Path, name: str, how: Callable) -> None:
    """Damage to a file of prepared data."""
    copy, workdir = bench.new(stored), bench.new()
    file = max(copy.glob(name), key=lambda path: path.stat().st_size)
    how(file, bench.rng)
    flags = [*TRAIN, f"--config.data.source={copy}"]
    _refused(bench, f"prepared {file.name} {_WAYS[how]}", flags, workdir, file.name)


def _refused(bench: Bench, what: str, flags: Sequence[str], target: Path, name: str) -> None:
    """Takes note of whether a command names a damaged file and makes no ``target``."""
    done = bench.run(flags, target)
    clear = name in done.error and not target.exists()
    note = (done.error or done.err[-500:]).replace(str(bench.folder), "…")
    bench.add("damage", what, "error" if clear else "FAILED", note=note)


@contextlib.contextmanager
def mounted(path: Path, size: int) -> Iterator[None]:
    """A file system in memory of ``size`` bytes, for as long as the body runs."""
    path.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(path)]
    subprocess.run(command, check=True, capture_output=True)
    try:
        yield
    finally:
        subprocess.run(["umount", str(path)], check=True)


def remount(path: Path, options: str) -> None:
    """Changes the options of what is mounted at ``path``."""
    subprocess.run(["mount", "-o", f"remount,{options}", str(path)], check=True)


def may_mount(bench: Bench) -> str:
    """Why nothing can be mounted; empty if it can."""
    try:
        with mounted(bench.new(), 2**20):
            return ""
    except (OSError, subprocess.CalledProcessError):
        return "mounting is not permitted here"


def full(bench: Bench, whole: Path, swept: Path) -> None:
    """Disks that fill up at some point of a run; then there is room, and it goes on."""
    for flags, like in ((TRAIN, whole), (SWEEP, swept)):
        used = sum(_blocks(path) for path in like.rglob("*"))
        shares = (0.02, 0.1, 0.3, 0.5, 0.7, 0.9) if flags is TRAIN else (0.2, 0.6)
        for share in shares:
            disk = bench.new()
            with mounted(disk, int(used * share)):
                workdir = disk / "run"
                done = bench.run(flags, workdir)
                warned = done.status == 0 and "No space left" in done.err  # of a page or plot
                clear = warned or (str(workdir) in done.error and "No space left" in done.error)
                lost, halves = unfinished(workdir), [*workdir.rglob(".*.part")]
                remount(disk, "size=1g")
                again = bench.run(flags, workdir)
                found = [again.err[-500:]] if again.status else differences(workdir, like)
                found += [f"left over: {path.name}" for path in halves]
                outcome = "FAILED" if not clear or found else "same"
                note = (done.error or done.err[-700:]).replace(str(bench.folder), "…")
                note = f"{note}; differs: {found}" if found else note
                mode = "sweep" if flags is SWEEP else "run"
                bench.add("full", f"full at {share:.0%} of a {mode}", outcome, lost, note)


def _blocks(path: Path) -> int:
    return path.lstat().st_blocks * 512


def read_only(bench: Bench, half: Path, whole: Path) -> None:
    """Workdirs that cannot be written."""
    disk = bench.new()
    with mounted(disk, 2**28):
        shutil.copytree(half, disk / "half")
        shutil.copytree(whole, disk / "whole")
        sound = bench.run(["--mode=eval", "--split=valid"], disk / "whole")
        remount(disk, "ro")
        before = snapshot(disk)
        valid, test = ["--mode=eval", "--split=valid"], ["--mode=eval"]
        cases = ((TRAIN, "new"), (TRAIN, "half"), (TRAIN, "whole"), (SWEEP, "sweep"))
        for flags, name in (*cases, (test, "whole"), (valid, "whole")):
            done = bench.run(flags, disk / name)
            if flags is valid:
                outcome = "same" if (done.status, done.out) == (0, sound.out) else "FAILED"
            else:
                outcome = "error" if str(disk / name) in done.error else "FAILED"
            outcome = outcome if snapshot(disk) == before else "FAILED"
            note = done.error or ("" if outcome == "same" else done.err[-500:])
            mode = {"whole": "a finished run", "half": "an unfinished run"}.get(name, f"a {name}")
            command = "evaluated" if flags in (test, valid) else "started"
            note = note.replace(str(bench.folder), "…")
            bench.add("read-only", f"{mode} {command}", outcome, note=note)


def two(bench: Bench, whole: Path, swept: Path) -> None:
    """The same command a second time while the first one runs, and after that was killed."""
    for flags, like in ((TRAIN, whole), (SWEEP, swept)):
        workdir = bench.new()
        first = bench.start(flags, workdir)
        while not (workdir / ".lock").exists() and first.is_alive():
            time.sleep(0.01)
        os.kill(first.pid, signal.SIGSTOP)  # so that it is still there when the second one comes
        second = bench.run([*flags, f"--workdir={workdir}"], bench.folder / "second")
        os.kill(first.pid, signal.SIGCONT)
        ended = bench.end(first, workdir)
        clear = str(workdir) in second.error and "in use" in second.error
        found = [ended.err[-500:]] if ended.status else differences(workdir, like)
        outcome = "FAILED" if found or not clear else "same"
        note = (second.error or second.err[-500:]).replace(str(bench.folder), "…")
        mode = "a sweep" if flags is SWEEP else "a run"
        bench.add("two", f"{mode} started twice", outcome, note=f"{note} {found or ''}".strip())


# --- what is written about it ---


def markdown(cases: Sequence[Case]) -> str:
    """A row per group: how many cases there were, and how they ended."""
    lines = [
        "| fault | tried | same result | one clear error | failed | epochs repeated: mean, most |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for group, title in GROUPS.items():
        mine = [case for case in cases if case.group == group]
        count = lambda outcome, mine=mine: sum(case.outcome == outcome for case in mine)
        if not mine or count("skipped"):
            lines.append(f"| {title} | 0: {mine[0].note if mine else 'not tried'} | | | | |")
            continue
        lost = [case.lost for case in mine if case.lost is not None]
        repeated = f"{sum(lost) / len(lost):.1f}, {max(lost)}" if lost else ""
        cells = [len(mine), count("same"), count("error"), count("FAILED"), repeated]
        lines.append(f"| {title} | {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


def details(cases: Sequence[Case]) -> str:
    """What kills met, how long a stop took, and the different lines of error."""
    killed = [case for case in cases if case.group == "kill"]
    halves = sum("half a checkpoint" in case.note for case in killed)
    met = {
        stage: sum(re.search(rf"\b{stage}\b", case.note) is not None for case in killed)
        for stage in STAGES[:-1]
    }
    lines = [
        "Of the kills, "
        + ", ".join(f"{count} came during {stage}" for stage, count in met.items())
        + f" and {sum('a sweep' in case.what for case in killed)} in a sweep; "
        + f"{halves} left half a checkpoint on disk."
    ]
    times = [case.seconds for case in cases if case.group == "stop" and case.seconds is not None]
    if times:
        lines.append(f"From SIGTERM or Ctrl-C to the end: {max(times):.1f} s at most.")
    return "\n".join(lines)


def brief(cases: Sequence[Case]) -> str:
    """Two lines for the README."""
    tried = [case for case in cases if case.outcome != "skipped"]
    survived = [case for case in tried if case.outcome != "FAILED"]
    lost = [case.lost for case in tried if case.group == "kill" and case.lost is not None]
    stopped = [case.lost for case in tried if case.group == "stop" and case.lost is not None]
    mean = f"{sum(lost) / len(lost):.1f}" if lost else "-"
    return (
        f"{len(tried)} faults tried, {len(survived)} survived: the result of an undisturbed run, "
        "or one clear line of error and the last good state intact.\n"
        f"Work lost to SIGKILL, saving every third epoch: {mean} epochs on average, "
        f"{max(lost, default=0)} at most (a sweep's members together); to SIGTERM: "
        f"{max(stopped, default=0)}."
    )


def measure(bench: Bench, options: argparse.Namespace) -> None:
    """Tries everything that the flags ask for."""
    runs = {name: bench.new() for name in ("whole", "swept", "half", "half_swept")}
    for name, flags in (("whole", TRAIN), ("swept", SWEEP)):
        if (done := bench.run(flags, runs[name])).status:
            raise SystemExit(f"an undisturbed run failed: {done.err}")
    kill = {"signal": int(signal.SIGKILL), "delay": 0.0}
    bench.run(TRAIN, runs["half"], kill | {"stage": "epoch", "count": 11})
    bench.run(SWEEP, runs["half_swept"], kill | {"stage": "epoch", "count": 11})
    whole, swept = runs["whole"], runs["swept"]
    wanted = options.only.split(",") if options.only else list(GROUPS)
    if "kill" in wanted:
        kills(bench, options.kills, whole, swept)
    if "stop" in wanted:
        stops(bench, options.stops, whole, swept)
    if "two" in wanted:
        two(bench, whole, swept)
    why = may_mount(bench)
    for group, tried in (
        ("full", lambda: full(bench, whole, swept)),
        ("read-only", lambda: read_only(bench, runs["half"], whole)),
    ):
        if group in wanted:
            bench.add(group, group, "skipped", note=why) if why else tried()
    if "damage" in wanted:
        damages(bench, options.share, runs["half"], whole, runs["half_swept"], swept)


def main() -> None:
    """Tries the faults and writes what the flags name."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--kills", type=int, default=30, help="by SIGKILL")
    parser.add_argument("--stops", type=int, default=6, help="by SIGTERM and Ctrl-C")
    parser.add_argument("--share", default="1/1", help="of the damage to files, such as 1/2")
    parser.add_argument("--only", default="", help=f"some of {','.join(GROUPS)}, or none")
    parser.add_argument("--seed", type=int, default=0, help="of moments and bytes")
    parser.add_argument("--json", help="file for the cases")
    parser.add_argument("--join", nargs="*", default=[], help="such files of other parts, to show")
    parser.add_argument("--into", help="Markdown file of which the region `faults` is replaced")
    parser.add_argument("--readme", help="the same, for two lines")
    parser.add_argument("--keep", help="folder to work in, kept; default one that is removed")
    options = parser.parse_args()
    from mmrec_jax import report, store

    with contextlib.ExitStack() as stack:
        folder = options.keep or stack.enter_context(tempfile.TemporaryDirectory())
        bench = Bench(Path(folder).resolve(), options.seed, options.json)
        bench.folder.mkdir(parents=True, exist_ok=True)
        if options.only != "none":
            measure(bench, options)
    for path in options.join:
        told = store.read_json(path, "measure it again")["cases"]
        bench.cases += [Case(**case) for case in told]
    bench.save()
    text = f"{markdown(bench.cases)}\n\n{details(bench.cases)}"
    print(text)
    if options.into:
        report.insert(options.into, text, "faults")
    if options.readme:
        report.insert(options.readme, brief(bench.cases), "faults")
    if any(case.outcome == "FAILED" for case in bench.cases):
        sys.exit(1)


if __name__ == "__main__":
    main()
