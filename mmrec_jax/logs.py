"""The log of a run: a record per epoch, as JSON lines and as TensorBoard's events."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from mmrec_jax import hosts, store
from mmrec_jax.types import UserError


def read(workdir: str | os.PathLike, until: int | None = None) -> list[dict[str, Any]]:
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
            records.append(store.unsealed(json.loads(line)))
        except ValueError as error:
            raise UserError(
                f"{path}, line {number}: damaged, {store.damage(error)}; put back a sound copy, or "
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
        kept = read(self._workdir, epoch)
        if self._path.exists() and [record["epoch"] for record in kept] != [*range(1, epoch + 1)]:
            raise UserError(
                f"{self._path}: damaged, it lacks some of the {epoch} epochs before; put back a "
                f"sound copy, or remove {self._workdir} and start the same command again"
            )
        with store.replacing(self._path) as part:
            part.write_text("".join(json.dumps(store.sealed(record)) + "\n" for record in kept))

    def write(self, record: Mapping[str, Any]) -> None:
        """Appends a record, ``{"epoch": 1, "loss": 0.7, "valid/recall@20": 0.1, ...}``."""
        if not hosts.first():
            return
        record = store.plain(record)
        if self._file is None or self._events is None:
            self._file = open(self._path, "a")
            self._events = Events(self._workdir / "events", record["epoch"])
        with store.naming(self._path):
            self._file.write(json.dumps(store.sealed(record), allow_nan=False) + "\n")
            self._file.flush()
        self._events.write(record)

    def sync(self) -> None:
        """Has what was written reach the disk, before a checkpoint that speaks of it does."""
        if self._file is not None:
            os.fsync(self._file.fileno())

    def close(self) -> None:
        """Writes out what is buffered; a later ``write`` opens the files again."""
        with store.naming(self._path), ExitStack() as both:  # of which one may fail
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
            with store.naming(self._folder):
                self._file.flush()

    def _add(self, epoch: int, **content: Any) -> None:
        from tensorboardX.proto.event_pb2 import Event

        with store.naming(self._folder):
            event = Event(wall_time=time.time(), step=epoch, **content)
            self._file.write(event.SerializeToString())

    def close(self) -> None:
        """Writes out what is buffered."""
        with store.naming(self._folder):
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
