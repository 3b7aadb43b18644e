"""Files to bytes, lines and arrays, each failure a one-line error."""

from __future__ import annotations

import contextlib
import difflib
import json
import math
import os
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np

from mmrec_jax.types import UserError

_BOM = b"\xef\xbb\xbf"  # what some editors put before UTF-8
_PICKLED = "holds Python objects, which are not read; save plain numbers (np.save of a float array)"
_PACKED = {
    b"\x1f\x8b": "packed with gzip",
    b"BZh": "packed with bzip2",
    b"\xfd7zXZ": "packed with xz",
    b"\x28\xb5\x2f\xfd": "packed with zstd",
    b"PK\x03\x04": "a zip archive, as spreadsheets are",
}
_UNPACKED = 2**30  # bytes that the arrays of any .npz may take
_RATIO = 100  # and otherwise, how many times the size of the file


def find(name: str, folder: Path | None = None) -> Path:
    """The path that ``name`` means, in ``folder`` or else from the working directory.

    Raises:
      UserError: there is none, with names that are near.
    """
    tries = [Path(name).expanduser()]
    if folder is not None:
        tries.insert(0, folder / tries[0])
    for path in tries:
        if path.exists():
            return path
        if path.is_symlink():
            raise UserError(f"{path}: a link that leads nowhere; make it anew, or name the file")
    wanted = tries[0]
    nearby = [p.name for p in wanted.parent.iterdir()] if wanted.parent.is_dir() else []
    nearby = [name for name in nearby if not name.startswith(".")]
    close = difflib.get_close_matches(wanted.name, nearby, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(close)}?" if close else "check the path"
    raise UserError(f"{wanted}: there is no such file or folder; {hint}")


def visible(folder: Path, *suffixes: str) -> list[Path]:
    """The files of a folder that are not hidden and end as named, by name."""
    return sorted(
        p
        for p in folder.iterdir()
        if p.is_file() and not p.name.startswith(".") and (not suffixes or p.suffix in suffixes)
    )


def content(path: Path) -> bytes:
    """The bytes of a text file without a byte order mark.

    Raises:
      UserError: it is empty, cannot be read or is no text.
    """
    try:
        text = path.read_bytes().removeprefix(_BOM)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); check the path") from None
    _check_start(path, text)
    if not text.strip():
        raise UserError(f"{path}: the file is empty; give at least one line of data")
    return text


def decoded(path: Path, text: bytes, first_line: int = 1) -> str:
    """The text of bytes that begin at ``first_line``.

    Raises:
      UserError: it is not UTF-8, or holds a NUL byte, which arrays of strings would drop.
    """
    line = lambda place: first_line + text.count(b"\n", 0, place)
    if (place := text.find(b"\0")) >= 0:
        raise UserError(
            f"{path}: line {line(place)}: a NUL byte, as in UTF-16 text; save the file as UTF-8"
        )
    try:
        return text.decode()
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path}: line {line(error.start)}: not UTF-8 text; save the file as UTF-8"
        ) from None


def _check_start(path: Path, start: bytes) -> None:
    """Raises a UserError if a file that begins so is surely no UTF-8 text."""
    for magic, what in _PACKED.items():
        if start.startswith(magic):
            raise UserError(f"{path}: {what}; unpack it and save it as text")
    if start.startswith(b"PAR1"):
        raise UserError(f"{path}: a Parquet file; name it .parquet")
    if start.startswith((b"\xff\xfe", b"\xfe\xff", b"\0\0\xfe\xff")):
        raise UserError(f"{path}: line 1: UTF-16 or UTF-32 text; save the file as UTF-8")


def document(path: Path, expected: str) -> Any:
    """What a JSON file holds.

    Args:
      path: of the file.
      expected: what the error for other content says.

    Raises:
      UserError: it is no JSON, or an object has a key twice, of which JSON would drop one.
    """

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        content = dict(pairs)
        if len(content) < len(pairs):
            keys = [key for key, _ in pairs]
            again = next(key for place, key in enumerate(keys) if key in keys[:place])
            raise UserError(f"{path}: '{again}' stands twice; keep one")
        return content

    text = decoded(path, content(path))
    if "\\u0000" in text:
        raise UserError(f"{path}: a NUL character; take it out of the name")
    try:
        return json.loads(text, object_pairs_hook=once)
    except UserError:
        raise
    except (ValueError, RecursionError):  # a number may have too many digits
        raise UserError(f"{path}: {expected}") from None


def lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """The lines that are not blank, without their ends, and their numbers from 1."""
    try:
        with open(path, "rb") as file:
            for number, line in enumerate(file, 1):
                if number == 1:
                    line = line.removeprefix(_BOM)
                    _check_start(path, line)
                if line.strip():
                    yield number, line.rstrip(b"\r\n")
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); check the path") from None


def array(path: Path) -> np.ndarray:
    """The array of an ``.npy`` file, never unpickled.

    Raises:
      UserError: it holds Python objects, or is damaged.
    """
    with _opened(path) as loaded:
        if not isinstance(loaded, np.ndarray):
            raise UserError(f"{path}: several arrays in one file; name it .npz")
        return loaded


def arrays(path: Path, needed: tuple[str, ...], optional: tuple[str, ...] = ()) -> dict:
    """Arrays of an ``.npz`` file by name, never unpickled.

    Raises:
      UserError: a needed one is missing, it holds Python objects, is damaged, or would take far
        more memory than the size of the file suggests.
    """
    with _opened(path) as loaded:
        if isinstance(loaded, np.ndarray):
            raise UserError(f"{path}: one array where {', '.join(needed)} are needed; use np.savez")
        if lacking := [name for name in needed if name not in loaded.files]:
            raise UserError(
                f"{path}: no array '{lacking[0]}'; it has {', '.join(loaded.files) or 'none'}; "
                f"save it with {', '.join(needed)}"
            )
        names = [name for name in (*needed, *optional) if name in loaded.files]
        _check_members(path, loaded.zip, names)
        return {name: loaded[name] for name in names}


def holds(path: Path, names: set[str]) -> bool:
    """Whether an ``.npz`` file holds arrays of all these names."""
    try:
        with _opened(path) as loaded:
            return names <= set(getattr(loaded, "files", ()))
    except UserError:
        return False


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """What ``np.load`` makes of a file, with its errors turned into a UserError."""
    start = b""
    try:
        with open(path, "rb") as file:
            start = file.read(6)
            file.seek(0)
            if start == b"\x93NUMPY":
                _check_declared(path, file, os.fstat(file.fileno()).st_size)
                file.seek(0)
            yield np.load(file, allow_pickle=False)
        return
    except UserError:
        raise
    except OSError as error:
        reason = f"cannot be read ({error.strerror or error}); check the path"
    except Exception as error:  # NumPy, zipfile and zlib each have their own
        whole = start == b"\x93NUMPY" or start.startswith(b"PK")
        objects = whole and ("pickle" in str(error) or "Object arrays" in str(error))
        reason = _PICKLED if objects else "not a whole NumPy file; save it again"
    raise UserError(f"{path}: {reason}")


def _check_members(path: Path, packed: zipfile.ZipFile, names: Sequence[str]) -> None:
    """Raises an error for arrays of an ``.npz`` that are not to be unpacked."""
    known = {info.filename: info for info in packed.infolist()}
    total = 0
    for name in names:
        member = known.get(f"{name}.npy") or known[name]
        with packed.open(member) as file:
            _check_declared(path, file, member.file_size)
        total += member.file_size
    size = path.stat().st_size
    if total > max(_UNPACKED, _RATIO * size):
        raise UserError(
            f"{path}: a file of {size / 1e6:.2g} MB whose arrays would take {total / 1e9:.2g} GB; "
            "if they are meant to, save them with np.savez, which does not compress"
        )


def _check_declared(path: Path, file: IO[bytes], size: int) -> None:
    """Raises an error unless an ``.npy`` of ``size`` bytes holds what its header declares."""
    version = np.lib.format.read_magic(file)
    readers = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }
    if version not in readers:
        raise ValueError(f"version {version}")
    shape, _, kind = readers[version](file)
    if kind.hasobject:
        raise UserError(f"{path}: {_PICKLED}")
    held, declared = size - file.tell(), math.prod(shape) * kind.itemsize
    if held != declared or min(shape, default=0) < 0:
        raise UserError(
            f"{path}: not a whole NumPy file, its header declares an array of shape {shape}, "
            f"{declared} bytes, but {held} follow; save it again"
        )
