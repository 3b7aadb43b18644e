"""Every layout on small files, every mistake in them, and the real data beside the checkout."""

from __future__ import annotations

import pathlib
import time

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ml_collections import ConfigDict

from mmrec_jax import data
from mmrec_jax.data.build import build
from mmrec_jax.data.table import Table
from mmrec_jax.types import Dataset, UserError

REAL = pathlib.Path(__file__).parents[2] / "shared" / "data"

WHOLE = {"split": "ratio", "ratios": (1, 0, 0)}  # everything trains
INTER = """userID\titemID\tx_label
0\t1\t0
0\t2\t2
1\t0\t0
1\t3\t1
1\t1\t2
"""


@pytest.fixture
def folder(tmp_path):
    """The MMRec layout: 2 users, 4 items, one modality."""
    (tmp_path / "tiny.inter").write_text(INTER)
    np.save(tmp_path / "image_feat.npy", np.arange(8.0).reshape(4, 2) + 1)
    return tmp_path


def pairs(part):
    return list(zip(part.user.tolist(), part.item.tolist(), strict=True))


def raw_pairs(loaded):
    """All interactions of a data set by raw id."""
    parts = (loaded.train, loaded.valid, loaded.test)
    return sorted(
        (loaded.user_ids[u].item(), loaded.item_ids[i].item()) for p in parts for u, i in pairs(p)
    )


# Layouts.


def test_mmrec_layout(folder):
    for source in (folder, folder / "tiny.inter"):
        loaded = data.load(str(source))
        assert loaded.name == "tiny"
        assert pairs(loaded.train) == [(0, 1), (1, 0)]
        assert pairs(loaded.valid) == [(1, 3)]
        assert pairs(loaded.test) == [(0, 2), (1, 1)]
        assert loaded.train.user.dtype == loaded.train.item.dtype == np.int32
        assert loaded.spec.feature_dims == (("image", 2),)
        np.testing.assert_array_equal(loaded.features["image"][2], [5, 6])
        assert loaded.features["image"].dtype == np.float32
        assert loaded.present["image"].all()
        assert loaded.notes["layout"] == "mmrec"
        assert loaded.notes["interactions"]["train"] == 2


def test_mmrec_numbers_reach_to_the_largest_id(folder):
    (folder / "tiny.inter").write_text(INTER.replace("1\t3\t1", "5\t9\t2"))
    np.save(folder / "image_feat.npy", np.ones((10, 2)))
    loaded = data.load(str(folder), ratios=(1, 0, 0))
    assert (loaded.spec.num_users, loaded.spec.num_items) == (6, 10)
    assert (loaded.user_ids[5], loaded.item_ids[9]) == (5, 9)
    assert loaded.notes["users_without_training"] == 4


def test_recbole_headers_take_any_ids(tmp_path):
    (tmp_path / "x.inter").write_text(
        "user_id:token\titem_id:token\trating:float\ttimestamp:float\n"
        "ann\tb7\t4.5\t3\nann\ta1\t2\t1\nann\tc\t5\t2\n"
    )
    loaded = data.load(str(tmp_path / "x.inter"))
    assert loaded.item_ids.tolist() == ["a1", "b7", "c"]
    assert pairs(loaded.train) == [(0, 0)] and pairs(loaded.test) == [(0, 1)]
    np.testing.assert_array_equal(loaded.test.rating, np.float32([4.5]))
    np.testing.assert_array_equal(loaded.test.time, [3])
    assert loaded.test.time.dtype == np.int64


@pytest.mark.parametrize("kind", ["csv", "tsv", "semicolon", "parquet", "parquet-text"])
def test_plain_table(tmp_path, kind):
    frame = pd.DataFrame(
        {"customer": ["z", "z", "z", "y"], "sku": [30, 10, 20, 10], "when": [3, 1, 2, 9]}
    )
    path = tmp_path / f"sales.{'csv' if kind == 'semicolon' else kind[:7].rstrip('-')}"
    if "parquet" in kind:
        frame.astype({"sku": str} if "text" in kind else {}).to_parquet(path)
    else:
        frame.to_csv(path, sep={"tsv": "\t", "semicolon": ";"}.get(kind, ","), index=False)
    columns = ConfigDict({"user": "customer", "item": "sku", "time": "when", "rating": ""})
    loaded = data.load(str(path), columns=columns)
    assert loaded.user_ids.tolist() == ["y", "z"]
    assert loaded.item_ids.tolist() == [10, 20, 30]
    assert pairs(loaded.train) == [(1, 0), (0, 0)]
    assert (pairs(loaded.valid), pairs(loaded.test)) == ([(1, 1)], [(1, 2)])


def test_ids_keep_their_spelling(tmp_path):
    (tmp_path / "r.csv").write_text("user,item\n007,1\n7,NA\n7, 2 \n1_0,null\n1_0,nan\n")
    loaded = data.load(str(tmp_path / "r.csv"), **WHOLE)
    assert loaded.user_ids.tolist() == ["007", "1_0", "7"]
    assert loaded.item_ids.tolist() == ["1", "2", "NA", "nan", "null"]


def test_table_without_header(tmp_path):
    (tmp_path / "u.data").write_text("5\t7\t3\t100\n5\t8\t4\t50\n5\t9\t4\t70\n")
    loaded = data.load(
        str(tmp_path / "u.data"), columns={"user": "1", "item": "2", "rating": "3", "time": "4"}
    )
    assert pairs(loaded.test) == [(0, 0)] and loaded.test.rating[0] == 3


def test_byte_order_mark_blank_lines_and_windows_ends(tmp_path):
    text = "\r\nuser,item\r\n1,2\r\n\r\n1,3\r\n2,2\r\n"
    (tmp_path / "r.csv").write_bytes(b"\xef\xbb\xbf" + text.encode())
    loaded = data.load(str(tmp_path / "r.csv"), **WHOLE)
    assert raw_pairs(loaded) == [(1, 2), (1, 3), (2, 2)]


@pytest.mark.parametrize("separator", [" ", "\t"])
def test_sequences(tmp_path, separator):
    (tmp_path / "s.txt").write_text(f"9{separator}5\n4{separator}7 5 6 8\n3{separator}\n")
    loaded = data.load(str(tmp_path))
    assert loaded.name == tmp_path.name
    assert loaded.user_ids.tolist() == [4, 9] and loaded.item_ids.tolist() == [5, 6, 7, 8]
    assert pairs(loaded.train) == [(1, 0), (0, 2), (0, 0)]
    assert loaded.train.time.tolist() == [0, 0, 1]
    assert (pairs(loaded.valid), pairs(loaded.test)) == ([(0, 1)], [(0, 3)])


def test_sequences_of_strings(tmp_path):
    (tmp_path / "s.txt").write_text("u1 x 01 y\nu2 01 x\n")
    loaded = data.load(str(tmp_path))
    assert loaded.item_ids.tolist() == ["01", "x", "y"]
    assert pairs(loaded.test) == [(0, 2)]
    (tmp_path / "s.txt").write_text("1 7 07 8\n")
    assert data.load(str(tmp_path)).item_ids.tolist() == ["07", "7", "8"]


@pytest.mark.parametrize("kind", ["txt", "npz"])
def test_lightgcn_layout(tmp_path, kind):
    if kind == "txt":
        (tmp_path / "train.txt").write_text("0 1 2 3\n1 0\n")
    else:
        np.savez(tmp_path / "train.npz", user=[0, 0, 0, 1], item=[1, 2, 3, 0])
    (tmp_path / "test.txt").write_text("0 5\n1 2 3\n2 \n")
    whole = data.load(str(tmp_path), ratios=(1, 0, 0))
    assert pairs(whole.train) == [(0, 1), (0, 2), (0, 3), (1, 0)]
    assert pairs(whole.test) == [(0, 5), (1, 2), (1, 3)] and len(whole.valid) == 0
    assert whole.spec.num_items == 6
    carved = data.load(str(tmp_path))
    assert (len(carved.train), len(carved.valid), len(carved.test)) == (3, 1, 3)
    assert sorted(pairs(carved.train) + pairs(carved.valid)) == pairs(whole.train)


def test_from_frames():
    frame = pd.DataFrame({"user_id": ["b", "a", "b"], "item_id": [5, 5, 7], "rating": [1, 2, 3]})
    loaded = Dataset.from_frames(
        frame,
        features={
            "dict": {7: [1.0, 2.0], 9: [3.0, 4.0]},
            "frame": pd.DataFrame({"item_id": [9, 5], "x": [1, 2]}),
            "index": pd.DataFrame({"x": [1, 2]}, index=[7, 5]),
        },
        titles={5: "five", 9: "nine"},
        **WHOLE,
    )
    assert loaded.item_ids.tolist() == [5, 7, 9]
    np.testing.assert_array_equal(loaded.features["dict"], [[0, 0], [1, 2], [3, 4]])
    np.testing.assert_array_equal(loaded.present["dict"], [False, True, True])
    np.testing.assert_array_equal(loaded.features["frame"], [[2], [0], [1]])
    np.testing.assert_array_equal(loaded.features["index"], [[2], [1], [0]])
    assert loaded.titles.tolist() == ["five", "", "nine"]
    assert loaded.notes["cold_items"] == 1
    assert raw_pairs(loaded) == [("a", 5), ("b", 5), ("b", 7)]


def test_from_arrays_with_dates():
    when = np.array(["2020-01-03", "2020-01-01", "2020-01-02"], "datetime64[D]")
    loaded = data.from_frames({"user": [1, 1, 1], "item": [0, 1, 2], "time": when})
    assert pairs(loaded.test) == [(0, 0)]


# Side information.


def test_features_with_ids_are_put_in_item_order(tmp_path):
    (tmp_path / "r.csv").write_text("user,item\nu,b\nu,a\nv,b\n")
    np.savez(tmp_path / "image.npz", ids=["c", "b"], features=[[1.0], [2.0]])
    (tmp_path / "text_feat.csv").write_text("id,x,y\na,1,2\nb,3,4.5\n")
    np.savez(tmp_path / "other.npz", row=[0])
    loaded = data.load(str(tmp_path), **WHOLE)
    assert loaded.item_ids.tolist() == ["a", "b", "c"]
    assert loaded.spec.feature_dims == (("image", 1), ("text", 2))
    np.testing.assert_array_equal(loaded.features["image"], [[0], [2], [1]])
    np.testing.assert_array_equal(loaded.present["image"], [False, True, True])
    np.testing.assert_array_equal(loaded.features["text"], [[1, 2], [3, 4.5], [0, 0]])


def test_integer_feature_ids_meet_string_item_ids(tmp_path):
    (tmp_path / "r.csv").write_text("user,item\nu,12\nu,x\nv,x\n")
    np.savez(tmp_path / "image.npz", ids=[12], features=[[7.0]])
    loaded = data.load(str(tmp_path), **WHOLE)
    np.testing.assert_array_equal(loaded.features["image"], [[7], [0]])


def test_features_by_name(folder):
    np.save(folder / "user_feat.npy", np.ones((2, 3)))
    assert data.load(str(folder), features=("image_feat.npy",)).spec.modalities == ("image",)


def test_titles_beside_the_interactions(folder):
    (folder / "items.csv").write_text('item_id,Title\n3,"three, or so"\n0,zero\n77,none\n')
    loaded = data.load(str(folder))
    assert loaded.titles.tolist() == ["zero", "", "", "three, or so"]
    assert loaded.notes["titles"]["found"] == 2
    assert loaded.notes["titles"]["of_other_items"] == 1


def save_graph(path, row=(0, 3), col=(1, 2), weight=(0.5, 0.25), shape=(4, 4), **more):
    np.savez(path, row=row, col=col, data=np.float32(weight), shape=shape, **more)


def test_item_graph(folder):
    save_graph(folder / "knn.npz")
    row, col, weight = data.load(str(folder), item_graphs=("knn.npz",)).item_graphs["knn"]
    assert (row.tolist(), col.tolist(), weight.tolist()) == ([0, 3], [1, 2], [0.5, 0.25])


def test_item_graph_with_ids(tmp_path):
    (tmp_path / "r.csv").write_text("user,item\nu,b\nu,a\nv,c\n")
    save_graph(tmp_path / "g.npz", (0,), (1,), (1,), (2, 2), ids=["c", "a"])
    row, col, _ = data.load(str(tmp_path), item_graphs=("g.npz",), **WHOLE).item_graphs["g"]
    assert (row.tolist(), col.tolist()) == ([2], [0])


# What is done to the interactions.


def test_repeats_keep_the_earliest(tmp_path):
    (tmp_path / "r.csv").write_text(
        "user,item,time,rating\n1,5,9,1\n1,5,2,4\n1,6,3,1\n1,7,4,1\n1,6,3,5\n"
    )
    loaded = data.load(str(tmp_path))
    assert loaded.notes["interactions"]["repeats_dropped"] == 2
    assert pairs(loaded.train) == [(0, 0)] and loaded.train.rating.tolist() == [4]
    assert pairs(loaded.valid) == [(0, 1)] and loaded.valid.rating.tolist() == [1]


def test_a_labelled_repeat_stays_in_training(folder):
    (folder / "tiny.inter").write_text(INTER + "0\t1\t2\n")
    assert pairs(data.load(str(folder)).train) == [(0, 1), (1, 0)]
    assert (0, 1) not in pairs(data.load(str(folder)).test)


def test_users_who_do_not_train_are_not_tested(folder):
    (folder / "tiny.inter").write_text(INTER + "2\t1\t2\n")
    loaded = data.load(str(folder))
    assert pairs(loaded.test) == [(0, 2), (1, 1)] and loaded.spec.num_users == 3
    assert loaded.notes["interactions"]["untrained_users_dropped"] == 1


def test_k_core_takes_features_titles_and_graphs_along(tmp_path):
    (tmp_path / "r.csv").write_text("user,item\nu,3\nu,1\nv,3\nv,1\nw,0\nw,2\nw,3\n")
    np.save(tmp_path / "image.npy", np.arange(4.0)[:, None])
    (tmp_path / "names.csv").write_text("item,title\n0,A\n1,B\n2,C\n3,D\n")
    save_graph(tmp_path / "g.npz", (0, 1, 3), (1, 3, 1), (1, 2, 3))
    loaded = data.load(str(tmp_path), k_core=2, **WHOLE, item_graphs=("g.npz",))
    assert raw_pairs(loaded) == [("u", 1), ("u", 3), ("v", 1), ("v", 3)]
    np.testing.assert_array_equal(loaded.features["image"], [[1], [3]])
    assert loaded.titles.tolist() == ["B", "D"]
    assert [a.tolist() for a in loaded.item_graphs["g"]] == [[0, 1], [1, 0], [2, 3]]
    assert loaded.notes["k_core"] == {"k": 2, "users_dropped": 1, "items_dropped": 2}
    assert loaded.notes["interactions"]["k_core_dropped"] == 3


def test_fractions_of_a_second_keep_their_order():
    loaded = data.from_frames({"user": [1, 1, 1], "item": [1, 2, 3], "time": [1.5, 1.25, 1.0]})
    assert pairs(loaded.test) == [(0, 0)]
    assert loaded.test.time.tolist() == [1_500_000]


def test_split_hash_knows_split_and_ids_but_not_the_order_of_lines(folder):
    header, *lines = INTER.splitlines(keepends=True)
    first = data.load(str(folder)).notes["split_hash"]
    (folder / "tiny.inter").write_text(header + "".join(reversed(lines)))
    assert data.load(str(folder)).notes["split_hash"] == first
    (folder / "tiny.inter").write_text(INTER.replace("0\t2\t2", "0\t2\t1"))
    assert data.load(str(folder)).notes["split_hash"] != first
    frames = [
        data.from_frames({"user": [1, 1], "item": items}, **WHOLE) for items in ([1, 2], [1, 3])
    ]
    assert frames[0].notes["split_hash"] != frames[1].notes["split_hash"]


@settings(max_examples=60, deadline=None)
@given(
    st.one_of(
        st.lists(st.tuples(st.integers(-9, 9), st.integers(0, 99), st.integers(0, 5)), min_size=3),
        st.lists(st.tuples(st.text("a0é", min_size=1), st.text("b1", min_size=1), st.just(1)),
                 min_size=3),
    ),
    st.sampled_from(["ratio", "leave_one_out"]),
)  # fmt: skip
def test_nothing_is_lost_or_invented(rows, split):
    user, item, when = map(list, zip(*rows, strict=True))
    given = Table("t", *map(np.array, (user, item, when)))
    try:
        loaded = build(given, split=split)
    except UserError as error:
        assert "split is empty" in str(error)
        return
    assert raw_pairs(loaded) == sorted({(u, i) for u, i, _ in rows})
    assert len(set(loaded.user_ids.tolist())) == loaded.spec.num_users
    assert loaded.notes["interactions"]["read"] == len(rows)


# Mistakes.


def fails(message, source, **options):
    with pytest.raises(UserError, match=message) as raised:
        data.load(str(source), **options)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (INTER.replace("1\t0\t0", "1\t0"), "tiny.inter: line 4: 2 cells where 3 are expected"),
        (INTER.replace("1\t0\t0", "1\t0\t0\t0"), "tiny.inter: line 4: 4 cells"),
        (INTER.replace("0\t1\t0\n", "0\t1\t0\n\n", 1).replace("1\t3\t1", "1\tx\t1"),
         "line 6: 'itemID' is 'x', but ids .* integers"),
        (INTER.replace("1\t3\t1", "1\t-3\t1"), "line 5: 'itemID' is '-3'"),
        (INTER.replace("1\t3\t1", "01\t3\t1"), "line 5: 'userID' is '01'"),
        (INTER.replace("1\t3\t1", "1\t\t1"), "line 5: 'itemID' is empty"),
        (INTER.replace("1\t3\t1", "1\t987654321\t1"), "line 5: .* without wide gaps"),
        (INTER.replace("1\t3\t1", "1\t3\t7"), "line 5: 'x_label' is 7; labels are 0"),
        (INTER.replace("1\t3\t1", "1\t3\tvalid"), "line 5: 'x_label' is 'valid' where a finite"),
        (INTER.replace("x_label", "itemID"), "line 1: the column 'itemID' stands twice"),
        (INTER.replace("userID", "who"), "no column seems to hold the user; it has who, itemID, "
                                         "x_label; set config.data.columns.user"),
        (INTER.replace("x_label", "timestamp").replace("3\t1\n", "3\tsoon\n"),
         "line 5: 'timestamp' is 'soon' where a finite number .*config.data.columns.time"),
        (INTER.replace("x_label", "timestamp").replace("3\t1\n", "3\tnan\n"), "line 5: .*'nan'"),
        (INTER.replace("x_label", "rating").replace("3\t1\n", "3\t\n"),
         "line 5: 'rating' is empty"),
        (INTER.replace("\t2\n", "\t1\n"), "the test split is empty .* config.data.split"),
        (INTER.replace("\t0\n", "\t1\n"), "the training split is empty"),
        ("userID\titemID\tx_label\n", "there is no interaction"),
        ("", "the file is empty"),
        (" \n\n", "the file is empty"),
    ],
)  # fmt: skip
def test_mistakes_in_interactions(folder, text, message):
    (folder / "tiny.inter").write_text(text)
    fails(message, folder)


def test_wrong_encoding(folder):
    (folder / "r.csv").write_bytes("user,item\nann,b\nrené,c\n".encode("latin-1"))
    fails("r.csv: line 3: not UTF-8", folder / "r.csv")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.ones((3, 2)), "image_feat.npy: 3 rows but .*tiny.inter has 4 items"),
        (np.ones((5, 2)), "image_feat.npy: 5 rows but .*tiny.inter has 4 items"),
        (np.ones(4), r"shape \(4,\)"),
        (np.ones((4, 0)), r"shape \(4, 0\)"),
        (np.full((4, 2), "x"), "a matrix of numbers"),
        (np.array([[1, 1], [1, np.nan], [1, 1], [np.nan, 1]]), r"row 2 holds NaN \(2 such rows\)"),
        (np.array([[1, 1], [1, 1], [1, -np.inf], [1, 1]]), "row 3 holds an infinite"),
        (np.array([[1, 1], [1, 1], [1, 1e300], [1, 1]]), "row 3 holds an infinite or too large"),
        (np.array([{}, {}, {}, {}], dtype=object), "image_feat.npy: holds Python objects"),
    ],
)
def test_mistakes_in_features(folder, values, message):
    np.save(folder / "image_feat.npy", values, allow_pickle=True)
    fails(message, folder)


def test_damaged_features(folder):
    path = folder / "image_feat.npy"
    path.write_bytes(path.read_bytes()[:-8])
    fails("image_feat.npy: not a whole NumPy file", folder)
    path.write_bytes(b"")
    fails("image_feat.npy: not a whole NumPy file", folder)
    path.unlink()
    (folder / "text.npz").write_bytes(b"PK\x03\x04 and so on")
    fails("text.npz: not a whole NumPy file", folder, features=("text.npz",))


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"ids": [0, 1], "features": np.ones((3, 1))}, "2 ids but 3 rows"),
        ({"ids": [0, 0], "features": np.ones((2, 1))}, "item id '0' has more than one row"),
        ({"ids": [0, 9], "features": np.ones((2, 1))}, "id '9' is not in the id map"),
        ({"ids": [[0]], "features": np.ones((1, 1))}, "'ids' must be one row"),
        ({"ids": [0, 2], "features": [[1], [np.nan]]}, "row 2 .* drop the row of item '2'"),
        ({"features": np.ones((4, 1))}, "no array 'ids'; it has features"),
    ],
)
def test_mistakes_in_features_with_ids(folder, arrays, message):
    np.savez(folder / "text.npz", **arrays)
    fails(f"text.npz: .*{message}", folder, features=("text.npz",))


def test_mistakes_in_a_feature_table(tmp_path):
    (tmp_path / "r.csv").write_text("user,item\nu,b\nu,a\nv,b\n")
    (tmp_path / "text_feat.csv").write_text("id,x\na,1\nb,many\n")
    fails("text_feat.csv: line 3: 'x' is 'many'", tmp_path)


def test_features_without_ids_need_numbered_items(tmp_path):
    (tmp_path / "r.csv").write_text("user,item\nu,b\nu,a\nv,b\n")
    np.save(tmp_path / "image.npy", np.ones((2, 1)))
    fails("image.npy: rows without ids need item ids 0, 1, 2", tmp_path)


def test_two_files_of_one_modality(folder):
    np.save(folder / "image.npy", np.ones((4, 1)))
    fails("'image' is also the name of", folder)


@pytest.mark.parametrize(
    ("graph", "message"),
    [
        ({"shape": (5, 5)}, "a graph of 5 nodes .* does not fit the 4 items"),
        ({"shape": (4, 5)}, "square"),
        ({"row": (0, 4)}, "edge 2 joins nodes 4 and 2"),
        ({"row": (0,)}, "differ in length"),
        ({"weight": (1, np.nan)}, "weight of edge 2 is not finite"),
        ({"ids": [0, 1, 2, 8]}, "id '8' is not in the id map"),
    ],
)
def test_mistakes_in_item_graphs(folder, graph, message):
    save_graph(folder / "g.npz", **graph)
    fails(f"g.npz: .*{message}", folder, item_graphs=("g.npz",))


def test_titles_of_other_items(folder):
    (folder / "items.csv").write_text("item_id,title\nx,three\n")
    fails("items.csv: no id is an item", folder)


def test_files_that_are_not_there(folder):
    fails("tiny.intre: .* did you mean tiny.inter", folder / "tiny.intre")
    fails("did you mean image_feat.npy", folder, features=("image_feats.npy",))
    fails("did you mean 'synthetic'", "sintetic")
    (folder / "tiny.inter").unlink()
    fails("no file holds interactions", folder)
    (folder / "a.csv").write_text("user,item\n1,2\n")
    (folder / "b.csv").write_text("user,item\n1,2\n")
    fails(r"several files hold interactions \(a.csv, b.csv\)", folder)


def test_a_column_that_is_not_there(folder):
    fails(
        "no column 'when'; it has userID, itemID, x_label; set config.data.columns.time",
        folder,
        columns={"time": "when"},
    )


def test_a_column_that_holds_no_ids(tmp_path):
    pd.DataFrame({"user": [[1], [2]], "item": [1, 2]}).to_parquet(tmp_path / "r.parquet")
    fails("r.parquet: 'user' holds list", tmp_path)
    (tmp_path / "r.parquet").write_bytes(b"PAR1")
    fails("r.parquet: not a readable Parquet file", tmp_path / "r.parquet")


@pytest.mark.parametrize("name", ["train.txt", "test.txt"])
def test_mistakes_in_the_lightgcn_layout(tmp_path, name):
    for part in ("train.txt", "test.txt"):
        (tmp_path / part).write_text("0 1\n1 2\n")
    (tmp_path / name).write_text("0 1\n\n1 2 -4\n")
    fails(f"{name}: line 3: item is '-4'", tmp_path)


@pytest.mark.parametrize(
    ("interactions", "features", "message"),
    [
        ({"user": [1, 2], "item": [1]}, {}, "interactions: cannot be taken as a table"),
        ({"user": [1, 2], "thing": [1, 2]}, {}, "config.data.columns.item"),
        ({"user": [1, None], "item": [1, 2]}, {}, "interactions: row 2: 'user' is empty"),
        ({"user": [1, 2], "item": [0, 1]}, {"x": {0: [1], 1: [1, 2]}}, r"features\['x'\]: cannot"),
        ({"user": [1, 2], "item": [0, 1]}, {"x": np.ones((3, 1))}, r"features\['x'\]: 3 rows"),
    ],
)
def test_mistakes_in_memory(interactions, features, message):
    with pytest.raises(UserError, match=message):
        data.from_frames(interactions, features)


# Prepared data.


def test_prepared_data_keeps_its_split(folder, tmp_path_factory):
    prepared = pytest.importorskip("mmrec_jax.data.prepared")
    loaded = data.load(str(folder))
    at = prepared.write(loaded, tmp_path_factory.mktemp("tfds"), "tiny")
    again = data.load(str(at), max_len=7)
    assert pairs(again.test) == pairs(loaded.test)
    assert again.spec.max_len == 7
    fails("config.data.k_core cannot change a prepared data set", at, k_core=2)
    fails("config.data.split cannot change", at, split="ratio")


def test_movielens_takes_features_by_name(folder, monkeypatch):
    prepared = pytest.importorskip("mmrec_jax.data.prepared")
    ratings = Table("movielens", *map(np.array, ([1, 1, 1], [3, 0, 1], [5, 6, 7])))
    monkeypatch.setattr(prepared, "movielens", lambda source: ratings)
    np.savez(folder / "poster.npz", ids=[1, 2], features=[[1.0], [2.0]])
    loaded = data.load("movielens/100k-ratings", features=(str(folder / "poster.npz"),))
    assert loaded.item_ids.tolist() == [0, 1, 2, 3] and pairs(loaded.test) == [(0, 1)]
    np.testing.assert_array_equal(loaded.present["poster"], [False, True, True, False])


# Real data.


def real(name):
    if not (REAL / name).exists():
        pytest.skip(f"no real data at {REAL / name}")
    return str(REAL / name)


@pytest.mark.real
@pytest.mark.parametrize(
    ("name", "sizes", "counts"),
    [
        ("baby", (19445, 7050), (118551, 20559, 21682)),
        ("clothing", (39387, 23033), (197338, 40150, 41189)),
        ("lastfm2k", (1858, 1425), (44327, 4799, 7219)),
        ("beauty", (22363, 12101), (198502 - 2 * 22363, 22363, 22363)),
        ("microlens50k", (50000, 19220), (359708 - 2 * 50000, 50000, 50000)),
    ],
)
def test_real_sizes(name, sizes, counts):
    loaded = data.load(real(name))
    assert (loaded.spec.num_users, loaded.spec.num_items) == sizes
    assert (len(loaded.train), len(loaded.valid), len(loaded.test)) == counts


@pytest.mark.real
def test_real_side_information():
    graph = "freedom_mm_adj_10_img0.1"
    row, col, weight = data.load(real("baby"), item_graphs=(f"{graph}.npz",)).item_graphs[graph]
    assert row.shape == col.shape == weight.shape == (126598,)
    lastfm = data.load(real("lastfm2k"))
    assert lastfm.spec.feature_dims == (
        ("all-MiniLM-L6-v2", 384),
        ("vggish", 128),
        ("whisper", 512),
    )
    raw = np.load(pathlib.Path(real("lastfm2k")) / "vggish.npy")
    np.testing.assert_array_equal(lastfm.features["vggish"], raw.astype(np.float32))
    beauty = data.load(real("beauty"))
    assert beauty.titles[1] == "Xtreme Brite Brightening Gel 1oz."


@pytest.mark.real
def test_real_gowalla_is_read_quickly():
    start = time.perf_counter()
    loaded = data.load(real("gowalla"), ratios=(1, 0, 0))
    assert time.perf_counter() - start < 6  # 0.3 s alone on a desktop
    assert (loaded.spec.num_users, loaded.spec.num_items) == (29858, 40981)
    assert (len(loaded.train), len(loaded.valid), len(loaded.test)) == (810128, 0, 217242)
