"""Faulty files, configurations and commands: one line that helps, status 2, and no file left.

Every case runs the launcher from its flags on, in this process; some run in one of their own.
"""

from __future__ import annotations

import bz2
import contextlib
import gzip
import io
import json
import math
import os
import pickle
import re
import runpy
import shutil
import subprocess
import sys
import warnings
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import pytest
from absl import flags

from mmrec_jax import data, memory, store
from mmrec_jax.data import prepared
from mmrec_jax.types import UserError

ROOT = Path(__file__).parent.parent
POPULARITY = f"--config={ROOT}/configs/baseline/popularity.py"
MF = f"--config={ROOT}/configs/baseline/mf.py"
DEBUG = [f"{POPULARITY}:debug"]
INTER = "userID\titemID\tx_label\n0\t1\t0\n0\t2\t2\n1\t0\t0\n1\t3\t1\n1\t1\t2\n"
TABLE = "user,item\nu,b\nu,a\nv,b\nv,c\nu,c\n"
TIMES = "user,item,timestamp\nu,a,{}\nu,b,1600000001\nu,c,1600000002\nv,a,1600000003\n"


class Case(NamedTuple):
    """What is done to a folder that was fine, what is called, and what the error says.

    The folder ``set`` has ``tiny.inter`` and ``image_feat.npy``, 2 users and 4 items; it is what
    is read unless ``flags`` name a source.
    """

    name: str
    spoil: Callable[[Path], object]
    says: str
    flags: Sequence[str] = ()


def text(content: str | bytes, name: str = "tiny.inter") -> Callable:
    content = content.encode() if isinstance(content, str) else content
    return lambda folder: (folder / name).write_bytes(content)


def table(content: str | bytes, name: str = "r.csv") -> Callable:
    """A table in place of the interactions, and no features."""

    def write(folder: Path) -> None:
        for path in folder.iterdir():
            path.unlink()
        text(content, name)(folder)

    return write


def frame(name: str = "r.parquet", **columns) -> Callable:
    return lambda folder: (table("")(folder), (folder / "r.csv").unlink(),
                           pd.DataFrame(columns).to_parquet(folder / name))  # fmt: skip


def array(values, name: str = "image_feat.npy") -> Callable:
    return lambda folder: np.save(folder / name, values, allow_pickle=True)


def arrays(name: str = "text.npz", **values) -> Callable:
    return lambda folder: np.savez(folder / name, **values)


def cut(name: str, keep: float = 0.5) -> Callable:
    def truncate(folder: Path) -> None:
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[: int(len(content) * keep)])

    return truncate


def both(*parts: Callable) -> Callable:
    return lambda folder: [part(folder) for part in parts]


def nothing(folder: Path) -> None:
    del folder


def source(name: str) -> tuple[str, ...]:
    return (POPULARITY, f"--config.data.source=set/{name}")


def header(shape: tuple[int, ...], kind: str = "<f4") -> bytes:
    """The start of an ``.npy`` file that declares ``shape``."""
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        stream, {"descr": kind, "fortran_order": False, "shape": shape}
    )
    return stream.getvalue()


def bomb(shape: tuple[int, int]) -> Callable:
    """A small ``.npz`` whose directory and headers agree that it holds an array of ``shape``.

    Nothing but reading it would tell that it does not, and reading is what must not happen.
    """

    def write(folder: Path) -> None:
        with zipfile.ZipFile(folder / "text.npz", "w", zipfile.ZIP_DEFLATED) as packed:
            for name, size in (("ids", shape[:1]), ("features", shape)):
                start = header(size)
                packed.writestr(f"{name}.npy", start + bytes(2**16))
                packed.filelist[-1].file_size = len(start) + 4 * math.prod(size)

    return write


def liar(folder: Path) -> None:
    """An ``.npz`` whose member declares far more than it holds."""
    with zipfile.ZipFile(folder / "text.npz", "w") as packed:
        for name in ("ids", "features"):
            packed.writestr(f"{name}.npy", header((2**40, 2**20)) + bytes(64))


class Evil:
    """Would make a file if it were unpickled."""

    def __reduce__(self):
        return (Path.touch, (Path("PWNED"),))


def pickled_member(folder: Path) -> None:
    with zipfile.ZipFile(folder / "text.npz", "w") as packed:
        packed.writestr("features", pickle.dumps(Evil()))
        packed.writestr("ids", pickle.dumps(Evil()))


def graph(**changes) -> Callable:
    given = {"row": [0, 1], "col": [1, 2], "data": [1.0, 1.0], "shape": (4, 4), **changes}
    given = {name: values for name, values in given.items() if values is not None}
    return arrays("g.npz", **given)


def codes(**columns) -> Callable:
    whole = {"item": ["0", "1", "2", "3"], "code_0": [0, 1, 2, 3], **columns}
    return lambda folder: pd.DataFrame(whole).to_parquet(folder / "codes.parquet")


TEXT = ("--config.data.features=('text.npz',)",)
GRAPH = ("--config.data.item_graphs=('g.npz',)",)
CODES = ("--config.data.codes=codes.parquet",)
INDEX = ("--config.data.codes=x.index.json",)
WIDE = {"ids": np.arange(4), "features": np.ones((4, 2))}

READERS = [
    # Text: encodings and shape.
    Case(
        "utf-16",
        table(TABLE.encode("utf-16")),
        "r.csv: line 1: .*UTF-16.*save .* UTF-8",
        source("r.csv"),
    ),
    Case(
        "utf-16 without a mark",
        table(TABLE.encode("utf-16-le")),
        "r.csv: line 1: .*UTF-16",
        source("r.csv"),
    ),
    Case("utf-16 .inter", text(INTER.encode("utf-16")), "tiny.inter: line 1: .*UTF-16"),
    Case("utf-32", table(TABLE.encode("utf-32")), "r.csv: line 1: .*UTF-", source("r.csv")),
    Case(
        "latin-1",
        table(TABLE.replace("b", "é").encode("latin-1")),
        "r.csv: line 2: not UTF-8",
        source("r.csv"),
    ),
    Case(
        "latin-1 in the header",
        table(TABLE.replace("item", "é").encode("latin-1")),
        "r.csv: line 1: not UTF-8",
        source("r.csv"),
    ),
    Case(
        "a NUL byte in an early line",
        table(TABLE.replace("v,b", "v,b\0")),
        "r.csv: line 4: a NUL byte",
        source("r.csv"),
    ),
    Case(
        "a NUL byte in an id",
        table(TABLE + "u,d\n" * 200 + "v,a\0\n"),
        "r.csv: line 207: 'item' holds a NUL byte; take it out",
        source("r.csv"),
    ),
    Case(
        "a NUL byte in lines of ids",
        table("u a b\nv a\0 c\n", "s.txt"),
        "s.txt: line 2: .*NUL",
        source("s.txt"),
    ),
    Case("a NUL byte alone", text(b"\0"), "tiny.inter: line 1: .*NUL"),
    Case("empty", text(""), "tiny.inter: the file is empty"),
    Case("blank", text(" \n \n"), "tiny.inter: the file is empty"),
    Case("a byte order mark alone", text(b"\xef\xbb\xbf"), "tiny.inter: the file is empty"),
    Case("header only", text("userID\titemID\tx_label\n"), "tiny.inter: there is no interaction"),
    Case(
        "header only in a table",
        table("user,item\n"),
        "r.csv: there is no interaction",
        source("r.csv"),
    ),
    Case(
        "too few cells",
        text(INTER.replace("1\t0\t0", "1\t0")),
        "tiny.inter: line 4: 2 cells where 3 are expected.*mend or drop",
    ),
    Case(
        "too many cells",
        text(INTER.replace("1\t0\t0", "1\t0\t0\t0")),
        "tiny.inter: line 4: 4 cells where 3",
    ),
    Case(
        "commas in a .inter", text(INTER.replace("\t", ",")), "tiny.inter: line 1: .*tab.*separate"
    ),
    Case(
        "commas in a .tsv", table(TABLE, "r.tsv"), "r.tsv: line 1: .*tab.*separate", source("r.tsv")
    ),
    Case(
        "an unknown separator",
        table(TABLE.replace(",", "#")),
        "r.csv: no column seems to hold the user; it has user#item",
        source("r.csv"),
    ),
    Case(
        "an unclosed quote",
        table(TABLE.replace("v,b", 'v,"b')),
        "r.csv: the quote before 'b' is left open, .*close or remove it",
        source("r.csv"),
    ),
    Case(
        "a column twice",
        text(INTER.replace("x_label", "itemID")),
        "tiny.inter: line 1: the column 'itemID' stands twice",
    ),
    Case(
        "a column twice in Parquet",
        lambda folder: _twice(folder),
        "r.parquet: .*stands twice",
        source("r.parquet"),
    ),
    Case("gzip", table(gzip.compress(TABLE.encode())), "r.csv: .*gzip.*unpack", source("r.csv")),
    Case(
        "gzip cut short",
        table(gzip.compress(TABLE.encode())[:30], "r.csv.gz"),
        "r.csv.gz: .*gzip.*unpack",
        source("r.csv.gz"),
    ),
    Case("bzip2", table(bz2.compress(TABLE.encode())), "r.csv: .*bzip2.*unpack", source("r.csv")),
    Case(
        "a spreadsheet named .csv",
        table(b"PK\x03\x04" + bytes(40)),
        "r.csv: .*zip.*",
        source("r.csv"),
    ),
    Case(
        "Parquet cut short",
        both(frame(user=[1, 2], item=[1, 2]), cut("r.parquet")),
        "r.parquet: not a readable Parquet file; write it again",
        source("r.parquet"),
    ),
    Case(
        "text named .parquet",
        table(TABLE, "r.parquet"),
        "r.parquet: not a readable Parquet",
        source("r.parquet"),
    ),
    Case(
        "Parquet named .csv",
        both(frame("r.csv", user=[1, 2], item=[1, 2])),
        "r.csv: .*Parquet.*",
        source("r.csv"),
    ),
    # Ids.
    Case(
        "a negative id",
        text(INTER.replace("1\t3\t1", "1\t-3\t1")),
        "tiny.inter: line 5: 'itemID' is '-3', but ids .* integers from 0",
    ),
    Case(
        "an id beyond int64",
        text(INTER.replace("1\t3\t1", "1\t9223372036854775808\t1")),
        "tiny.inter: line 5: 'itemID' is '9223372036854775808', but ids",
    ),
    Case(
        "a huge id",
        text(INTER.replace("1\t3\t1", "987654321\t3\t1")),
        "tiny.inter: line 5: 'userID' is '987654321', but .*without wide gaps",
    ),
    Case(
        "an id padded with zeros",
        text(INTER.replace("1\t3\t1", "01\t3\t1")),
        "tiny.inter: line 5: 'userID' is '01'",
    ),
    Case(
        "a fraction for an id",
        text(INTER.replace("1\t3\t1", "1\t3.5\t1")),
        "tiny.inter: line 5: 'itemID' is '3.5'",
    ),
    Case(
        "an empty id",
        table(TABLE.replace("v,b", "v,")),
        "r.csv: line 4: 'item' is empty",
        source("r.csv"),
    ),
    Case(
        "a blank id",
        table(TABLE.replace("v,b", "  ,b")),
        "r.csv: line 4: 'user' is empty",
        source("r.csv"),
    ),
    Case(
        "pairs with a negative id",
        arrays("p.npz", user=[0, 1], item=[0, -1]),
        "p.npz: entry 2: item is '-1', but ids",
        source("p.npz"),
    ),
    Case(
        "pairs beyond int64",
        arrays("p.npz", user=[0, 1], item=np.array([0, 2**63], "u8")),
        "p.npz: entry 2: item is '9223372036854775808', but ids",
        source("p.npz"),
    ),
    Case(
        "pairs of floats",
        arrays("p.npz", user=[0, 1], item=[0.0, 1.0]),
        "p.npz: 'user' and 'item' must be integer arrays",
        source("p.npz"),
    ),
    Case(
        "pairs of unequal length",
        arrays("p.npz", user=[0, 1], item=[0]),
        "p.npz: 'user' and 'item' must be .* equal length",
        source("p.npz"),
    ),
    Case(
        "ids that are lists",
        frame(user=[[1], [2]], item=[1, 2]),
        "r.parquet: 'user' holds list.*give ids as integers or strings",
        source("r.parquet"),
    ),
    Case(
        "ids that are truth values",
        frame(user=[True, False], item=[1, 2]),
        "r.parquet: 'user' holds bool",
        source("r.parquet"),
    ),
    Case(
        "ids that are bytes",
        frame(user=[b"a", b"b"], item=[1, 2]),
        "r.parquet: 'user' holds binary",
        source("r.parquet"),
    ),
    Case(
        "users and items from one column",
        nothing,
        "config.data.columns.user and .*item.* 'itemID'",
        ("--config.data.columns.user=itemID",),
    ),
    Case(
        "a column that is not there",
        nothing,
        "tiny.inter: no column 'who'; it has userID, itemID, x_label; set config.data.columns",
        ("--config.data.columns.user=who",),
    ),
    # Numbers.
    Case(
        "a rating that is NaN",
        text(INTER.replace("x_label", "rating").replace("3\t1\n", "3\tnan\n")),
        "tiny.inter: line 5: 'rating' is 'nan' where a finite number is expected; give one",
    ),
    Case(
        "an infinite rating",
        text(INTER.replace("x_label", "rating").replace("3\t1\n", "3\tinf\n")),
        "tiny.inter: line 5: 'rating' is 'inf'",
    ),
    Case(
        "a rating beyond float32",
        text(INTER.replace("x_label", "rating").replace("3\t1\n", "3\t1e300\n")),
        "tiny.inter: line 5: 'rating' is 1e[+]?300",
    ),
    Case(
        "a NaN rating in Parquet",
        frame(user=[1, 2], item=[1, 2], rating=[1.0, np.nan]),
        "r.parquet: row 2: 'rating' is (empty|nan)",
        source("r.parquet"),
    ),
    Case(
        "a time that is NaN",
        table(TIMES.format("nan")),
        "r.csv: line 2: 'timestamp' is 'nan' where",
        source("r.csv"),
    ),
    Case(
        "an infinite time",
        table(TIMES.format("-inf")),
        "r.csv: line 2: 'timestamp' is '-inf'",
        source("r.csv"),
    ),
    Case(
        "a time beyond int64",
        table(TIMES.format("1e30")),
        "r.csv: line 2: 'timestamp' is 1e[+]?30",
        source("r.csv"),
    ),
    Case(
        "a time of many digits",
        table(TIMES.format("9" * 30)),
        "r.csv: line 2: 'timestamp' is",
        source("r.csv"),
    ),
    Case(
        "a date as text",
        table(TIMES.format("2020-01-01")),
        "r.csv: line 2: 'timestamp' is '2020-01-01' where a finite number",
        source("r.csv"),
    ),
    Case(
        "milliseconds among seconds",
        table(TIMES.format("1600000000000")),
        "r.csv: line 2: 'timestamp' is 1600000000000, .*milliseconds.*line 3.* seconds.*one unit",
        source("r.csv"),
    ),
    Case(
        "a label of no split",
        text(INTER.replace("1\t3\t1", "1\t3\t7")),
        "tiny.inter: line 5: 'x_label' is 7; labels are 0",
    ),
    Case(
        "a label that is a word",
        text(INTER.replace("1\t3\t1", "1\t3\tvalid")),
        "tiny.inter: line 5: 'x_label' is 'valid'",
    ),
    Case(
        "no test part",
        text(INTER.replace("\t2\n", "\t1\n")),
        "tiny.inter: the test split is empty .*set config.data.split",
    ),
    # JSON.
    Case(
        "JSON cut short",
        table('{"1": [1, 2', "x.inter.json"),
        "x.inter.json: expected",
        source("x.inter.json"),
    ),
    Case(
        "JSON of another form",
        table("[1, 2]", "x.inter.json"),
        "x.inter.json: expected",
        source("x.inter.json"),
    ),
    Case(
        "JSON with a user twice",
        table('{"1": [1, 2, 3], "1": [4]}', "x.inter.json"),
        "x.inter.json: .*'1' .*twice",
        source("x.inter.json"),
    ),
    Case(
        "JSON with half a character",
        table(r'{"1": ["\ud800", "b", "c"]}', "x.inter.json"),
        "x.inter.json: ",
        source("x.inter.json"),
    ),
    Case(
        "JSON nested without end",
        table("[" * 200_000, "x.inter.json"),
        "x.inter.json: expected",
        source("x.inter.json"),
    ),
    Case(
        "JSON with NaN",
        table('{"1": [1, NaN]}', "x.inter.json"),
        "x.inter.json: expected",
        source("x.inter.json"),
    ),
    Case(
        "JSON with an id beyond int64",
        table('{"1": [1, 18446744073709551616, 3]}', "x.inter.json"),
        "x.inter.json: expected",
        source("x.inter.json"),
    ),
    # LightGCN, MovieLens.
    Case(
        "LightGCN with a word",
        both(table("0 1\n1 2\n", "train.txt"), text("0 x\n", "test.txt")),
        "test.txt: line 1: item is 'x', but ids",
        source(""),
    ),
    Case(
        "LightGCN with an empty part",
        both(table("0 1\n", "train.txt"), text("", "test.txt")),
        "test.txt: the file is empty",
        source(""),
    ),
    Case(
        "MovieLens without times",
        both(
            table("1\t1\t5\n", "u.data"),
            text("1|24|M|x|1\n", "u.user"),
            text("1|T|1-1-1999\n", "u.item"),
        ),
        "u.data: .*4 columns",
        source(""),
    ),
    Case(
        "MovieLens with an age in words",
        both(
            table("1\t1\t5\t9\n", "u.data"),
            text("1|old|M|x|1\n", "u.user"),
            text("1|T|1-1-1999\n", "u.item"),
        ),
        "u.user: .*",
        source(""),
    ),
    Case(
        "MovieLens with a huge id",
        both(
            table("1\t1\t5\t9\n", "u.data"),
            text(f"{2**70}|9|M|x|1\n", "u.user"),
            text("1|T|1-1-1999\n", "u.item"),
        ),
        "u.user: .*",
        source(""),
    ),
    # Places.
    Case(
        "a file that is not there",
        nothing,
        "tiny.intre: there is no such file or folder; did you mean tiny.inter",
        source("tiny.intre"),
    ),
    Case(
        "no source", nothing, "config.data.source is empty", (POPULARITY, "--config.data.source=")
    ),
    Case(
        "a misspelt name",
        nothing,
        "did you mean 'synthetic'",
        (POPULARITY, "--config.data.source=sintetic"),
    ),
    Case(
        "a folder without data",
        lambda folder: [p.unlink() for p in folder.iterdir()],
        "set: no file holds interactions; expected",
    ),
    Case(
        "a link to itself",
        lambda folder: (folder / "r.csv").symlink_to("r.csv"),
        "r.csv: .*link",
        source("r.csv"),
    ),
    Case(
        "a link to itself among the features",
        lambda folder: (folder / "text.npy").symlink_to("text.npy"),
        "text.npy: .*link",
        ("--config.data.features=('text.npy',)",),
    ),
    Case(
        "a folder in place of the features",
        lambda folder: ((folder / "image_feat.npy").unlink(), (folder / "image_feat.npy").mkdir()),
        "image_feat.npy: .*directory",
        ("--config.data.features=('image_feat.npy',)",),
    ),
    Case(
        "a folder in place of a table",
        lambda folder: (folder / "r.csv").mkdir(),
        "r.csv: no file holds interactions",
        source("r.csv"),
    ),
    Case(
        "a name beyond all lengths",
        nothing,
        "File name too long",
        (POPULARITY, f"--config.data.source={'x' * 5000}.csv"),
    ),
    Case(
        "a prepared set by a path",
        nothing,
        r"\.\./\.\./evil: there is no such",
        (POPULARITY, "--config.data.source=../../evil"),
    ),
    Case(
        "several files of interactions",
        text(INTER, "other.inter"),
        r"several files hold interactions \(other.inter, tiny.inter\); name one",
    ),
]

FEATURES = [
    Case("fewer rows than items", array(np.ones((3, 2))), "image_feat.npy: 3 rows but .*4 items"),
    Case("more rows than items", array(np.ones((5, 2))), "image_feat.npy: 5 rows but .*4 items"),
    Case("one dimension", array(np.ones(4)), r"image_feat.npy: .* shape \(4,\) .*give a matrix"),
    Case("three dimensions", array(np.ones((4, 2, 2))), r"image_feat.npy: .* shape \(4, 2, 2\)"),
    Case("no dimension", array(np.float32(1)), r"image_feat.npy: .* shape \(\)"),
    Case("no columns", array(np.ones((4, 0))), r"image_feat.npy: .* shape \(4, 0\)"),
    Case("strings", array(np.full((4, 2), "x")), "image_feat.npy: .* type <U1; give a matrix"),
    Case("complex numbers", array(np.ones((4, 2), complex)), "image_feat.npy: .* type complex128"),
    Case("dates", array(np.zeros((4, 2), "M8[s]")), "image_feat.npy: .* type datetime64"),
    Case("records", array(np.zeros((4, 2), [("a", "f4")])), "image_feat.npy: .* type .*'a'"),
    Case(
        "NaN",
        array(np.array([[1, 1], [1, np.nan], [1, 1], [np.nan, 1]])),
        r"image_feat.npy: row 2 holds NaN \(2 such rows\); mend it",
    ),
    Case(
        "infinite",
        array(np.array([[1, 1], [1, 1], [1, -np.inf], [1, 1]])),
        "image_feat.npy: row 3 holds an infinite",
    ),
    Case(
        "beyond float32", array(np.full((4, 2), 1e300)), "image_feat.npy: row 1 holds an infinite"
    ),
    Case(
        "big-endian NaN", array(np.full((4, 2), np.nan, ">f8")), "image_feat.npy: row 1 holds NaN"
    ),
    Case(
        "objects",
        array(np.array([[Evil()] * 2] * 4, object)),
        "image_feat.npy: holds Python objects, which are not read; save plain numbers",
    ),
    Case(
        "a pickle named .npy",
        text(pickle.dumps(Evil()), "image_feat.npy"),
        "image_feat.npy: .*not a whole NumPy file",
    ),
    Case(
        "objects in .npz",
        lambda folder: np.savez(
            folder / "text.npz", ids=np.arange(4), features=np.array([[Evil()]] * 4, object)
        ),
        "text.npz: holds Python objects",
        TEXT,
    ),
    Case(
        "ids as objects in .npz",
        lambda folder: np.savez(
            folder / "text.npz", ids=np.array([Evil()] * 4, object), features=np.ones((4, 1))
        ),
        "text.npz: holds Python objects",
        TEXT,
    ),
    Case("pickles in .npz", pickled_member, "text.npz: ", TEXT),
    Case("cut short", cut("image_feat.npy", 0.9), "image_feat.npy: .*save it again"),
    Case("an empty .npy", text(b"", "image_feat.npy"), "image_feat.npy: not a whole NumPy file"),
    Case(
        "a .npz cut short",
        both(arrays(**WIDE), cut("text.npz", 0.6)),
        "text.npz: not a whole NumPy file; save it again",
        TEXT,
    ),
    Case(
        "a declared size without the bytes",
        text(header((2**40, 2**20)), "image_feat.npy"),
        "image_feat.npy: .*declares .*save it again",
    ),
    Case("a declared size in .npz", liar, "text.npz: not a whole .*declares", TEXT),
    Case(
        "a negative shape",
        text(header((-4, 2)) + bytes(64), "image_feat.npy"),
        "image_feat.npy: .*save it again",
    ),
    Case(
        "a header that is code",
        text(
            b"\x93NUMPY\x01\x00"
            + (80).to_bytes(2, "little")
            + b"{'descr': __import__('os').mkdir('PWNED'), 'shape': (4, 2)}".ljust(79)
            + b"\n",
            "image_feat.npy",
        ),
        "image_feat.npy: not a whole NumPy file",
    ),
    Case(
        "a .npz that inflates",
        bomb((2**16, 2**14)),
        r"text.npz: a file of [0-9.e+-]+ MB whose arrays would take 4.3 GB; .*np.savez",
        TEXT,
    ),
    Case(
        "a .npz that inflates beyond all memory",
        bomb((2**24, 2**24)),
        "text.npz: a file of .* would take 1.1e[+]06 GB; ",
        TEXT,
    ),
    Case(
        "a .npz inside one",
        lambda folder: (
            arrays("inner.npz", **WIDE)(folder),
            os.replace(folder / "inner.npz", folder / "image_feat.npy"),
        ),
        "image_feat.npy: several arrays in one file; name it .npz",
    ),
    Case(
        "an array in place of .npz",
        lambda folder: (
            np.save(folder / "x.npy", np.ones(4)),
            os.replace(folder / "x.npy", folder / "text.npz"),
        ),
        "text.npz: one array where ids, features are needed",
        TEXT,
    ),
    Case(
        "archives that point elsewhere",
        arrays(**{"../../ids": [1], "/features": [1]}),
        "text.npz: no array 'ids'; it has",
        TEXT,
    ),
    Case(
        "fewer ids than rows", arrays(**{**WIDE, "ids": [0, 1]}), "text.npz: 2 ids but 4 rows", TEXT
    ),
    Case(
        "an id twice",
        arrays(**{**WIDE, "ids": [0, 1, 1, 2]}),
        "text.npz: item id '1' has more than one row; keep one",
        TEXT,
    ),
    Case(
        "an unknown id",
        arrays(**{**WIDE, "ids": [0, 1, 2, 9]}),
        "text.npz: id '9' is not in the id map",
        TEXT,
    ),
    Case(
        "an id beyond int64 among features",
        arrays(**{**WIDE, "ids": np.array([0, 1, 2, 2**63], "u8")}),
        "text.npz: id '9223372036854775808' is not in the id map",
        TEXT,
    ),
    Case(
        "ids that are numbers with fractions",
        arrays(**{**WIDE, "ids": [0.0, 1, 2, 3]}),
        "text.npz: 'ids' must be one row of integers or strings",
        TEXT,
    ),
    Case(
        "one number in place of ids", arrays(**{**WIDE, "ids": 3}), "text.npz: 'ids' must be", TEXT
    ),
    Case(
        "one number in place of features",
        arrays(**{**WIDE, "features": 3}),
        r"text.npz: .* shape \(\)",
        TEXT,
    ),
    Case(
        "features without ids",
        both(table(TABLE), array(np.ones((3, 2)))),
        "image_feat.npy: rows without ids need item ids 0, 1, 2",
        source("r.csv"),
    ),
    Case(
        "a feature table with words",
        text("id,x\n0,1\n1,many\n", "text_feat.csv"),
        "text_feat.csv: line 3: 'x' is 'many' where a finite number",
    ),
    Case(
        "a feature table with an empty cell",
        text("id,x\n0,1\n1,\n", "text_feat.csv"),
        "text_feat.csv: line 3: 'x' is empty",
    ),
    Case(
        "a feature table of ids alone",
        text("id\n0\n1\n", "text_feat.csv"),
        "text_feat.csv: one column; give the item id first",
    ),
    Case(
        "two files of one modality",
        array(np.ones((4, 2)), "image.npy"),
        "'image' is also the name of .*; rename one file",
    ),
    Case(
        "a modality of another format",
        text("x", "x.mat"),
        "x.mat: features are .npy",
        ("--config.data.features=('x.mat',)",),
    ),
    # Item graphs, codes, titles.
    Case(
        "a graph of other items", graph(shape=(5, 5)), "g.npz: a graph of 5 nodes .*4 items", GRAPH
    ),
    Case(
        "a graph with an edge to nowhere",
        graph(row=[0, 4]),
        "g.npz: edge 2 joins nodes 4 and 2, but nodes are 0 to 3; mend or drop it",
        GRAPH,
    ),
    Case(
        "a graph with a negative end",
        graph(col=[-1, 2]),
        "g.npz: edge 1 joins nodes 0 and -1",
        GRAPH,
    ),
    Case(
        "a graph with other keys",
        graph(row=None, rows=[0, 1]),
        "g.npz: no array 'row'; it has",
        GRAPH,
    ),
    Case("a graph of fractions", graph(row=[0.5, 1.0]), "g.npz: 'row' .* integers", GRAPH),
    Case("a graph of words", graph(row=["0", "1"]), "g.npz: 'row' .* integers", GRAPH),
    Case(
        "a graph of two dimensions",
        graph(row=[[0, 1]], col=[[1, 2]], data=[[1, 1]]),
        "g.npz: 'row' .*one row",
        GRAPH,
    ),
    Case(
        "a graph with a word for a shape", graph(shape=["four", "four"]), "g.npz: shape is", GRAPH
    ),
    Case("a graph of negative size", graph(shape=(-4, -4)), "g.npz: shape is", GRAPH),
    Case("a graph of infinite size", graph(shape=(np.inf, np.inf)), "g.npz: shape is", GRAPH),
    Case("a graph that is not square", graph(shape=(4, 5)), "g.npz: shape is .*square", GRAPH),
    Case(
        "a graph with an infinite weight",
        graph(data=[1, np.inf]),
        "g.npz: the weight of edge 2 is not finite",
        GRAPH,
    ),
    Case("a graph with complex weights", graph(data=[1j, 1]), "g.npz: 'data' .*", GRAPH),
    Case("a graph with words for weights", graph(data=["a", "b"]), "g.npz: 'data' .*", GRAPH),
    Case("a graph with an id twice", graph(ids=[0, 1, 1, 3]), "g.npz: .*'1'.* two nodes", GRAPH),
    Case(
        "codes with an item twice",
        codes(item=["0", "1", "1", "3"]),
        "codes.parquet: item '1' occurs more than once; keep one row",
        CODES,
    ),
    Case(
        "codes that two items share",
        codes(code_0=[0, 1, 1, 3]),
        "codes.parquet: items '1' and '2' have the same codes",
        CODES,
    ),
    Case(
        "codes for too few items",
        codes(item=["0", "1", "2", "x"]),
        "codes.parquet: item '3' of tiny has no codes",
        CODES,
    ),
    Case(
        "negative codes",
        codes(code_0=[0, 1, -2, 3]),
        "codes.parquet: item '2' has the codes",
        CODES,
    ),
    Case(
        "codes with fractions",
        codes(code_0=[0, 1, 2.5, 3]),
        "codes.parquet: 'code_0' is not all whole",
        CODES,
    ),
    Case(
        "codes without items",
        lambda folder: pd.DataFrame({"code_0": [1]}).to_parquet(folder / "codes.parquet"),
        "codes.parquet: columns are code_0; expected item",
        CODES,
    ),
    Case(
        "codes cut short",
        both(codes(), cut("codes.parquet")),
        "codes.parquet: cannot be read as Parquet",
        CODES,
    ),
    Case(
        "codes in damaged JSON",
        text('{"0": ["<a_1>"', "x.index.json"),
        "x.index.json: expected",
        INDEX,
    ),
    Case(
        "codes with an item twice in JSON",
        text('{"0": [1], "0": [2]}', "x.index.json"),
        "x.index.json: .*'0' .*twice",
        INDEX,
    ),
    Case(
        "codes nested without end",
        text('{"0":' + "[" * 200_000, "x.index.json"),
        "x.index.json: expected",
        INDEX,
    ),
    Case(
        "titles of other items",
        text("item_id,title\nx,three\n", "items.csv"),
        "items.csv: no id is an item of",
    ),
    Case(
        "titles that are lists",
        lambda folder: pd.DataFrame({"item_id": [0, 1], "title": [["a"], ["b"]]}).to_parquet(
            folder / "items.parquet"
        ),
        "items.parquet: 'title' holds list",
    ),
    Case(
        "requests to forget an unknown user",
        text("user\n9\n", "gone.csv"),
        "gone.csv: line 2: unknown user '9'",
        ("--config.data.forget=set/gone.csv",),
    ),
    Case(
        "requests to forget nobody",
        text("user,item\n,\n", "gone.csv"),
        "gone.csv: line 2: neither a user nor an item",
        ("--config.data.forget=set/gone.csv",),
    ),
    Case(
        "requests that are not there",
        nothing,
        "gone.csv: .*check the path",
        ("--config.data.forget=set/gone.csv",),
    ),
    Case(
        "leaked preferences of nobody",
        text("user,item\n0,99\n", "known.csv"),
        "known.csv: line 2: unknown item '99'",
        ("--config.data.leak=set/known.csv",),
    ),
    Case(
        "a leaked share above one",
        nothing,
        "leak 'test=2': give a share",
        ("--config.data.leak=test=2",),
    ),
]


def _twice(folder: Path) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    ids = pa.array([1, 2])
    parquet.write_table(pa.table([ids, ids, ids], ["user", "item", "item"]), folder / "r.parquet")


def setting(*flags: str, of: str = POPULARITY, says: str) -> Case:
    return Case(" ".join(flags), nothing, says, (f"{of}:debug", *flags))


def mf(*flags: str, says: str) -> Case:
    return setting(*flags, of=MF, says=says)


CONFIGS = [
    setting("--config.optim.lrr=1", says='lrr.*Did you mean "lr"'),
    setting("--config.train.batch_size=many", says="batch_size.*many"),
    setting("--config.train.batch_size=2.5", says="batch_size.*2.5"),
    setting("--config.optim.lr=fast", says="lr.*fast"),
    setting("--config.seed=one", says="seed.*one"),
    setting("--config.data.impressions=perhaps", says="impressions.*perhaps"),
    setting("--config.data.ratios=__import__('os').mkdir('PWNED')", says="ratios"),
    setting("--config.data.ratios=(0.8,0.1", says="ratios"),
    setting(
        "--config.data.ratios=(0.8,0.2)", says=r"config.data.ratios is \(0.8, 0.2\); give three"
    ),
    setting("--config.data.ratios=(0.8,-0.1,0.3)", says="config.data.ratios is .*none is negative"),
    setting("--config.data.ratios=(8.0,1.0,2.0)", says="config.data.ratios is .*sum to 1"),
    setting("--config.data.ratios=(0.5,0.1,0.1)", says="config.data.ratios is .*sum to 1"),
    setting("--config.data.ratios=(1e400,0.1,0.1)", says="config.data.ratios is"),
    setting("--config.data.ratios=('a','b','c')", says="config.data.ratios is"),
    setting(
        "--config.data.split=leave-one-out",
        says="config.data.split is 'leave-one-out'.*did you mean 'leave_one_out'",
    ),
    setting("--config.data.k_core=-2", says="config.data.k_core is -2; .*at least 0"),
    setting(
        "--config.data.k_core=9999", says="the 9999-core is empty; set a smaller config.data.k_core"
    ),
    setting("--config.data.budget=-1", says="config.data.budget is -1; .*at least 0"),
    setting("--config.data.max_len=0", says="config.data.max_len is 0; .*at least 1"),
    setting("--config.data.split_seed=-1", says="config.data.split_seed is -1; .*at least 0"),
    setting("--config.data.knobs.num_users=-5", says="num_users"),
    setting("--config.data.knobs.noise=nan", says="noise"),
    setting(
        "--config.data.impute=nean",
        says="'config.data.impute=nean': no way to impute 'nean'; did you mean 'mean'",
    ),
    setting("--config.data.knockout=image", says="knockout 'image': expected MODALITY:HOW"),
    setting("--config.data.knockout=smell:zero", says="no modality 'smell'; .*known: "),
    setting("--config.data.knockout=image:off", says="no way to knock out 'off'"),
    setting("--config.data.knockout=image:missing=2", says="the rate is '2'; give a share"),
    setting(
        "--config.data.knockout_seed=-1",
        "--config.data.knockout=image:noise",
        says="config.data.knockout_seed is -1",
    ),
    setting(
        "--config.data.codes=features",
        "--config.data.collisions=drop",
        says="config.data.collisions is 'drop'",
    ),
    setting(
        "--config.data.impressions=True", "--config.data.buckets=0", says="config.data.buckets is 0"
    ),
    setting(
        "--config.data.impressions=True",
        "--config.data.fields=('hourr',)",
        says="did you mean 'hour'",
    ),
    setting(
        "--config.model.name=baseline.popular",
        says="config.model.name 'baseline.popular' is none of",
    ),
    setting("--config.model.name=baseline", says="config.model.name 'baseline' is none of"),
    setting("--config.model.name=", says="config.model.name '' is none of"),
    setting("--config.model.name=../../evil", says="config.model.name '../../evil' is none of"),
    setting("--config.eval.metric=recall@7", says="eval.metric is 'recall@7'; measured are"),
    setting("--config.eval.metrics=('recal',)", says="unknown metric 'recal'; known metrics"),
    setting("--config.eval.metrics=()", says="eval.metrics and eval.ks must not be empty"),
    setting("--config.eval.ks=(0,20)", says="a cut K must be a whole number of at least 1, not 0"),
    setting("--config.eval.ks=(-5,20)", says="a cut K .* not -5"),
    setting("--config.eval.ks=(2.5,20)", says="a cut K .* not 2.5"),
    setting("--config.eval.ks=('20',)", says="a cut K .* not '20'"),
    setting("--config.eval.protocol=loose", says="eval.protocol is 'loose'; it must be one of"),
    setting("--config.eval.block=0", says="eval.block is 0; .*at least 1"),
    setting("--config.eval.patience=-1", says="eval.patience is -1; .*at least 0"),
    mf("--config.eval.every=0", says="eval.every is 0; .*at least 1"),
    mf("--config.checkpoint.every=0", says="checkpoint.every is 0; .*at least 1"),
    mf("--config.train.batch_size=0", says="train.batch_size is 0; .*at least 1"),
    mf("--config.train.batch_size=-512", says="train.batch_size is -512; .*at least 1"),
    mf("--config.train.epochs=-1", says="train.epochs is -1; .*at least 0"),
    mf("--config.train.precision=float99", says="train.precision is 'float99'; it must be one of"),
    mf("--config.model.dim=0", says="model.dim is 0; .*at least 1"),
    mf("--config.model.dim=-64", says="model.dim is -64; .*at least 1"),
    mf("--config.model.reg_weight=nan", says="model.reg_weight is nan; .*finite"),
    mf("--config.optim.lr=-0.1", says="optim.lr is -0.1; .*"),
    mf("--config.optim.lr=inf", says="optim.lr is inf; .*"),
    mf("--config.optim.weight_decay=nan", says="optim.weight_decay is nan"),
    mf("--config.optim.clip_norm=-1", says="optim.clip_norm is -1"),
    mf("--config.optim.warmup_steps=-1", says="optim.warmup_steps is -1"),
    mf("--config.optim.name=adamm", says="optim.name is 'adamm'; it must be one of"),
    mf("--config.optim.schedule=sine", says="optim.schedule is 'sine'; it must be one of"),
    mf("--config.seed=99999999999999999999", says="seed is 99999999999999999999"),
    mf("--config.table.item=hash", says="table.item is 'hash'; it must be one of"),
    mf("--config.table.item=hashed", "--config.table.hash_width=7", says="table.hash_width is 7"),
    mf(
        "--config.table.item=motor", "--config.table.codebooks=9999", says="table.codebooks is 9999"
    ),
    mf(
        "--config.table.item=features",
        "--config.table.modalities=('smell',)",
        says="table.modalities names smell",
    ),
    mf("--config.table.hidden=-3", "--config.table.item=features", says="table.hidden is -3"),
    setting(
        "--config.train.epochs=2", says="Popularity learns nothing by steps; set train.epochs to 0"
    ),
    Case("a configuration that is not there", nothing, "nowhere.py", ("--config=nowhere.py",)),
    Case(
        "a configuration that is no Python",
        text("a b c", "c.py"),
        "SyntaxError.*c.py, line 1",
        ("--config=set/c.py",),
    ),
    Case("a variant that is not there", nothing, "'debgu': did you mean 'debug'", (f"{MF}:debgu",)),
]

MODES = [
    Case("an unknown mode", nothing, "mode.*trian", ("--mode=trian",)),
    Case("an unknown flag", nothing, "wokdir.*workdir", ("--wokdir=x",)),
    Case("a stray word", nothing, "'train'; flags begin with --", (*DEBUG, "train")),
    Case("eval without a run", nothing, "--mode=eval needs --workdir", ("--mode=eval",)),
    Case(
        "eval of nothing",
        nothing,
        "nowhere/config.json does not exist; train",
        ("--mode=eval", "--workdir=nowhere"),
    ),
    Case("a workdir that is a file", text("", "f"), "set/f", (*DEBUG, "--workdir=set/f")),
    Case("a workdir below a file", text("", "f"), "set/f", (*DEBUG, "--workdir=set/f/run")),
    Case("a profile of what", nothing, "profile", (*DEBUG, "--profile=perhaps")),
    Case(
        "no sweep of its own",
        nothing,
        "--sweep: the configuration's file has no sweep",
        (*DEBUG, "--mode=sweep"),
    ),
    *[
        Case(
            f"a sweep over {space}",
            nothing,
            says,
            (f"{MF}:debug", "--mode=sweep", f"--sweep={space}"),
        )
        for space, says in (
            (
                "optim.lrr=1,2",
                "sweep of optim.lrr: the configuration has no such key; did you mean optim.lr",
            ),
            ("optim.lr", "'optim.lr' is no KEY=VALUES"),
            ("optim.lr=", "there are no values"),
            ("optim.lr=fast", "cannot read 'fast'"),
            ("optim.lr=__import__('os').mkdir('PWNED')", "cannot read"),
            ("optim.lr=log(0,1)", "is empty, or logarithmic from 0"),
            ("train.batch_size=0,5", "train.batch_size is 0"),
            ("optim.lr=1e-3,-1", "optim.lr is -1"),
            ("seed=1,1", "has a value twice"),
            ("data.k_core=1,2", "it cannot vary"),
            ("optim.name=adam,adamm", "optim.name is 'adamm'"),
        )
    ],
    Case(
        "a sweep in an unknown mode",
        nothing,
        "sweep.mode is 'fast'; it must be one of",
        (f"{MF}:debug", "--mode=sweep", "--config.sweep.mode=fast"),
    ),
    Case(
        "a sweep over an unknown option",
        nothing,
        "haling.*Did you mean",
        (f"{MF}:debug", "--mode=sweep", "--config.sweep.haling=2"),
    ),
    Case(
        "a sweep with a negative budget",
        nothing,
        "sweep.trials is -1; it must be at least 0",
        (f"{MF}:debug", "--mode=sweep", "--config.sweep.trials=-1"),
    ),
    Case(
        "compare of nothing", nothing, "--mode=compare needs the directories", ("--mode=compare",)
    ),
    Case(
        "compare of what is not there",
        nothing,
        "nowhere/summary.json: no finished run",
        ("--mode=compare", "nowhere", "elsewhere"),
    ),
    Case(
        "baselines of nothing",
        nothing,
        "summary.json: no finished run",
        ("--mode=baselines", "--workdir=set"),
    ),
    Case(
        "unlearn without requests",
        nothing,
        "--mode=unlearn needs --forget",
        ("--mode=unlearn", "--workdir=set"),
    ),
    Case(
        "encode without texts",
        nothing,
        "tiny has no titles; name a table of texts",
        (POPULARITY, "--config.data.source=set", "--mode=encode"),
    ),
    Case(
        "encode with an unknown encoder",
        text("item_id,title\n0,a\n", "items.csv"),
        "bert",
        (POPULARITY, "--config.data.source=set", "--mode=encode", "--encoder=bert"),
    ),
    Case(
        "encode to another format",
        text("item_id,title\n0,a\n", "items.csv"),
        "must end in .npz",
        (POPULARITY, "--config.data.source=set", "--mode=encode", "--output=x.npy"),
    ),
    Case(
        "leak with a seed that is none",
        nothing,
        "seeds.*whole numbers only",
        (*DEBUG, "--mode=leak", "--seeds=one"),
    ),
    Case(
        "prepare what is leaked",
        nothing,
        "data with a leak are not stored",
        (*DEBUG, "--mode=prepare", "--config.data.leak=test=0.5"),
    ),
]


def launch(*given: str) -> tuple[object, str, str]:
    """Status, output and errors of the launcher with these flags, in this process."""
    known, argv = set(flags.FLAGS), sys.argv
    out, err, status = io.StringIO(), io.StringIO(), 0
    sys.argv = ["launch.py", *given]
    try:
        with (
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
            warnings.catch_warnings(),
        ):
            warnings.simplefilter("ignore", DeprecationWarning)  # the flags' own
            own = runpy.run_path(str(ROOT / "launch.py"), run_name="launch")
            own["main"](own["parse_flags"](sys.argv))
    except SystemExit as end:
        status = end.code
    finally:
        sys.argv = argv
        flags.FLAGS.remove_flag_values(set(flags.FLAGS) - known)
    return status, out.getvalue(), err.getvalue()


def listing(folder: Path) -> dict[str, object]:
    """Every file, folder and link below ``folder``, with what it holds."""
    found: dict[str, object] = {}
    for path in folder.rglob("*"):
        held = os.readlink(path) if path.is_symlink() else path.is_file() and path.read_bytes()
        found[str(path.relative_to(folder))] = held
    return found


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A working directory with the folder ``set``."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "set").mkdir()
    text(INTER)(tmp_path / "set")
    array(np.arange(8.0).reshape(4, 2) + 1)(tmp_path / "set")
    return tmp_path


def refused(place: Path, says: str, *given: str, run: Callable = launch) -> None:
    """Asserts one line that ``says`` so, status 2, and nothing changed in ``place``."""
    before = listing(place)
    status, _, err = run(*given)
    assert status == 2, err
    lines = [line for line in err.splitlines() if not line.startswith("warning: ")]
    assert len(lines) == 1 and lines[0].startswith("error: "), err
    assert re.search(says, err), err
    assert "Traceback" not in err and "Errno" not in err, err
    assert listing(place) == before


def named(cases: Sequence[Case]) -> Callable:
    return pytest.mark.parametrize("case", cases, ids=lambda case: case.name)


def called(case: Case) -> Sequence[str]:
    own = (
        case.flags
        if any(f.startswith(("--config=", "--mode=", "--wok")) for f in case.flags)
        else ()
    )
    return own or (POPULARITY, "--config.data.source=set", *case.flags)


def test_the_folder_is_fine_before_it_is_spoilt(place):
    status, out, err = launch(POPULARITY, "--config.data.source=set", "--workdir=run")
    assert status == 0 and "recall" in out, err


@named([*READERS, *FEATURES])
def test_faulty_files(place, case):
    case.spoil(place / "set")
    refused(place, case.says, *called(case))


@named([*CONFIGS, *MODES])
def test_faulty_flags(place, case):
    case.spoil(place / "set")
    refused(place, case.says, *called(case))


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """Working directories of finished runs: ``pop``, ``mf`` and ``other``, of another split."""
    folder = tmp_path_factory.mktemp("ran")
    for name, given in (
        ("pop", DEBUG),
        ("mf", [f"{MF}:debug"]),
        ("other", [*DEBUG, "--config.data.split=ratio"]),
    ):
        status, _, err = launch(*given, f"--workdir={folder / name}")
        assert status == 0, err
    return folder


def rewritten(name: str, change: Callable[[dict], object]) -> Callable:
    """Changes a JSON file of a run, and seals it again."""

    def write(folder: Path) -> None:
        content = json.loads((folder / name).read_text())
        change(content)
        store.write_json(folder / name, content)

    return write


def damaged(name: str, content: bytes = b'{"a": ') -> Callable:
    return lambda folder: (folder / name).write_bytes(content)


def run_case(name: str, says: str, *given: str, spoil: Callable = nothing) -> Case:
    return Case(name, spoil, says, given)


RECOMMEND = ("--mode=recommend", "--workdir=pop")
EVAL = ("--mode=eval", "--workdir=mf")
COMPARE = ("--mode=compare", "pop", "mf")
RUNS = [
    run_case("an unknown user", "unknown user nobody in synthetic", *RECOMMEND, "--users=nobody"),
    run_case(
        "a user that is nearly known",
        "unknown user 1999 .*near it are",
        *RECOMMEND,
        "--users=3,1999",
    ),
    run_case("no user", "--users names nobody; give ids", *RECOMMEND, "--users="),
    run_case("k of zero", "k is 0; it must be at least 1", *RECOMMEND, "--k=0"),
    run_case("a negative k", "k is -3; it must be at least 1", *RECOMMEND, "--k=-3"),
    run_case("k that is no number", "k=many", *RECOMMEND, "--k=many"),
    run_case(
        "k beyond the catalogue",
        "k is 121, but synthetic has 120 items; ask for at most",
        *RECOMMEND,
        "--k=121",
    ),
    run_case(
        "an output of another kind",
        "--output=x.txt: .*must end in .csv or .json",
        *RECOMMEND,
        "--output=x.txt",
    ),
    run_case(
        "an output in no folder",
        "--output=nowhere/x.csv: there is no folder nowhere; make it first",
        *RECOMMEND,
        "--output=nowhere/x.csv",
    ),
    run_case(
        "an output that is a folder",
        "--output=x.csv is a folder; name a file",
        *RECOMMEND,
        "--output=x.csv",
        spoil=lambda folder: (folder.parent / "x.csv").mkdir(),
    ),
    run_case("eval of an unknown split", "split=train", *EVAL, "--split=train"),
    run_case(
        "eval with a faulty knockout", "no modality 'sound'; known", *EVAL, "--knockout=sound:zero"
    ),
    run_case(
        "ablate with a faulty knockout",
        "no way to knock out 'off'",
        "--mode=ablate",
        "--workdir=mf",
        "--knockouts=image:off",
    ),
    run_case(
        "unlearn what was never learned",
        "Popularity is no result of steps",
        "--mode=unlearn",
        "--workdir=pop",
        "--forget=gone.csv",
    ),
    run_case(
        "unlearn from a table that is not there",
        "gone.csv: cannot be read",
        "--mode=unlearn",
        "--workdir=mf",
        "--forget=gone.csv",
    ),
    run_case(
        "train where another run is",
        "holds a run with other values of model.dim",
        f"{MF}:debug",
        "--workdir=mf",
        "--config.model.dim=32",
    ),
    run_case(
        "sweep where a run is",
        "mf holds a run; name another --workdir",
        f"{MF}:debug",
        "--mode=sweep",
        "--sweep=seed=0,1",
        "--workdir=mf",
    ),
    run_case(
        "a configuration that is no longer JSON",
        "mf/config.json: damaged, .*remove it",
        *EVAL,
        spoil=damaged("config.json"),
    ),
    run_case(
        "a configuration that is a list",
        "mf/config.json: damaged, .*no JSON object",
        *EVAL,
        spoil=damaged("config.json", b"[1]"),
    ),
    run_case(
        "a configuration with a key too many",
        "config.json: config.data has no key 'k_cor'",
        *EVAL,
        spoil=rewritten("config.json", lambda c: c["data"].update(k_cor=5)),
    ),
    run_case(
        "a configuration without a section",
        "config.json: there is no section 'eval'",
        *EVAL,
        spoil=rewritten("config.json", lambda c: c.pop("eval")),
    ),
    run_case(
        "a configuration with a number that means nothing",
        "eval.block is 0",
        *EVAL,
        spoil=rewritten("config.json", lambda c: c["eval"].update(block=0)),
    ),
    run_case(
        "a checkpoint of other sizes",
        r"checkpoints/best/\d+: a checkpoint of another method or of other data: the shape of "
        r"\['params'\]\['item'\] is \[120, 64\] there and \[120, 32\] here; name another",
        *EVAL,
        spoil=rewritten("config.json", lambda c: c["model"].update(dim=32)),
    ),
    run_case(
        "a checkpoint of other sizes to go on from",
        "a checkpoint of another method or of other",
        f"{MF}:debug",
        "--config.model.dim=32",
        "--workdir=mf",
        spoil=rewritten("config.json", lambda c: c["model"].update(dim=32)),
    ),
    run_case(
        "a checkpoint of another method",
        "a checkpoint of another method .*missing",
        *EVAL,
        spoil=rewritten(
            "config.json",
            lambda c: c.update(model={"name": "graph.ngcf", "dim": 64, "hidden": [64]}),
        ),
    ),
    run_case(
        "no checkpoint",
        "no finished checkpoint in .*; train first",
        *EVAL,
        spoil=lambda folder: shutil.rmtree(folder / "checkpoints"),
    ),
    run_case(
        "compare runs of different splits",
        "other: its split hash is .* but pop has",
        "--mode=compare",
        "pop",
        "other",
    ),
    run_case(
        "compare a run with itself",
        "pop: there is no run with other settings",
        "--mode=compare",
        "pop",
        "pop",
    ),
    run_case(
        "compare by an unknown metric",
        "has no recall@7, only .*choose --metrics",
        *COMPARE,
        "--metrics=recall@7",
    ),
    run_case(
        "compare with a damaged summary",
        "mf/summary.json: damaged",
        *COMPARE,
        spoil=damaged("summary.json"),
    ),
    run_case(
        "compare with a summary of nothing",
        "mf/summary.json: no finished run",
        *COMPARE,
        spoil=rewritten("summary.json", dict.clear),
    ),
    run_case(
        "compare with metrics cut short",
        "mf/per_user_test.parquet: damaged",
        *COMPARE,
        spoil=cut("per_user_test.parquet"),
    ),
    run_case(
        "compare with metrics that are words",
        "mf: recall@20 is not a number for every user",
        *COMPARE,
        spoil=lambda folder: pd.DataFrame(
            pd.read_parquet(folder / "per_user_test.parquet").astype({"recall@20": str})
        ).to_parquet(folder / "per_user_test.parquet"),
    ),
    run_case(
        "compare with a sweep that names no winner",
        "mf/summary.json: names no winner",
        *COMPARE,
        spoil=damaged("sweep.json", b"{}"),
    ),
]


@named(RUNS)
def test_faulty_commands_on_runs(ran, tmp_path, monkeypatch, case):
    """``spoil`` gets the folder ``mf``."""
    monkeypatch.chdir(tmp_path)
    for name in ("pop", "mf", "other"):
        used = case.spoil is not nothing or f"--workdir={name}" in case.flags or name in case.flags
        if used:
            shutil.copytree(ran / name, tmp_path / name)
    case.spoil(tmp_path / "mf")
    refused(tmp_path, case.says, *case.flags)


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """A prepared set, ``sets/synthetic``."""
    folder = tmp_path_factory.mktemp("stored")
    status, out, err = launch(*DEBUG, "--mode=prepare", f"--workdir={folder / 'sets'}")
    assert status == 0, err
    return folder


def resealed(change: Callable[[dict], object]) -> Callable:
    """Changes the facts of a prepared set, and their checksum with them."""

    def write(folder: Path) -> None:
        content = json.loads((folder / "metadata.json").read_text())
        change(content["mmrec_jax"])
        content["mmrec_jax"]["checksum"] = prepared._checksum(content["mmrec_jax"])
        (folder / "metadata.json").write_text(json.dumps(content))

    return write


SETS = [
    Case(
        "an incomplete set",
        lambda folder: (folder / "metadata.json").unlink(),
        "metadata.json is missing, the set is incomplete; remove the folder and prepare",
    ),
    Case(
        "metadata cut short", cut("metadata.json"), "metadata.json: damaged, it is no longer JSON"
    ),
    Case("metadata of others", damaged("metadata.json", b"{}"), "has not prepared; name another"),
    Case("another format", resealed(lambda facts: facts.update(format=99)), "format 99, but"),
    Case(
        "a flipped byte",
        lambda folder: flip(next(folder.rglob("*.array_record*"))),
        "damaged, its checksum does not match; remove the folder",
    ),
    Case(
        "a file that lies elsewhere",
        resealed(lambda facts: facts["files"].update({"../../../secret": "0"})),
        "metadata.json: damaged, '../../../secret' lies outside",
    ),
    Case(
        "a table that lies elsewhere",
        resealed(lambda facts: facts["tables"].append("/etc")),
        "metadata.json: damaged, '/etc' lies outside",
    ),
    Case(
        "another k-core",
        nothing,
        "config.data.k_core cannot change a prepared data set",
        ("--config.data.k_core=5",),
    ),
    Case(
        "other features",
        nothing,
        "config.data.features cannot change a prepared data set",
        ("--config.data.features=('x.npy',)",),
    ),
]


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@named(SETS)
def test_faulty_prepared_sets(stored, tmp_path, monkeypatch, case):
    shutil.copytree(stored, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    folder = next(tmp_path.rglob("metadata.json")).parent
    case.spoil(folder)
    given = (POPULARITY, f"--config.data.source={folder.relative_to(tmp_path)}", *case.flags)
    refused(tmp_path, case.says, *given)


def test_a_prepared_set_is_not_written_twice(stored, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(stored, tmp_path, dirs_exist_ok=True)
    refused(tmp_path, "exists already; give a new version, or remove it first",
            *DEBUG, "--mode=prepare", "--workdir=sets")  # fmt: skip


def test_a_set_of_a_file_that_begins_with_a_digit_has_a_name(place):
    os.replace(place / "set" / "tiny.inter", place / "set" / "2024.inter")
    given = (POPULARITY, "--config.data.source=set/2024.inter", "--mode=prepare")
    status, out, err = launch(*given, "--workdir=sets")
    assert status == 0 and Path(out.strip()) == Path("sets/data_2024/1.0.0"), err


def test_what_cannot_fit_into_memory_leaves_nothing(place, monkeypatch):
    monkeypatch.setattr(memory, "available", lambda: 1000)
    says = "an epoch of baseline.mf needs .* try a smaller train.batch_size"
    refused(place, says, f"{MF}:debug")
    refused(place, says, f"{MF}:debug", "--mode=sweep", "--sweep=optim.lr=1e-3,1e-4;seed=0,1")


PAIR = {"user": [1, 1, 2], "item": [0, 1, 1]}


@pytest.mark.parametrize(
    ("interactions", "features", "options", "says"),
    [
        (None, {}, {}, "no column seems to hold the user"),
        (3, {}, {}, "interactions: cannot be taken as a table"),
        ({"user": [1, 2], "item": [1]}, {}, {}, "interactions: cannot be taken as a table"),
        ({"user": [1, "a"], "item": [1, 2]}, {}, {}, "interactions: cannot be taken as a table"),
        ({"user": [1, np.nan], "item": [1, 2]}, {}, {}, "interactions: row 2: 'user' is empty"),
        ({"user": ["a", "b\0"], "item": [1, 2]}, {}, {}, "row 2: 'user' holds a NUL"),
        ({"user": [1j, 2], "item": [1, 2]}, {}, {}, "interactions: cannot be taken as a table"),
        ({"user": [{}, {}], "item": [1, 2]}, {}, {}, "interactions: 'user' holds struct"),
        ({**PAIR, "time": [1, 2, np.inf]}, {}, {}, "interactions: row 3: 'time' is inf"),
        ({**PAIR, "time": [1.6e9, 1.6e12, 1.6e9]}, {}, {}, "row 2: 'time' .*milliseconds.*one"),
        ({**PAIR, "rating": [1, 2, np.nan]}, {}, {}, "interactions: row 3: 'rating' is empty"),
        (PAIR, {"x": {0: [1], 1: [1, 2]}}, {}, r"features\['x'\]: cannot be taken"),
        (PAIR, {"x": np.ones((3, 1))}, {}, r"features\['x'\]: 3 rows but"),
        (PAIR, {"x": [[1.0], ["a"]]}, {}, r"features\['x'\]: .*give a matrix of numbers"),
        (PAIR, {"x": np.array([Evil(), Evil()])}, {}, r"features\['x'\]: .* type object"),
        (PAIR, {"x": "words"}, {}, r"features\['x'\]: .* shape \(\)"),
        (PAIR, {"x": {0: [1.0], "a": [1.0]}}, {}, r"features\['x'\]: cannot be taken"),
        (PAIR, {}, {"columns": {"user": "who"}}, "interactions: no column 'who'"),
        (PAIR, {}, {"ratios": (0.5, 0.1, 0.1)}, "config.data.ratios is"),
        (PAIR, {}, {"split": "rati"}, "did you mean 'ratio'"),
        (PAIR, {}, {"k_core": 1.5}, "config.data.k_core is 1.5; give a whole number"),
        (PAIR, {}, {"split_seed": -1}, "config.data.split_seed is -1"),
        (PAIR, {}, {"k_core": 9}, "interactions: the 9-core is empty; set a smaller"),
    ],
)  # fmt: skip
def test_faulty_tables_in_memory(place, interactions, features, options, says):
    before = listing(place)
    with pytest.raises(UserError, match=says) as raised:
        data.from_frames(interactions, features, **options)
    assert "\n" not in str(raised.value) and listing(place) == before


@pytest.mark.parametrize("kind", ["<f4", ">f4", ">f8", "<f2", "<i8", ">i4", "u1", "?"])
def test_features_of_any_real_kind_and_byte_order_are_read(place, kind):
    values = np.array([[0, 1], [1, 0], [1, 1], [0, 0]])
    np.save(place / "set" / "image_feat.npy", values.astype(kind))
    np.savez(
        place / "set" / "text.npz", ids=np.array([3, 1], ">i8"), features=values[:2].astype(kind)
    )
    loaded = data.load("set")
    assert loaded.features["image"].dtype == np.float32 and loaded.features["image"].dtype.isnative
    np.testing.assert_array_equal(loaded.features["image"], values)
    np.testing.assert_array_equal(loaded.features["text"], [[0, 0], [1, 0], [0, 0], [0, 1]])


def test_ids_of_another_byte_order_are_the_same_ids(place):
    given = {"features": np.ones((2, 1)), "ids": np.array(["é", "b"], ">U3")}
    table("user,item\nu,é\nu,a\nv,b\n")(place / "set")
    np.savez(place / "set" / "text.npz", **given)
    loaded = data.load("set/r.csv", split="ratio", ratios=(1, 0, 0))
    assert loaded.item_ids.tolist() == ["a", "b", "é"] and loaded.item_ids.dtype.isnative
    assert loaded.present["text"].tolist() == [False, True, True]


def test_ids_beyond_int64_are_kept_as_they_are_written(place):
    large = [str(2**63), str(2**64 - 1), "7"]
    frame(user=[1, 1, 1], item=np.array(list(map(int, large)), np.uint64))(place / "set")
    loaded = data.load("set/r.parquet", split="ratio", ratios=(1, 0, 0))
    assert sorted(loaded.item_ids.tolist()) == sorted(large)
    table("user,item\n" + "".join(f"1,{item}\n" for item in large))(place / "set")
    assert data.load("set/r.csv", split="ratio", ratios=(1, 0, 0)).item_ids.tolist() == sorted(
        large
    )


def test_a_large_array_that_hardly_compresses_is_read(place):
    values = np.random.default_rng(0).random((4, 1000))
    np.savez_compressed(place / "set" / "text.npz", ids=np.arange(4), features=values)
    np.testing.assert_array_equal(data.load("set").features["text"], values.astype(np.float32))


def test_times_that_are_no_dates_are_not_taken_for_mixed_units(place):
    for times in ([1, 1_600_000_000, 1_600_000_000_000], [20200101, 20200102, 20200103], [0, 1, 2]):
        loaded = data.from_frames({"user": [1, 1, 1], "item": [1, 2, 3], "time": times})
        parts = (loaded.train, loaded.valid, loaded.test)
        assert np.concatenate([part.time for part in parts]).tolist() == times


def test_the_corpus_is_large_and_no_case_stands_twice():
    cases = [*READERS, *FEATURES, *CONFIGS, *MODES, *RUNS, *SETS]
    assert len({case.name for case in cases}) == len(cases) >= 60


def process(*given: str) -> tuple[int, str, str]:
    command = [sys.executable, str(ROOT / "launch.py"), *given]
    done = subprocess.run(command, capture_output=True, text=True)
    return done.returncode, done.stdout, done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("name", [
    "utf-16", "a huge id", "objects", "a .npz that inflates", "JSON nested without end",
    "milliseconds among seconds", "a stray word", "a configuration that is no Python",
    "--config.optim.lrr=1", "--config.train.batch_size=0", "a name beyond all lengths",
])  # fmt: skip
def test_in_a_process_of_its_own(place, name):
    (case,) = [case for case in (*READERS, *FEATURES, *CONFIGS, *MODES) if case.name == name]
    case.spoil(place / "set")
    refused(place, case.says, *called(case), run=process)
