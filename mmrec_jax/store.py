"""Files of results: whole or not at all, sealed by a checksum, errors that name the file."""

from __future__ import annotations

import errno
import json
import math
import os
import re
import tempfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from mmrec_jax import hosts
from mmrec_jax.types import UserError

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
        raise UserError(f"{os.fspath(path)}: damaged, {damage(error)}; {remedy}") from error


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


def damage(error: ValueError) -> str:
    """What is wrong with a JSON text."""
    unreadable = isinstance(error, (json.JSONDecodeError, UnicodeDecodeError))
    return "it is no longer JSON" if unreadable else str(error)


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
