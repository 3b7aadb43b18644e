"""The passport of a split, and the lock on test in lone runs."""

import dataclasses
import json

import jax
import made
import numpy as np
import pytest

from configs.baseline import ease, mf, popularity
from configs.ctr import deepfm
from mmrec_jax import data as datasets
from mmrec_jax import evaluate, logs, report, store, sweep, train
from mmrec_jax import run as runs
from mmrec_jax.data import passport, prepared
from mmrec_jax.types import Interactions, UserError

SPLITS = ("train", "valid", "test")


def frame(user, item, time=None):
    columns = {"user": user, "item": item}
    return columns if time is None else columns | {"time": time}


# Users 1, 2, 3 have items in this order of time; the last one tests, the one before validates.
LATE = frame(
    [1, 1, 1, 2, 2, 2, 3, 3, 3],
    [10, 11, 12, 10, 12, 11, 11, 10, 13],
    [1, 2, 3, 4, 5, 6, 10, 11, 12],
)


def tiny(method=mf, **changes):
    few = {"eval.patience": 1} | ({"train.epochs": 4} if method.get_config().train.epochs else {})
    return made.config(method, **{**few, **changes})


@pytest.fixture(autouse=True)
def without_plots(monkeypatch):
    monkeypatch.setattr(report, "curves", lambda *_: None)


# --- the passport ---


def test_a_passport_by_hand():
    found = passport.of(datasets.from_frames(LATE, split="leave_one_out"))
    assert found["rule"] == "leave_one_out" and len(found["hash"]) == 16
    assert (found["users"], found["items"], found["counts"]) == (3, 4, "interactions")
    assert found["train"] == {"interactions": 3, "users": 3, "items": 2}  # 10, 10, 11
    assert found["valid"] == {"interactions": 3, "users": 3, "items": 3}
    assert found["test"] == {"interactions": 3, "users": 3, "items": 3}  # 12, 11, 13
    assert found["density"] == pytest.approx(9 / 12)
    assert found["cold"] == {"users": 0, "items": 2, "interactions": 2}  # 12 and 13
    # Training at 1, 4, 10; test at 3, 6, 12.
    assert found["overlap"] == pytest.approx(
        {"after_first_test": 2 / 3, "after_median_test": 1 / 3}
    )
    assert found["dropped"] == {"repeats": 0, "of_untrained_users": 0, "k_core": None}
    assert found["warnings"] == [
        "leave-one-out over overlapping times: 66.7% of the training interactions come after the "
        "earliest test interaction, 33.3% after the median one; config.data.split=time trains on "
        "the past alone",
        "2 of 3 items in test are cold, without training interactions: 12, 13; 2 of 3 test "
        "interactions are theirs",
    ]


def test_a_split_in_time_has_no_overlap_and_no_warning_of_it():
    columns = frame([1, 2, 1, 2, 1, 2], [10, 11, 11, 12, 12, 10], [1, 2, 3, 4, 5, 6])
    data = datasets.from_frames(columns, split="time", ratios=(0.5, 0.25, 0.25))
    found = passport.of(data)
    assert found["overlap"] == {"after_first_test": 0.0, "after_median_test": 0.0}
    assert not [line for line in found["warnings"] if "overlapping" in line]


def test_a_published_leave_one_out_split_is_known_for_one():
    labelled = LATE | {"label": [0, 1, 2] * 3}
    lines = passport.of(datasets.from_frames(labelled, columns={"label": "label"}))["warnings"]
    assert lines[0].startswith("leave-one-out over overlapping times: 66.7%")
    # With two test interactions of one user it is another kind of split.
    two = LATE | {"label": [0, 2, 2, 0, 1, 2, 0, 1, 2]}
    lines = passport.of(datasets.from_frames(two, columns={"label": "label"}))["warnings"]
    assert not [line for line in lines if "overlapping" in line]


def test_times_that_are_none_or_places_make_no_overlap(tmp_path):
    user, item = np.repeat(np.arange(4), 10), np.tile(np.arange(10), 4)
    without = datasets.from_frames(frame(user, item))
    assert passport.of(without)["overlap"] is None and not passport.of(without)["warnings"]
    (tmp_path / "beauty.txt").write_text("1 5 6 7 8\n2 5 6 8 7\n3 7 5 6 8\n")  # user, then items
    listed = datasets.load(str(tmp_path / "beauty.txt"))
    assert "place" in listed.notes["time"] and listed.train.time is not None
    found = passport.of(listed)
    assert found["overlap"] is None and not [w for w in found["warnings"] if "overlap" in w]


def test_what_a_filter_dropped_is_told():
    user = [1, 1, 1, 2, 2, 2, 3, 3, 4, 1]
    item = [10, 11, 12, 10, 11, 12, 10, 11, 13, 10]  # user 4 and item 13 fall, and a repeat
    data = datasets.from_frames(frame(user, item), k_core=2)
    assert passport.of(data)["dropped"] == {
        "repeats": 1,
        "of_untrained_users": 0,
        "k_core": {"k": 2, "users": 1, "items": 1, "interactions": 1},
    }


def test_cold_users_are_named():
    data = datasets.from_frames(LATE, split="leave_one_out")
    train_ = data.train.take(data.train.user == 0)
    found = passport.passport(dataclasses.replace(data, train=train_))
    assert found["cold"]["users"] == 2
    assert any(w.startswith("2 of 3 users in test are cold") for w in found["warnings"])
    none = passport.passport(dataclasses.replace(data, test=data.test.take(np.zeros(0, int))))
    assert none["overlap"] is None and none["warnings"] == []
    assert none["test"] == {"interactions": 0, "users": 0, "items": 0}


def test_prepared_data_bring_the_same_passport(tmp_path):
    for name, columns in (("timed", LATE), ("timeless", frame(LATE["user"], LATE["item"]))):
        data = datasets.from_frames(columns)
        folder = prepared.write(data, tmp_path, name)
        stored = json.loads((folder / "metadata.json").read_text())["mmrec_jax"]["notes"]
        assert "passport" not in stored
        again = datasets.load(str(folder))
        assert passport.of(again) == passport.of(data)
        assert (passport.of(again)["overlap"] is None) == (name == "timeless")


def test_impressions_are_counted_where_there_are_any():
    config = tiny(deepfm)
    data = datasets.load(**config.data)
    found = passport.of(data)
    assert found["counts"] == "impressions" and found["hash"] == data.notes["split_hash"]
    for split in SPLITS:
        assert (
            found[split]["interactions"] == len(data.impressions[split]) > len(getattr(data, split))
        )


def test_a_run_shows_its_passport_and_warns_once(tmp_path, capsys):
    summary = train.train(tiny(), tmp_path)
    data = datasets.load(**tiny().data)
    assert summary["split"] == passport.passport(data) and summary["split"]["test"]["users"] > 0
    assert "passport" not in summary["data_notes"]
    lines = [x for x in capsys.readouterr().err.splitlines() if x.startswith("warning: ")]
    assert lines == [f"warning: {line}" for line in summary["split"]["warnings"]] and lines


# --- the lock ---


class Poison:
    """Stands in for the test part; whoever reads it fails."""

    def __getattr__(self, name="itself"):
        raise AssertionError(f"the test part was read: {name}")

    __len__ = __iter__ = __array__ = __getattr__


def relabelled(data, shift=7):
    """The same test users with other items, in impressions with other clicks too."""
    item = (data.test.item + shift) % data.spec.num_items
    shown = dict(data.impressions)
    if shown:
        shown["test"] = dataclasses.replace(shown["test"], click=1 - shown["test"].click)
    test = dataclasses.replace(data.test, item=item.astype(np.int32))
    return dataclasses.replace(data, test=test, impressions=shown)


@pytest.mark.parametrize("method", [mf, ease, deepfm])
def test_a_lone_run_reads_test_after_it_has_chosen(tmp_path, monkeypatch, method):
    load, reveal, state = datasets.load, runs.Vault.reveal, {}

    def poisoning(**options):
        state["true"] = load(**options)
        shown = dict(state["true"].impressions)
        shown |= {"test": Poison()} if shown else {}
        poisoned = dataclasses.replace(state["true"], test=Poison(), impressions=shown)
        state["poisoned"] = poisoned
        return poisoned

    def lift(self, config):
        data = reveal(self, config)
        if "loaded" in state:  # the second call comes after the choice
            if config.train.epochs:
                assert len(logs.read(tmp_path)) > 0
            state["lifted"] = True
            return state["true"]
        state["loaded"] = True
        return data

    monkeypatch.setattr(datasets, "load", poisoning)
    monkeypatch.setattr(runs.Vault, "reveal", lift)
    summary = train.train(tiny(method), tmp_path)
    assert state["lifted"] and summary["test"] and summary["test_evaluations"] == 1
    with pytest.raises(AssertionError, match="the test part was read"):
        len(state["poisoned"].test)


def chosen(workdir):
    """All that a run decided by itself: its log less the times, its best parameters, the epoch."""
    log = [{k: v for k, v in record.items() if "seconds" not in k} for record in logs.read(workdir)]
    summary = json.loads((workdir / "summary.json").read_text())
    best = [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(runs.load(workdir)[3])]
    return log, best, summary.get("best_epoch"), summary["epochs"], summary["valid"]


@pytest.mark.parametrize("method", [mf, deepfm])
def test_other_test_labels_leave_a_lone_run_as_it_is(tmp_path, monkeypatch, method):
    load = datasets.load
    first = train.train(tiny(method), tmp_path / "first")
    monkeypatch.setattr(datasets, "load", lambda **options: relabelled(load(**options)))
    second = train.train(tiny(method), tmp_path / "second")
    assert first["test"] != second["test"]
    assert chosen(tmp_path / "first") == chosen(tmp_path / "second")


@pytest.mark.parametrize(
    "mode,halving,seeds",
    [
        ("loop", 0, (0,)),
        ("loop", 2, (0,)),
        pytest.param("vmap", 2, (0, 3), marks=pytest.mark.slow),
    ],
)
def test_other_test_labels_leave_a_sweep_as_it_is(tmp_path, monkeypatch, mode, halving, seeds):
    load = datasets.load
    options = {"sweep.mode": mode, "sweep.halving": halving, "sweep.min_epochs": 2}
    wanted = {"optim.lr": (0.3, 0.02), "seed": seeds}
    results = {}
    for name in ("first", "second"):
        results[name] = sweep.sweep(tiny(**options), wanted, tmp_path / name)
        monkeypatch.setattr(datasets, "load", lambda **options: relabelled(load(**options)))
    first, second = (results[name]["winner"] for name in ("first", "second"))
    assert first.pop("test") != second.pop("test") and first == second
    assert results["first"]["split"] == results["second"]["split"]
    for name in [f"00{number}" for number in range(2 * len(seeds))]:
        assert chosen(tmp_path / "first" / name) == chosen(tmp_path / "second" / name)


def test_each_look_at_test_is_counted(tmp_path):
    train.train(tiny(popularity), tmp_path)
    count = lambda: store.read_summary(tmp_path)["test_evaluations"]
    assert count() == 1
    before = store.read_summary(tmp_path)
    means = evaluate.evaluate(tmp_path)
    assert count() == 2 and means == pytest.approx(before["test"])
    evaluate.evaluate(tmp_path, "valid")
    assert count() == 2
    after = store.read_summary(tmp_path)
    assert after == before | {"test_evaluations": 2}
    train.train(tiny(popularity), tmp_path)  # a finished run that is started again is tested again
    assert count() == 3
    (tmp_path / "summary.json").unlink()
    with pytest.raises(UserError, match="has not ended, and test is for what has"):
        evaluate.evaluate(tmp_path)
    assert evaluate.evaluate(tmp_path, "valid")


def test_runs_from_before_the_count_have_one_look_behind_them(tmp_path):
    for summary, expected in (({"test": {}}, 1), ({"valid": {}}, 0), ({"test_evaluations": 4}, 4)):
        store.write_json(tmp_path / "summary.json", summary)
        assert evaluate.tested(tmp_path) == expected
    assert evaluate.tested(tmp_path / "none") == 0


def test_mistakes_are_still_found_before_training(tmp_path):
    for changes, words in (
        ({"eval.protocol": "lenient"}, "eval.protocol is 'lenient'"),
        ({"eval.metric": "recall@21"}, "eval.metric is 'recall@21'"),
    ):
        # Without a validation part no query is built before training.
        config = tiny(**{"data.ratios": (0.9, 0.0, 0.1), **changes})
        with pytest.raises(UserError, match=words):
            train.train(config, tmp_path / "run")
        assert not (tmp_path / "run").exists()


def test_the_vault_hands_out_no_test_part():
    vault, config = runs.Vault(), tiny(deepfm)
    data, whole = vault.load(config), vault.reveal(config)
    assert len(data.test) == len(data.impressions["test"]) == 0
    assert isinstance(data.test, Interactions) and len(whole.impressions["test"]) > 0
    assert passport.of(data) == passport.of(whole)


def test_what_happens_at_the_same_moment_is_not_later():
    part = lambda *times: Interactions(*np.zeros((2, len(times)), np.int32), np.array(times))
    found = passport.overlap(part(1, 3, 5, 7), part(3, 5))
    assert found == {"after_first_test": 0.5, "after_median_test": 0.5}  # the lower of two medians
