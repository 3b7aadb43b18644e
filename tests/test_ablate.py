"""The ablation table: at evaluation, at training, and what it says."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from configs.baseline import ensemble
from configs.multimodal import bm3
from mmrec_jax import ablate, compare, evaluate, train
from mmrec_jax import run as runs
from mmrec_jax.data import knockout
from mmrec_jax.ops import graph
from mmrec_jax.types import Spec, UserError


def _config(module=ensemble, **changes):
    config = module.get_config("debug")
    config.data.knobs.noise = 0.1
    config.update_from_flattened_dict(changes)
    return config


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A method of nearest neighbours by content alone."""
    workdir = tmp_path_factory.mktemp("run")
    config = _config(**{"model.share": 1.0, "eval.metric": "ndcg@50"})
    train.train(config, workdir)
    return workdir


@pytest.fixture(scope="module")
def result(run):
    return ablate.ablate(run)


def test_usual_knock_outs():
    spec = lambda *names: Spec(1, 1, feature_dims=tuple((n, 2) for n in names))
    assert ablate.usual(spec("image")) == ["image:zero", "image:shuffle"]
    assert ablate.words("", spec("image", "text")) == [
        "image:zero", "image:shuffle", "text:zero", "text:shuffle", "*:shuffle",
    ]  # fmt: skip
    assert ablate.words(" *:mean; image:zero;*:mean", spec("image")) == ["*:mean", "image:zero"]


def test_rows_are_what_evaluation_measures(run, result):
    before = evaluate.tested(run)
    for row in result["rows"]:
        means = evaluate.evaluate(run, knockout=row["knockout"])
        assert np.isclose(means["ndcg@50"], row["value"], atol=1e-7)
        assert all(np.isclose(means[name], row["means"][name], atol=1e-6) for name in means)
        assert np.isclose(row["difference"], row["value"] - result["intact"]["ndcg@50"], atol=1e-6)
        assert row["low"] <= row["difference"] <= row["high"] and row["at"] == "evaluation"
    assert evaluate.tested(run) == before + len(result["rows"])
    np.testing.assert_allclose(
        [row["p_holm"] for row in result["rows"]],
        compare.holm([row["p"] for row in result["rows"]]),
    )
    summary = json.loads((run / "summary.json").read_text())
    assert np.isclose(result["intact"]["ndcg@50"], summary["test"]["ndcg@50"], atol=1e-7)


def test_content_alone_is_lost_without_the_features(result):
    rows = {row["knockout"]: row for row in result["rows"]}
    assert set(rows) == {"image:zero", "image:shuffle", "text:zero", "text:shuffle", "*:shuffle"}
    every = rows["*:shuffle"]
    assert every["value"] < 0.7 * result["intact"]["ndcg@50"]
    assert every["high"] < 0 and every["p_holm"] < 0.01
    assert every["value"] < rows["image:shuffle"]["value"]


def test_knocking_out_nothing_changes_nothing(run):
    (row,) = ablate.ablate(run, "*:missing=0", split="valid")["rows"]
    assert row["difference"] == 0 and row["p_holm"] == 1


def test_an_ablation_on_test_is_counted(run):
    before = evaluate.tested(run)
    ablate.ablate(run, "image:zero;text:zero")
    assert evaluate.tested(run) == before + 3
    ablate.ablate(run, "image:zero", split="valid")
    assert evaluate.tested(run) == before + 3


def test_the_table_and_its_files(run):
    result = ablate.ablate(run, "image:zero")
    assert json.loads((run / "ablation.json").read_text())["rows"] == result["rows"]
    text = (run / "ablation.md").read_text()
    assert text == ablate.table(result) + "\n"
    row = result["rows"][0]
    assert f"| nothing | | {result['intact']['ndcg@50']:.4f} |" in text
    assert f"| `image:zero` | evaluation | {row['value']:.4f} | {row['difference']:+.4f} |" in text
    assert "learned" not in text


def test_retrained_rows_are_runs_of_their_own(run, monkeypatch):
    """What is closed form is the same, knocked out before or after."""
    result = ablate.ablate(run, "image:zero;*:missing=0.5", retrain=True)
    at = {(row["knockout"], row["at"]): row["value"] for row in result["rows"]}
    assert len(at) == 4
    for word, folder in (("image:zero", "image-zero"), ("*:missing=0.5", "all-missing-0.5")):
        assert np.isclose(at[word, "evaluation"], at[word, "training"], atol=1e-6)
        summary = json.loads((run / "ablate" / folder / "summary.json").read_text())
        assert summary["config"]["data"]["knockout"] == word
        assert np.isclose(summary["test"]["ndcg@50"], at[word, "training"], atol=1e-6)
        assert summary["data_notes"]["knockout"]["spec"] == word
    monkeypatch.setattr(train, "train", None)  # what has ended is kept
    again = ablate.ablate(run, "image:zero;*:missing=0.5", retrain=True)
    assert again["rows"] == result["rows"]


def test_retrained_users_are_matched_by_their_ids(run):
    ablate.ablate(run, "text:zero", retrain=True)
    file = run / "ablate" / "text-zero" / "per_user_test.parquet"
    kept = file.read_bytes()
    pd.read_parquet(file).iloc[::-1].to_parquet(file)
    with pytest.raises(UserError, match="not the queries of this run"):
        ablate.ablate(run, "text:zero", retrain=True)
    file.write_bytes(kept)


def test_a_knock_out_comes_on_top_of_what_the_run_had():
    config = _config(**{"data.knockout": "text:zero"})
    assert ablate._configured(config, "image:zero", 3).data.knockout == "text:zero;image:zero"
    assert ablate._configured(config, "image:zero", 3).data.knockout_seed == 3
    assert config.data.knockout == "text:zero"


def test_learned_copies_of_features_are_told(tmp_path):
    config = _config(bm3, **{"train.epochs": 1, "model.finetune_features": True})
    train.train(config, tmp_path)
    result = ablate.ablate(tmp_path, "image:zero")
    names = result["learned_features"]
    assert len(names) == 2 and all(name.endswith("/features") for name in names)
    assert "learned its own copy of features" in ablate.table(result)


def test_mistakes(run, tmp_path):
    with pytest.raises(UserError, match="no modality 'imag'"):
        ablate.ablate(run, "imag:zero")
    with pytest.raises(UserError, match="no way to knock out 'off'"):
        evaluate.evaluate(run, knockout="image:off")
    with pytest.raises(UserError, match="holds no finished run"):
        ablate.ablate(tmp_path)


def test_what_is_a_function_of_features_is_made_anew(run):
    _, _, intact, _ = runs.load(run)
    _, data, without, _ = runs.load(run, lambda data: knockout.knock_out(data, "*:shuffle"))
    assert data.notes["knockout"]["spec"] == "*:shuffle"
    leaves = [np.asarray(ctx.tables["weight"]) for ctx in (intact, without)]
    np.testing.assert_array_equal(*leaves)  # of behaviour
    probe = np.eye(data.spec.num_items, dtype=np.float32)
    content = [np.asarray(graph.matmul(ctx.graphs["content"], probe)) for ctx in (intact, without)]
    assert not np.allclose(*content)


def test_the_launcher(run):
    def launch(*flags):
        root = Path(__file__).parent.parent
        command = [sys.executable, "launch.py", *flags]
        return subprocess.run(command, cwd=root, capture_output=True, text=True)

    done = launch("--mode=ablate", f"--workdir={run}", "--knockouts=text:mean")
    assert done.returncode == 0, done.stderr
    assert "| `text:mean` | evaluation |" in done.stdout
    wrong = launch("--mode=eval", f"--workdir={run}", "--knockout=text:off")
    assert wrong.returncode == 2 and "no way to knock out 'off'" in wrong.stderr
    wrong = launch("--mode=leak", "--seeds=one")
    assert wrong.returncode == 2 and "whole numbers only" in wrong.stderr
