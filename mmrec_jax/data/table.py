"""Raw interactions with their items' side information: what every reader returns."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np


@dataclasses.dataclass(frozen=True)
class Features:
    """One modality as it was given.

    Attributes:
      values: numbers [R, F], one row per described item.
      ids: raw item ids [R], or None where row i describes item number i.
      origin: what errors call it, a file name as a rule.
    """

    values: np.ndarray
    ids: np.ndarray | None = None
    origin: str = "features"


@dataclasses.dataclass(frozen=True)
class ItemGraph:
    """A ready-made item graph.

    Attributes:
      row, col: integers [K]: item numbers, or positions in ``ids`` where those are given.
      weight: float32 [K].
      size: number of nodes.
      ids: raw item ids [size], or None where node i is item number i.
      origin: what errors call it.
    """

    row: np.ndarray
    col: np.ndarray
    weight: np.ndarray
    size: int
    ids: np.ndarray | None = None
    origin: str = "item graph"


@dataclasses.dataclass(frozen=True)
class Titles:
    """Readable names [R] of the items with raw ids ``ids`` [R]."""

    ids: np.ndarray
    text: np.ndarray
    origin: str = "titles"


@dataclasses.dataclass(frozen=True)
class Table:
    """Interactions with raw ids, before they are numbered, filtered and split.

    Arrays [E] run parallel, in the order of the source; ids are integers or strings.

    Attributes:
      name: what results call the data set.
      user, item: raw ids [E].
      time: numbers [E] that grow with time, or None where the order is unknown.
      rating: numbers [E], or None.
      label: [E] with 0 train, 1 valid, 2 test, or None.
      user_ids, item_ids: numbering to keep: entry n is the raw id of number n. None numbers the
        ids that occur, in sorted order; features then may add items without interactions.
      features: by modality.
      item_graphs: by name.
      titles: names of items, or None.
      fields: further columns [E] of any kind, by name: what was known at each impression.
      click: 0 or 1 [E] where rows are impressions, or None.
      conversion: 0 or 1 [E], what clicks led to, or None.
      origin: what errors call the source, a file name as a rule.
      notes: JSON-able facts about the source that every result shall carry.
    """

    name: str
    user: np.ndarray
    item: np.ndarray
    time: np.ndarray | None = None
    rating: np.ndarray | None = None
    label: np.ndarray | None = None
    user_ids: np.ndarray | None = None
    item_ids: np.ndarray | None = None
    features: Mapping[str, Features] = dataclasses.field(default_factory=dict)
    item_graphs: Mapping[str, ItemGraph] = dataclasses.field(default_factory=dict)
    titles: Titles | None = None
    fields: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
    click: np.ndarray | None = None
    conversion: np.ndarray | None = None
    origin: str = "interactions"
    notes: Mapping[str, Any] = dataclasses.field(default_factory=dict)
