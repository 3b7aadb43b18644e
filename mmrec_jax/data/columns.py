"""Tables column by column: which column plays which role, and its values checked row by row."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet

from mmrec_jax.data import files
from mmrec_jax.types import UserError

# Usual column names, best first, in lower case and without separators.
USUAL = {
    "user": ("userid", "user", "uid", "reviewerid", "customerid", "visitorid"),
    "item": ("itemid", "item", "iid", "movieid", "productid", "videoid", "songid", "trackid",
             "artistid", "bookid", "newsid", "articleid", "businessid", "parentasin", "asin"),
    "time": ("timestamp", "time", "unixtime", "unixreviewtime", "ts"),
    "rating": ("rating", "overall", "score", "stars"),
    "label": ("xlabel", "splitlabel"),
    "click": ("click", "clicked", "isclick", "clk", "label"),
    "conversion": ("conversion", "converted", "isconversion", "purchase", "purchased", "buy"),
    "title": ("title", "name"),
}  # fmt: skip

# Beyond these, times and their differences or the numbers that ratings are kept in overflow.
_LARGEST = {"time": 2.0**62, "rating": float(np.finfo(np.float32).max)}
# Dates from 1973 to 2286 lie between these, by the unit they are counted in from 1970 on.
_DATES = {
    "seconds": (1e8, 1e10),
    "milliseconds": (1e11, 1e13),
    "microseconds": (1e14, 1e16),
    "nanoseconds": (1e17, 1e19),
}
_ID_TYPES = (pa.types.is_integer, pa.types.is_floating, pa.types.is_string)


class Columns:
    """A table with checked access to its columns.

    Attributes:
      origin: what errors call it.
      names: column names.
      typed: whether the header gives types, as RecBole's does (``user_id:token``).
    """

    def __init__(self, origin: str, table: pa.Table | None, names: list[str], header: str = ""):
        """Holds ``table``, None where only the names matter; ``header`` is its first line."""
        self.origin, self.names, self._table = origin, names, table
        self.typed = ":" in header
        self._text_file: Path | None = None
        self._header_rows = 0

    @classmethod
    def read(cls, path: Path, names_only: bool = False) -> Columns:
        """Reads a file; columns without header are named 1, 2, 3 and so on.

        Raises:
          UserError: an unreadable file, a ragged line, a column that stands twice.
        """
        if path.suffix == ".parquet":
            return cls._read_parquet(path, names_only)
        number, line = next(files.lines(path), (0, b""))
        if not number:
            raise UserError(f"{path}: the file is empty; give a header and lines of data")
        header = files.decoded(path, line, number)
        delimiter = _delimiter(path, header)
        others = any(mark in header for mark in ",;|")
        if path.suffix in (".inter", ".tsv") and others and "\t" not in header:
            raise UserError(
                f"{path}: line {number}: no tab, which parts the cells of a {path.suffix} file; "
                "separate them by tabs, or name the file .csv"
            )
        cells = [cell.strip().strip('"') for cell in header.split(delimiter)]
        has_header = not all(map(_is_number, cells))
        names = [c.split(":")[0] for c in cells] if has_header else _counted(cells)
        if repeated := sorted({name for name in names if names.count(name) > 1}):
            raise UserError(
                f"{path}: line {number}: the column '{repeated[0]}' stands twice in the header; "
                "rename or remove one"
            )
        skip = number if has_header else 0
        table = None if names_only else _read_text(path, names, delimiter, skip)
        given = cls(str(path), table, names, header if has_header else "")
        given._text_file, given._header_rows = path, int(has_header)
        return given

    @classmethod
    def _read_parquet(cls, path: Path, names_only: bool) -> Columns:
        try:
            names = pa.parquet.read_schema(path).names
            repeated = sorted({name for name in names if names.count(name) > 1})
            table = None if names_only or repeated else pa.parquet.read_table(path)
        except (pa.ArrowException, OSError):
            raise UserError(f"{path}: not a readable Parquet file; write it again") from None
        if repeated:
            raise UserError(
                f"{path}: the column '{repeated[0]}' stands twice; rename or remove one"
            )
        return cls(str(path), table, names)

    def role(self, role: str, named: Mapping[str, str], needed: bool = True) -> str | None:
        """The name of the column for a role, as ``named`` or by a usual name.

        Raises:
          UserError: it is named or needed, and not there.
        """
        wanted = named.get(role)
        if wanted in self.names:
            return wanted
        plain = {plain_name(name): name for name in reversed(self.names)}
        usual = next((plain[name] for name in USUAL[role] if name in plain), None)
        if wanted or (needed and usual is None):
            problem = f"no column '{wanted}'" if wanted else f"no column seems to hold the {role}"
            raise UserError(
                f"{self.origin}: {problem}; it has {', '.join(self.names)}; "
                f"set config.data.columns.{role} to one of these"
            )
        return usual

    def ids(self, name: str) -> np.ndarray:
        """Ids: int64 where all are written as integers, else strings."""
        column = _plain_type(self._table.column(name))
        kind = column.type
        if not any(is_it(kind) for is_it in _ID_TYPES):
            raise UserError(
                f"{self.origin}: '{name}' holds {kind}; give ids as integers or strings"
            )
        missing = pc.is_null(column, nan_is_null=True)
        if pa.types.is_string(column.type):
            missing = pc.or_(missing, pc.equal(column, ""))
        if (bad := _first(missing)) is not None:
            raise UserError(f"{self.at(bad)}: '{name}' is empty; give an id or drop the line")
        nul = pc.match_substring(column, "\0") if pa.types.is_string(kind) else pa.array([False])
        if (bad := _first(nul)) is not None:
            raise UserError(f"{self.at(bad)}: '{name}' holds a NUL byte; take it out of the id")
        return as_ids(column)

    def numbers(self, name: str, role: str) -> np.ndarray:
        """Finite numbers, int64 or float64; dates become microseconds."""
        column = _plain_type(self._table.column(name))
        values = _as_numbers(column)
        if values is None:
            good = [_is_number(value) for value in column.to_pylist()]
        else:
            good = np.isfinite(values)
        if values is not None and np.all(good):
            self._check_range(name, role, values)
            return values
        bad = int(np.argmin(good))
        given = column[bad].as_py()
        key = f"config.data.columns.{role}"
        remedy = f", or name another column in {key}" if role in USUAL else ", or drop the row"
        raise UserError(
            f"{self.at(bad)}: '{name}' is {'empty' if given in (None, '') else repr(given)} "
            f"where a finite number is expected; give one{remedy}"
        )

    def _check_range(self, name: str, role: str, values: np.ndarray) -> None:
        """Raises a UserError for numbers that are too large, or times in several units."""
        most = _LARGEST.get(role, np.inf)
        if ((values > most) | (values < -most)).any():
            bad = int(np.argmax((values > most) | (values < -most)))
            raise UserError(
                f"{self.at(bad)}: '{name}' is {values[bad]}, but a {role} is at most {most:.2g}; "
                f"mend it, or name another column in config.data.columns.{role}"
            )
        if role == "time" and (mixed := _mixed_units(values)):
            (bad, unit), (other, usual) = mixed
            raise UserError(
                f"{self.at(bad)}: '{name}' is {values[bad]}, which reads as {unit}, where "
                f"{self.at(other).rpartition(': ')[2]} has {values[other]}, as {usual} are; "
                "give all times in one unit"
            )

    def labels(self, name: str) -> np.ndarray:
        """Labels of the split, int8."""
        values = self.numbers(name, "label")
        bad = _first(pa.array(~np.isin(values, (0, 1, 2))))
        if bad is not None:
            raise UserError(
                f"{self.at(bad)}: '{name}' is {values[bad]}; labels are 0 (train), 1 (valid) or "
                "2 (test); mend it, or name another column in config.data.columns.label"
            )
        return values.astype(np.int8)

    def binary(self, name: str, role: str) -> np.ndarray:
        """What is 0 or 1, int8."""
        values = self.numbers(name, role)
        bad = _first(pa.array(~np.isin(values, (0, 1))))
        if bad is not None:
            raise UserError(
                f"{self.at(bad)}: '{name}' is {values[bad]}; a {role} is 0 or 1; mend it, or name "
                f"another column in config.data.columns.{role}"
            )
        return values.astype(np.int8)

    def text(self, name: str) -> np.ndarray:
        """Text as objects, "" where it is empty.

        Raises:
          UserError: a column of lists and the like.
        """
        column = self._table.column(name)
        try:
            column = pc.fill_null(column.cast(pa.string()), "")
        except pa.ArrowException:
            raise UserError(
                f"{self.origin}: '{name}' holds {column.type}; give a single text or number a row"
            ) from None
        return column.to_numpy().astype(object)

    def at(self, row: int) -> str:
        """File and line of a row, as errors name it."""
        if self._text_file is None:
            return f"{self.origin}: row {row + 1}"
        wanted = row + self._header_rows
        found = (n for k, (n, _) in enumerate(files.lines(self._text_file)) if k == wanted)
        return f"{self.origin}: line {next(found, row + 1)}"


def as_ids(column) -> np.ndarray:
    """Ids as int64 where that loses nothing of their spelling ("007" stays text), else strings."""
    if pa.types.is_integer(column.type):
        with contextlib.suppress(pa.ArrowInvalid):  # beyond int64
            return column.cast(pa.int64()).to_numpy()
    if pa.types.is_floating(column.type):  # integers, stored so because a row was once missing
        values = column.to_numpy()
        if (values == np.rint(values)).all() and (np.abs(values) < 2**53).all():
            return values.astype(np.int64)
    text = column.cast(pa.string())
    try:
        numbers = text.cast(pa.int64())
    except pa.ArrowInvalid:
        numbers = None
    if numbers is not None and pc.all(pc.equal(numbers.cast(pa.string()), text)).as_py():
        return numbers.to_numpy()
    return np.array(text.to_pylist(), dtype=str)


def plain_name(name: str) -> str:
    """A column's name in lower case, without its type and separators."""
    return re.sub(r"[^a-z0-9]", "", name.split(":")[0].lower())


def _read_text(path: Path, names: list[str], delimiter: str, skip: int) -> pa.Table:
    """All columns as text, so that no id loses its spelling."""
    ragged = []
    quoted = path.suffix != ".inter"
    try:
        table = pa.csv.read_csv(
            path,
            pa.csv.ReadOptions(use_threads=False, column_names=names, skip_rows=skip),
            pa.csv.ParseOptions(
                delimiter=delimiter,
                quote_char='"' if quoted else False,
                newlines_in_values=quoted,
                invalid_row_handler=lambda row: ragged.append(row) or "skip",
            ),
            pa.csv.ConvertOptions(
                column_types=dict.fromkeys(names, pa.string()), strings_can_be_null=False
            ),
        )
    except pa.ArrowInvalid as error:
        files.decoded(path, files.content(path))
        reason = str(error).splitlines()[0]
        raise UserError(f"{path}: cannot be read as a table ({reason}); mend it") from None
    if ragged:
        raise _ragged(path, ragged[0])
    if quoted and table.num_rows:
        _check_closed(path, table.column(len(names) - 1)[-1].as_py())
    return table


def _check_closed(path: Path, last: str) -> None:
    """Raises a UserError if the last cell of a table has swallowed the rest of the file."""
    if "\n" not in last:
        return
    with open(path, "rb") as file:
        file.seek(-min(64, path.stat().st_size), 2)
        if not file.read().rstrip().endswith(b'"'):
            raise UserError(
                f"{path}: the quote before '{last.split()[0] if last.strip() else ''}' is left "
                "open, so that all lines after it are one cell; close or remove it"
            )


def _ragged(path: Path, row) -> UserError:
    """The error for a line with too few or too many cells."""
    wanted = row.text.strip("\r\n").encode()
    number = next((n for n, line in files.lines(path) if line.strip(b"\r\n") == wanted), None)
    where = f"{path}: line {number}" if number else str(path)
    return UserError(
        f"{where}: {row.actual_columns} cells where {row.expected_columns} are expected, as in the "
        "first line; mend or drop the line"
    )


def _plain_type(column):
    """The column with blanks around text removed, and categories as what they stand for."""
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if pa.types.is_large_string(column.type):
        column = column.cast(pa.string())
    return pc.utf8_trim_whitespace(column) if pa.types.is_string(column.type) else column


def _as_numbers(column) -> np.ndarray | None:
    """Int64 or float64 values (NaN where empty), None where some are no numbers."""
    if pa.types.is_timestamp(column.type) or pa.types.is_date(column.type):
        column = column.cast(pa.timestamp("us")).cast(pa.int64())
    for kind in (pa.int64(), pa.float64()):
        if kind == pa.int64() and column.null_count:
            continue
        try:
            return column.cast(kind).to_numpy()
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
            continue
    return None


def _mixed_units(times: np.ndarray) -> tuple[tuple[int, str], tuple[int, str]] | None:
    """A row in a rarer unit and one in the commonest, each with its unit; None if all agree.

    Only where every time is a date of our age in some unit: other numbers tell nothing.
    """
    edges = np.array([edge for ends in _DATES.values() for edge in ends])
    place = np.searchsorted(edges, times, side="right")
    if not len(times) or not (place % 2).all() or (place == place[0]).all():
        return None
    usual = int(np.bincount(place).argmax())
    rows = int(np.argmax(place != usual)), int(np.argmax(place == usual))
    first, second = ((row, [*_DATES][place[row] // 2]) for row in rows)
    return first, second


def _delimiter(path: Path, line: str) -> str:
    """What separates the cells of a first line."""
    if path.suffix in (".inter", ".tsv"):
        return "\t"
    return max("\t,;|", key=line.count) if any(c in line for c in "\t,;|") else ","


def _counted(cells: list[str]) -> list[str]:
    """Names of columns that have none."""
    return [str(n) for n in range(1, len(cells) + 1)]


def _is_number(value) -> bool:
    """Whether a value is or reads as a finite number."""
    try:
        return bool(np.isfinite(float(value)))
    except (TypeError, ValueError):
        return False


def _first(mask) -> int | None:
    """Index of the first true entry, None if there is none."""
    found = pc.index(mask, True).as_py()
    return None if found < 0 else found
