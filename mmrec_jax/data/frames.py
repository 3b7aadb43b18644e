"""From memory (DataFrames, dicts, arrays) to a :class:`~mmrec_jax.data.table.Table`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from mmrec_jax.data import readers
from mmrec_jax.data.columns import USUAL, Columns, as_ids, plain_name
from mmrec_jax.data.table import Features, Table, Titles
from mmrec_jax.types import UserError


def table(
    interactions: Any,
    features: Mapping[str, Any],
    *,
    name: str = "frames",
    titles: Mapping[Any, str] | None = None,
    columns: Mapping[str, str] | None = None,
    fields: Mapping[str, Any] | None = None,
) -> Table:
    """A table from a DataFrame or arrays by name; see :func:`mmrec_jax.data.from_frames`.

    Raises:
      UserError: a missing column, lengths that differ, or values of the wrong kind.
    """
    named = {role: column for role, column in (columns or {}).items() if column}
    given = readers.from_columns(_columns(interactions), name, named, "frames", fields)
    return dataclasses.replace(
        given,
        features={modality: _features(modality, value) for modality, value in features.items()},
        titles=titles and _titles(titles),
        notes={"source": "memory", **given.notes},
    )


def _columns(interactions: Any) -> Columns:
    """The columns of the interactions, in Arrow."""
    try:
        frame = pd.DataFrame(interactions)
        arrow = {str(c): pa.Array.from_pandas(frame[c]) for c in frame.columns}
    except (ValueError, TypeError, pa.ArrowException) as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"interactions: cannot be taken as a table ({reason}); give a DataFrame, or arrays of "
            "equal length and one type each, by column name"
        ) from None
    return Columns("interactions", pa.table(arrow), list(arrow))


def _features(modality: str, value: Any) -> Features:
    """One modality from a DataFrame, a vector by item id, or a matrix in item order."""
    origin = f"features['{modality}']"
    try:
        if isinstance(value, pd.DataFrame):
            named = [c for c in value.columns if plain_name(str(c)) in USUAL["item"]]
            ids = value[named[0]] if named else value.index
            return Features(value.drop(columns=named[:1]).to_numpy(), _ids(ids), origin)
        if isinstance(value, Mapping):
            return Features(np.stack([*map(np.asarray, value.values())]), _ids([*value]), origin)
        return Features(np.asarray(value), origin=origin)
    except (ValueError, TypeError, pa.ArrowException) as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"{origin}: cannot be taken as features ({reason}); give vectors of equal length by "
            "item id, a DataFrame of numbers, or a matrix"
        ) from None


def _titles(titles: Mapping[Any, str]) -> Titles:
    """Titles by item id."""
    return Titles(_ids([*titles]), np.array([*titles.values()], dtype=object))


def _ids(values: Any) -> np.ndarray:
    """Raw ids of one kind."""
    return as_ids(pa.Array.from_pandas(pd.Series(values)))
