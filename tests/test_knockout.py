"""Knock-out and imputation: what each does to features, masks, graphs, codes and notes."""

import dataclasses

import made
import numpy as np
import pytest

from mmrec_jax import data as datasets
from mmrec_jax.data import knockout
from mmrec_jax.ops import neighbours
from mmrec_jax.types import Spec, UserError

KNOBS = {"num_users": 40, "num_items": 60, "mean_interactions": 8.0, "missing": 0.1}


def _data(features, present=None, train=((0,), (0,)), **parts):
    """A data set of these features, [I, F] by modality; all present unless said."""
    features = {name: np.asarray(x, np.float32) for name, x in features.items()}
    count = len(next(iter(features.values())))
    present = {name: np.ones(count, bool) for name in features} | (present or {})
    for name, rows in present.items():
        features[name][~rows] = 0
    return made.dataset(*train, 4, features=features, present=present, name="small", **parts)


@pytest.fixture
def small():
    """Five items; the last has no image, and all have a text."""
    image = [[1, 10], [2, 20], [3, 30], [6, 60], [0, 0]]
    return _data(
        {"image": image, "text": np.eye(5)}, {"image": np.array([True, True, True, True, False])}
    )


def test_zero_and_mean_take_what_rows_say_and_leave_them_present(small):
    zero, mean = (knockout.knock_out(small, f"image:{how}") for how in ("zero", "mean"))
    assert not zero.features["image"].any()
    np.testing.assert_allclose(mean.features["image"], [[3, 30]] * 4 + [[0, 0]])
    for changed in (zero, mean):
        assert changed.present["image"].tolist() == [True, True, True, True, False]
        assert changed.features["text"] is small.features["text"]
        assert changed.features["image"].dtype == np.float32
    assert zero.notes["knockout"] == {"spec": "image:zero", "seed": 0, "rows": {"image:zero": 4}}
    assert small.features["image"][3].tolist() == [6, 60] and "knockout" not in small.notes


def test_noise_has_the_moments_of_each_column():
    rng = np.random.default_rng(0)
    present = np.arange(4000) % 4 != 3
    data = _data({"image": rng.normal([5, -1], [2, 0.1], (4000, 2))}, {"image": present})
    given = data.features["image"][present]
    changed = knockout.knock_out(data, "image:noise")
    noise = changed.features["image"][present]
    np.testing.assert_allclose(noise.mean(0), given.mean(0), atol=0.15)
    np.testing.assert_allclose(noise.std(0), given.std(0), rtol=0.05)
    assert abs(np.corrcoef(noise[:, 0], given[:, 0])[0, 1]) < 0.06
    assert abs(np.corrcoef(noise[:, 0], noise[:, 1])[0, 1]) < 0.06
    assert not changed.features["image"][~present].any()
    assert (changed.present["image"] == present).all()


def test_shuffle_exchanges_present_rows(small):
    changed = knockout.knock_out(small, "image:shuffle", seed=1)
    rows = changed.features["image"]
    assert not (rows == small.features["image"]).all()
    assert sorted(map(tuple, rows[:4])) == sorted(map(tuple, small.features["image"][:4]))
    assert not rows[4].any() and not changed.present["image"][4]
    again, other = (knockout.knock_out(small, "image:shuffle", s).features for s in (1, 2))
    assert (rows == again["image"]).all() and not (rows == other["image"]).all()


def test_all_modalities_are_each_knocked_out_as_if_alone(small):
    every = knockout.knock_out(small, "*:shuffle")
    for name in ("image", "text"):
        alone = knockout.knock_out(small, f"{name}:shuffle")
        np.testing.assert_array_equal(every.features[name], alone.features[name])
    both = knockout.knock_out(small, " image:zero ; text:mean;")
    assert not both.features["image"].any()
    np.testing.assert_allclose(both.features["text"], np.full((5, 5), 0.2))
    assert both.notes["knockout"]["rows"] == {"image:zero": 4, "text:mean": 5}


def test_missing_takes_a_share_of_the_present_rows(small):
    changed = knockout.knock_out(small, "image:missing=0.5")
    present = changed.present["image"]
    assert present.sum() == 2 and not present[4]
    assert not changed.features["image"][~present].any()
    np.testing.assert_array_equal(
        changed.features["image"][present], small.features["image"][present]
    )
    assert changed.notes["missing_feature_rows"] == {"image": 3, "text": 0}
    assert not knockout.knock_out(small, "*:missing=1").present["text"].any()
    same = knockout.knock_out(small, "image:missing=0").features["image"]
    np.testing.assert_array_equal(same, small.features["image"])


def _edges(graph):
    row, col, weight = graph
    return sorted(zip(row.tolist(), col.tolist(), np.round(weight, 5).tolist(), strict=True))


def test_a_graph_of_the_modality_follows():
    rng = np.random.default_rng(3)
    present = np.arange(30) != 7
    data = _data({"image": rng.normal(size=(30, 6))}, {"image": present})
    made = lambda d: neighbours.knn_graph(d.features["image"], 3, d.present["image"], True)
    data = dataclasses.replace(data, item_graphs={"image": made(data)})
    graph = lambda how: knockout.knock_out(data, f"image:{how}")
    shuffled, noise = graph("shuffle"), graph("noise")
    assert _edges(shuffled.item_graphs["image"]) == _edges(made(shuffled)) != _edges(made(data))
    moved = noise.item_graphs["image"]
    assert len(moved[0]) == len(made(data)[0]) and _edges(moved) != _edges(made(data))
    missing = graph("missing=0.4")
    here = missing.present["image"]
    kept = [e for e in _edges(made(data)) if here[e[0]] and here[e[1]]]
    assert _edges(missing.item_graphs["image"]) == kept and 0 < len(kept) < len(made(data)[0])
    for how in ("zero", "mean"):
        empty = graph(how)
        assert not len(empty.item_graphs["image"][0])
        neighbours.item_graph(empty, 3)  # methods take a graph without edges


def test_a_graph_of_unknown_origin_is_an_error(small):
    edges = (np.array([0]), np.array([1]), np.ones(1, np.float32))
    data = dataclasses.replace(small, item_graphs={"image": edges, "mm_adj": edges})
    with pytest.raises(UserError, match="ready-made item graph 'mm_adj' may still tell"):
        knockout.knock_out(data, "text:zero")


@pytest.mark.parametrize(
    "spec,said",
    [
        ("imgae:zero", "'imgae:zero': no modality 'imgae'; did you mean 'image'.*known: .*text"),
        ("image:shufle", "no way to knock out 'shufle'; did you mean 'shuffle'.*known: zero, mean"),
        ("image", "expected MODALITY:HOW"),
        ("image:missing", "missing needs a rate"),
        ("image:zero=0.5", "missing needs a rate, and only it"),
        ("image:missing=1.5", "the rate is '1.5'; give a share"),
        ("image:missing=x", "the rate is 'x'; give a share"),
    ],
)
def test_a_mistaken_spec_is_one_clear_line(small, spec, said):
    with pytest.raises(UserError, match=said) as error:
        knockout.knock_out(small, spec)
    assert "\n" not in str(error.value)


def test_data_without_features_have_nothing_to_knock_out(small):
    bare = dataclasses.replace(small, spec=Spec(4, 5), features={}, present={})
    with pytest.raises(UserError, match="no features to knock out"):
        knockout.knock_out(bare, "*:zero")


def test_imputed_by_the_mean(small):
    filled = knockout.impute(small, "mean")
    np.testing.assert_allclose(filled.features["image"][4], [3, 30])
    assert filled.present["image"].all() and not small.present["image"].all()
    assert filled.notes["imputed"] == {"how": "mean", "rows": {"image": 1, "text": 0}}
    assert filled.notes["missing_feature_rows"] == {"image": 0, "text": 0}
    assert knockout.impute(small, "zero") is small


def test_imputed_by_the_nearest_in_the_other_modalities(monkeypatch):
    """Item 4 lacks its image; its text and sound point to others."""
    monkeypatch.setattr(knockout, "NEIGHBOURS", 2)
    text = [[1, 0], [0, 1], [4, 3], [3, -9], [2, 0], [1, 1], [0, 0]]  # cosines to 4: 1 0 .8 .3
    sound = [[0, 1], [1, 0], [0, 0], [0, 0], [1, 0], [9, 9], [0, 0]]  # 0 1 (none) (none) - . .
    image = [[1.0], [2.0], [4.0], [8.0], [0.0], [0.0], [0.0]]
    data = _data(
        {"image": image, "text": text, "sound": sound},
        {
            "image": np.array([1, 1, 1, 1, 0, 0, 0], bool),
            "text": np.array([1, 1, 1, 1, 1, 1, 0], bool),
            "sound": np.array([1, 1, 0, 0, 1, 0, 0], bool),
        },
    )
    filled = knockout.impute(data, "knn")
    # to item 4: item 0 (1 + 0) / 2, item 1 (0 + 1) / 2, item 2 .8 by text alone, item 3 .3
    np.testing.assert_allclose(filled.features["image"][4], [(4 + 1) / 2])
    # to item 5, which has no sound: item 0 .71, item 1 .71, item 2 .99, item 3 -.45
    np.testing.assert_allclose(filled.features["image"][5], [(4 + 1) / 2])
    assert filled.present["image"].tolist() == [True] * 6 + [False]  # 6 has nothing to go by
    assert filled.notes["imputed"]["rows"] == {"image": 2, "text": 0, "sound": 3}
    monkeypatch.setattr(knockout, "NEIGHBOURS", 10)  # more than there are
    every = knockout.impute(data, "knn").features["image"]
    np.testing.assert_allclose(every[4], [(1 + 2 + 4 + 8) / 4])


def test_imputed_over_the_graph_of_common_users(monkeypatch):
    """Items 2 and 3 lack their row. In common: 2-0, 2-1, 2-3 and 3-1, one user each; 4 is alone."""
    user, item = [0, 0, 1, 1, 2, 2, 3, 3, 3], [0, 2, 1, 2, 2, 3, 3, 1, 1]  # one pair twice
    image = [[1, 0], [0, 1], [0, 0], [0, 0], [0, 0]]
    present = {"image": np.array([True, True, False, False, False])}
    data = _data({"image": image}, present, (user, item))
    filled = knockout.impute(data, "graph")
    # x2 = (x0 + x1 + x3) / 3 and x3 = (x1 + x2) / 2
    np.testing.assert_allclose(filled.features["image"][2], [0.4, 0.6], atol=1e-6)
    np.testing.assert_allclose(filled.features["image"][3], [0.2, 0.8], atol=1e-6)
    assert filled.present["image"].tolist() == [True, True, True, True, False]
    assert not filled.features["image"][4].any()
    assert filled.notes["imputed"]["rows"] == {"image": 2}
    monkeypatch.setattr(knockout, "STEPS", 1)
    near = knockout.impute(data, "graph").features["image"]
    np.testing.assert_allclose(near[2:4], [[0.5, 0.5], [0, 1]], atol=1e-6)


@pytest.mark.parametrize("how", ["mean", "graph", "knn"])
def test_what_cannot_be_imputed_stays_missing(how):
    none = np.zeros(3, bool)
    data = _data({"image": np.ones((3, 2)), "text": np.eye(3)}, {"image": none})
    assert not knockout.impute(data, how).present["image"].any()


def test_mistakes_of_imputation(small):
    with pytest.raises(UserError, match="'config.data.impute=nean': .* did you mean 'mean'"):
        knockout.impute(small, "nean")
    with pytest.raises(UserError, match="has only image; use mean or graph"):
        knockout.impute(_data({"image": np.eye(3)}), "knn")


def test_rows_that_go_missing_after_imputation_are_imputed_too(small):
    imputed = knockout.impute(small, "mean")
    later = knockout.knock_out(imputed, "image:missing=0.4")
    assert later.present["image"].all()
    assert later.notes["imputed"]["rows"]["image"] == 2  # of five
    assert len(np.unique(later.features["image"], axis=0)) == 4


def test_options_of_load_apply_in_order():
    intact = datasets.load("synthetic", knobs=KNOBS)
    lost = datasets.load("synthetic", knobs=KNOBS, knockout="image:missing=0.5", impute="mean")
    assert lost.present["image"].all()
    rows = lost.notes["imputed"]["rows"]["image"]
    count = int(intact.present["image"].sum())
    assert rows == 60 - count + round(0.5 * count)
    shuffled = [
        datasets.load("synthetic", knobs=KNOBS, knockout="text:shuffle", knockout_seed=seed)
        for seed in (0, 1)
    ]
    assert not np.array_equal(shuffled[0].features["text"], shuffled[1].features["text"])
    assert shuffled[1].notes["knockout"]["seed"] == 1
    assert shuffled[0].notes["split_hash"] == intact.notes["split_hash"]
    coded = datasets.load("synthetic", knobs=KNOBS, knockout="*:zero", codes="features")
    assert len(np.unique(coded.codes[:, :-1], axis=0)) == 1  # made of what is left


def test_from_frames_takes_the_options_too():
    pairs = {"user": ["a", "a", "b", "b"], "item": ["x", "y", "x", "y"]}
    features = {"image": {"x": [1.0, 3.0], "y": [3.0, 5.0]}}
    rules = {"split": "ratio", "ratios": (1, 0, 0)}
    data = datasets.from_frames(pairs, features, knockout="image:mean", **rules)
    np.testing.assert_allclose(data.features["image"], [[2, 4], [2, 4]])
