"""Paired tests against values by hand and by enumeration, groups of runs, and the launcher."""

import dataclasses
import itertools
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from configs.baseline import mf, popularity
from mmrec_jax import compare, store, train
from mmrec_jax.types import UserError

ROOT = Path(__file__).parent.parent


# --- the tests themselves ---


def test_holm_by_hand():
    # Sorted: 0.005 x 4, 0.01 x 3, 0.03 x 2, 0.04 x 1, none below the one before.
    np.testing.assert_allclose(compare.holm([0.01, 0.04, 0.03, 0.005]), [0.03, 0.06, 0.06, 0.02])
    np.testing.assert_allclose(compare.holm([0.6, 0.5]), [1.0, 1.0])
    np.testing.assert_allclose(compare.holm([0.02]), [0.02])
    assert compare.holm([]).shape == (0,)


def enumerated(difference):
    """p over all sign flips."""
    signs = np.array(list(itertools.product((-1, 1), repeat=len(difference))))
    return (np.abs(signs @ difference) >= abs(difference.sum()) - 1e-9).mean()


@pytest.mark.parametrize("seed", range(3))
def test_p_is_that_of_all_sign_flips(seed):
    rng = np.random.default_rng(seed)
    first, second = rng.random(8), rng.random(8) + 0.15 * seed
    exact = enumerated(second - first)
    found = compare.paired(first, second, resamples=20_000)
    assert found.difference == pytest.approx((second - first).mean())
    assert found.p == pytest.approx(exact, abs=5 * np.sqrt(exact * (1 - exact) / 20_000) + 1e-4)


def test_ties_count_as_extreme():
    # Of the 2**3 sums of 0.1, 0.1 and 0.3 with either sign, two are as far from 0 as 0.5.
    difference = np.array([0.1, 0.1, 0.3])
    assert enumerated(difference) == 0.25
    found = compare.paired(np.zeros(3), difference, resamples=20_000)
    assert found.p == pytest.approx(0.25, abs=0.02)
    same = compare.paired(np.full(5, 0.3), np.full(5, 0.3))
    assert dataclasses.astuple(same) == (0.0, 0.0, 0.0, 1.0)


def test_the_interval_is_that_of_the_bootstrap():
    rng = np.random.default_rng(0)
    first, second = rng.random(300), rng.random(300) ** 2
    difference = second - first
    drawn = difference[rng.integers(0, 300, (20_000, 300))].mean(axis=1)
    found = compare.paired(first, second, resamples=20_000)
    # The ends of 20,000 draws are known to about 0.03 of their deviation.
    width = 0.15 * drawn.std()
    np.testing.assert_allclose(
        [found.low, found.high], np.quantile(drawn, [0.025, 0.975]), atol=width
    )
    assert found.p < 0.001 and found.high < 0


def test_the_interval_covers_and_the_test_keeps_its_level():
    """Of 400 simulated comparisons, 95 % of the intervals hold the truth; 5 % of nulls fall."""
    rng = np.random.default_rng(1)
    differences = rng.exponential(1.0, (400, 120)) - 1.0 + 0.2
    found = compare.paired_rows(differences, resamples=2000)
    covered = np.mean([row.low <= 0.2 <= row.high for row in found])
    assert 0.91 <= covered <= 0.975  # a little low, as for any skewed sample of this size
    null = rng.normal(size=(400, 40))
    rejected = np.mean([row.p < 0.05 for row in compare.paired_rows(null, resamples=2000)])
    assert 0.02 <= rejected <= 0.085


def test_numbers_come_back_and_depend_on_the_seed_alone(monkeypatch):
    rng = np.random.default_rng(2)
    first, second = rng.random(50), rng.random(50)
    found = compare.paired(first, second, resamples=1001)
    assert compare.paired(first, second, resamples=1001) == found
    assert compare.paired(first, second, resamples=1001, seed=1).low != found.low
    monkeypatch.setattr(compare, "_CHUNK", 50 * 7)  # 1001 draws, 7 at a time
    parts = compare.paired(first, second, resamples=1001)
    np.testing.assert_allclose(dataclasses.astuple(parts), dataclasses.astuple(found), rtol=1e-6)
    # A pair's numbers are the same among others.
    rows = compare.paired_rows(np.stack([first, second - first, second]), resamples=1001)
    np.testing.assert_allclose(dataclasses.astuple(rows[1]), dataclasses.astuple(found), rtol=1e-5)


def test_signs_are_fair_and_of_every_length():
    import jax

    for count in (1, 31, 32, 33, 1000):
        signs = np.asarray(compare._signs(jax.random.key(count), count))
        assert signs.shape == (count,) and set(signs) <= {-1.0, 1.0}
    assert abs(signs.sum()) < 5 * np.sqrt(1000)


@pytest.mark.parametrize(
    "first,second,words",
    [
        (np.zeros(3), np.zeros(4), "cannot pair"),
        (np.zeros(0), np.zeros(0), "cannot pair"),
        (np.zeros(2), np.array([0.0, np.nan]), "not finite"),
    ],
)
def test_what_cannot_be_paired_is_said(first, second, words):
    with pytest.raises(UserError, match=words):
        compare.paired(first, second)


def test_welch_is_left_out_without_a_spread():
    found = compare.welch([0.1, 0.2, 0.3], [0.5, 0.5, 0.7])
    # The sample variances are 0.01 and 0.04 / 3, of three seeds each.
    t = (1.7 / 3 - 0.2) / np.sqrt(0.01 / 3 + (0.04 / 3) / 3)
    u, v = 0.01 / 3, (0.04 / 3) / 3
    freedom = (u + v) ** 2 / (u**2 / 2 + v**2 / 2)
    assert found["difference"] == pytest.approx(1.7 / 3 - 0.2)
    assert found["p"] == pytest.approx(2 * stats.t.sf(t, freedom))
    assert compare.welch([0.1], [0.2, 0.3])["p"] is None
    assert compare.welch([0.1, 0.1], [0.2, 0.2])["p"] is None


# --- finished runs ---


def made(folder, name="graph.a", seed=0, shift=0.0, users=40, entity="user", **changes):
    """A run as it is left behind; its metrics are random, but the same for the same seed."""
    rng = np.random.default_rng(seed)
    config = {"seed": seed, "model": {"name": name, "dim": 8}, "eval": {"metric": "recall@20"}}
    summary = {
        "name": name,
        "data": "toy",
        "protocol": "mmrec",
        "seed": seed,
        "split_hash": "0123456789abcdef",
        "test": {},
        "config": config,
    }
    for key, value in changes.items():
        place, _, last = key.rpartition("__")
        {"": summary, "config": config}.get(place, config.get(place))[last] = value
    folder.mkdir(parents=True)
    store.write_json(folder / "summary.json", summary)
    noise = rng.random(users)
    metrics = {"recall@20": noise + shift, "ndcg@20": noise / 2 + shift, "hit@5": noise > 0.5}
    ids = np.random.default_rng(9).permutation(users)  # in any order
    metrics = {key: np.asarray(value, np.float32)[ids] for key, value in metrics.items()}
    store.per_query(folder / f"per_{entity}_test.parquet", metrics, entity, ids)
    return folder


def test_runs_are_grouped_by_seed_and_tested_in_pairs(tmp_path):
    paths = [made(tmp_path / f"a{seed}", seed=seed) for seed in (0, 1)]
    paths += [made(tmp_path / f"b{seed}", "graph.b", seed=seed, shift=0.1) for seed in (0, 1)]
    paths += [made(tmp_path / "c", seed=0, shift=0.1 / 2, model__dim=16)]
    found = compare.compare(paths, output=tmp_path / "out", resamples=1000)
    names = ["graph.a (dim=8)", "graph.b", "graph.a (dim=16)"]
    assert [group["name"] for group in found["groups"]] == names
    assert [group["seeds"] for group in found["groups"]] == [[0, 1], [0, 1], [0]]
    assert list(found["metrics"]) == ["recall@20", "ndcg@20"] and found["users"] == 40
    recall = found["metrics"]["recall@20"]
    tests = recall["over_users"]
    assert [(t["first"], t["second"]) for t in tests] == [
        (names[0], names[1]),
        (names[0], names[2]),
        (names[1], names[2]),
    ]
    # The same users' metrics, plus 0.1: no doubt about it, whatever the spread over users is.
    assert tests[0]["difference"] == pytest.approx(0.1, abs=1e-6)
    assert tests[0]["low"] == pytest.approx(0.1, abs=1e-6) == tests[0]["high"]
    assert tests[0]["p"] == pytest.approx(1 / 1001)
    by_hand = np.random.default_rng(0).random(40) + 0.05
    mean = (np.random.default_rng(0).random(40) + np.random.default_rng(1).random(40)) / 2
    assert tests[1]["difference"] == pytest.approx((by_hand - mean).mean(), abs=1e-6)
    for key, value in dataclasses.asdict(compare.paired(mean, by_hand, 1000)).items():
        assert tests[1][key] == pytest.approx(value, abs=1e-3), key
    np.testing.assert_allclose([t["p_holm"] for t in tests], compare.holm([t["p"] for t in tests]))
    of_seeds = [
        np.mean(np.random.default_rng(seed).random(40).astype(np.float32)) for seed in (0, 1)
    ]
    assert recall["groups"][0]["mean"] == pytest.approx(np.mean(of_seeds), abs=1e-6)
    assert recall["groups"][0]["sd"] == pytest.approx(np.std(of_seeds, ddof=1), abs=1e-6)
    assert recall["groups"][2]["sd"] is None
    over_seeds = recall["over_seeds"]
    assert over_seeds[0]["p"] == over_seeds[0]["p_holm"] is not None
    assert over_seeds[1]["p"] is over_seeds[1]["p_holm"] is None
    assert store.read_json(tmp_path / "out" / "compare.json", "") == found
    text = (tmp_path / "out" / "compare.md").read_text()
    assert text == compare.table(found) + "\n"
    assert "| graph.a (dim=8) | graph.b | +0.1000 | [+0.1000, +0.1000] | 0.0010 | 0.0030 |" in text
    assert text.count("Separately, over seeds") == 2
    assert (tmp_path / "out" / "compare.png").read_bytes().startswith(b"\x89PNG")


def test_metrics_are_chosen_by_name(tmp_path):
    paths = [made(tmp_path / "a"), made(tmp_path / "b", "graph.b", eval__metric="hit@5")]
    found = compare.compare(paths, ["hit@5"], tmp_path / "out", resamples=100)
    assert list(found["metrics"]) == ["hit@5"]
    assert not (tmp_path / "compare").exists()
    assert "Separately" not in compare.table(found)
    # Runs chosen by different metrics are compared by all of them.
    both = compare.compare(paths[::-1], output=tmp_path / "both", resamples=100)
    assert list(both["metrics"]) == ["hit@5", "recall@20", "ndcg@20"]


def test_all_others_against_one(tmp_path):
    names = ("graph.a", "graph.b", "graph.c")
    paths = {name: made(tmp_path / name, name, shift=n / 10) for n, name in enumerate(names)}
    twin = made(tmp_path / "twin", "graph.b", seed=1, shift=0.1)
    runs = [*paths.values(), twin]
    found = compare.compare(runs, output=tmp_path / "out", resamples=99, against=paths["graph.b"])
    tests = found["metrics"]["recall@20"]["over_users"]
    assert [(t["first"], t["second"]) for t in tests] == [
        ("graph.b", "graph.a"),
        ("graph.b", "graph.c"),
    ]
    assert found["groups"][0]["seeds"] == [0, 1]
    # The correction is for two tests, not for the three of all pairs.
    np.testing.assert_allclose([t["p_holm"] for t in tests], compare.holm([t["p"] for t in tests]))


def test_a_sweep_stands_for_its_winner(tmp_path):
    folder = tmp_path / "sweep"
    for number in range(3):
        made(folder / f"00{number}", seed=number % 2, shift=0.2, model__dim=4 if number else 2)
    store.write_json(folder / "sweep.json", {})
    lone = made(tmp_path / "lone")
    with pytest.raises(UserError, match="sweep: the sweep has not ended"):
        compare.compare([folder, lone], output=tmp_path / "out")
    store.write_json(folder / "summary.json", {"winner": {"members": ["001", "002"]}})
    found = compare.compare([folder, lone, folder / "002"], output=tmp_path / "out", resamples=100)
    assert [len(group["runs"]) for group in found["groups"]] == [2, 1]
    assert found["groups"][0]["runs"] == [str(folder / "001"), str(folder / "002")]


def test_the_section_of_sweeps_sets_no_runs_apart(tmp_path):
    """The members of a sweep have none; a lone run has, though nothing reads it."""
    paths = [made(tmp_path / "member"), made(tmp_path / "other", "graph.b")]
    paths.append(made(tmp_path / "lone", seed=1, config__sweep={"mode": "auto"}))
    found = compare.compare(paths, output=tmp_path / "out", resamples=100)
    assert [group["seeds"] for group in found["groups"]] == [[0, 1], [0]]


@pytest.mark.parametrize(
    "changes,words",
    [
        ({"split_hash": "feedfeedfeedfeed"}, "its split hash is feedfeedfeedfeed, but .*good has"),
        ({"protocol": "strict"}, "its protocol is strict, but .*good has mmrec"),
        ({"data": "other"}, "its data is other, but .*good has toy"),
        ({"users": 39}, "it was tested on other users than .*good"),
        ({"entity": "item"}, "it was tested on other items than .*good"),
        ({"name": "graph.a"}, "it has the same settings and seed as .*good"),
    ],
)
def test_what_cannot_be_compared_is_refused_in_one_line(tmp_path, changes, words):
    good = made(tmp_path / "good")
    bad = made(tmp_path / "bad", **{"name": "graph.b", **changes})
    with pytest.raises(UserError, match=f"bad: {words}") as caught:
        compare.compare([good, bad], output=tmp_path / "out")
    assert "\n" not in str(caught.value) and not (tmp_path / "out").exists()


def test_other_refusals(tmp_path):
    good, other = made(tmp_path / "good"), made(tmp_path / "other", "graph.b")
    refuse = lambda words, *args: pytest.raises(UserError, match=words)
    with refuse("good: there is no run with other settings"):
        compare.compare([good, made(tmp_path / "twin", seed=1)])
    with refuse("good: there is no run with other settings"):
        compare.compare([good, good])
    with refuse("good: its table by user has no auc, only recall@20, ndcg@20, hit@5"):
        compare.compare([good, other], ["auc"])
    with refuse("has no user"):
        compare.compare([good, other], ["user"])
    with refuse("no finished run to read here"):
        compare.compare([good, tmp_path / "nowhere"])
    store.per_query(
        other / "per_user_test.parquet", {"recall@20": [np.nan, 0.0]}, "user", np.arange(2)
    )
    with refuse("other: recall@20 is not a number for every user"):
        compare.compare([good, other], ["recall@20"])
    store.per_query(other / "per_user_test.parquet", {"recall@20": [1.0, 0.0]}, "user", [3, 3])
    with refuse("other: it has several rows for one user"):
        compare.compare([good, other], ["recall@20"])
    (other / "per_user_test.parquet").unlink()
    with refuse("other: there is no per_user_test.parquet; only runs that were tested"):
        compare.compare([good, other])
    assert not Path("compare").exists()


def test_the_launcher_compares_two_runs(tmp_path):
    def launch(*arguments):
        command = [sys.executable, str(ROOT / "launch.py"), *map(str, arguments)]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)

    summaries = []
    for method in (mf, popularity):
        config = method.get_config("debug")
        config.data.knobs.num_users, config.data.knobs.num_items = 60, 40
        config.train.epochs = min(config.train.epochs, 1)
        summaries.append(train.train(config, tmp_path / str(len(summaries))))
    # The runs may stand before the flags.
    output = f"--output={tmp_path / 'out'}"
    done = launch("--mode=compare", tmp_path / "0", tmp_path / "1", output)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "compare.md").read_text().strip() in done.stdout
    assert "### recall@20" in done.stdout and "### ndcg@20" in done.stdout
    found = json.loads((tmp_path / "out" / "compare.json").read_text())
    assert found["split_hash"] == summaries[0]["split_hash"]
    test = found["metrics"]["ndcg@20"]["over_users"][0]
    wanted = summaries[1]["test"]["ndcg@20"] - summaries[0]["test"]["ndcg@20"]
    assert test["difference"] == pytest.approx(wanted, abs=1e-6)
    assert test["low"] <= test["difference"] <= test["high"] and 0 < test["p"] <= 1
    for arguments, words in (
        (["--mode=compare", tmp_path / "0", tmp_path / "none", output], "none/summary.json"),
        (["--mode=eval", tmp_path / "0"], "unexpected argument"),
    ):
        done = launch(*arguments)
        assert done.returncode != 0 and words in done.stderr + done.stdout
        assert "Traceback" not in done.stderr
