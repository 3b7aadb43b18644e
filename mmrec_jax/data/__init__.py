"""Data sets: ``load`` reads one by name or path, ``from_frames`` takes one from memory."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from mmrec_jax.data import synthetic
from mmrec_jax.data.build import build
from mmrec_jax.types import Dataset


def load(
    source: str,
    *,
    columns: Mapping[str, str] | None = None,
    features: Sequence[str] = (),
    item_graphs: Sequence[str] = (),
    split: str = "auto",
    ratios: Sequence[float] = (0.8, 0.1, 0.1),
    split_seed: int = 0,
    k_core: int = 0,
    max_len: int = 50,
    knobs: Mapping[str, float] | None = None,
) -> Dataset:
    """Placeholder docstring."""
    rules = dict(
        split=split, ratios=tuple(ratios), split_seed=split_seed, k_core=k_core, max_len=max_len
    )
    if source == "synthetic":
        return build(synthetic.make(**synthetic.check_knobs(knobs or {})), **rules)
    raise NotImplementedError(source)
