"""Files of results: whole or not at all, and what is in them."""

from __future__ import annotations

import math

import numpy as np
import pytest

from mmrec_jax import store


def test_json_keeps_floats_in_full_and_turns_what_is_not_finite_into_null(tmp_path):
    value = {
        "a": 0.1 + 0.2,
        "b": np.float32(0.1),
        "c": (1, np.int64(2)),
        "d": np.array([1.5, np.nan]),
    }
    store.write_json(tmp_path / "x.json", value | {"e": math.inf, "f": tmp_path})
    read = store.read_json(tmp_path / "x.json", "")
    expected = {"a": 0.1 + 0.2, "b": float(np.float32(0.1)), "c": [1, 2], "d": [1.5, None]}
    assert read == expected | {"e": None, "f": str(tmp_path)}


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    store.write_json(tmp_path / "x.json", {"a": 1})
    with pytest.raises(TypeError):
        store.write_json(tmp_path / "x.json", {"a": object()})
    with pytest.raises(RuntimeError), store.replacing(tmp_path / "x.json") as part:
        part.write_text("half")
        raise RuntimeError
    assert store.read_json(tmp_path / "x.json", "") == {"a": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["x.json"]


def test_per_query_keeps_ids_and_values(tmp_path):
    import pyarrow.parquet

    metrics = {"recall@20": np.array([0.5, 1.0], np.float32)}
    store.per_query(tmp_path / "test.parquet", metrics, "user", np.array(["anna", "bo"]))
    read = pyarrow.parquet.read_table(tmp_path / "test.parquet").to_pydict()
    assert read == {"user": ["anna", "bo"], "recall@20": [0.5, 1.0]}
