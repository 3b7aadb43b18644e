"""Files to bytes, lines and arrays, each failure a one-line error."""

from __future__ import annotations

import contextlib
import difflib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from mmrec_jax.types import UserError

_BOM = b"\xef\xbb\xbf"  # what some editors put before UTF-8
_PICKLED = "holds Python objects, which are not read; save plain numbers (np.save of a float array)"


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
    wanted = tries[0]
    nearby = [p.name for p in wanted.parent.iterdir()] if wanted.parent.is_dir() else []
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
      UserError: it is empty or cannot be read.
    """
    try:
        text = path.read_bytes().removeprefix(_BOM)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); check the path") from None
    if not text.strip():
        raise UserError(f"{path}: the file is empty; give at least one line of data")
    return text


def decoded(path: Path, text: bytes, first_line: int = 1) -> str:
    """The text of bytes that begin at ``first_line``.

    Raises:
      UserError: it is not UTF-8.
    """
    try:
        return text.decode()
    except UnicodeDecodeError as error:
        line = first_line + text.count(b"\n", 0, error.start)
        raise UserError(f"{path}: line {line}: not UTF-8 text; save the file as UTF-8") from None


def lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """The lines that are not blank, without their ends, and their numbers from 1."""
    try:
        with open(path, "rb") as file:
            for number, line in enumerate(file, 1):
                line = line.removeprefix(_BOM) if number == 1 else line
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
      UserError: a needed one is missing, it holds Python objects, or is damaged.
    """
    with _opened(path) as loaded:
        if isinstance(loaded, np.ndarray):
            raise UserError(f"{path}: one array where {', '.join(needed)} are needed; use np.savez")
        if lacking := [name for name in needed if name not in loaded.files]:
            raise UserError(
                f"{path}: no array '{lacking[0]}'; it has {', '.join(loaded.files) or 'none'}; "
                f"save it with {', '.join(needed)}"
            )
        return {name: loaded[name] for name in (*needed, *optional) if name in loaded.files}


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
            yield np.load(file, allow_pickle=False)
        return
    except UserError:
        raise
    except OSError as error:
        reason = f"cannot be read ({error.strerror or error})"
    except Exception as error:  # NumPy, zipfile and zlib each have their own
        whole = start == b"\x93NUMPY" or start.startswith(b"PK")
        objects = whole and ("pickle" in str(error) or "Object arrays" in str(error))
        reason = _PICKLED if objects else "not a whole NumPy file; save it again"
    raise UserError(f"{path}: {reason}")
