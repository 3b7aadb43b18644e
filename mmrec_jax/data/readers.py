"""Files to a :class:`~mmrec_jax.data.table.Table`: one function per layout, ``read`` chooses."""

from __future__ import annotations

import dataclasses
import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet

from mmrec_jax.data.table import Features, ItemGraph, Table, Titles
from mmrec_jax.types import UserError

# Usual column names, best first, in lower case and without separators.
USUAL = {
    "user": ("userid", "user", "uid", "reviewerid", "customerid", "visitorid"),
    "item": ("itemid", "item", "iid", "movieid", "productid", "videoid", "songid", "trackid",
             "artistid", "bookid", "newsid", "articleid", "businessid", "parentasin", "asin"),
    "time": ("timestamp", "time", "unixtime", "unixreviewtime", "ts"),
    "rating": ("rating", "overall", "score", "stars"),
    "label": ("xlabel", "splitlabel"),
}  # fmt: skip
_TITLE = ("title", "name")
_TABLES = (".inter", ".csv", ".tsv", ".parquet")
_FEATURE_TABLE = re.compile(r"_(feat|feature|features|emb)$")


def read(
    path: Path,
    columns: Mapping[str, str] | None = None,
    features: Sequence[str] = (),
    item_graphs: Sequence[str] = (),
) -> Table:
    """Reads a file or folder of interactions and the side information beside it.

    Layouts: MMRec (``NAME.inter`` with integer ids that number the rows of ``*.npy``), RecBole
    (typed headers, any ids), a plain table (CSV, TSV, Parquet, any ids), sequences (lines of a
    user and the items in the order of time), LightGCN (``train.txt`` or ``.npz``, ``test.txt``).

    Args:
      path: an existing file or folder.
      columns: column names by role (``USUAL``); a missing or empty one is guessed. Columns of a
        table without header are named 1, 2, 3 and so on.
      features: feature files, relative to the folder or the working directory; empty takes all
        that lie beside the interactions.
      item_graphs: ``.npz`` files of item graphs, likewise.

    Raises:
      UserError: anything amiss in the files.
    """
    columns = {role: name for role, name in (columns or {}).items() if name}
    path = Path(path)
    folder = path if path.is_dir() else path.parent
    if path.is_dir() and (parts := _published_parts(path)):
        table = _lightgcn(path, *parts)
    else:
        table = _interactions(_only_file(path, columns) if path.is_dir() else path, columns)
    source = dataclasses.replace(table, notes={"source": str(path), **table.notes})
    files = [find(name, folder) for name in features] or _features_beside(folder)
    graphs = [find(name, folder) for name in item_graphs]
    return dataclasses.replace(
        source,
        name=path.name if path.is_dir() and not source.name else source.name or path.stem,
        features=_by_name(files, tidy, read_features),
        item_graphs=_by_name(graphs, lambda stem: stem, read_graph),
        titles=_titles_beside(folder, source.origin, columns),
    )


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
    nearby = [p.name for p in tries[0].parent.iterdir()] if tries[0].parent.is_dir() else []
    close = difflib.get_close_matches(tries[0].name, nearby, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(close)}?" if close else "check the path"
    raise UserError(f"{tries[0]}: there is no such file or folder; {hint}")


def tidy(stem: str) -> str:
    """A modality's name from its file's: ``image_feat`` is ``image``."""
    return _FEATURE_TABLE.sub("", stem.lower()) if _FEATURE_TABLE.search(stem.lower()) else stem


# Layouts.


def _interactions(path: Path, columns: Mapping[str, str]) -> Table:
    """A single file of interactions in whichever layout its first line shows."""
    if path.suffix == ".npz":
        user, item = _pairs(path)
        return _numbered(Table("", user, item, origin=path.name, notes={"layout": "pairs"}))
    if path.suffix == ".parquet":
        return _plain(_Columns(path), columns)
    if _is_sequences(_first_line(path)):
        lines = _lines_of_ids(path)
        return Table(
            name=path.stem,
            user=lines.first,
            item=lines.rest,
            time=lines.place,
            origin=path.name,
            notes={"layout": "sequences", "time": "place in the user's line"},
        )
    return _plain(_Columns(path), columns)


def _plain(given: _Columns, columns: Mapping[str, str]) -> Table:
    """A table with one interaction per row."""
    user, item = given.role("user", columns), given.role("item", columns)
    time, rating = given.role("time", columns, False), given.role("rating", columns, False)
    label = given.role("label", columns, False)
    mmrec = given.path.suffix == ".inter" and not given.typed
    table = Table(
        name=given.path.stem,
        user=given.ids(user),
        item=given.ids(item),
        time=None if time is None else given.numbers(time, "time"),
        rating=None if rating is None else given.numbers(rating, "rating").astype(np.float32),
        label=None if label is None else given.labels(label),
        origin=given.path.name,
        notes={"layout": "mmrec" if mmrec else "recbole" if given.typed else "table"},
    )
    if not mmrec:
        return table
    for name, ids in ((user, table.user), (item, table.item)):
        given.check_numbering(name, ids)
    return _numbered(table)


def _lightgcn(folder: Path, train: Path, test: Path) -> Table:
    """A published training and test part, numbered as in the files, without validation."""
    parts = [_pairs(path) for path in (train, test)]
    user, item = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    label = np.repeat(np.array([0, 2], np.int8), [len(parts[0][0]), len(parts[1][0])])
    origin = f"{train.name} and {test.name}"
    notes = {"layout": "lightgcn"}
    return _numbered(Table(folder.name, user, item, label=label, origin=origin, notes=notes))


def _numbered(table: Table) -> Table:
    """The table with its integer ids as numbers; users and items reach to the largest id."""
    size = lambda ids: np.arange(int(ids.max()) + 1 if len(ids) else 0)
    return dataclasses.replace(table, user_ids=size(table.user), item_ids=size(table.item))


def _pairs(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Users and items as non-negative integers, from text lines or the arrays of an ``.npz``."""
    if path.suffix == ".npz":
        arrays = _arrays(path, ("user", "item"))
        user, item = arrays["user"], arrays["item"]
        if user.ndim != 1 or user.shape != item.shape or {user.dtype.kind, item.dtype.kind} - {*"iu"}:
            raise UserError(f"{path}: 'user' and 'item' must be integer arrays of equal length")
        row = lambda n: f"entry {n + 1}"
    else:
        lines = _lines_of_ids(path)
        user, item = lines.first, lines.rest
        row = lambda n: f"line {lines.line[n]}"
    for what, ids in (("user", user), ("item", item)):
        wrong = ids < 0 if ids.dtype.kind in "iu" else np.ones(len(ids), bool)
        if wrong.any():
            n = int(np.argmax(wrong))
            raise UserError(
                f"{path}: {row(n)}: {what} ids of this layout are integers from 0, and one near "
                f"'{ids[n]}' is none; number the ids or give a table with a header"
            )
    return user.astype(np.int64), item.astype(np.int64)


def _published_parts(folder: Path) -> tuple[Path, Path] | None:
    """The training and the test file of LightGCN's layout, if the folder has both."""
    found = [
        next((p for e in ("npz", "txt") if (p := folder / f"{part}.{e}").is_file()), None)
        for part in ("train", "test")
    ]
    return tuple(found) if all(found) else None


def _only_file(folder: Path, columns: Mapping[str, str]) -> Path:
    """The one file of a folder that holds interactions."""
    files = sorted(p for p in folder.iterdir() if p.is_file() and not p.name.startswith("."))
    for found in (
        [p for p in files if p.suffix == ".inter"],
        [p for p in files if p.suffix in (".csv", ".tsv", ".parquet", ".txt") and _fits(p, columns)],
    ):
        if len(found) == 1:
            return found[0]
        if found:
            names = ", ".join(p.name for p in found)
            raise UserError(f"{folder}: several files hold interactions ({names}); name one of them")
    raise UserError(
        f"{folder}: no interactions found among {len(files)} files; expected NAME.inter, a CSV, TSV "
        "or Parquet file with a user and an item column, lines of ids, or train.txt and test.txt; "
        "name the file, and its columns in config.data.columns"
    )


def _fits(path: Path, columns: Mapping[str, str]) -> bool:
    """Whether a file looks like interactions: lines of ids, or columns for user and item."""
    try:
        if path.suffix != ".parquet" and _is_sequences(_first_line(path)):
            return True
        given = _Columns(path, header_only=True)
        return all(given.role(role, columns, False) is not None for role in ("user", "item"))
    except (UserError, pa.ArrowInvalid):
        return False


# Lines of ids.


@dataclasses.dataclass(frozen=True)
class _Lines:
    """Lines of a first id and further ids, flattened to one entry [E] per further id.

    Attributes:
      first: the line's first id.
      rest: the further id.
      place: its place in the line, from 0.
      line: the line's number, from 1.
    """

    first: np.ndarray
    rest: np.ndarray
    place: np.ndarray
    line: np.ndarray


def _is_sequences(line: str) -> bool:
    """Whether a first line is a user and items: blanks between ids, and no names of columns."""
    cells = re.split(r"[\t,;]", line.strip())
    if len(cells) > 2 or len(cells) == 2 and "\t" not in line or " " not in cells[-1].strip():
        return False
    names = {_plain_name(word) for word in line.split()}
    return not names & {*USUAL["user"], *USUAL["item"], *_TITLE}


def _lines_of_ids(path: Path) -> _Lines:
    """Parses ragged lines of ids that blanks or tabs separate.

    Raises:
      UserError: an empty or unreadable file.
    """
    text = _bytes(path)
    raw = np.frombuffer(text, np.uint8)
    blank = (raw == 32) | ((raw >= 9) & (raw <= 13))
    starts = np.flatnonzero(~blank & np.concatenate([[True], blank[:-1]]))
    ends = np.flatnonzero(raw == 10)
    line = np.searchsorted(ends, starts) + 1
    ids = _tokens(path, text, raw, blank)
    heads = np.flatnonzero(np.concatenate([[True], np.diff(line) > 0]))
    lengths = np.diff(np.append(heads, len(ids)))
    place = np.arange(len(ids)) - np.repeat(heads, lengths) - 1
    rest = np.flatnonzero(place >= 0)
    return _Lines(np.repeat(ids[heads], lengths)[rest], ids[rest], place[rest], line[rest])


def _tokens(path: Path, text: bytes, raw: np.ndarray, blank: np.ndarray) -> np.ndarray:
    """All ids of a file, as integers if every one is written as one."""
    if (blank | ((raw >= 48) & (raw <= 57)) | (raw == 45)).all():
        try:
            return _as_ids(pa.array(text.split()).cast(pa.string()))
        except pa.ArrowInvalid:
            pass
    return np.array(_decoded(path, text).split())


# Tables.


class _Columns:
    """A table read as text (or, from Parquet, as stored), column by column.

    Attributes:
      path: the file.
      names: column names without types; numbers from 1 where the file has no header.
      typed: whether the header gives types, as RecBole's does (``user_id:token``).
    """

    def __init__(self, path: Path, header_only: bool = False):
        self.path = path
        if path.suffix == ".parquet":
            header = pa.parquet.read_schema(path).names if _bytes_of_parquet(path) else []
            self._first_row = 1
        else:
            line = _first_line(path)
            self._delimiter = _delimiter(path, line)
            header = [cell.strip().strip('"') for cell in line.split(self._delimiter)]
        self.typed = any(":" in name for name in header)
        self.has_header = path.suffix == ".parquet" or not all(map(_is_number, header))
        if not self.has_header:
            header = [str(n + 1) for n in range(len(header))]
        self.names = [name.split(":")[0] for name in header]
        repeated = sorted({name for name in self.names if self.names.count(name) > 1})
        if repeated:
            raise UserError(
                f"{path}: line 1: the column '{repeated[0]}' stands twice in the header; rename one"
            )
        if not header_only:
            self._table = self._parse()

    def role(self, role: str, columns: Mapping[str, str], needed: bool = True) -> str | None:
        """The name of the column for a role, as configured or guessed.

        Raises:
          UserError: it is configured or needed, and not there.
        """
        listed = ", ".join(self.names)
        if wanted := columns.get(role):
            if wanted in self.names:
                return wanted
            raise UserError(
                f"{self.path}: no column '{wanted}'; it has {listed}; "
                f"set config.data.columns.{role} to one of them"
            )
        plain = {_plain_name(name): name for name in reversed(self.names)}
        for usual in USUAL[role]:
            if usual in plain:
                return plain[usual]
        if needed:
            raise UserError(
                f"{self.path}: no column is known to hold the {role}; it has {listed}"
                f"{'' if self.has_header else ' (no header)'}; "
                f"set config.data.columns.{role} to one of them"
            )
        return None

    def ids(self, name: str) -> np.ndarray:
        """A column of ids, integers where all are written as such, else strings."""
        column = self._table.column(name)
        missing = pc.is_null(column)
        if pa.types.is_string(column.type):
            missing = pc.or_(missing, pc.equal(pc.utf8_trim_whitespace(column), ""))
        if (bad := _first(missing)) is not None:
            raise UserError(f"{self.at(bad)}: '{name}' is empty; give an id or drop the line")
        return _as_ids(column)

    def numbers(self, name: str, what: str) -> np.ndarray:
        """A column of finite numbers, int64 or float64."""
        column = self._table.column(name)
        if pa.types.is_timestamp(column.type) or pa.types.is_date(column.type):
            column = column.cast(pa.timestamp("us")).cast(pa.int64())
        if column.null_count:
            bad = _first(pc.is_null(column))
            raise UserError(f"{self.at(bad)}: '{name}' is empty; give a number as {what}")
        for kind in (pa.int64(), pa.float64()):
            try:
                values = column.cast(kind).to_numpy()
            except pa.ArrowInvalid:
                continue
            bad = _first(pa.array(~np.isfinite(values)))
            break
        else:
            texts = map(str, column.to_pylist())
            bad = next(n for n, text in enumerate(texts) if not _is_number(text))
        if bad is not None:
            raise UserError(
                f"{self.at(bad)}: '{name}' is '{column[bad]}', not a finite number; give the {what} "
                f"as a number, or name another column in config.data.columns.{what}"
            )
        return values

    def labels(self, name: str) -> np.ndarray:
        """A column of split labels, int8."""
        values = self.numbers(name, "label")
        bad = _first(pa.array(~np.isin(values, (0, 1, 2))))
        if bad is not None:
            raise UserError(
                f"{self.at(bad)}: '{name}' is {values[bad]}; labels are 0 (train), 1 (valid) and "
                "2 (test)"
            )
        return values.astype(np.int8)

    def text(self, name: str) -> np.ndarray:
        """A column of text, "" where it is empty."""
        column = pc.fill_null(self._table.column(name).cast(pa.string()), "")
        return column.to_numpy().astype(object)

    def check_numbering(self, name: str, ids: np.ndarray) -> None:
        """Raises a UserError for the first id that is no integer from 0."""
        if ids.dtype.kind in "iu":
            bad, text = _first(pa.array(ids < 0)), ids
        else:
            text = ids.tolist()
            bad = next((n for n, value in enumerate(text) if not value.isdigit()), 0)
        if bad is not None:
            raise UserError(
                f"{self.at(bad)}: '{name}' is '{text[bad]}', but ids of the MMRec layout are "
                "integers from 0 (row i of a feature file is item i); number them, or give a CSV"
            )

    def at(self, row: int) -> str:
        """File and line of a row, as errors name it."""
        if self.path.suffix == ".parquet":
            return f"{self.path}: row {row + 1}"
        lines = (n for n, line in enumerate(_raw_lines(self.path), 1) if line.strip())
        wanted = row + self.has_header
        return f"{self.path}: line {next(n for k, n in enumerate(lines) if k == wanted)}"

    def _parse(self) -> pa.Table:
        """All columns; text stays text, so that no id loses its spelling."""
        if self.path.suffix == ".parquet":
            return pa.parquet.read_table(self.path)
        ragged = []
        quoted = self.path.suffix != ".inter"
        try:
            table = pa.csv.read_csv(
                self.path,
                pa.csv.ReadOptions(
                    use_threads=False, column_names=self.names, skip_rows=int(self.has_header)
                ),
                pa.csv.ParseOptions(
                    delimiter=self._delimiter,
                    quote_char='"' if quoted else False,
                    newlines_in_values=quoted,
                    invalid_row_handler=lambda row: ragged.append(row) or "skip",
                ),
                pa.csv.ConvertOptions(
                    column_types=dict.fromkeys(self.names, pa.string()), strings_can_be_null=False
                ),
            )
        except pa.ArrowInvalid as error:
            _decoded(self.path, _bytes(self.path))
            reason = str(error).splitlines()[0]
            raise UserError(f"{self.path}: cannot be read as a table ({reason}); mend it") from None
        if ragged:
            raise self._ragged(ragged[0])
        return table

    def _ragged(self, row) -> UserError:
        """The error for a line with too few or too many cells."""
        wanted = row.text.rstrip("\r\n")
        lines = (line.decode("utf-8", "replace").rstrip("\r\n") for line in _raw_lines(self.path))
        number = next((n for n, line in enumerate(lines, 1) if line == wanted), row.number)
        return UserError(
            f"{self.path}: line {number}: {row.actual_columns} cells where the header has "
            f"{row.expected_columns}; give each line as many cells as the header"
        )


# Side information.


def read_features(path: Path) -> Features:
    """A feature matrix from ``.npy``, ``.npz`` (``ids``, ``features``) or a table (id, numbers).

    Raises:
      UserError: a file that is none of these.
    """
    if path.suffix == ".npy":
        return Features(_load_numpy(path), origin=str(path))
    if path.suffix == ".npz":
        arrays = _arrays(path, ("ids", "features"))
        return Features(arrays["features"], _ids_of_array(arrays["ids"], path), str(path))
    if path.suffix not in _TABLES:
        raise UserError(f"{path}: features are .npy, .npz, .csv, .tsv or .parquet; convert it")
    given = _Columns(path)
    if len(given.names) < 2:
        raise UserError(f"{path}: one column; the first is the item id, the others are numbers")
    ids, *others = given.names
    values = np.stack([given.numbers(name, "feature") for name in others], axis=1)
    return Features(values, given.ids(ids), str(path))


def read_graph(path: Path) -> ItemGraph:
    """An item graph from ``.npz`` arrays row, col, data and shape, with ``ids`` where given.

    Raises:
      UserError: an array that is missing, or a shape that is not square.
    """
    if path.suffix != ".npz":
        raise UserError(f"{path}: item graphs are .npz files with row, col, data, shape; convert it")
    arrays = _arrays(path, ("row", "col", "data", "shape"))
    shape = tuple(np.ravel(arrays["shape"]).tolist())
    if len(shape) != 2 or shape[0] != shape[1]:
        raise UserError(f"{path}: shape is {shape}; an item graph is square")
    ids = _ids_of_array(arrays["ids"], path) if "ids" in arrays else None
    if ids is not None and len(ids) != shape[0]:
        raise UserError(f"{path}: {len(ids)} ids for {shape[0]} nodes; give one id per node")
    row, col, data = arrays["row"], arrays["col"], arrays["data"]
    return ItemGraph(row, col, data, int(shape[0]), ids, str(path))


def _features_beside(folder: Path) -> list[Path]:
    """Every file of a folder that holds features by its kind or name."""
    files = sorted(p for p in folder.iterdir() if p.is_file() and not p.name.startswith("."))
    return [
        p
        for p in files
        if p.suffix == ".npy"
        or (p.suffix == ".npz" and _holds(p, {"ids", "features"}))
        or (p.suffix in (".csv", ".tsv", ".parquet") and _FEATURE_TABLE.search(p.stem.lower()))
    ]


def _titles_beside(folder: Path, origin: str, columns: Mapping[str, str]) -> Titles | None:
    """Titles from the one table of a folder that has an item and a title column, if there is one."""
    for path in sorted(p for p in folder.iterdir() if p.suffix in (".csv", ".tsv", ".parquet")):
        if path.name == origin or path.name.startswith("."):
            continue
        try:
            header = _Columns(path, header_only=True)
        except (UserError, pa.ArrowInvalid):
            continue
        plain = {_plain_name(name): name for name in reversed(header.names)}
        title = next((plain[t] for t in _TITLE if t in plain), None)
        wanted = {"item": columns["item"]} if columns.get("item") in header.names else {}
        item = header.role("item", wanted, needed=False)
        if title is not None and item is not None:
            given = _Columns(path)
            return Titles(given.ids(item), given.text(title), path.name)
    return None


def _by_name(paths: Sequence[Path], name, reader) -> dict:
    """What ``reader`` makes of each file, by ``name(stem)``.

    Raises:
      UserError: two files of one name.
    """
    found: dict[str, Path] = {}
    for path in paths:
        key = name(path.stem)
        if key in found:
            raise UserError(f"{path}: '{key}' is also the name of {found[key]}; rename one file")
        found[key] = path
    return {key: reader(path) for key, path in found.items()}


# Bytes, arrays and ids.


def _bytes(path: Path) -> bytes:
    """The content of a file that is not empty, without a byte order mark."""
    try:
        text = path.read_bytes().removeprefix(b"\xef\xbb\xbf")
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); check the path") from None
    if not text.strip():
        raise UserError(f"{path}: the file is empty; give at least one line of data")
    return text


def _decoded(path: Path, text: bytes) -> str:
    """The text of bytes in UTF-8."""
    try:
        return text.decode()
    except UnicodeDecodeError as error:
        line = text.count(b"\n", 0, error.start) + 1
        raise UserError(f"{path}: line {line}: not UTF-8 text; save the file as UTF-8") from None


def _first_line(path: Path) -> str:
    """The first line that is not blank."""
    for line in _raw_lines(path):
        if line.strip():
            return _decoded(path, line).rstrip("\r\n")
    raise UserError(f"{path}: the file is empty; give a header and at least one line of data")


def _raw_lines(path: Path) -> Iterator[bytes]:
    """The lines of a file, without a byte order mark."""
    try:
        with open(path, "rb") as file:
            for n, line in enumerate(file):
                yield line if n else line.removeprefix(b"\xef\xbb\xbf")
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); check the path") from None


def _bytes_of_parquet(path: Path) -> bool:
    """True for a Parquet file.

    Raises:
      UserError: for any other.
    """
    try:
        pa.parquet.read_schema(path)
    except (pa.ArrowInvalid, OSError):
        raise UserError(f"{path}: not a readable Parquet file; write it again") from None
    return True


def _arrays(path: Path, needed: tuple[str, ...]) -> dict[str, np.ndarray]:
    """The arrays of an ``.npz`` file that holds those needed."""
    loaded = _load_numpy(path)
    with loaded:
        if lacking := [name for name in needed if name not in loaded.files]:
            raise UserError(
                f"{path}: no array '{lacking[0]}'; it has {', '.join(loaded.files) or 'none'}; "
                f"save it with {', '.join(needed)}"
            )
        try:
            return {name: loaded[name] for name in loaded.files if name in (*needed, "ids")}
        except ValueError:
            raise UserError(f"{path}: {_PICKLED}") from None


_PICKLED = "holds Python objects, which are not read; save plain numbers (np.save of a float array)"


def _load_numpy(path: Path):
    """``np.load`` without pickles."""
    try:
        return np.load(path, allow_pickle=False)
    except ValueError as error:
        reason = _PICKLED if "pickle" in str(error).lower() else "not a NumPy file; save it again"
    except (OSError, EOFError) as error:
        reason = f"cannot be read ({error}); save it again"
    raise UserError(f"{path}: {reason}")


def _holds(path: Path, names: set[str]) -> bool:
    """Whether an ``.npz`` file holds arrays of all these names."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return names <= set(arrays.files)
    except (ValueError, OSError):
        return False


def _ids_of_array(ids: np.ndarray, path) -> np.ndarray:
    """Ids given as an array, int64 or strings."""
    if ids.ndim != 1 or ids.dtype.kind not in "iuU":
        raise UserError(f"{path}: 'ids' must be one row of integers or strings; save it so")
    return ids.astype(np.int64) if ids.dtype.kind in "iu" else ids


def _as_ids(column) -> np.ndarray:
    """Ids as int64 where that loses nothing of their spelling ("007" stays text), else strings."""
    if pa.types.is_integer(column.type):
        return column.cast(pa.int64()).to_numpy()
    text = column.cast(pa.string())
    try:
        numbers = text.cast(pa.int64())
    except pa.ArrowInvalid:
        numbers = None
    if numbers is not None and pc.all(pc.equal(numbers.cast(pa.string()), text)).as_py():
        return numbers.to_numpy()
    return text.to_numpy(zero_copy_only=False).astype(str)


def _delimiter(path: Path, line: str) -> str:
    """What separates the cells of a first line."""
    if path.suffix in (".inter", ".tsv"):
        return "\t"
    return max("\t,;|", key=line.count) if any(c in line for c in "\t,;|") else ","


def _plain_name(name: str) -> str:
    """A column's name in lower case, without its type and separators."""
    return re.sub(r"[^a-z0-9]", "", name.split(":")[0].lower())


def _is_number(text: str) -> bool:
    """Whether text reads as a finite number."""
    try:
        return bool(np.isfinite(float(text)))
    except ValueError:
        return False


def _first(mask) -> int | None:
    """Index of the first true entry, None if there is none."""
    found = pc.index(mask, True).as_py()
    return None if found < 0 else found
