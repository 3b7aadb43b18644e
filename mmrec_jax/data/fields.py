"""Impressions with fields: clicks, conversions, and values numbered by what training holds."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mmrec_jax.data import build as building
from mmrec_jax.data import splits
from mmrec_jax.data.columns import Columns
from mmrec_jax.data.table import Table
from mmrec_jax.types import Dataset, Impressions, Interactions, UserError

_ROLES = ("user", "item", "time", "rating", "label", "click", "conversion")
SPLITS = ("train", "valid", "test")


def columns(
    given: Columns, named: Mapping[str, str], fields: Sequence[str], numeric: Sequence[str]
) -> dict[str, Any]:
    """The click, the conversion and further columns of a table, as ``Table`` has them.

    Args:
      given: the table.
      named: column names by role.
      fields: columns to take; empty takes all that have no other role.
      numeric: columns of numbers to be cut into ranges; those with fractions always are.

    Raises:
      UserError: a label other than 0 or 1, a conversion without a click, an unknown column, a
        number that is none.
    """
    roles = {role: given.role(role, named, needed=False) for role in _ROLES}
    click, conversion = (
        None if roles[role] is None else given.binary(roles[role], role)
        for role in ("click", "conversion")
    )
    if click is not None and conversion is not None and (bad := conversion > click).any():
        raise UserError(
            f"{given.at(int(bad.argmax()))}: a conversion ('{roles['conversion']}') without a "
            f"click ('{roles['click']}'); conversions follow clicks: mend or drop the row"
        )
    others = [name for name in given.names if name not in roles.values()]
    known_names(fields, others, "fields", given.origin)
    values = {name: _field(given, name, name in numeric) for name in fields or others}
    return {"click": click, "conversion": conversion, "fields": values}


def build(
    table: Table,
    *,
    fields: Sequence[str] = (),
    numeric: Sequence[str] = (),
    buckets: int = 10,
    click_rating: float = 0.0,
    conversion_rating: float = 0.0,
    split: str = "auto",
    ratios: tuple[float, ...] = (0.8, 0.1, 0.1),
    split_seed: int = 0,
    k_core: int = 0,
    max_len: int = 50,
) -> Dataset:
    """A data set of impressions, whose clicks are its interactions.

    Impressions are split, not clicks; those of users that have none in training are left out of
    validation and test. Where there are no times, the order of the rows stands for them.

    Args:
      table: rows are impressions.
      fields: columns to take; empty takes all that have no other role.
      numeric: fields of numbers; each is cut at the quantiles of the training impressions.
      buckets: into how many ranges.
      click_rating: where positive, ratings from here on are clicks.
      conversion_rating: where positive, ratings from here on are conversions.
      split: rule, see :func:`mmrec_jax.data.splits.assign`.
      ratios: shares of train, valid and test.
      split_seed: seed of random splits.
      k_core: must be 0.
      max_len: longest history.

    Raises:
      UserError: labels that are missing or all alike, unknown fields, an empty split.
    """
    if not len(table.user):
        raise UserError(f"{table.origin}: there is no impression; give at least one line of data")
    if k_core:
        raise UserError("config.data.k_core cannot thin out impressions; set it to 0")
    if split in splits.COLD:
        raise UserError(f"config.data.split={split} is for interactions; impressions take another")
    table = building.numbering(_labelled(table, click_rating, conversion_rating))
    if table.time is None:
        order = {**table.notes, "time": "place in the source"}
        table = dataclasses.replace(table, time=np.arange(len(table.user)), notes=order)
    chosen = _choose(table, fields, numeric, buckets)
    user = building.numbers(table.user, table.user_ids, table.origin)
    part, facts = splits.assign(
        user,
        table.time,
        table.label,
        rule=split,
        ratios=ratios,
        seed=split_seed,
        origin=table.origin,
    )
    coded = {name: encode(x, part == 0, buckets) for name, x in chosen.items()}
    assert table.click is not None  # who calls this has seen to it
    shown = Impressions(
        user,
        building.numbers(table.item, table.item_ids, table.origin),
        building.times(table),
        _side_by_side([x for x, _ in coded.values()], len(user)),
        table.click.astype(np.float32),
        None if table.conversion is None else table.conversion.astype(np.float32),
    )
    trained = np.bincount(user[part == 0], minlength=len(table.user_ids)) > 0
    parts = {name: shown.take((part == n) & trained[user]) for n, name in enumerate(SPLITS)}
    _check(parts, table.origin)
    clicked = np.flatnonzero((table.click > 0) & trained[user])
    data = building.build(
        _only(table, clicked, part), split="label", ratios=(1, 0, 0), max_len=max_len
    )
    sizes = tuple((name, size) for name, (_, size) in coded.items())
    pairs = [Interactions(p.user, p.item) for p in parts.values()]
    clicks = [data.train, data.valid, data.test]
    notes = {
        "split": facts,
        "fields": dict(sizes),
        "impressions": {name: _counts(p) for name, p in parts.items()}
        | {"untrained_users_dropped": len(user) - sum(map(len, parts.values()))},
        "split_hash": building.split_hash([*pairs, *clicks], data.user_ids, data.item_ids),
    }
    return dataclasses.replace(
        data,
        spec=dataclasses.replace(data.spec, fields=sizes),
        impressions=parts,
        notes={**data.notes, **notes},
    )


def encode(values: np.ndarray, train: np.ndarray, buckets: int) -> tuple[np.ndarray, int]:
    """Values [E] of a field as numbers int32 [E], and how many there are.

    0 stands for what is empty or does not occur in ``train``, bool [E]. Other values are numbered
    from 1 in ascending order; floats are cut into ranges at quantiles of ``train``.
    """
    if values.dtype.kind == "f":
        known = np.isfinite(values)
        shares = np.arange(1, buckets) / buckets
        edges = np.unique(np.quantile(values[train & known], shares)) if known[train].any() else []
        number = np.where(known, 1 + np.searchsorted(edges, values, side="right"), 0)
        return number.astype(np.int32), len(edges) + 2
    coded = pa.array(values).dictionary_encode()
    distinct = coded.dictionary.to_numpy(zero_copy_only=False).astype(object)
    index = coded.indices.to_numpy()
    counted = np.bincount(index[train], minlength=len(distinct)) > 0
    counted &= distinct != ""
    order = np.argsort(distinct, kind="stable")
    number = np.zeros(len(distinct), np.int32)
    number[order[counted[order]]] = np.arange(1, counted.sum() + 1)
    return number[index], int(counted.sum()) + 1


def _field(given: Columns, name: str, numeric: bool) -> np.ndarray:
    """A column as text, or as float64 with NaN where it is empty if it holds numbers to be cut.

    Raises:
      UserError: ``numeric``, and an entry is no number; or a column of lists and the like.
    """
    try:
        text = pa.array(given.text(name), pa.string())
    except UserError:
        raise UserError(
            f"{given.origin}: '{name}' has no single value in a row; name the columns to take in "
            "config.data.fields"
        ) from None
    trimmed = pc.utf8_trim_whitespace(text)
    filled = pc.if_else(pc.equal(trimmed, ""), None, trimmed)
    try:
        numbers = filled.cast(pa.float64()).to_numpy(zero_copy_only=False)
    except pa.ArrowInvalid:
        if not numeric:
            return trimmed.to_numpy(zero_copy_only=False)
        row, value = _first_no_number(filled)
        raise UserError(
            f"{given.at(row)}: '{name}' is {value!r} where a number is expected; mend it, or take "
            f"'{name}' out of config.data.numeric"
        ) from None
    has_fractions = bool(np.any(np.isfinite(numbers) & (numbers != np.rint(numbers))))
    return numbers if numeric or has_fractions else trimmed.to_numpy(zero_copy_only=False)


def _first_no_number(values: pa.Array) -> tuple[int, str]:
    """Row and text of the first entry that is no number."""
    for row, value in enumerate(values.to_pylist()):
        try:
            float(value or 0)
        except ValueError:
            return row, value
    return 0, str(values[0])


def _labelled(table: Table, click_rating: float, conversion_rating: float) -> Table:
    """The table with its clicks and conversions, from ratings where that is asked for."""
    thresholds = {"click": click_rating, "conversion": conversion_rating}
    asked = {role: value for role, value in thresholds.items() if value > 0}
    if asked and table.rating is None:
        raise UserError(
            f"{table.origin}: config.data.{min(asked)}_rating needs ratings and there are none; "
            "set it to 0, or name their column in config.data.columns.rating"
        )
    rating = np.zeros(0) if table.rating is None else table.rating
    labels = {role: (rating >= value).astype(np.int8) for role, value in asked.items()}
    table = dataclasses.replace(table, **labels)
    if table.click is None:
        raise UserError(
            f"{table.origin}: no column seems to hold the clicks; set config.data.columns.click, "
            "or config.data.click_rating where ratings from some value on shall count as clicks"
        )
    if table.conversion is not None and (table.conversion > table.click).any():
        raise UserError(
            f"config.data.conversion_rating is {conversion_rating:g} and click_rating "
            f"{click_rating:g}; conversions follow clicks: give at least as much"
        )
    return table


def _choose(table: Table, fields, numeric, buckets: int) -> dict[str, np.ndarray]:
    """The fields asked for, those among ``numeric`` as floats."""
    if buckets < 1:
        raise UserError(f"config.data.buckets is {buckets}; it must be at least 1")
    for key, names in (("fields", fields), ("numeric", numeric)):
        known_names(names, table.fields, key, table.origin)
    chosen = {name: np.asarray(table.fields[name]) for name in fields or table.fields}
    return {name: x.astype(float) if name in numeric else x for name, x in chosen.items()}


def known_names(names: Iterable[str], known: Iterable[str], key: str, origin: str) -> None:
    """Raises a UserError for the first of ``names`` that is not ``known``."""
    known = list(known)
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean '{near[0]}'?" if near else "take one of these"
            raise UserError(
                f"config.data.{key} names '{name}', but the fields of {origin} are "
                f"{', '.join(known) or 'none'}; {hint}"
            )


def _side_by_side(values: list[np.ndarray], rows: int) -> np.ndarray:
    """Columns [E] as int32 [E, F]."""
    return np.stack(values, axis=1) if values else np.zeros((rows, 0), np.int32)


def _only(table: Table, rows: np.ndarray, part: np.ndarray) -> Table:
    """Rows of a table as interactions, labelled with the part of their impression."""
    pick = lambda a: None if a is None else a[rows]
    return dataclasses.replace(
        table,
        **{name: pick(getattr(table, name)) for name in ("user", "item", "time", "rating")},
        label=part[rows],
        fields={},
        click=None,
        conversion=None,
    )


def _counts(part: Impressions) -> dict[str, int]:
    """What the notes say of a part."""
    counts = {"shown": len(part), "clicks": int(part.click.sum())}
    if part.conversion is not None:
        counts["conversions"] = int(part.conversion.sum())
    return counts


def _check(parts: Mapping[str, Impressions], origin: str) -> None:
    """Raises a UserError for a part without clicks, or with nothing else."""
    for name, part in parts.items():
        if len(part) and part.click.min() == part.click.max():
            what = "all are clicks" if part.click[0] else "none is a click"
            raise UserError(
                f"{origin}: of the {len(part)} impressions in {name} {what}; check the column of "
                "clicks (config.data.columns.click, config.data.click_rating) and the split"
            )
