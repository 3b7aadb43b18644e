"""Texts and images to features: what is computed, what is written, and that the reader takes it."""

import os
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest

from mmrec_jax import data as datasets
from mmrec_jax import store
from mmrec_jax.data import encode
from mmrec_jax.types import UserError

ROOT = Path(__file__).parent.parent
REAL = ROOT.parent / "shared" / "data"


def items(*texts):
    return encode.Items(np.arange(len(texts)), np.array(texts, object), "here")


def loaded(path):
    with np.load(path) as file:
        return file["ids"], file["features"]


@pytest.fixture
def folder(tmp_path):
    """Interactions of items a to d, and texts of some of them and of another."""
    pairs = [f"u{u},{i}" for u in range(6) for i in "abcd"]
    (tmp_path / "clicks.csv").write_text("user,item\n" + "\n".join(pairs) + "\n")
    lines = ["z\tgreen tea\t3", "c\tblack tea\t1", "a\tcoffee, black\t2", "d\t?!\t4"]
    (tmp_path / "texts.tsv").write_text("item\ttitle\tprice\n" + "\n".join(lines) + "\n")
    return tmp_path


def test_inner_products_are_those_of_tfidf():
    made = encode.tfidf(["A b", "c, a!", "d"])
    a, rare = np.log(4 / 3) + 1, np.log(4 / 2) + 1  # a is in two of three texts, others in one
    cosine = a**2 / (a**2 + rare**2)
    np.testing.assert_allclose(
        made @ made.T, [[1, cosine, 0], [cosine, 1, 0], [0, 0, 1]], atol=1e-6
    )
    assert made.dtype == np.float32 and made.shape == (3, 3)


def test_counts_of_a_word_and_letters_beyond_ascii():
    made = encode.tfidf(["été été x", "ÉTÉ x y", ""])
    e, y = np.log(4 / 3) + 1, np.log(4 / 2) + 1
    dot = (2 * e) * e + e * e
    norms = np.sqrt((2 * e) ** 2 + e**2) * np.sqrt(2 * e**2 + y**2)
    np.testing.assert_allclose(made[0] @ made[1], dot / norms, rtol=1e-5)
    assert not made[2].any()


def test_words_that_share_a_hash_share_a_column(monkeypatch):
    monkeypatch.setattr(encode, "_BUCKETS", 2)
    made = encode.tfidf(["a", "b", "d"])  # CRC-32 e8b7be43, 71beeff9, 98dd4acc
    np.testing.assert_allclose(made @ made.T, [[1, 1, 0], [1, 1, 0], [0, 0, 1]], atol=1e-6)


def test_few_columns_are_the_best_of_their_number():
    rng = np.random.default_rng(0)
    texts = [" ".join(f"w{n}" for n in rng.geometric(0.1, 12)) for _ in range(60)]
    full, few = encode.tfidf(texts, 60), encode.tfidf(texts, 7)
    assert few.shape == (60, 7)
    value = np.linalg.svd(full, compute_uv=False)
    np.testing.assert_allclose(np.linalg.norm(few, axis=0), value[:7], rtol=1e-4)
    np.testing.assert_allclose(few, full[:, :7], atol=1e-4)  # by two algorithms, so signs too
    np.testing.assert_array_equal(few, encode.tfidf(texts, 7))


def test_two_processes_write_the_same_bytes(folder):
    rng = np.random.default_rng(0)
    words = [" ".join(f"w{n}" for n in rng.geometric(0.1, 12)) for _ in range(400)]
    lines = [f"{n},{text}" for n, text in enumerate(words)]
    (folder / "many.csv").write_text("item,text\n" + "\n".join(lines) + "\n")
    for seed in ("1", "2"):
        done = subprocess.run(
            [sys.executable, "launch.py", "--mode=encode", f"--text={folder / 'many.csv'}",
             "--encoder=tfidf:16", f"--output={folder / seed / 'text.npz'}"],
            cwd=ROOT, capture_output=True, text=True,
            env={**os.environ, "PYTHONHASHSEED": seed, "OPENBLAS_NUM_THREADS": "1"},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
    assert "400 rows of 16 numbers, 0 items missing, 0 of other items left out" in done.stdout
    first, second = ((folder / seed / "text.npz").read_bytes() for seed in ("1", "2"))
    assert first == second


def test_features_reach_their_items_and_the_rest_counts_as_missing(folder):
    settings = {"source": str(folder / "clicks.csv"), "columns": {}}
    output = folder / "made" / "text.npz"
    said = encode.write(settings, str(folder / "texts.tsv"), None, "tfidf", str(output))
    assert said.endswith("2 rows of 2 numbers, 2 items missing, 1 of other items left out")
    data = datasets.load(settings["source"], features=(str(output),), split="ratio")
    assert data.item_ids.tolist() == ["a", "b", "c", "d"]
    assert data.present["text"].tolist() == [True, False, True, False]
    expected = encode._unit(encode.tfidf(["coffee, black", "black tea", "?!"]))
    np.testing.assert_array_equal(data.features["text"][[0, 2]], expected[:2])
    assert not data.features["text"][[1, 3]].any()


def test_words_are_counted_and_named():
    texts = ["Tea tea black", "black tea a", "milk, tea", "milk", "sugar", "a"]
    counts, words = encode.count_words(texts, least=2, most=0.5)
    assert words == ["black", "milk", "tea"]  # sugar stands in one text, a is too short
    assert counts.tolist() == [[1, 0, 2], [1, 0, 1], [0, 1, 1], [0, 1, 0], [0, 0, 0], [0, 0, 0]]
    assert counts.dtype == np.float32
    assert encode.count_words(texts, least=2, most=0.4)[1] == ["black", "milk"]
    assert encode.count_words(texts, width=2, least=2, most=0.5)[1] == ["black", "tea"]
    with pytest.raises(UserError, match="no word stands in at least 5 texts"):
        encode.count_words(texts)


def test_counts_are_kept_as_they_are(tmp_path):
    texts = ["tea tea", "tea", "tea", "tea", "tea", *["x1"] * 5]
    made = encode.encode(items(*texts), "words:1", tmp_path / "words.npz")
    with np.load(tmp_path / "words.npz") as file:
        assert file["features"][:2].tolist() == [[2], [1]]
    assert (made["encoder"], made["words"], made["width"]) == ("words", ["tea"], 1)
    assert len(made["missing"]) == 5


def test_provenance_tells_what_was_encoded_and_how(folder):
    output = folder / "text.npz"
    made = encode.encode(encode.read_texts(str(folder / "texts.tsv")), "tfidf:9", output)
    told = store.read_json(folder / "text.provenance.json", "")
    assert told == made
    assert (told["encoder"], told["version"]) == ("tfidf", encode.TFIDF_VERSION)
    assert set(told["libraries"]) >= {"numpy", "scipy", "pyarrow"}
    assert told["source"].endswith("texts.tsv: title")  # the price is a number, not a text
    assert (told["items"], told["width"], told["missing"]) == (4, 3, ["d"])
    assert told["date"].endswith("+00:00")
    again = encode.encode(encode.read_texts(str(folder / "texts.tsv")), "tfidf:9", output)
    assert again["sha256"] == told["sha256"]
    other = encode.Items(np.array(["z", "c"]), np.array(["green", "tea"], object), "")
    assert encode.encode(other, "tfidf", output)["sha256"]["content"] != told["sha256"]["content"]


def test_a_failure_leaves_the_former_file(folder, monkeypatch):
    output = folder / "text.npz"
    encode.encode(items("one", "two"), "tfidf", output)
    before = output.read_bytes()

    def full(file, **arrays):
        file.write(b"half")
        raise OSError("no space left")

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(OSError, match="no space left"):
        encode.encode(items("three", "four"), "tfidf", output)
    assert output.read_bytes() == before
    assert not [path for path in folder.iterdir() if path.name.endswith(".part")]


def test_columns_by_name_and_items_on_several_lines(folder):
    table = folder / "several.csv"
    table.write_text("movie_id,title,note\n2,Heat,old\n1,Alien,\n2,Heat,long\n2,Heat,old\n")
    both = encode.read_texts(str(table))
    assert (both.ids.tolist(), both.content.tolist()) == ([2, 1], ["Heat old Heat long", "Alien"])
    one = encode.read_texts(f"{table}:note")
    assert one.content.tolist() == ["old long", ""]
    first = encode.read_texts(f"{table}:title", {"item": "7", "user": "1"})  # of other files
    assert first.ids.tolist() == [2, 1]


def test_titles_of_a_data_set_are_texts_too(folder):
    (folder / "names.csv").write_text("item,title\na,Coffee\nb,Tea\n")
    output = folder / "out" / "text.npz"
    encode.write({"source": str(folder / "clicks.csv")}, None, None, "tfidf", str(output))
    ids, features = loaded(output)
    assert ids.tolist() == ["a", "b"] and features.shape == (2, 2)


@pytest.fixture
def library(monkeypatch):
    """A stand-in for sentence-transformers whose vectors are counts of what it was given."""

    class Model:
        def __init__(self, path, local_files_only=False):
            assert local_files_only and os.environ["HF_HUB_OFFLINE"] == "1"
            if not (Path(path) / "weights").exists():
                raise ValueError("no weights\nTraceback of a kind")

        def encode(self, contents, **options):
            size = lambda x: (3.0, len(x)) if isinstance(x, str) else np.asarray(x).mean((0, 1))[:2]
            return np.array([size(x) for x in contents], np.float64)

    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    module = types.SimpleNamespace(SentenceTransformer=Model)
    monkeypatch.setitem(sys.modules, "sentence_transformers", module)


def test_a_model_from_a_folder(folder, library):
    (folder / "model").mkdir()
    (folder / "model" / "weights").write_bytes(b"1")
    output = folder / "text.npz"
    told = encode.encode(items("four", "", "1"), str(folder / "model"), output)
    ids, features = loaded(output)
    assert ids.tolist() == [0, 2] and features.dtype == np.float32
    np.testing.assert_allclose(features, [[0.6, 0.8], [3 / 10**0.5, 1 / 10**0.5]], rtol=1e-6)
    assert told["missing"] == [1] and "sentence-transformers" in told["libraries"]
    (folder / "model" / "weights").write_bytes(b"2")
    other = encode.encode(items("four"), str(folder / "model"), output)
    assert other["version"] != told["version"]  # the digest of the model's files


def test_images_by_item(folder, library, monkeypatch):
    from PIL import Image

    for name in ("model", "images"):
        (folder / name).mkdir()
    (folder / "model" / "weights").write_bytes(b"1")
    for item, colour in ((3, (30, 40, 0)), (12, (50, 0, 0)), (4, (0, 9, 9))):
        Image.new("RGB", (2, 2), colour).save(folder / "images" / f"{item}.png")
    monkeypatch.setattr(encode, "_CHUNK", 2)
    output = folder / "image.npz"
    write = lambda: encode.write(
        {"source": "synthetic"}, None, str(folder / "images"), str(folder / "model"), str(output)
    )
    assert "3 rows of 2 numbers" in write()
    ids, features = loaded(output)
    assert ids.tolist() == [12, 3, 4]
    np.testing.assert_allclose(features, [[1, 0], [0.6, 0.8], [0, 1]], rtol=1e-6)
    (folder / "images" / "4.png").write_bytes(b"no image")
    with pytest.raises(UserError, match="4.png: not a readable image"):
        write()


def test_mistakes_are_one_line(folder, library, monkeypatch):
    synthetic, output = {"source": "synthetic"}, str(folder / "text.npz")
    (folder / "empty").mkdir()
    (folder / "plain").mkdir()
    (folder / "plain" / "clicks.csv").write_text((folder / "clicks.csv").read_text())
    (folder / "numbers.csv").write_text("item,price\n1,2\n")
    write = lambda *args: encode.write(*args, output)
    texts = str(folder / "texts.tsv")
    untitled = {"source": str(folder / "plain")}
    for said, call in {
        "the name must end in .npz": lambda: encode.encode(items("a"), "tfidf", "text.csv"),
        "no item has a text": lambda: encode.encode(items("", ""), "tfidf", output),
        "give tfidf, or the path of": lambda: write(synthetic, texts, None, "nowhere"),
        "as in tfidf:256": lambda: write(synthetic, texts, None, "tfidf:wide"),
        "cannot use it .no weights.;": lambda: write(synthetic, texts, None, str(folder / "empty")),
        "two modalities": lambda: write(synthetic, texts, str(folder), "tfidf"),
        "no image; name them by item": lambda: write(synthetic, None, str(folder), "tfidf"),
        "no column 'nme'; it has item, title": lambda: encode.read_texts(f"{texts}:nme"),
        "no column but 'item' holds": lambda: encode.read_texts(str(folder / "numbers.csv")),
        "no titles; name a table": lambda: write(untitled, None, None, "tfidf"),
    }.items():
        with pytest.raises(UserError, match=said) as caught:
            call()
        assert "\n" not in str(caught.value)
    assert not Path(output).exists()
    strangers = {"source": str(folder / "clicks.csv")}
    (folder / "others.csv").write_text("item,text\nq,hello\n")
    with pytest.raises(UserError, match="others.csv: text: no id is an item of clicks"):
        write(strangers, str(folder / "others.csv"), None, "tfidf")
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(UserError, match=r"pip install 'mmrec_jax\[encoders\]'"):
        write(synthetic, texts, None, str(folder / "empty"))


@pytest.mark.real
@pytest.mark.parametrize(
    "name,count,first",
    [
        ("beauty/item_description.tsv:title,brand", 12101, "WAWO 15 Color Professionl"),
        ("lastfm2k/item_text.tsv", 12523, "better than lady gaga,gothic"),
        ("microlens50k/MicroLens-50k_titles.csv", 19220, "Gu long song gaga bad"),
        ("ml100k/items_overview.csv:title", 1682, "Toy Story (1995)"),
    ],
)
def test_layouts_of_real_texts(name, count, first):
    if not (REAL / name.split(":")[0]).exists():
        pytest.skip("no real data beside the checkout")
    read = encode.read_texts(str(REAL / name))
    assert len(read.ids) == count and read.ids[0] == 1
    assert read.content[0].startswith(first) and (read.content != "").mean() > 0.99
