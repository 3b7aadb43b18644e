"""From memory (DataFrames, dicts, arrays) to a :class:`~mmrec_jax.data.table.Table`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from mmrec_jax.data import readers
from mmrec_jax.data.table import Features, Table, Titles
from mmrec_jax.types import UserError


def table(
    interactions: Any,
    features: Mapping[str, Any],
    *,
    name: str = "frames",
    titles: Mapping[Any, str] | None = None,
    columns: Mapping[str, str] | None = None,
) -> Table:
    """A table from a DataFrame or arrays by name; see :func:`mmrec_jax.data.from_frames`.

    Raises:
      UserError: a missing column, lengths that differ, or values of the wrong kind.
    """
    raise NotImplementedError
