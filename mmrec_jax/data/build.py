"""From a :class:`~mmrec_jax.data.table.Table` to a validated, split ``Dataset``."""

from __future__ import annotations

import dataclasses
import hashlib

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
    interactions are left out of validation and test.

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
    table = _same_kind_of_ids(table)
    user_ids = _all_ids(table.user) if table.user_ids is None else table.user_ids
    item_ids = _item_ids(table)
    numbered = _Numbered(
        user=_numbers(table.user, user_ids, table.origin),
        item=_numbers(table.item, item_ids, table.origin),
        rows=np.arange(len(table.user)),
    )
    features = {n: _align(f, n, item_ids, table.origin) for n, f in table.features.items()}
    graphs = {n: _graph(g, item_ids, table.origin) for n, g in table.item_graphs.items()}
    titles, title_notes = _titles(table, item_ids)

    kept = _without_repeats(numbered, table)
    counts = {"read": len(table.user), "repeats_dropped": len(table.user) - len(kept)}
    notes = {"interactions": counts}
    if k_core > 0:
        core = kept.take(splits.k_core(kept.user, kept.item, k_core))
        if not len(core):
            raise UserError(
                f"{table.origin}: the {k_core}-core is empty; set a smaller config.data.k_core"
            )
        kept, users, items = _renumbered(core)
        counts["k_core_dropped"] = counts["read"] - counts["repeats_dropped"] - len(kept)
        notes["k_core"] = {
            "k": k_core,
            "users_dropped": len(user_ids) - len(users),
            "items_dropped": len(item_ids) - len(items),
        }
        graphs = {name: _subgraph(graph, items, len(item_ids)) for name, graph in graphs.items()}
        user_ids, item_ids = user_ids[users], item_ids[items]
        features = {n: (x[items], p[items]) for n, (x, p) in features.items()}
        titles = None if titles is None else titles[items]

    take = lambda a, rows: None if a is None else np.asarray(a)[rows]
    part, facts = splits.assign(
        kept.user,
        take(table.time, kept.rows),
        take(table.label, kept.rows),
        rule=split,
        ratios=ratios,
        seed=split_seed,
        origin=table.origin,
    )
    trained = np.bincount(kept.user[part == 0], minlength=len(user_ids)) > 0
    absent = ~trained[kept.user]
    time, rating = _time(table), table.rating
    chosen = [np.flatnonzero((part == p) & ~absent) for p in range(3)]
    train, valid, test = (
        Interactions(
            kept.user[index],
            kept.item[index],
            take(time, kept.rows[index]),
            None if rating is None else np.asarray(rating, np.float32)[kept.rows[index]],
        )
        for index in chosen
    )
    _check_held_out(part, chosen, table.origin)
    fields = {
        n: np.asarray(v, np.int32)[kept.rows[chosen[0]]] for n, v in table.fields.items()
    }
    counts |= {"train": len(train), "valid": len(valid), "test": len(test)}
    counts["untrained_users_dropped"] = int(absent.sum())
    total = len(train) + len(valid) + len(test)
    notes |= {
        "split": facts,
        "users": len(user_ids),
        "items": len(item_ids),
        "density": total / (len(user_ids) * len(item_ids)),
        "users_without_training": int((~trained).sum()),
        "cold_items": int((np.bincount(train.item, minlength=len(item_ids)) == 0).sum()),
        "missing_feature_rows": {n: int((~p).sum()) for n, (_, p) in features.items()},
        **title_notes,
        "split_hash": split_hash((train, valid, test), user_ids, item_ids),
    }
    spec = Spec(
        num_users=len(user_ids),
        num_items=len(item_ids),
        max_len=max_len,
        feature_dims=tuple((n, x.shape[1]) for n, (x, _) in features.items()),
        fields=tuple((n, int(np.max(v)) + 1) for n, v in table.fields.items()),
    )
    return Dataset(
        name=table.name,
        spec=spec,
        train=train,
        valid=valid,
        test=test,
        user_ids=user_ids,
        item_ids=item_ids,
        features={n: x for n, (x, _) in features.items()},
        present={n: p for n, (_, p) in features.items()},
        titles=titles,
        item_graphs=graphs,
        fields=fields,
        notes={**table.notes, **notes},
    )


def split_hash(parts: tuple[Interactions, ...], user_ids, item_ids) -> str:
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


def _same_kind_of_ids(table: Table) -> Table:
    """The table with item ids all integers or all strings, whichever its sources call for."""
    given = [table.item, table.item_ids, *(f.ids for f in table.features.values())]
    given += [g.ids for g in table.item_graphs.values()]
    given += [] if table.titles is None else [table.titles.ids]
    if len({a.dtype.kind in "iu" for a in given if a is not None}) < 2:
        return table
    text = lambda a: None if a is None else a.astype(str)
    with_text = lambda noun: dataclasses.replace(noun, ids=text(noun.ids))
    return dataclasses.replace(
        table,
        item=text(table.item),
        item_ids=text(table.item_ids),
        features={n: with_text(f) for n, f in table.features.items()},
        item_graphs={n: with_text(g) for n, g in table.item_graphs.items()},
        titles=None if table.titles is None else with_text(table.titles),
    )


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


def _numbers(values: np.ndarray, ids: np.ndarray, origin: str) -> np.ndarray:
    """The numbers of raw ids, int32.

    Raises:
      UserError: an id that the numbering does not hold.
    """
    found = _find(values, ids)
    if (found < 0).any():
        unknown = values[np.argmax(found < 0)]
        raise UserError(f"{origin}: id '{unknown}' is not in the id map; add it there or drop it")
    return found.astype(np.int32)


def _without_repeats(numbered: _Numbered, table: Table) -> _Numbered:
    """The first interaction of every (user, item) pair, in the order of the source."""
    key = numbered.user.astype(np.int64) * (int(numbered.item.max()) + 1) + numbered.item
    keys = [a for a in (table.time, table.label) if a is not None]
    order = np.lexsort((*keys, key))
    first = np.concatenate([[True], np.diff(key[order]) != 0])
    return numbered if first.all() else numbered.take(np.sort(order[first]))


def _renumbered(numbered: _Numbered) -> tuple[_Numbered, np.ndarray, np.ndarray]:
    """Numbers without gaps, and the former numbers of the users and items that are left."""
    users, user = np.unique(numbered.user, return_inverse=True)
    items, item = np.unique(numbered.item, return_inverse=True)
    left = _Numbered(user.astype(np.int32), item.astype(np.int32), numbered.rows)
    return left, users, items


def _time(table: Table) -> np.ndarray | None:
    """Times as int64 [E]: microseconds where a source has fractions, else its own unit."""
    time = table.time
    if time is None or time.dtype.kind in "iu":
        return None if time is None else time.astype(np.int64)
    whole = bool((time == np.rint(time)).all())
    return np.rint(time if whole else time * 1e6).astype(np.int64)


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
                "not; give an .npz with the arrays 'ids' and 'features'"
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
    rows = _numbers(given.ids, item_ids, given.origin)
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
        node = _numbers(given.ids, item_ids, given.origin)
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
    facts = {"file": given.origin, "found": int(known.sum()), "of_other_items": int((~known).sum())}
    return titles.astype(str), {"titles": facts}


def _check_held_out(part: np.ndarray, chosen: list[np.ndarray], origin: str) -> None:
    """Raises a UserError where leaving out untrained users has emptied a split."""
    for p, name in ((1, "validation"), (2, "test")):
        if (part == p).any() and not len(chosen[p]):
            raise UserError(
                f"{origin}: the {name} split is empty, since none of its users has training "
                "interactions; set another config.data.split or other config.data.ratios"
            )
