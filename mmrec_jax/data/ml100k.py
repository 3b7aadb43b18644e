"""MovieLens-100K as GroupLens publishes it: ratings, users and films with their fields."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from mmrec_jax.data.build import numbers
from mmrec_jax.data.columns import Columns
from mmrec_jax.data.table import Table, Titles
from mmrec_jax.types import UserError

_USER = ("id", "age", "gender", "occupation", "zip")
_FILM = ("id", "title", "released", "video", "url")
_GENRES = (
    "unknown", "action", "adventure", "animation", "children", "comedy", "crime", "documentary",
    "drama", "fantasy", "noir", "horror", "musical", "mystery", "romance", "sci-fi", "thriller",
    "war", "western",
)  # fmt: skip


def is_it(folder: Path) -> bool:
    """Whether a folder has the three files."""
    return all((folder / f"u.{part}").is_file() for part in ("data", "user", "item"))


def read(folder: Path) -> Table:
    """The ratings; fields are age, gender, occupation, zip, year and genres.

    ``genres`` is the whole set of a film's genres as one value; age and year (of release) are
    numbers.

    Raises:
      UserError: a file that is not as published.
    """
    given = Columns.read(folder / "u.data")
    if len(given.names) != 4:
        raise UserError(
            f"{folder / 'u.data'}: {len(given.names)} columns, but MovieLens-100K has 4 columns, "
            "between tabs; get it again"
        )
    user, item = given.ids("1"), given.ids("2")
    users, films = _lines(folder / "u.user", _USER), _lines(folder / "u.item", _FILM + _GENRES)
    of_user = numbers(user, users["id"].to_numpy(), str(folder / "u.user"))
    of_item = numbers(item, films["id"].to_numpy(), str(folder / "u.item"))
    marks = films[list(_GENRES)].to_numpy() == "1"
    named = np.where(marks, np.array([f"{name} " for name in _GENRES], object)[None], "")
    films["genres"] = named.sum(axis=1)
    films["year"] = _numeric(films["released"].str[-4:], "released", folder / "u.item")
    users["age"] = _numeric(users["age"], "age", folder / "u.user")
    per_user = {name: users[name].to_numpy()[of_user] for name in _USER[1:]}
    per_item = {name: films[name].to_numpy()[of_item] for name in ("year", "genres")}
    return Table(
        name="ml100k",
        user=user,
        item=item,
        time=given.numbers("4", "time"),
        rating=given.numbers("3", "rating").astype(np.float32),
        titles=Titles(films["id"].to_numpy(), films["title"].to_numpy(), str(folder / "u.item")),
        fields=per_user | per_item,
        origin=str(folder / "u.data"),
        notes={"source": str(folder), "layout": "ml100k"},
    )


def _lines(path: Path, names: tuple[str, ...]) -> pd.DataFrame:
    """The rows of a file between bars, as text but for the id."""
    try:
        frame = pd.read_csv(
            path, sep="|", names=names, dtype=str, encoding="latin-1", keep_default_na=False,
            index_col=False, quoting=3,
        )  # fmt: skip
        return frame.assign(id=frame["id"].astype(np.int64))
    except (ValueError, OverflowError, OSError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{path}: not as MovieLens-100K has it ({reason}); get it again") from None


def _numeric(values: pd.Series, name: str, path: Path) -> pd.Series:
    """Text as numbers, NaN where it is empty."""
    numbers = pd.Series(pd.to_numeric(values, errors="coerce"), dtype=float)
    wrong = np.flatnonzero(numbers.isna() & (values != ""))
    if len(wrong):
        raise UserError(
            f"{path}: line {wrong[0] + 1}: '{name}' is '{values[wrong[0]]}' where a number is "
            "expected; get it again"
        )
    return numbers
