"""What holds for any table: nothing is lost or invented, parts are disjoint, ids keep names."""

from __future__ import annotations

import csv
import json
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from mmrec_jax import data
from mmrec_jax.data import prepared, splits
from mmrec_jax.types import UserError

WHOLE = {"split": "ratio", "ratios": (1, 0, 0)}  # everything trains
RULES = ("ratio", "leave_one_out", "time", "item_cold", "user_cold")


def bounded(examples: int):
    return settings(max_examples=examples, deadline=None, suppress_health_check=list(HealthCheck))


# Text of any script, numbers in any spelling, blanks inside; none at the ends, which are no part.
letters = st.characters(exclude_categories=("Cs", "Cc", "Zs", "Zl", "Zp"))
words = st.text(letters | st.just(" "), min_size=1, max_size=6).filter(lambda w: w == w.strip())
spelled = st.sampled_from(["7", "007", "07", "-7", "7.0", "1e3", "NA", "null", "nan", "", "é", "é"])
names = words | spelled.filter(bool) | st.integers(-(2**70), 2**70).map(str)
tables = st.lists(st.tuples(names, names), min_size=1, max_size=30)
LAYOUTS = ("csv", "inter", "parquet", "json", "lines", "frame")


def stored(rows: list[tuple[str, str]], layout: str, folder: Path) -> tuple[object, list]:
    """What to load in a layout, and the rows that it holds."""
    path = folder / {"inter": "x.inter", "json": "x.inter.json", "lines": "x.txt"}.get(
        layout, f"x.{layout}"
    )
    columns = {"user": [user for user, _ in rows], "item": [item for _, item in rows]}
    lists = {user: [i for u, i in rows if u == user] for user in dict.fromkeys(columns["user"])}
    if layout == "frame":
        return columns, rows
    if layout == "parquet":
        pd.DataFrame(columns).to_parquet(path)
    elif layout == "json":
        path.write_text(json.dumps(lists))
    elif layout == "lines":
        plain = [word for row in rows for word in row]
        assume(not any(set(word) & set(" ,;|") for word in plain))
        path.write_text("".join(f"{' '.join([u, *items])}\n" for u, items in lists.items()))
    elif layout == "inter":
        path.write_text("user_id:token\titem_id:token\n" + "".join(f"{u}\t{i}\n" for u, i in rows))
    else:
        with open(path, "w", newline="") as file:
            csv.writer(file, lineterminator="\n").writerows([("user", "item"), *rows])
    return str(path), rows


def raw(loaded, *parts) -> list[tuple[str, str]]:
    """Pairs of ids, as text."""
    parts = parts or (loaded.train, loaded.valid, loaded.test)
    return [
        (str(loaded.user_ids[u]), str(loaded.item_ids[i]))
        for part in parts
        for u, i in zip(part.user, part.item, strict=True)
    ]


@bounded(120)
@given(tables, st.sampled_from(LAYOUTS))
def test_ids_and_interactions_come_back_in_every_layout(rows, layout):
    with tempfile.TemporaryDirectory() as folder:
        given, rows = stored(rows, layout, Path(folder))
        load = data.from_frames if layout == "frame" else data.load
        loaded = load(given, **WHOLE)
    assert sorted(raw(loaded)) == sorted(set(rows))
    assert loaded.notes["interactions"]["read"] == len(rows)
    for ids, column in ((loaded.user_ids, 0), (loaded.item_ids, 1)):
        assert sorted(map(str, ids)) == sorted({row[column] for row in rows})
        # Numbers only where that keeps every spelling.
        whole = all(str(int(w)) == w for w in map(str, ids)) if ids.dtype.kind == "i" else True
        assert whole and (ids.dtype.kind in "iU")


@st.composite
def events(draw) -> list[tuple[int, int, int, int]]:
    """Rows of user, item, time and rating, with repeats and equal times."""
    users, items = draw(st.integers(3, 7)), draw(st.integers(4, 9))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    size = draw(st.integers(20, 80))
    ends = [(-3, users - 3), (0, items), (0, draw(st.sampled_from([5, 1000]))), (1, 6)]
    return list(zip(*(rng.integers(*end, size).tolist() for end in ends), strict=True))


@bounded(150)
@given(events(), st.sampled_from(RULES), st.integers(0, 3), st.integers(0, 9))
def test_every_row_is_in_one_part_or_counted_as_dropped(rows, rule, k, seed):
    user, item, time, rating = map(np.array, zip(*rows, strict=True))
    columns = {"user": user, "item": item, "time": time, "rating": rating}
    options = dict(split=rule, k_core=k, split_seed=seed, ratios=(0.6, 0.2, 0.2))
    try:
        loaded = data.from_frames(columns, **options)
    except UserError as error:
        assert "is empty" in str(error) and "\n" not in str(error)
        return
    counts = loaded.notes["interactions"]
    parts = [raw(loaded, part) for part in (loaded.train, loaded.valid, loaded.test)]
    assert counts["read"] == len(rows)
    kept = sum(map(len, parts))
    dropped = ("repeats_dropped", "k_core_dropped", "untrained_users_dropped")
    assert len(rows) == kept + sum(counts.get(name, 0) for name in dropped)
    assert len(set(sum(parts, []))) == kept  # so the parts are disjoint, and no pair stands twice
    given_pairs = {(str(u), str(i)) for u, i, *_ in rows}
    assert set(sum(parts, [])) <= given_pairs
    core = left(given_pairs, k)
    assert set(parts[0]) <= core and len(core) == kept + counts["untrained_users_dropped"]
    # Times and ratings go with their interaction: those of the pair's first moment.
    first = {}
    for u, i, t, r in sorted(rows, key=lambda row: row[2]):
        first.setdefault((str(u), str(i)), (t, r))
    for part, pairs in zip((loaded.train, loaded.valid, loaded.test), parts, strict=True):
        assert [first[p] for p in pairs] == list(
            zip(part.time.tolist(), part.rating.tolist(), strict=True)
        )
    trained = {user for user, _ in parts[0]}
    if rule != "user_cold":
        assert {user for user, _ in parts[1] + parts[2]} <= trained
    else:
        assert not {user for user, _ in parts[1] + parts[2]} & trained
    if rule == "item_cold":
        assert not {item for _, item in parts[1] + parts[2]} & {item for _, item in parts[0]}
    if rule == "time" and len(loaded.test):
        assert loaded.train.time.max() < loaded.test.time.min()


def left(pairs: set, k: int) -> set:
    """The k-core, by the definition."""
    while True:
        users, items = (Counter(pair[n] for pair in pairs) for n in (0, 1))
        kept = {(u, i) for u, i in pairs if users[u] >= k and items[i] >= k}
        if kept == pairs:
            return pairs
        pairs = kept


@bounded(60)
@given(st.data(), st.integers(1, 5), st.integers(3, 8))
def test_leave_one_out_takes_the_last_by_time_in_whatever_order_the_rows_are(draw, users, each):
    rows = [(u, i) for u in range(users) for i in range(each)]
    times = draw.draw(st.permutations(range(len(rows))))
    order = draw.draw(st.permutations(range(len(rows))))
    when = {row: 10 * time for row, time in zip(rows, times, strict=True)}
    shuffled = [rows[n] for n in order]
    user, item = map(np.array, zip(*shuffled, strict=True))
    time = np.array([when[row] for row in shuffled])
    loaded = data.from_frames({"user": user, "item": item, "time": time}, split="leave_one_out")
    for u in range(users):
        mine = sorted((row for row in rows if row[0] == u), key=when.__getitem__)
        text = [(str(a), str(b)) for a, b in mine]
        assert [pair for pair in raw(loaded, loaded.test) if pair[0] == str(u)] == [text[-1]]
        assert [pair for pair in raw(loaded, loaded.valid) if pair[0] == str(u)] == [text[-2]]
        assert {pair for pair in raw(loaded, loaded.train) if pair[0] == str(u)} == {*text[:-2]}


@bounded(60)
@given(
    st.lists(st.tuples(st.integers(0, 7), st.integers(0, 7)), min_size=1, unique=True),
    st.integers(1, 4),
)
def test_the_k_core_of_a_k_core_is_itself(pairs, k):
    user, item = np.array(pairs).T
    once = splits.k_core(user, item, k)
    assert {pairs[n] for n in once} == left(set(pairs), k)
    twice = splits.k_core(user[once], item[once], k)
    np.testing.assert_array_equal(twice, np.arange(len(once)))


@bounded(60)
@given(st.lists(names, min_size=1, max_size=8, unique=True), st.data())
def test_features_go_to_the_items_they_name(items, draw):
    described = draw.draw(st.lists(st.sampled_from(items), min_size=1, unique=True))
    rows = {item: [float(n), -1.0] for n, item in enumerate(described)}
    columns = {"user": ["u"] * len(items), "item": items}
    loaded = data.from_frames(columns, {"image": rows}, **WHOLE)
    for number, item in enumerate(map(str, loaded.item_ids)):
        assert loaded.present["image"][number] == (item in rows)
        assert loaded.features["image"][number].tolist() == rows.get(item, [0.0, 0.0])


@bounded(6)
@given(
    tables.filter(lambda rows: len(set(rows)) > 5),
    st.booleans(),
    st.lists(st.floats(-1e6, 1e6, width=32), min_size=2, max_size=2),
)
def test_a_prepared_set_is_the_set_that_was_written(rows, timed, numbers):
    user, item = map(list, zip(*rows, strict=True))
    columns = {"user": user, "item": item}
    columns |= {"time": np.arange(len(rows)), "rating": np.ones(len(rows))} if timed else {}
    features = {"a/b é": {item[0]: numbers}}
    titles = {name: name for name in item[:3]}
    given = data.from_frames(columns, features, titles=titles, **WHOLE)
    with tempfile.TemporaryDirectory() as folder:
        read = prepared.read(prepared.write(given, folder, "made"))
    assert (read.name, read.spec) == (given.name, given.spec)
    for name in ("train", "valid", "test"):
        for array in ("user", "item", "time", "rating"):
            mine, theirs = (getattr(getattr(d, name), array) for d in (given, read))
            np.testing.assert_array_equal(mine, theirs)
            assert mine is None or mine.dtype == theirs.dtype
    for ids in ("user_ids", "item_ids", "titles"):
        np.testing.assert_array_equal(getattr(given, ids), getattr(read, ids))
    assert given.user_ids.dtype.kind == read.user_ids.dtype.kind
    for arrays in ("features", "present"):
        mine, theirs = getattr(given, arrays), getattr(read, arrays)
        assert [*mine] == [*theirs]
        for name in mine:
            np.testing.assert_array_equal(mine[name], theirs[name])
    same = lambda notes: {key: v for key, v in notes.items() if key not in prepared.DERIVED}
    assert same(json.loads(json.dumps(given.notes))) == same(read.notes)
