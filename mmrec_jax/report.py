"""What a run leaves behind: JSON, logs, plots and tables.

``python -m mmrec_jax.report RUN RUN ...`` prints a table of finished runs. Libraries that only
one function needs are imported there, so that importing this module costs next to nothing.
"""

from __future__ import annotations

import argparse
import collections
import errno
import json
import math
import os
import re
import statistics
import sys
import tempfile
import time
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from mmrec_jax import hosts
from mmrec_jax.types import UserError

PACKAGES = ("mmrec_jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")
SEAL = "crc32"  # the key of what a JSON object says about the rest of it
LOCK = ".lock"
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_TOLD = {  # by libraries that say what the system said
    "No space left|File too large": errno.ENOSPC,
    "Permission denied": errno.EACCES,
    "Read-only file system": errno.EROFS,
}


@contextmanager
def replacing(path: str | os.PathLike) -> Iterator[Path]:
    """Yields a file name to write to; on success it takes the place of ``path`` in one step.

    Of several processes the first does; what the others write is thrown away.

    Raises:
      OSError: it cannot be written; the error names ``path``.
    """
    path = Path(path)
    if not hosts.first():
        with tempfile.TemporaryDirectory() as folder:
            yield Path(folder, path.name)
        return
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with naming(path, part):
            yield part
            with open(part, "rb") as written:
                os.fsync(written.fileno())
            os.replace(part, path)
    finally:
        with suppress(OSError):  # such as a disk that can only be read
            part.unlink(missing_ok=True)


@contextmanager
def naming(path: str | os.PathLike, part: str | os.PathLike = "") -> Iterator[None]:
    """Has an OSError of its body that names no file, or ``part``, name ``path``."""
    try:
        yield
    except OSError as error:
        if error.errno is None or str(error.filename or part) != str(part):
            raise
        raise OSError(error.errno, os.strerror(error.errno), os.fspath(path)) from error


@contextmanager
def saving(path: str | os.PathLike) -> Iterator[None]:
    """Has an error of the system, whatever a storage library makes of it, name ``path``.

    Raises:
      OSError: in place of such an error.
    """
    try:
        yield
    except Exception as error:
        number = getattr(error, "errno", None)
        for told, known in _TOLD.items():
            number = known if re.search(told, str(error)) else number
        if not number:
            raise
        raise OSError(number, os.strerror(number), os.fspath(path)) from error


def trouble(error: OSError) -> str:
    """What went wrong with which file, and what to do, in one line."""
    if error.errno is None or error.filename is None:
        return str(error)
    todo = "; check the path"
    if error.errno in _FULL:
        todo = "; make room and start the same command again, what is finished is kept"
    elif error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
        todo = "; change its permissions, or name another --workdir or --output"
    return f"{os.fspath(error.filename)}: {os.strerror(error.errno)}{todo}"


@contextmanager
def alone(workdir: str | os.PathLike, wait: float = 0.0) -> Iterator[None]:
    """Makes ``workdir`` and holds it, so that no other process writes there meanwhile.

    The lock is on the open file ``.lock``: it goes with the process, however that ends. What a
    killed process had half written is removed.

    Args:
      workdir: of a run or a sweep.
      wait: seconds to wait for another process.

    Raises:
      UserError: another process holds it.
    """
    import filelock

    if not hosts.first():  # the first holds it for all
        yield
        return
    workdir = Path(workdir)
    workdir.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(workdir / LOCK, timeout=wait)
    try:
        with naming(workdir / LOCK):
            lock.acquire()
    except filelock.Timeout:
        raise UserError(
            f"{workdir} is in use by another process; wait for its end, or name another --workdir"
        ) from None
    try:
        for part in workdir.glob(".*.part"):
            part.unlink(missing_ok=True)
        yield
    finally:
        lock.release()


def plain(value: Any) -> Any:
    """``value`` as what JSON knows: arrays become lists, numbers that are not finite null."""
    if isinstance(value, Mapping):
        return {str(key): plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(entry) for entry in value]
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write_json(path: str | os.PathLike, value: Any) -> None:
    """Writes ``value`` as JSON, floats in full; the file is never half written.

    An object is sealed: its key ``crc32`` is the checksum of the others.
    """
    value = plain(value)
    with replacing(path) as part:
        value = sealed(value) if isinstance(value, dict) else value
        part.write_text(json.dumps(value, indent=2, allow_nan=False) + "\n")


def read_json(path: str | os.PathLike, remedy: str) -> dict[str, Any]:
    """The object in a file of :func:`write_json`, without its seal.

    Raises:
      UserError: it is not what was written; ends in ``remedy``.
    """
    try:
        return unsealed(json.loads(Path(path).read_bytes()))
    except ValueError as error:
        raise UserError(f"{os.fspath(path)}: damaged, {_short(error)}; {remedy}") from error


def read_config(workdir: str | os.PathLike) -> dict[str, Any]:
    """What ``config.json`` holds."""
    remedy = "remove it, and start the --mode=train command of this run again"
    return read_json(Path(workdir) / "config.json", remedy)


def read_summary(workdir: str | os.PathLike) -> dict[str, Any]:
    """What ``summary.json`` holds; empty where nothing has ended."""
    path = Path(workdir) / "summary.json"
    remedy = "remove it, and start the command of this run again, which writes it anew"
    return read_json(path, remedy) if path.exists() else {}


def sealed(value: Mapping[str, Any]) -> dict[str, Any]:
    """An object of JSON with the checksum of its entries as the last."""
    value = {key: entry for key, entry in value.items() if key != SEAL}
    return {**value, SEAL: zlib.crc32(json.dumps(value, sort_keys=True).encode())}


def unsealed(value: Any) -> dict[str, Any]:
    """An object of JSON without its checksum; one without, such as you write yourself, is taken.

    Raises:
      ValueError: no object, or the checksum differs.
    """
    if not isinstance(value, dict):
        raise ValueError("it is no JSON object")
    if SEAL in value and sealed(value)[SEAL] != value[SEAL]:
        raise ValueError(f"its checksum differs (if you have edited it, remove its {SEAL})")
    return {key: entry for key, entry in value.items() if key != SEAL}


def _short(error: ValueError) -> str:
    """What is wrong with a JSON text."""
    unreadable = isinstance(error, (json.JSONDecodeError, UnicodeDecodeError))
    return "it is no longer JSON" if unreadable else str(error)


def read_log(workdir: str | os.PathLike, until: int | None = None) -> list[dict[str, Any]]:
    """The epochs' records in ``metrics.jsonl``, less a last line that a crash cut short.

    Args:
      workdir: of a run.
      until: the last epoch to read; what follows it may be damaged.

    Raises:
      UserError: a line is not what was written.
    """
    path = Path(workdir) / "metrics.jsonl"
    lines = path.read_bytes().split(b"\n") if path.exists() else [b""]
    records = []
    for number, line in enumerate(lines[:-1][:until], 1):  # after the last newline it is torn
        try:
            records.append(unsealed(json.loads(line)))
        except ValueError as error:
            raise UserError(
                f"{path}, line {number}: damaged, {_short(error)}; put back a sound copy, or "
                f"remove {workdir} and start the same command again"
            ) from error
    return [record for record in records if until is None or record["epoch"] <= until]


class Log:
    """Appends one record per epoch to ``metrics.jsonl`` and to TensorBoard's events.

    A run that resumes calls ``rewind`` before its first ``write``.
    """

    def __init__(self, workdir: str | os.PathLike):
        self._workdir = Path(workdir)
        self._workdir.mkdir(parents=True, exist_ok=True)
        self._path = self._workdir / "metrics.jsonl"
        self._file = self._events = None

    def rewind(self, epoch: int) -> None:
        """Forgets what was logged after ``epoch``, the one that the run resumes from.

        Raises:
          UserError: the log is damaged before, or ends before.
        """
        self.close()
        if not hosts.first():
            return
        kept = read_log(self._workdir, epoch)
        if self._path.exists() and [record["epoch"] for record in kept] != [*range(1, epoch + 1)]:
            raise UserError(
                f"{self._path}: damaged, it lacks some of the {epoch} epochs before; put back a "
                f"sound copy, or remove {self._workdir} and start the same command again"
            )
        with replacing(self._path) as part:
            part.write_text("".join(json.dumps(sealed(record)) + "\n" for record in kept))

    def write(self, record: Mapping[str, Any]) -> None:
        """Appends a record, ``{"epoch": 1, "loss": 0.7, "valid/recall@20": 0.1, ...}``."""
        if not hosts.first():
            return
        record = plain(record)
        if self._file is None or self._events is None:
            self._file = open(self._path, "a")
            self._events = Events(self._workdir / "events", record["epoch"])
        with naming(self._path):
            self._file.write(json.dumps(sealed(record), allow_nan=False) + "\n")
            self._file.flush()
        self._events.write(record)

    def sync(self) -> None:
        """Has what was written reach the disk, before a checkpoint that speaks of it does."""
        if self._file is not None:
            os.fsync(self._file.fileno())

    def close(self) -> None:
        """Writes out what is buffered; a later ``write`` opens the files again."""
        with naming(self._path), ExitStack() as both:  # of which one may fail
            for part in (self._events, self._file):
                if part is not None:
                    both.callback(part.close)
            self._file = self._events = None


class Events:
    """TensorBoard's scalars of a run, from ``epoch`` on, in a file of their own.

    Written by the caller's thread: tensorboardX's own waits for ever once the disk is full.
    """

    def __init__(self, folder: Path, epoch: int, seconds: float = 10.0):
        import socket

        with _without_torch():
            from tensorboardX.proto.event_pb2 import SessionLog
            from tensorboardX.record_writer import RecordWriter

        self._folder, self._seconds, self._next = folder, seconds, 0.0
        folder.mkdir(parents=True, exist_ok=True)
        # Without the epoch the name is only of this second.
        name = f"events.out.tfevents.{int(time.time())}.{socket.gethostname()}.{epoch}"
        self._file = RecordWriter(str(folder / name))
        self._add(epoch, file_version="brain.Event:2")
        # Hides what an interrupted run wrote from here on.
        self._add(epoch, session_log=SessionLog(status=SessionLog.START))

    def write(self, record: Mapping[str, Any]) -> None:
        """Adds the numbers of a record."""
        from tensorboardX.summary import scalar

        for name, value in record.items():
            if name != "epoch" and isinstance(value, (int, float)):
                self._add(record["epoch"], summary=scalar(name, value))
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + self._seconds
            with naming(self._folder):
                self._file.flush()

    def _add(self, epoch: int, **content: Any) -> None:
        from tensorboardX.proto.event_pb2 import Event

        with naming(self._folder):
            event = Event(wall_time=time.time(), step=epoch, **content)
            self._file.write(event.SerializeToString())

    def close(self) -> None:
        """Writes out what is buffered."""
        with naming(self._folder):
            self._file.close()


@contextmanager
def _without_torch() -> Iterator[None]:
    """Keeps PyTorch out, which tensorboardX loads where it is installed, and does not need."""
    hidden = "torch" not in sys.modules
    if hidden:
        sys.modules["torch"] = None  # pyright: ignore[reportArgumentType] - what an import minds
    try:
        yield
    finally:
        if hidden:
            del sys.modules["torch"]


class Progress:
    """Epoch, loss, validation metric and remaining time, on standard error.

    A bar where that is a terminal, else a plain line every ``interval`` seconds at most.
    """

    def __init__(self, total: int, start: int = 0, interval: float = 10.0):
        from tqdm import tqdm

        self._total, self._interval = total, interval
        self._began = time.monotonic()
        self._times: collections.deque[float] = collections.deque(maxlen=21)  # ends of epochs
        self._next = 0.0
        self._bar = tqdm(
            total=total,
            initial=start,
            unit="epoch",
            dynamic_ncols=True,
            bar_format="epoch {n_fmt}/{total_fmt} |{bar}| {elapsed}{postfix}",
            disable=None if hosts.first() else True,  # where standard error is not a terminal
        )

    def update(self, epoch: int, loss: float, metric: str, value: float | None, stop: int) -> None:
        """Shows the state after an epoch.

        Args:
          epoch: epochs done.
          loss: of the epoch.
          metric: name of the validation metric.
          value: its latest value, or None where there is none yet.
          stop: the epoch at which the run ends if the metric does not improve any more.
        """
        now = time.monotonic()
        self._times.append(now)
        gaps = len(self._times) - 1
        # The first epoch holds the compilation, so it counts only while there is no other.
        pace = (now - self._times[0]) / gaps if gaps else now - self._began
        stop = min(stop, self._total)
        parts = [f"loss {loss:.4f}"]
        parts += [] if value is None else [f"{metric} {value:.4f}"]
        parts += [f"ETA {remaining(pace, epoch, stop, self._total)}"]
        if not hosts.first():
            return
        if not self._bar.disable:
            self._bar.set_postfix_str(", ".join(parts), refresh=False)
            self._bar.update(epoch - self._bar.n)
        elif now >= self._next or epoch >= stop:
            self._next = now + self._interval
            print(f"epoch {epoch}/{self._total}, {', '.join(parts)}", file=sys.stderr, flush=True)

    def close(self) -> None:
        """Leaves the bar as it stands."""
        self._bar.close()


def remaining(pace: float, epoch: int, stop: int, total: int) -> str:
    """The time to the earliest possible end and, where that differs, to the last epoch."""
    ends = dict.fromkeys(clock(pace * max(end - epoch, 0)) for end in (stop, total))
    return " to ".join(ends)


def clock(seconds: float) -> str:
    """``m:ss``, or ``h:mm:ss`` from an hour on."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def environment() -> dict[str, Any]:
    """Versions of what computed a result, and the devices it ran on."""
    import importlib.metadata
    import platform

    import jax

    versions = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:  # used from a checkout, not installed
            versions[name] = "unknown"
    device = jax.devices()[0]
    return {
        "versions": versions,
        "device": {
            "platform": device.platform,
            "kind": device.device_kind,
            "count": jax.device_count(),
        },
    }


def peak_memory() -> int:
    """Most bytes in use so far: of the fullest device, or of this process where that is unknown."""
    import resource

    import jax

    stats = [device.memory_stats() or {} for device in jax.local_devices()]
    peaks = [entry["peak_bytes_in_use"] for entry in stats if "peak_bytes_in_use" in entry]
    status = Path("/proc/self/status")
    if not peaks and status.exists():  # getrusage would count the process that started this one
        lines = status.read_text().splitlines()
        peaks = [1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM")]
    unit = 1 if sys.platform == "darwin" else 1024
    return max(peaks, default=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit)


def curves(workdir: str | os.PathLike, metric: str = "recall@20") -> Path:
    """Plots ``metrics.jsonl`` to ``curves.png``: loss, and validation at the K of ``metric``."""
    from matplotlib.figure import Figure

    records, path = read_log(workdir), Path(workdir) / "curves.png"
    kind = metric.partition("@")[1:]  # such as ("@", "20"); empty strings where there is no cut
    figure = Figure(figsize=(10, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.set(xlabel="epoch", ylabel="loss")
    right.set(xlabel="epoch", ylabel=f"validation, {''.join(kind) or metric}")
    draw(left, records, ["loss"])
    names = dict.fromkeys(name for record in records for name in record)
    draw(
        right,
        records,
        [n for n in names if n.startswith("valid/") and n.partition("@")[1:] == kind],
    )
    scored = [record for record in records if record.get(f"valid/{metric}") is not None]
    if scored:
        best = max(scored, key=lambda record: record[f"valid/{metric}"])["epoch"]
        right.axvline(best, color="grey", linestyle=":", label=f"best, epoch {best}")
        right.legend()
    with replacing(path) as part:
        figure.savefig(part, format="png", dpi=120)
    return path


def draw(axes, records: Sequence[Mapping[str, Any]], names: Sequence[str]) -> None:
    """Adds one line per name over the epochs that have it."""
    for name in names:
        points = [(r["epoch"], r[name]) for r in records if r.get(name) is not None]
        if points:
            axes.plot(*zip(*points, strict=True), label=name.removeprefix("valid/"))


def table(summary: Mapping[str, Any]) -> str:
    """The metrics of a summary as plain text, a column per K, and two lines on the test lists."""
    blocks = [grid(split, summary[split]) for split in ("test", "valid") if summary.get(split)]
    return "\n\n".join(blocks + ([of_lists(summary)] if summary.get("beyond") else []))


def of_lists(summary: Mapping[str, Any]) -> str:
    """Two lines of :func:`table`: recall by item popularity, and what lies beyond accuracy."""
    beyond, line = summary["beyond"], "  ".join
    cut = f"@{beyond['k']}"
    groups = summary["slices"]["popularity"]
    recall = [f"{name} {number(group['recall' + cut])}" for name, group in groups.items()]
    named = [f"{name} {number(beyond[name])}" for name in ("coverage", "gini", "aplt", "popreo")]
    return f"{'recall' + cut:<10}  {line(recall)}\n{'test' + cut:<10}  {line(named)}"


def grid(title: str, metrics: Mapping[str, float | None]) -> str:
    """One block of :func:`table`: ``{"recall@20": ...}`` or ``{"auc": ...}``, a row per metric."""
    cells = {tuple(name.split("@")): value for name, value in metrics.items() if "@" in name}
    cuts = sorted({cut for _, cut in cells}, key=int)
    lines = [f"{title:<10}" + "".join(f"{'@' + cut:>9}" for cut in cuts)]
    for name in dict.fromkeys(name for name, _ in cells):
        row = [cells.get((name, cut)) for cut in cuts]
        lines.append(f"{name:<10}" + "".join(f"{number(value):>9}" for value in row))
    whole = {name: value for name, value in metrics.items() if "@" not in name}
    lines += [f"{name:<14}{number(value):>9}" for name, value in whole.items()]
    return "\n".join(lines)


def number(value: float | None) -> str:
    """Four places, or a dash where there is no value."""
    return "-" if value is None else f"{value:.4f}"


def per_query(
    path: str | os.PathLike, metrics: Mapping[str, np.ndarray], entity: str, ids: np.ndarray
) -> None:
    """Writes metrics as Parquet: a row per query, ids in column ``entity``, then the metrics."""
    import pyarrow
    from pyarrow import parquet

    columns = {entity: np.asarray(ids)}
    columns.update((name, np.asarray(value)) for name, value in metrics.items())
    with replacing(path) as part:
        table = pyarrow.table(columns)
        parquet.write_table(table.replace_schema_metadata({SEAL: _checksum(table)}), part)


def read_per_query(path: str | os.PathLike) -> Any:
    """The ``pyarrow.Table`` that :func:`per_query` wrote.

    Raises:
      UserError: it is not what was written.
    """
    import pyarrow
    from pyarrow import parquet

    try:
        table = parquet.read_table(path)
        known = table.schema.metadata or {}
        if known.get(SEAL.encode(), _checksum(table)) != _checksum(table):
            raise ValueError("checksum")
        return table
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise UserError(
            f"{os.fspath(path)}: damaged, it is no longer Parquet as it was written; "
            "start the command of the run again, which writes it anew"
        ) from error


def _checksum(table: Any) -> bytes:
    """The CRC-32 of the names and values of a ``pyarrow.Table``, in digits."""
    crc = zlib.crc32(repr(table.column_names).encode())
    for column in table.columns:
        values = column.to_numpy()
        content = (
            "\0".join(map(str, values)).encode() if values.dtype == object else values.tobytes()
        )
        crc = zlib.crc32(content, crc)
    return str(crc).encode()


def results(
    runs: Sequence[str | os.PathLike], metrics: Sequence[str], facts: Sequence[str] = ()
) -> str:
    """A Markdown table per data set and protocol, a row per setting, averaged over its seeds.

    Runs belong to one row when their data, protocol and resolved configuration are the same but
    for the seed. A cell is the mean, with the sample standard deviation from two runs on. ``facts``
    are further whole numbers of a summary that no seed changes, such as ``parameters`` and
    ``model_bytes``.

    Raises:
      UserError: a run has no readable ``summary.json`` or lacks one of ``metrics``.
    """
    tables: dict[tuple, dict[str, list]] = {}
    for summary, setting in map(read_run, runs):
        for name in metrics:
            if summary.get("test", {}).get(name) is None:
                raise UserError(f"{summary['path']}: test has no {name}; choose other --metrics")
        place = tuple(summary.get(key) for key in ("data", "protocol", "split_hash"))
        tables.setdefault(place, {}).setdefault(setting, []).append(summary)
    return "\n\n".join(section(place, rows, metrics, facts) for place, rows in tables.items())


def read_run(run: str | os.PathLike) -> tuple[dict[str, Any], str]:
    """The summary of a run and its resolved configuration without the seed, as text."""
    path = Path(run) / "summary.json"
    try:
        summary = read_summary(run)
        config = {key: value for key, value in summary["config"].items() if key != "seed"}
    except (OSError, KeyError, AttributeError) as error:
        raise UserError(
            f"{path}: no finished run to read here; train to the end, or name another folder"
        ) from error
    return summary | {"path": os.fspath(path)}, json.dumps(config, sort_keys=True)


def section(
    place: tuple, rows: Mapping[str, list], metrics: Sequence[str], facts: Sequence[str] = ()
) -> str:
    """The table of one data set and protocol, under a line that names both."""
    data, protocol, split = place
    words = [fact.replace("_", " ") for fact in facts]
    header = ["method", "runs", *metrics, *words, "best epoch", "s/epoch", "s/evaluation"]
    lines = [
        f"**{data}**, protocol `{protocol}`, split `{str(split)[:8]}`",
        "",
        "| " + " | ".join(header) + " |",
        "|---" + "|---:" * (len(header) - 1) + "|",
    ]
    names = collections.Counter(runs[0]["name"] for runs in rows.values())
    for setting, runs in rows.items():
        label = runs[0]["name"]
        if names[label] > 1:
            label += f" ({distinction(setting, [s for s in rows if rows[s][0]['name'] == label])})"
        cells = [spread([run["test"][name] for run in runs], 4) for name in metrics]
        cells += [spread([runs[0].get(fact)], 0) for fact in facts]
        cells += [spread([run.get("best_epoch") for run in runs], 0)]
        cells += [
            spread([run.get(key) for run in runs], 2)
            for key in ("seconds_per_epoch", "seconds_per_evaluation")
        ]
        lines.append("| " + " | ".join([label, str(len(runs)), *cells]) + " |")
    return "\n".join(lines)


def distinction(setting: str, settings: Sequence[str]) -> str:
    """The values in ``setting`` by which it differs from the others."""
    flat = [dict(leaves(json.loads(text))) for text in settings]
    mine = dict(leaves(json.loads(setting)))
    keys = [key for key in mine if any(other.get(key) != mine[key] for other in flat)]
    return ", ".join(f"{key.removeprefix('model.')}={mine[key]}" for key in keys)


def leaves(tree: Any, prefix: str = "") -> Iterator[tuple[str, str]]:
    """The ends of nested mappings as (dotted name, value as text)."""
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield prefix + key, str(value)


def spread(values: Sequence[float | None], places: int) -> str:
    """Mean and, from two values on, sample standard deviation; a dash where one is missing."""
    known = [value for value in values if value is not None]
    if not known or len(known) < len(values):
        return "-"
    mean = f"{statistics.fmean(known):.{places}f}"
    return mean if len(known) == 1 else f"{mean} ± {statistics.stdev(known):.{places}f}"


def insert(path: str | os.PathLike, text: str, region: str = "results") -> None:
    """Puts ``text`` between the marks of a region of a Markdown file, in place of what is there.

    Raises:
      UserError: the marks are missing.
    """
    start, end = f"<!-- {region}:start -->", f"<!-- {region}:end -->"
    old = Path(path).read_text(encoding="utf-8")
    head, found, rest = old.partition(start)
    _, closed, tail = rest.partition(end)
    if not (found and closed):
        raise UserError(f"{os.fspath(path)}: expected the lines {start} and {end}; add them")
    with replacing(path) as part:
        part.write_text(f"{head}{start}\n{text}\n{end}{tail}", encoding="utf-8")


def main(argv: Sequence[str] | None = None) -> int:
    """Prints the table of the runs named, or puts it into a file; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m mmrec_jax.report", description=results.__doc__)
    parser.add_argument("runs", nargs="+", help="working directories of finished runs")
    parser.add_argument("--metrics", default="recall@20,ndcg@20", help="separated by commas")
    parser.add_argument("--facts", default="", help="further columns, such as parameters")
    parser.add_argument("--into", help="Markdown file of which a region is replaced")
    parser.add_argument("--region", default="results", help="name of that region")
    arguments = parser.parse_args(argv)
    try:
        facts = [fact for fact in arguments.facts.split(",") if fact]
        text = results(arguments.runs, arguments.metrics.split(","), facts)
        insert(arguments.into, text, arguments.region) if arguments.into else print(text)
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
