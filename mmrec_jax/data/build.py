"""From a :class:`~mmrec_jax.data.table.Table` to a validated, split ``Dataset``."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from mmrec_jax.data import splits
from mmrec_jax.data.table import Features, ItemGraph, Table
from mmrec_jax.types import Dataset, Interactions, Spec, UserError


def build(
    table: Table,
    *,
    split: str = "auto",
    ratios: tuple[float, ...] = (0.8, 0.1, 0.1),
    split_seed: int = 0,
    k_core: int = 0,
    max_len: int = 50,
) -> Dataset:
    """Numbers the ids, drops repeats, filters, splits and aligns the side information.

    Of several interactions of one user with one item the earliest stays (with labels: that of the
    earliest part), since an item cannot be both known and held out. Users without training
    interactions are left out of validation and test, unless the split is ``user_cold``.

    Args:
      table: what a reader returned.
      split: rule, see :func:`mmrec_jax.data.splits.assign`.
      ratios: shares of train, valid and test.
      split_seed: seed of random splits.
      k_core: fewest interactions of a user and of an item; 0 keeps all, cold items too.
      max_len: longest history a sequence method reads.

    Raises:
      UserError: side information that does not fit the items, or an empty split.
    """
    if not len(table.user):
        raise UserError(f"{table.origin}: there is no interaction; give at least one line of data")
    table = numbering(table)
    user_ids, item_ids = np.asarray(table.user_ids), np.asarray(table.item_ids)
    known = _numbered(table, user_ids, item_ids)
    items = _items(table, item_ids)
    kept = _without_repeats(known, table)
    counts = {"read": len(known), "repeats_dropped": len(known) - len(kept)}
    notes = {"interactions": counts}
    if k_core > 0:
        core = kept.take(splits.k_core(kept.user, kept.item, k_core))
        counts["k_core_dropped"] = len(kept) - len(core)
        kept, users, left = _renumbered(core, k_core, table.origin)
        notes["k_core"] = {
            "k": k_core,
            "users_dropped": len(user_ids) - len(users),
            "items_dropped": len(item_ids) - len(left),
        }
        user_ids, items = user_ids[users], items.take(left)
    pick = lambda a: None if a is None else np.asarray(a)[kept.rows]
    part, facts = splits.assign(
        kept.user,
        pick(table.time),
        pick(table.label),
        kept.item,
        rule=split,
        ratios=ratios,
        seed=split_seed,
        origin=table.origin,
    )
    trained = np.bincount(kept.user[part == 0], minlength=len(user_ids)) > 0
    trained |= facts["rule"] == "user_cold"  # where being untrained is the point
    chosen = [np.flatnonzero((part == p) & trained[kept.user]) for p in range(3)]
    _check_held_out(part, chosen, table.origin)
    every = Interactions(kept.user, kept.item, pick(times(table)), pick(_rating(table)))
    parts = [every.take(index) for index in chosen]
    counts |= dict(zip(("train", "valid", "test"), map(len, parts), strict=True))
    counts["untrained_users_dropped"] = len(kept) - sum(map(len, parts))
    notes |= {"split": facts, **_facts(parts, user_ids, items)}
    return Dataset(
        name=table.name,
        spec=Spec(
            num_users=len(user_ids),
            num_items=len(items.ids),
            max_len=max_len,
            feature_dims=tuple((name, x.shape[1]) for name, x in items.features.items()),
        ),
        train=parts[0],
        valid=parts[1],
        test=parts[2],
        user_ids=user_ids,
        item_ids=items.ids,
        features=items.features,
        present=items.present,
        titles=items.titles,
        item_graphs=items.graphs,
        notes={**table.notes, **notes},
    )


def numbering(table: Table) -> Table:
    """The table with ``user_ids`` and ``item_ids`` as :func:`build` would choose them."""
    table = _same_kind_of_ids(table)
    user_ids = _all_ids(table.user) if table.user_ids is None else table.user_ids
    return dataclasses.replace(table, user_ids=user_ids, item_ids=_item_ids(table))


def numbers(values: np.ndarray, ids: np.ndarray, origin: str) -> np.ndarray:
    """The numbers of raw ids, int32.

    Raises:
      UserError: an id that the numbering does not hold.
    """
    found = _find(values, ids)
    if (found < 0).any():
        unknown = values[np.argmax(found < 0)]
        raise UserError(f"{origin}: id '{unknown}' is not in the id map; add it there or drop it")
    return found.astype(np.int32)


def times(table: Table) -> np.ndarray | None:
    """Times as int64 [E]: microseconds where a source has fractions, else its own unit."""
    time = table.time
    if time is None or time.dtype.kind in "iu":
        return None if time is None else time.astype(np.int64)
    if not np.abs(time).max() < 2**43:  # beyond it microseconds do not fit
        return np.rint(time).astype(np.int64)
    whole = bool((time == np.rint(time)).all())
    return np.rint(time if whole else time * 1e6).astype(np.int64)


def split_hash(parts: Sequence[Interactions], user_ids, item_ids) -> str:
    """16 hexadecimal digits of what each part holds and what its numbers stand for."""
    digest = hashlib.sha256()
    for part in parts:
        order = np.lexsort((part.item, part.user))
        for values in (part.user, part.item):
            digest.update(np.ascontiguousarray(values[order], "<i4").tobytes())
        digest.update(b"|")
    for ids in (user_ids, item_ids):
        digest.update("\n".join(map(str, ids.tolist())).encode() + b"|")
    return digest.hexdigest()[:16]


@dataclasses.dataclass(frozen=True)
class _Numbered:
    """Interactions by number, int32 [E], and the table's rows that they come from."""

    user: np.ndarray
    item: np.ndarray
    rows: np.ndarray

    def __len__(self) -> int:
        return len(self.user)

    def take(self, index: np.ndarray) -> _Numbered:
        return _Numbered(self.user[index], self.item[index], self.rows[index])


@dataclasses.dataclass(frozen=True)
class _Items:
    """What is known of the items, by number: the item half of a ``Dataset``."""

    ids: np.ndarray
    features: dict[str, np.ndarray]
    present: dict[str, np.ndarray]
    titles: np.ndarray | None
    graphs: dict
    facts: dict

    def take(self, items: np.ndarray) -> _Items:
        """The items left by a filter, numbered anew."""
        pick = lambda by_name: {name: a[items] for name, a in by_name.items()}
        graphs = {n: _subgraph(graph, items, len(self.ids)) for n, graph in self.graphs.items()}
        titles = None if self.titles is None else self.titles[items]
        features, present = pick(self.features), pick(self.present)
        return _Items(self.ids[items], features, present, titles, graphs, self.facts)


def _numbered(table: Table, user_ids: np.ndarray, item_ids: np.ndarray) -> _Numbered:
    """All interactions by number."""
    user = numbers(table.user, user_ids, table.origin)
    return _Numbered(user, numbers(table.item, item_ids, table.origin), np.arange(len(user)))


def _items(table: Table, ids: np.ndarray) -> _Items:
    """The side information of a table, aligned with the item numbering ``ids``."""
    aligned = {n: _align(given, n, ids, table.origin) for n, given in table.features.items()}
    titles, facts = _titles(table, ids)
    return _Items(
        ids=ids,
        features={name: values for name, (values, _) in aligned.items()},
        present={name: present for name, (_, present) in aligned.items()},
        titles=titles,
        graphs={n: _graph(given, ids, table.origin) for n, given in table.item_graphs.items()},
        facts=facts,
    )


def _facts(parts: list[Interactions], user_ids: np.ndarray, items: _Items) -> dict:
    """What the notes say of the finished data set."""
    users, count = len(user_ids), len(items.ids)
    without = lambda numbers, size: int((np.bincount(numbers, minlength=size) == 0).sum())
    return {
        "users": users,
        "items": count,
        "density": sum(map(len, parts)) / (users * count),
        "users_without_training": without(parts[0].user, users),
        "cold_items": without(parts[0].item, count),
        "missing_feature_rows": {name: int((~p).sum()) for name, p in items.present.items()},
        **items.facts,
        "split_hash": split_hash(parts, user_ids, items.ids),
    }


def _same_kind_of_ids(table: Table) -> Table:
    """The table with the item ids of interactions and features all integers or all strings."""
    given = [table.item, *(f.ids for f in table.features.values() if f.ids is not None)]
    if table.item_ids is not None or len({ids.dtype.kind in "iu" for ids in given}) == 1:
        return table
    text = lambda f: f if f.ids is None else dataclasses.replace(f, ids=f.ids.astype(str))
    features = {name: text(given) for name, given in table.features.items()}
    return dataclasses.replace(table, item=table.item.astype(str), features=features)


def _all_ids(values: np.ndarray) -> np.ndarray:
    """The distinct ids, ascending."""
    if values.dtype.kind in "iu":
        return np.unique(values)
    return np.sort(pa.array(values).unique().to_numpy(zero_copy_only=False).astype(str))


def _item_ids(table: Table) -> np.ndarray:
    """The item numbering: as given, else every id of the interactions and of the features."""
    if table.item_ids is not None:
        return table.item_ids
    ids = [_all_ids(table.item)]
    ids += [f.ids for f in table.features.values() if f.ids is not None]
    return np.unique(np.concatenate(ids)) if len(ids) > 1 else ids[0]


def _find(values: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """Position of each value in ``ids``, -1 where it is none of them, int64."""
    if (values.dtype.kind in "iu") != (ids.dtype.kind in "iu"):
        values, ids = values.astype(str), ids.astype(str)
    if _is_range(ids):
        return np.where((values >= 0) & (values < len(ids)), values, -1).astype(np.int64)
    if values.dtype.kind not in "iu":
        encoded = pa.array(values).dictionary_encode()
        distinct = encoded.dictionary.to_numpy(zero_copy_only=False).astype(str)
        return _search(distinct, ids)[encoded.indices.to_numpy()]
    return _search(values, ids)


def _search(values: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """:func:`_find` by binary search."""
    order = np.argsort(ids, kind="stable")
    place = order[np.minimum(np.searchsorted(ids, values, sorter=order), len(ids) - 1)]
    return np.where(ids[place] == values, place, -1)


def _is_range(ids: np.ndarray) -> bool:
    """Whether the ids are the numbers 0, 1, 2 and so on."""
    return ids.dtype.kind in "iu" and np.array_equal(ids, np.arange(len(ids)))


def _without_repeats(numbered: _Numbered, table: Table) -> _Numbered:
    """The first interaction of every (user, item) pair, in the order of the source."""
    key = numbered.user.astype(np.int64) * (int(numbered.item.max()) + 1) + numbered.item
    keys = [a for a in (table.time, table.label) if a is not None]
    order = np.lexsort((*keys, key))
    first = np.concatenate([[True], np.diff(key[order]) != 0])
    return numbered if first.all() else numbered.take(np.sort(order[first]))


def _renumbered(numbered: _Numbered, k: int, origin: str):
    """Numbers without gaps, and the former numbers of the users and items that are left."""
    if not len(numbered):
        raise UserError(f"{origin}: the {k}-core is empty; set a smaller config.data.k_core")
    users, user = np.unique(numbered.user, return_inverse=True)
    items, item = np.unique(numbered.item, return_inverse=True)
    left = _Numbered(user.astype(np.int32), item.astype(np.int32), numbered.rows)
    return left, users, items


def _rating(table: Table) -> np.ndarray | None:
    """Ratings as float32 [E]."""
    return None if table.rating is None else np.asarray(table.rating, np.float32)


def _align(given: Features, name: str, item_ids: np.ndarray, origin: str):
    """Float32 [I, F] in item order and bool [I], False where no row is given.

    Raises:
      UserError: not one row of finite numbers per described item.
    """
    values = np.asarray(given.values)
    if values.ndim != 2 or values.shape[1] == 0 or values.dtype.kind not in "fiub":
        raise UserError(
            f"{given.origin}: feature '{name}' has shape {values.shape} and type {values.dtype}; "
            "give a matrix of numbers with one row per item"
        )
    rows = _feature_rows(given, item_ids, origin)
    with np.errstate(over="ignore"):  # an overflow to inf is reported below
        values = np.ascontiguousarray(values, np.float32)
    _check_finite(values, given)
    matrix = np.zeros((len(item_ids), values.shape[1]), np.float32)
    present = np.zeros(len(item_ids), bool)
    matrix[rows], present[rows] = values, True
    return matrix, present


def _feature_rows(given: Features, item_ids: np.ndarray, origin: str) -> np.ndarray:
    """The item number that each feature row describes."""
    count = len(given.values)
    if given.ids is None:
        if not _is_range(item_ids):
            raise UserError(
                f"{given.origin}: rows without ids need item ids 0, 1, 2 ..., which {origin} has "
                "not; give an .npz with the arrays 'ids' and 'features', or, if the file belongs "
                "elsewhere, name the right ones in config.data.features or move it away"
            )
        if count != len(item_ids):
            raise UserError(
                f"{given.origin}: {count} rows but {origin} has {len(item_ids)} items "
                f"(ids 0 to {len(item_ids) - 1}); give one row per item, or an .npz with the "
                "arrays 'ids' and 'features', or name the right files in config.data.features"
            )
        return np.arange(count)
    if len(given.ids) != count:
        raise UserError(
            f"{given.origin}: {len(given.ids)} ids but {count} rows; give one id per row"
        )
    rows = numbers(given.ids, item_ids, given.origin)
    repeated = np.flatnonzero(np.bincount(rows) > 1)
    if len(repeated):
        raise UserError(
            f"{given.origin}: item id '{item_ids[repeated[0]]}' has more than one row; keep one"
        )
    return rows


def _check_finite(values: np.ndarray, given: Features) -> None:
    """Raises a UserError that names the first row with a NaN or an infinite number."""
    bad = np.flatnonzero(~np.isfinite(values).all(axis=1))
    if not len(bad):
        return
    row = int(bad[0])
    what = "NaN" if np.isnan(values[row]).any() else "an infinite or too large number"
    if given.ids is None:
        remedy = "mend it, or give an .npz with 'ids' and 'features' that leaves the item out"
    else:
        remedy = f"mend or drop the row of item '{given.ids[row]}' (it then counts as missing)"
    raise UserError(f"{given.origin}: row {row + 1} holds {what} ({len(bad)} such rows); {remedy}")


def _graph(given: ItemGraph, item_ids: np.ndarray, origin: str):
    """``(row, col, weight)`` in item numbers.

    Raises:
      UserError: nodes that are not the items, or weights that are not finite.
    """
    if given.ids is not None:
        node = numbers(given.ids, item_ids, given.origin)
    elif given.size != len(item_ids) or not _is_range(item_ids):
        raise UserError(
            f"{given.origin}: a graph of {given.size} nodes without ids does not fit the "
            f"{len(item_ids)} items of {origin}; give it an array 'ids' with the item of each node"
        )
    else:
        node = np.arange(given.size, dtype=np.int32)
    row, col = np.asarray(given.row), np.asarray(given.col)
    if not len(row) == len(col) == len(given.weight):
        raise UserError(f"{given.origin}: row, col and data differ in length; make them equal")
    ends = np.stack([row, col]).astype(np.int64)
    outside = ((ends < 0) | (ends >= given.size)).any(axis=0)
    if outside.any():
        edge = int(np.argmax(outside))
        raise UserError(
            f"{given.origin}: edge {edge + 1} joins nodes {row[edge]} and {col[edge]}, but nodes "
            f"are 0 to {given.size - 1}; mend or drop it"
        )
    weight = np.asarray(given.weight, np.float32)
    if not np.isfinite(weight).all():
        edge = int(np.argmin(np.isfinite(weight)))
        raise UserError(f"{given.origin}: the weight of edge {edge + 1} is not finite; mend it")
    return node[ends[0]], node[ends[1]], weight


def _subgraph(graph, items: np.ndarray, num_items: int):
    """The edges between the items that are left, in their new numbers."""
    new = np.full(num_items, -1, np.int32)
    new[items] = np.arange(len(items), dtype=np.int32)
    row, col, weight = graph
    stays = (new[row] >= 0) & (new[col] >= 0)
    return new[row[stays]], new[col[stays]], weight[stays]


def _titles(table: Table, item_ids: np.ndarray) -> tuple[np.ndarray | None, dict]:
    """A title per item, "" where there is none; titles of other items are left out and counted."""
    if table.titles is None:
        return None, {}
    given = table.titles
    found = _find(given.ids, item_ids)
    known = found >= 0
    if not known.any():
        raise UserError(
            f"{given.origin}: no id is an item of {table.origin} (first id '{given.ids[0]}'); "
            "use the same item ids in both files, or move the titles elsewhere"
        )
    titles = np.full(len(item_ids), "", dtype=object)
    titles[found[known]] = given.text[known]
    found, others = len(np.unique(found[known])), int((~known).sum())
    return titles, {"titles": {"from": given.origin, "found": found, "of_other_items": others}}


def _check_held_out(part: np.ndarray, chosen: list[np.ndarray], origin: str) -> None:
    """Raises a UserError where leaving out untrained users has emptied a split."""
    for p, name in ((1, "validation"), (2, "test")):
        if (part == p).any() and not len(chosen[p]):
            raise UserError(
                f"{origin}: the {name} split is empty, since none of its users has training "
                "interactions; set another config.data.split or other config.data.ratios"
            )
