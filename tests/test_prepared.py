"""Prepared data: the round trip, damage, names, and TFDS's MovieLens from a made-up archive."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
import socket
import subprocess
import sys
import time
import zipfile

import numpy as np
import pytest

from mmrec_jax.data import prepared
from mmrec_jax.types import Dataset, Impressions, Interactions, Spec, UserError

TITLES = ["Ünder", "", "Third, with \t tab"]


def tiny(**changes) -> Dataset:
    """Two users and three items with everything that a data set can hold."""
    part = lambda *rows: Interactions(
        *(np.array(c, t) for c, t in zip(zip(*rows, strict=True), "iilf", strict=True))
    )
    data = Dataset(
        name="tiny",
        spec=Spec(
            2, 3, 7, (("text", 2), ("image/raw", 3)), fields=(("hour", 24), ("ad", 5)), codes=(4, 4)
        ),
        train=part((0, 1, 2**40, 4.5), (1, 0, 5, 0.1), (0, 0, 6, 3.0)),
        valid=part((0, 2, 7, 1.0)),
        test=part((1, 2, -8, 2.0), (1, 1, 9, 2.5)),
        user_ids=np.array(["ann", "böb"]),
        item_ids=np.array([10, 2**40, 30]),
        features={
            "text": np.array([[0.1, 1e-30], [0, 0], [3, -4]], np.float32),
            "image/raw": np.arange(9, dtype=np.float32).reshape(3, 3),
        },
        present={"text": np.array([True, False, True]), "image/raw": np.ones(3, bool)},
        titles=np.array(TITLES, object),
        item_graphs={
            "knn": (np.array([0, 2], np.int32), np.array([1, 0], np.int32), np.float32([0.5, 2])),
            "a/b": (np.array([1]), np.array([2]), np.array([0.1])),
        },
        impressions={
            "train": Impressions(
                *np.array([[0, 1], [2, 1]], np.int32),
                time=np.array([5, 2**40]),
                fields=np.array([[23, 4], [0, 1]], np.int32),
                click=np.float32([1, 0]),
                conversion=np.float32([1, 0]),
            )
        },
        notes={"origin": "made up", "counts": {"read": 6}, "split_hash": "abc"},
    )
    return dataclasses.replace(data, **changes)


def assert_same(got, want):
    """Equal in value, type and shape, all the way down."""
    if dataclasses.is_dataclass(want):
        for field in dataclasses.fields(want):
            assert_same(getattr(got, field.name), getattr(want, field.name))
    elif isinstance(want, dict):
        assert list(got) == list(want)
        assert all(assert_same(got[key], want[key]) is None for key in want)
    elif isinstance(want, np.ndarray):
        assert got.dtype == want.dtype
        np.testing.assert_array_equal(got, want)
    elif isinstance(want, tuple):
        assert type(got) is tuple and len(got) == len(want)
        assert all(assert_same(g, w) is None for g, w in zip(got, want, strict=True))
    else:
        assert got == want


def without_origin(data: Dataset) -> Dataset:
    """The data set less the note that reading adds."""
    return dataclasses.replace(data, notes={k: v for k, v in data.notes.items() if k != "prepared"})


def untimed(part: Interactions) -> Interactions:
    return Interactions(part.user, part.item)


@pytest.fixture
def stored(tmp_path):
    """The folder of a prepared set."""
    return prepared.write(tiny(), tmp_path, "mmrec_tiny")


def test_everything_comes_back(stored):
    got = prepared.read(stored)
    assert_same(without_origin(got), tiny())
    assert got.notes["prepared"]["name"] == "mmrec_tiny"
    assert got.notes["prepared"]["version"] == "1.0.0"
    assert len(got.notes["prepared"]["checksum"]) == 64
    assert got.notes["prepared"]["split_hash"] == "abc"


def test_the_least_data_come_back(tmp_path):
    """No time, no rating, no side information, no validation; integer ids of users."""
    full = tiny()
    data = Dataset(
        "least",
        Spec(2, 3),
        untimed(full.train),
        untimed(full.valid).take(np.zeros(0, int)),
        untimed(full.test),
        np.array([7, -1]),
        full.item_ids,
    )
    got = prepared.read(prepared.write(data, tmp_path, "least"))
    assert_same(without_origin(got), data)
    assert got.train.time is None and got.train.rating is None and got.titles is None


def test_rows_keep_their_order_over_blocks(tmp_path, monkeypatch):
    monkeypatch.setattr(prepared, "BLOCK", 2)
    folder = prepared.write(tiny(), tmp_path, "blocks")
    monkeypatch.undo()
    assert_same(without_origin(prepared.read(folder)), tiny())


def test_wide_rows_are_stored_in_smaller_blocks(monkeypatch):
    monkeypatch.setattr(prepared, "BLOCK_BYTES", 4000)
    wide = {"id": np.arange(10, dtype=np.int64), "x": np.zeros((10, 248), np.float32)}  # 1000 bytes
    assert [len(block["id"]) for block in prepared._blocks(wide)] == [4, 4, 2]
    assert [len(b["id"]) for b in prepared._blocks({"id": np.arange(3)[:0]})] == [0]


def test_object_strings_come_back_as_fixed_width(tmp_path):
    data = tiny(user_ids=np.array(["ann", "böb"], object))
    got = prepared.read(prepared.write(data, tmp_path, "objects"))
    assert_same(got.user_ids, np.array(["ann", "böb"]))


@pytest.mark.parametrize("ids", [["ann", 3], ["ann", None]])
def test_mixed_ids_are_an_error(tmp_path, ids):
    with pytest.raises(UserError, match="tiny: users, id: entries are not all strings"):
        prepared.write(tiny(user_ids=np.array(ids, object)), tmp_path, "mixed")
    assert not any(tmp_path.iterdir())


def test_time_in_one_split_only_is_an_error(tmp_path):
    with pytest.raises(UserError, match="'time' is known in some splits only"):
        prepared.write(tiny(valid=untimed(tiny().valid)), tmp_path, "half")


def test_plain_tfds_opens_it(stored, monkeypatch):
    import tensorflow_datasets as tfds

    builder = tfds.builder_from_directory(stored)
    assert builder.info.full_name == "mmrec_tiny/1.0.0"
    assert list(builder.info.splits) == ["train", "valid", "test"]
    facts = builder.info.metadata["mmrec_jax"]
    assert facts["split_hash"] == "abc" and facts["notes"]["origin"] == "made up"
    (block,) = builder.as_data_source("train")
    np.testing.assert_array_equal(block["item"], [1, 0, 0])
    (block,) = tfds.data_source("mmrec_tiny:1.0.0", split="test", data_dir=stored.parents[1])
    np.testing.assert_array_equal(block["time"], [-8, 9])
    assert builder.info.disable_shuffling
    (block,) = tfds.builder_from_directory(stored / "items").as_data_source("rows")
    assert "feature.image%2Fraw" in block  # a slash would nest
    assert [title.decode() for title in block["title"]] == TITLES
    np.testing.assert_array_equal(block["present.text"], [True, False, True])


def test_names_and_versions(tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    for version in ("1.0.0", "1.10.0", "1.9.0"):
        prepared.write(tiny(name=f"v{version}"), tmp_path, "mmrec_tiny", version)
    assert prepared.read("mmrec_tiny").name == "v1.10.0"  # the newest, not the last in the alphabet
    assert prepared.read("mmrec_tiny:1.9.0").name == "v1.9.0"
    assert prepared.read(tmp_path / "mmrec_tiny").name == "v1.10.0"
    assert prepared.read(str(tmp_path / "mmrec_tiny" / "1.0.0")).name == "v1.0.0"
    for unknown in ("mmrec_tiny:2.0.0", "mmrec_other", "/no/such/folder", tmp_path):
        assert prepared.find(unknown) is None
        with pytest.raises(UserError, match="no prepared data set; give its folder"):
            prepared.read(unknown)


def test_a_set_that_was_read_is_written_without_its_origin(stored):
    again = prepared.write(prepared.read(stored), stored.parents[1], "mmrec_tiny", "2.0.0")
    assert_same(without_origin(prepared.read(again)), tiny())
    assert "prepared" not in json.loads((again / "metadata.json").read_text())["mmrec_jax"]["notes"]


def test_notes_that_are_not_json_fail_before_anything_is_written(tmp_path):
    with pytest.raises(TypeError, match="not JSON serializable"):
        prepared.write(tiny(notes={"array": np.zeros(1)}), tmp_path, "noted")
    assert not any(tmp_path.iterdir())


def test_a_set_is_not_overwritten(stored):
    with pytest.raises(UserError, match=r"mmrec_tiny.1\.0\.0 exists already; give a new version"):
        prepared.write(tiny(), stored.parents[1], "mmrec_tiny")


@pytest.mark.parametrize("name, version", [("Baby", "1.0.0"), ("a/b", "1.0.0"), ("baby", "1.0")])
def test_names_that_tfds_cannot_find_are_errors(tmp_path, name, version):
    with pytest.raises(UserError, match="cannot name a prepared set|is not a version"):
        prepared.write(tiny(), tmp_path, name, version)
    assert not any(tmp_path.iterdir())


def test_every_flipped_byte_is_noticed(stored):
    files = [path for path in stored.rglob("*") if path.is_file()]
    assert len(files) == 3 + 3 + 5 * 3  # the three splits; users, items, impressions and two graphs
    for path in files:
        content = path.read_bytes()
        place = len(content) // 2
        path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        with pytest.raises(UserError, match=r"damaged.*; remove the folder and prepare"):
            prepared.read(stored)
        path.write_bytes(content)
    prepared.read(stored)


def test_truncated_and_missing_files_are_noticed(stored):
    for path in [path for path in stored.rglob("*") if path.is_file()]:
        content = path.read_bytes()
        path.write_bytes(content[: len(content) // 2])
        with pytest.raises(UserError, match="damaged"):
            prepared.read(stored)
        path.unlink()
        with pytest.raises(UserError, match="missing.*; remove the folder and prepare"):
            prepared.read(stored)
        path.write_bytes(content)


def test_metadata_of_others_or_edited_are_named(stored):
    path = stored / "metadata.json"
    content = json.loads(path.read_text())
    content["mmrec_jax"]["format"] = 99
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match="format 99, but this version reads 1"):
        prepared.read(stored)
    content["mmrec_jax"] |= {"format": 1, "split_hash": "another"}
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match="metadata.json: damaged, its checksum does not match"):
        prepared.read(stored)
    path.write_text('{"other": 1}')
    with pytest.raises(UserError, match="a TFDS set that mmrec_jax has not prepared"):
        prepared.read(stored)


@pytest.mark.parametrize("step", ["_store", "_digests", "_checksum"])
def test_an_interrupted_write_leaves_nothing(tmp_path, monkeypatch, step):
    def interrupt(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(prepared, step, interrupt)
        with pytest.raises(KeyboardInterrupt):
            prepared.write(tiny(), tmp_path, "cut")
    assert not any((tmp_path / "cut").iterdir())
    assert prepared.find(tmp_path / "cut") is None


def test_a_killed_write_leaves_nothing_that_reads(tmp_path, monkeypatch):
    """A killed process cleans nothing up, so its folder stays, under another name."""
    with monkeypatch.context() as patch:
        patch.setattr(prepared, "_digests", lambda _: 1 / 0)
        patch.setattr(shutil, "rmtree", lambda *_, **__: None)
        with pytest.raises(ZeroDivisionError):
            prepared.write(tiny(), tmp_path, "cut")
    (left,) = (tmp_path / "cut").iterdir()
    assert left.name.startswith("incomplete.")
    assert prepared.find(tmp_path / "cut") is None
    with pytest.raises(UserError, match="metadata.json is missing, the set is incomplete"):
        prepared.read(left)
    prepared.read(prepared.write(tiny(), tmp_path, "cut"))  # and it is not in the way


def test_a_million_interactions_in_seconds(tmp_path):
    rng = np.random.default_rng(0)
    count = 1_000_000
    many = Interactions(
        rng.integers(0, 50_000, count, np.int32),
        rng.integers(0, 20_000, count, np.int32),
        rng.integers(0, 2**40, count),
        rng.random(count, np.float32),
    )
    few = many.take(np.arange(10))
    users, items = np.arange(50_000).astype("<U5"), np.arange(20_000)
    data = Dataset("many", Spec(50_000, 20_000), many, few, few, users, items)
    import tensorflow_datasets  # noqa: F401  its import is not what is timed

    start = time.perf_counter()
    got = prepared.read(prepared.write(data, tmp_path, "many"))
    # Some 0.5 s on a free machine; a record per row would take minutes.
    assert time.perf_counter() - start < 60
    assert_same(got.train, many)
    assert_same(got.user_ids, users)


def test_no_tensorflow_and_no_tfds_until_needed(tmp_path):
    """In a fresh process: the package loads without TFDS, and TFDS works without TensorFlow."""
    code = (
        "import sys, numpy as np\n"
        "import mmrec_jax.data\n"
        "from mmrec_jax.data import prepared\n"
        "assert 'tensorflow_datasets' not in sys.modules\n"
        "from mmrec_jax.types import Dataset, Interactions, Spec\n"
        "one = Interactions(np.zeros(1, np.int32), np.zeros(1, np.int32))\n"
        "data = Dataset('x', Spec(1, 1), one, one, one, np.array(['u']), np.array([3]))\n"
        "prepared.read(prepared.write(data, sys.argv[1], 'x'))\n"
        "assert 'tensorflow_datasets' in sys.modules and 'tensorflow' not in sys.modules\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, ""), done.stderr


# --- MovieLens ------------------------------------------------------------------------------------

FILES = {
    "100k": {
        "u.user": "1|24|M|technician|85711\n2|53|F|other|94043\n",
        "u.item": "\n".join(
            f"{number}|{title}|01-Jan-1995||http://x|" + "|".join(["0", "1"] + ["0"] * 17)
            for number, title in ((11, "Café (1995)"), (5, "Four Rooms"))
        )
        + "\n",
        "u.data": "1\t11\t5\t874965758\n2\t11\t3\t888550871\n2\t5\t1\t1\n",
    },
    "1m": {
        "users.dat": "1::M::25::12::85711\n2::F::56::0::94043\n",
        "movies.dat": "11::Café (1995)::Children's|Comedy\n5::Four Rooms::Drama\n",
        "ratings.dat": "1::11::5::874965758\n2::11::3::888550871\n2::5::1::1\n",
    },
    "latest-small": {
        "movies.csv": "movieId,title,genres\n11,Café (1995),Comedy\n5,Four Rooms,Drama\n",
        "ratings.csv": "userId,movieId,rating,timestamp\n"
        "1,11,5.0,874965758\n2,11,3.0,888550871\n2,5,1.0,1\n",
    },
}


@pytest.fixture
def archive(tmp_path, monkeypatch):
    """Puts a made-up archive where a user puts one by hand; ``archive(edition)`` makes it."""
    from mmrec_jax.data import movielens

    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    monkeypatch.setattr(movielens, "_reachable", lambda url: pytest.fail(f"asked for {url}"))

    def make(edition: str) -> None:
        import tensorflow_datasets as tfds

        path = tmp_path / "downloads" / "manual" / f"ml-{edition}.zip"
        path.parent.mkdir(parents=True)
        encoding = "utf-8" if edition == "latest-small" else "latin-1"
        with zipfile.ZipFile(path, "w") as packed:
            for name, text in FILES[edition].items():
                packed.writestr(f"ml-{edition}/{name}", text.encode(encoding))
        info = tfds.core.download.checksums.UrlInfo(
            size=path.stat().st_size,
            checksum=hashlib.sha256(path.read_bytes()).hexdigest(),
            filename=path.name,
        )
        url = f"https://files.grouplens.org/datasets/movielens/{path.name}"
        monkeypatch.setattr(movielens.movielens.Movielens, "url_infos", {url: info})

    return make


@pytest.mark.parametrize("edition", FILES)
def test_movielens_is_parsed_without_tensorflow(archive, edition, capsys, caplog):
    archive(edition)
    table = prepared.movielens(f"movielens/{edition}-ratings")
    order = np.argsort(table.time)
    np.testing.assert_array_equal(table.user[order], [2, 1, 2])
    np.testing.assert_array_equal(table.item[order], [5, 11, 11])
    np.testing.assert_array_equal(table.time[order], [1, 874965758, 888550871])
    np.testing.assert_array_equal(table.rating[order], np.float32([1, 5, 3]))
    np.testing.assert_array_equal(table.titles.ids, [5, 11])
    np.testing.assert_array_equal(table.titles.text, ["Four Rooms", "Café (1995)"])
    assert table.notes == {"source": f"TFDS movielens/{edition}-ratings/0.1.1"}
    assert "tensorflow" not in sys.modules
    assert capsys.readouterr().out == "" and not caplog.records


def test_movielens_that_tfds_has_prepared_is_read(tmp_path, monkeypatch):
    """Records as TFDS itself writes them; no archive is looked for."""
    from mmrec_jax.data import movielens

    ratings = [("2", "5", 0.5, 7), ("10", "11", 4.5, 8), ("2", "11", 3.0, 9)]

    class Prepared(movielens.movielens.Movielens, skip_registration=True):
        name = "movielens"

        def _split_generators(self, dl_manager):
            names = ("user_id", "movie_id", "user_rating", "timestamp")
            rest = {"movie_title": "Café", "movie_genres": ["Drama"]}
            rows = (dict(zip(names, row, strict=True)) | rest for row in ratings)
            return {"train": enumerate(rows)}

    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    monkeypatch.setattr(movielens, "_CHUNK", 2)
    monkeypatch.setattr(movielens, "_archive", lambda _: pytest.fail("looked for the archive"))
    builder = Prepared(config="latest-small-ratings", data_dir=tmp_path)
    builder.download_and_prepare(file_format="array_record")
    table = prepared.movielens("movielens/latest-small-ratings")
    order = np.argsort(table.time)
    np.testing.assert_array_equal(table.user[order], [2, 10, 2])
    np.testing.assert_array_equal(table.item[order], [5, 11, 11])
    np.testing.assert_array_equal(table.rating[order], np.float32([0.5, 4.5, 3]))
    np.testing.assert_array_equal(table.time[order], [7, 8, 9])
    np.testing.assert_array_equal(table.titles.ids, [5, 11])
    np.testing.assert_array_equal(table.titles.text, ["Café", "Café"])

    info = tmp_path / "movielens" / "latest-small-ratings" / "0.1.1" / "dataset_info.json"
    info.write_text(info.read_text().replace("array_record", "tfrecord"))  # needs TensorFlow
    with pytest.raises(pytest.fail.Exception, match="looked for the archive"):
        prepared.movielens("movielens/latest-small-ratings")


def test_another_archive_than_the_registered_one_is_refused(archive, tmp_path):
    archive("100k")
    path = tmp_path / "downloads" / "manual" / "ml-100k.zip"
    path.write_bytes(path.read_bytes() + b"x")
    with pytest.raises(UserError, match="ml-100k.zip: cannot be had: .* wrong checksum"):
        prepared.movielens("movielens/100k-ratings")


def test_offline_is_said_at_once(tmp_path, monkeypatch):
    def closed(*_, **__):
        raise socket.gaierror("the network is closed")

    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    monkeypatch.setattr(socket, "getaddrinfo", closed)
    for proxy in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(proxy, raising=False)
    start = time.perf_counter()
    with pytest.raises(UserError) as error:
        prepared.movielens("movielens/1m-ratings")
    assert time.perf_counter() - start < 5
    assert "ml-1m.zip cannot be reached" in str(error.value)
    assert f"put the archive at {tmp_path}/downloads/manual/ml-1m.zip" in str(error.value)


def test_unknown_edition_of_movielens():
    with pytest.raises(UserError, match="is no edition of MovieLens; give one of .*1m-ratings"):
        prepared.movielens("movielens/2k-ratings")
