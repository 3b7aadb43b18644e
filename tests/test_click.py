"""Impressions with fields, the click task, its metrics and its methods."""

from __future__ import annotations

import dataclasses
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from flax import traverse_util
from ml_collections import ConfigDict

from configs import base
from configs.ctr import autoint, deepfm, esmm
from mmrec_jax import data as datasets
from mmrec_jax import evaluate, losses, queries, recommend, train
from mmrec_jax.data import fields, ml100k, prepared
from mmrec_jax.models.ctr.autoint import AutoInt
from mmrec_jax.models.ctr.deepfm import DeepFM
from mmrec_jax.models.ctr.esmm import ESMM
from mmrec_jax.ops import interact
from mmrec_jax.tasks import click
from mmrec_jax.tasks.click import Batch, Examples
from mmrec_jax.types import Impressions, Spec, UserError

REAL = pathlib.Path(__file__).parents[2] / "shared" / "data" / "ml100k"
FIXTURE = pathlib.Path(__file__).parent / "fixtures" / "click.npz"

# One row per impression; user a clicks x at 1, y at 3; both x and z are shown to b at 2.
LOG = """user,item,click,time,age,city,buy
a,x,1,1,20,Rome,0
a,y,0,2,20,Rome,0
a,y,1,3,20,Oslo,1
b,x,1,2,40,,0
b,z,0,2,40,Oslo,0
b,y,1,4,40,Bern,1
a,z,0,5,,Bern,0
a,x,1,6,30,Rome,0
"""


@pytest.fixture
def log(tmp_path):
    path = tmp_path / "log.csv"
    path.write_text(LOG)
    return path


def load(path, **options):
    return datasets.load(str(path), impressions=True, split="time", **options)


# Data.


def test_a_plain_table(log):
    data = load(log, ratios=(0.75, 0, 0.25), numeric=("age",), buckets=2)
    train_part, test = data.impressions["train"], data.impressions["test"]
    assert len(train_part) == 6 and len(test) == 2 and not len(data.impressions["valid"])
    assert data.spec.fields == (("age", 3), ("city", 4))
    np.testing.assert_array_equal(train_part.fields[:, 0], [1, 1, 1, 2, 2, 2])  # cut at 30
    np.testing.assert_array_equal(train_part.fields[:, 1], [3, 3, 2, 0, 2, 1])  # Bern Oslo Rome
    np.testing.assert_array_equal(test.fields, [[0, 1], [2, 3]])  # no age; 30 is above the cut
    np.testing.assert_array_equal(train_part.click, [1, 0, 1, 1, 0, 1])
    np.testing.assert_array_equal(train_part.conversion, [0, 0, 1, 0, 0, 1])
    np.testing.assert_array_equal(test.click, [0, 1])
    # Clicks are the interactions; a's second click on x repeats the first.
    assert list(zip(data.train.user, data.train.item, strict=True)) == [
        (0, 0),
        (0, 1),
        (1, 0),
        (1, 1),
    ]
    assert data.notes["impressions"]["train"] == {"shown": 6, "clicks": 4, "conversions": 2}


def test_vocabularies_are_learned_on_training_alone():
    values = np.array(["b", "a", "c", "b", ""], object)
    number, size = fields.encode(values, np.array([1, 1, 0, 0, 1], bool), 10)
    np.testing.assert_array_equal(number, [2, 1, 0, 2, 0])
    assert size == 3
    values = np.array([1.0, 2.0, 3.0, 4.0, 97.0, 98.0, 99.0, np.nan])
    number, size = fields.encode(values, np.arange(8) < 4, 2)
    np.testing.assert_array_equal(number, [1, 1, 2, 2, 2, 2, 2, 0])  # cut at 2.5, not at 4
    assert size == 3


def test_columns_with_fractions_are_numbers_and_fields_can_be_named(log):
    log.write_text(LOG.replace(",20,", ",20.5,"))
    half = (0.75, 0, 0.25)
    assert dict(load(log, ratios=half, buckets=1).spec.fields)["age"] == 2  # else 20.5 and 40
    assert load(log, ratios=half, fields=("city",)).spec.fields == (("city", 4),)


def test_users_without_training_impressions_are_not_asked(log):
    log.write_text(LOG + "b,z,1,7,,Rome,0\nc,x,1,7,20,Rome,0\nc,y,0,7,20,Rome,0\n")
    data = load(log, ratios=(0.5, 0, 0.5))
    np.testing.assert_array_equal(data.impressions["test"].user, [0, 0, 1])
    assert data.notes["impressions"]["untrained_users_dropped"] == 2
    assert data.user_ids.tolist() == ["a", "b", "c"]


def test_clicks_from_ratings():
    frame = pd.DataFrame(
        {"user": [1, 1, 1, 1], "item": [1, 2, 3, 4], "rating": [5, 4, 3, 4], "time": [1, 2, 3, 4]}
    )
    rules = dict(impressions=True, click_rating=4.0, split="ratio", ratios=(1, 0, 0))
    data = datasets.from_frames(frame, **rules, conversion_rating=5.0)
    np.testing.assert_array_equal(data.impressions["train"].click, [1, 1, 0, 1])
    np.testing.assert_array_equal(data.impressions["train"].conversion, [1, 0, 0, 0])
    assert data.spec.fields == () and len(data.train) == 3  # the rating is no field
    with pytest.raises(UserError, match="conversions follow clicks"):
        datasets.from_frames(frame, **rules, conversion_rating=3.0)


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        ((",1,3,", ",2,3,"), {}, r"line 4: 'click' is 2; a click is 0 or 1"),
        (("5,,Bern,0", "5,,Bern,1"), {}, r"line 8: a conversion \('buy'\) without a click"),
        (("click", "seen"), {}, "no column seems to hold the clicks"),
        (("", ""), {"fields": ("citty",)}, "'citty', but the fields .* did you mean 'city'"),
        (("", ""), {"numeric": ("user",)}, "config.data.numeric names 'user', but the fields"),
        (("", ""), {"numeric": ("city",)}, r"line 2: 'city' is 'Rome' where a number is expected"),
        (("", ""), {"click_rating": 4.0}, "click_rating needs ratings and there are none"),
        (("", ""), {"buckets": 0}, "config.data.buckets is 0"),
        (("", ""), {"k_core": 2}, "k_core cannot thin out impressions"),
        (("", ""), {"columns": {"click": "klick"}}, "no column 'klick'"),
    ],
)
def test_mistakes_in_the_data_are_one_line(log, change, options, message):
    log.write_text(LOG.replace(*change) if change[0] else LOG)
    with pytest.raises(UserError, match=message) as error:
        load(log, ratios=(0.75, 0, 0.25), **options)
    assert "\n" not in str(error.value)


def test_a_part_of_one_kind_is_an_error(log):
    log.write_text(LOG.replace("a,x,1,6", "a,x,0,6"))
    with pytest.raises(UserError, match="of the 2 impressions in test none is a click"):
        load(log, ratios=(0.75, 0, 0.25))


def test_prepared_data_keep_their_impressions(tmp_path):
    data = datasets.load("synthetic", impressions=True, knobs={"num_users": 20, "num_items": 30})
    again = datasets.load(str(prepared.write(data, tmp_path, "shown")))
    assert again.spec == data.spec and again.notes["impressions"] == data.notes["impressions"]
    for split, part in data.impressions.items():
        for field in dataclasses.fields(Impressions):
            mine, theirs = (getattr(x, field.name) for x in (part, again.impressions[split]))
            np.testing.assert_array_equal(mine, theirs)
            assert mine.dtype == theirs.dtype


@pytest.mark.real
def test_movielens_100k_from_its_own_files():
    if not REAL.exists():
        pytest.skip(f"{REAL} is not there")
    data = datasets.load(
        str(REAL), impressions=True, split="ratio", click_rating=4.0, conversion_rating=5.0
    )
    shown = [len(data.impressions[name]) for name in fields.SPLITS]
    assert sum(shown) == 100_000 and data.spec.num_users == 943 and data.spec.num_items == 1682
    assert [name for name, _ in data.spec.fields] == [
        *("age", "gender", "occupation", "zip", "year", "genres")
    ]
    total = sum(part.click.sum() for part in data.impressions.values())
    assert total == 55_375  # 34,174 fours and 21,201 fives
    genres = ml100k.read(REAL).fields["genres"]
    story = np.flatnonzero(ml100k.read(REAL).item == 1)[0]
    assert genres[story] == "animation children comedy "
    assert data.titles[list(data.item_ids).index(1)] == "Toy Story (1995)"
    assert datasets.load(str(REAL)).notes["interactions"]["read"] == 100_000


# Histories.


def shown(user, item, time, clicked):
    whole = lambda x: np.asarray(x, np.int32)
    none = np.zeros((len(user), 0), np.int32)
    return Impressions(whole(user), whole(item), whole(time), none, np.asarray(clicked, np.float32))


def test_histories_hold_earlier_clicks_of_the_user_and_nothing_else():
    part = shown([0, 1, 0, 0, 0, 1], [5, 6, 7, 8, 9, 5], [1, 1, 2, 3, 3, 4], [1, 1, 0, 1, 1, 0])
    past = click.clicks(part)
    history = click.windows(past.item, *click.before(part, past), 2)
    expected = [[-1, -1], [-1, -1], [-1, 5], [-1, 5], [-1, 5], [-1, 6]]
    np.testing.assert_array_equal(history, expected)
    later = shown([0, 2, 1], [5, 5, 5], [9, 9, 1], [1, 0, 1])
    history = click.windows(past.item, *click.before(later, past), 2)
    np.testing.assert_array_equal(history, [[8, 9], [-1, -1], [-1, -1]])


def test_no_history_leaks(synthetic):
    """Every item of every history is a strictly earlier click that its part may know."""
    data, config = synthetic
    arrays = click.prepare(data, config)
    index = jnp.arange(click.size(arrays))
    batch = click.batch(jax.random.key(0), arrays, index, jnp.ones(len(index)))
    histories = {"train": np.asarray(batch.examples.history)}
    for split in ("valid", "test"):
        query = click.queries(data, split, config)
        flat = query.examples.history.reshape(-1, data.spec.max_len)
        histories[split] = flat[query.valid.reshape(-1)]
    known = {"train": ["train"], "valid": ["train"], "test": ["train", "valid"]}
    rng = np.random.default_rng(0)
    for split, history in histories.items():
        part = data.impressions[split]
        assert len(history) == len(part)
        for n in rng.integers(0, len(part), 100):
            may = [data.impressions[name] for name in known[split]]
            earlier = [
                (p.time[i], p.item[i])
                for p in may
                for i in np.flatnonzero((p.user == part.user[n]) & (p.click > 0))
                if p.time[i] < part.time[n]
            ]
            items = [int(i) for _, i in sorted(earlier)][-data.spec.max_len :]
            assert [i for i in history[n].tolist() if i >= 0] == items
        assert (history >= 0).any()


# Metrics.


def test_auc_by_hand():
    # Positives .9 .5 .2, negatives .5 .1: wins 2 + (1/2 + 1) + 1 of 6 pairs.
    label, score = np.array([1, 0, 1, 0, 1.0]), np.array([0.9, 0.5, 0.5, 0.1, 0.2])
    found = click.quality(np.zeros(5, int), label, score)
    assert found["auc"] == pytest.approx(4.5 / 6)
    assert found["gauc"] == pytest.approx(4.5 / 6)
    assert click.quality(np.zeros(4, int), np.array([1, 1, 0, 0]), np.zeros(4))["auc"] == 0.5


def test_auc_equals_counting_pairs():
    rng = np.random.default_rng(0)
    label, score = rng.integers(0, 2, 300), rng.integers(0, 40, 300) / 40
    users = rng.integers(0, 12, 300)

    def pairs(rows):
        positive, negative = score[rows & (label == 1)], score[rows & (label == 0)]
        difference = positive[:, None] - negative[None]
        return ((difference > 0) + 0.5 * (difference == 0)).mean()

    found = click.quality(users, label, score)
    assert found["auc"] == pytest.approx(pairs(np.ones(300, bool)))
    weight = np.bincount(users)
    own = np.array([pairs(users == u) for u in range(12)])
    assert found["gauc"] == pytest.approx((own * weight).sum() / weight.sum())


def test_gauc_weighs_users_by_impressions_and_leaves_out_those_of_one_kind():
    users = np.array([0, 0, 0, 4, 4, 7, 7])
    label = np.array([1, 0, 0, 1, 0, 1, 1])
    score = np.array([0.5, 0.4, 0.6, 0.9, 0.1, 0.1, 0.9])
    assert click.quality(users, label, score)["gauc"] == pytest.approx((3 * 0.5 + 2 * 1.0) / 5)


def test_logloss_by_hand_and_undefined_areas():
    found = click.quality(np.array([0, 1]), np.array([1, 1]), np.array([0.5, 0.25]))
    assert found == {"logloss": pytest.approx((np.log(2) + np.log(4)) / 2)}
    assert np.isfinite(click.quality(np.array([0]), np.array([1]), np.array([0.0]))["logloss"])


def test_conversions_over_all_and_over_clicked_impressions():
    measured = {
        "click": np.array([1, 1, 0, 0]),
        "pctr": np.array([0.8, 0.5, 0.4, 0.1]),
        "conversion": np.array([1, 0, 0, 0]),
        "pcvr": np.array([0.4, 0.5, 0.9, 0.9]),
    }
    found = click.summarise(measured, np.zeros(4, int))
    assert found["auc"] == 1.0
    assert found["ctcvr_auc"] == pytest.approx(2 / 3)  # .32 against .25 .36 .09
    assert found["cvr_auc"] == 0.0  # .4 against .5
    assert found["cvr_logloss"] == pytest.approx(-(np.log(0.4) + np.log(0.5)) / 2)


def metrics_config(*metrics, metric="auc"):
    return ConfigDict({"eval": {"metrics": metrics, "metric": metric}})


def test_metrics_that_are_none_are_an_error():
    assert click.labels(metrics_config("auc", "cvr_gauc")) == ["auc", "cvr_gauc"]
    with pytest.raises(UserError, match="'recall' is none of auc, gauc"):
        click.labels(metrics_config("recall"))
    with pytest.raises(UserError, match="the smaller logloss, the better"):
        click.labels(metrics_config("auc", "logloss", metric="logloss"))


def test_gauc_without_a_user_to_take_it_from():
    part = shown([0, 1], [0, 1], [0, 0], [1, 0])
    data = dataclasses.replace(
        datasets.load("synthetic", knobs={"num_users": 20, "num_items": 30}),
        impressions={"train": part, "valid": part},
    )
    config = ConfigDict({"eval": {"metrics": ("auc", "gauc"), "block": 8}})
    with pytest.raises(UserError, match="gauc is not defined"):
        click.queries(data, "valid", config)
    with pytest.raises(UserError, match="synthetic has no impressions"):
        click.prepare(dataclasses.replace(data, impressions={}), config)


# Parts of the methods.


def test_factorisation_is_the_sum_over_pairs():
    x = np.random.default_rng(0).normal(size=(3, 4, 2)).astype(np.float32)
    pairs = [(x[:, i] * x[:, j]).sum(-1) for i in range(4) for j in range(i)]
    np.testing.assert_allclose(interact.factorisation(jnp.asarray(x)), sum(pairs), rtol=1e-5)


def test_field_vectors():
    spec = Spec(2, 3, fields=(("f", 2), ("g", 3)))
    column = lambda n, first: jnp.arange(first, first + n, dtype=jnp.float32)[:, None]
    history = jnp.array([[-1, 0, 2], [-1, -1, -1]])
    examples = Examples(jnp.array([1, 0]), jnp.array([2, 0]), jnp.array([[1, 2], [0, 0]]), history)
    vectors = examples.vectors(column(2, 10), column(3, 20), column(5, 30), spec)
    np.testing.assert_array_equal(vectors[..., 0], [[11, 22, 21, 31, 34], [10, 20, 0, 30, 32]])


def test_the_entire_space_loss_by_hand():
    """BCE of clicks plus BCE of click and conversion, each over all impressions."""
    model = ESMM(Spec(1, 1), dim=2, hidden=(3,))
    examples = Examples(*(jnp.zeros(3, jnp.int32),) * 2, *(jnp.zeros((3, 0), jnp.int32),) * 2)
    batch = Batch(examples, jnp.array([1.0, 1, 0]), jnp.array([1.0, 0, 0]), jnp.ones(3))
    params = model.init(jax.random.key(0), batch, None, method="loss")["params"]
    params = jax.tree.map(jnp.zeros_like, params)
    params["click_out"]["bias"] += jnp.log(3.0)  # pCTR 3/4
    params["conversion_out"]["bias"] -= jnp.log(4.0)  # pCVR 1/5
    loss, parts = model.apply({"params": params}, batch, None, method="loss")
    assert parts["ctr"] == pytest.approx(-(2 * np.log(0.75) + np.log(0.25)) / 3, rel=1e-6)
    assert parts["ctcvr"] == pytest.approx(-(np.log(0.15) + 2 * np.log(0.85)) / 3, rel=1e-6)
    assert loss == pytest.approx(float(parts["ctr"] + parts["ctcvr"]), rel=1e-6)


def test_the_entire_space_loss_is_exact_for_extreme_odds():
    from mmrec_jax.models.ctr.esmm import product

    odds = jnp.array([-80.0, 0.0, 80.0])
    yes, no = product(odds[:, None], odds[None])
    assert np.isfinite(yes).all() and np.isfinite(no).all()
    assert no[2, 2] == pytest.approx(np.log(2) - 80, rel=1e-5)  # 1 - p q = 2 exp(-80)
    grad = jax.grad(lambda x: product(x, x)[1].sum())(odds)
    assert np.isfinite(grad).all()


def test_log_loss_by_hand():
    value = losses.log_loss(
        jnp.log(jnp.array([3.0, 3.0, 9.0])), jnp.array([1.0, 0, 1]), jnp.array([1.0, 1, 0])
    )
    assert value == pytest.approx(-(np.log(0.75) + np.log(0.25)) / 2, rel=1e-6)


# Parity: DeepCTR-Torch at f6854257b1fc29caab655ce72c6b5528b7432574, PyTorch 2.13, CPU. Its history
# has a table of its own, given the item table's values: our gradient is the sum of the two. Its
# AutoInt has first-order weights besides, set to 0. Its ESMM has one bias for both towers.

TOWER = lambda ours, theirs: {
    f"{ours}/Dense_{n}/{end}": f"{theirs}.linears.{n}.{word}"
    for n in (0, 1)
    for end, word in (("kernel", "weight"), ("bias", "bias"))
}
TABLES = {"user": "embedding_dict.user.weight", "item": "embedding_dict.item.weight"}
ATTENTION = {
    f"attend_{n}/{ours}/kernel": f"int_layers.{n}.{theirs}"
    for n in (0, 1)
    for ours, theirs in {
        "query": "W_Query", "key": "W_key", "value": "W_Value", "residual": "W_Res"
    }.items()
}  # fmt: skip
OUT = {"out/kernel": "dnn_linear.weight"}
WEIGHTS = {f"{n}_weight": f"linear_model.embedding_dict.{n}.weight" for n in ("user", "item")}
SAME = dict(dim=8, layers=2, units=8, heads=2)
CASES = {
    "autoint": (AutoInt, SAME, TABLES | ATTENTION | OUT | {"out/bias": "out.bias"}),
    "autoint_plus": (
        AutoInt,
        SAME | {"hidden": (10, 6)},
        TABLES | ATTENTION | TOWER("deep", "dnn") | OUT | {"out/bias": "out.bias"},
    ),
    "deepfm": (
        DeepFM,
        {"dim": 8, "hidden": (10, 6)},
        TABLES | WEIGHTS | TOWER("deep", "dnn") | OUT | {"bias": "out.bias"},
    ),
    "esmm": (
        ESMM,
        {"dim": 8, "hidden": (10, 6)},
        TABLES
        | TOWER("click_tower", "ctr_dnn")
        | TOWER("conversion_tower", "cvr_dnn")
        | {
            f"{n}_out/kernel": f"c{w}_dnn_final_layer.weight"
            for n, w in (("click", "tr"), ("conversion", "vr"))
        }
        | {f"{n}_out/bias": "out.bias" for n in ("click", "conversion")},
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_agrees_with_public_code(name):
    with np.load(FIXTURE) as file:
        recorded = dict(file)
    method, hyper, names = CASES[name]
    model = method(Spec(7, 9, max_len=6, fields=(("f0", 5), ("f1", 4))), **hyper)
    array = lambda key: jnp.asarray(recorded[key])
    whole = {n: array(n).astype(jnp.int32) for n in ("user", "item", "fields", "history")}
    batch = Batch(Examples(**whole), array("click"), array("conversion"), jnp.ones(24))

    def theirs(kind, ours):
        get = lambda n: recorded[f"{name}/{kind}/{n}"]
        if ours in ("field", "field_weight"):
            prefix = "embedding_dict" if ours == "field" else "linear_model.embedding_dict"
            return np.concatenate([get(f"{prefix}.{n}.weight") for n in ("f0", "f1")])
        value = get(names[ours])
        if kind == "grad" and names[ours].endswith(".item.weight"):
            value = value + get(names[ours].replace("item", "history"))
        if (
            ours.endswith("kernel") and "int_layers" not in names[ours]
        ):  # W_Query and such: [in, out]
            value = value.T
        return value.reshape(()) if ours == "bias" else value

    shapes = model.init(jax.random.key(0), batch, None, method="loss")["params"]
    flat = traverse_util.flatten_dict(shapes, sep="/")
    values = {ours: jnp.asarray(theirs("param", ours)) for ours in flat}
    assert {k: v.shape for k, v in values.items()} == {k: v.shape for k, v in flat.items()}
    params = traverse_util.unflatten_dict(values, sep="/")

    loss = lambda params: model.apply({"params": params}, batch, None, method="loss")[0]
    value, grads = jax.value_and_grad(loss)(params)
    query = click.Shown(whole["user"], jnp.ones(24, bool), *(batch.examples, batch.click, None))
    predicted = model.apply({"params": params}, None, query, method="predict")
    ours = [predicted["click"]]
    if name == "esmm":
        ours.append(ours[0] * predicted["conversion"])
    worst = [difference(jnp.stack(ours, -1), recorded[f"{name}/probability"])]
    worst.append(difference(value, recorded[f"{name}/loss"]))
    grads = traverse_util.flatten_dict(grads, sep="/")
    if name == "esmm":
        both = grads.pop("click_out/bias") + grads.pop("conversion_out/bias")
        worst.append(difference(both, recorded["esmm/grad/out.bias"]))
    worst += [difference(grad, theirs("grad", ours)) for ours, grad in grads.items()]
    print(f"\n{name}: {max(worst):.1e}")
    assert max(worst) < 1e-5


def difference(ours, theirs) -> float:
    """Largest difference over the largest entry."""
    ours, theirs = np.asarray(ours), np.asarray(theirs)
    assert ours.shape == theirs.shape
    return float(np.abs(ours - theirs).max() / np.abs(theirs).max())


# Whole runs.


def small(module):
    config = module.get_config("debug")
    config.data.knobs.num_users, config.data.knobs.num_items = 150, 100
    config.data.knobs.cold = 0.0
    config.optim.lr = 5e-3
    return config


@pytest.fixture(scope="module")
def synthetic():
    config = small(deepfm)
    return datasets.load(**config.data), config


def counts_auc(data, split):
    """AUC of the training click rate of the item."""
    part, shown = data.impressions["train"], data.impressions[split]
    clicks = np.bincount(part.item, part.click, data.spec.num_items)
    rate = (clicks + 1) / (np.bincount(part.item, minlength=data.spec.num_items) + 4)
    return click.quality(shown.user, shown.click, rate[shown.item])["auc"]


@pytest.mark.parametrize("module", [autoint, deepfm, esmm], ids=lambda m: m.__name__[12:])
def test_beats_popularity_on_planted_clicks(module, tmp_path, synthetic):
    config = small(module)
    with config.unlocked():
        config.train.epochs = 12
        config.eval.patience = 0
        config.optim.weight_decay = 1e-4
        config.model.dropout = 0.2
        if module is autoint:
            config.model.layers, config.model.units = 2, 32
        else:
            config.model.hidden = (64, 32)
    summary = train.train(config, tmp_path)
    data, _ = synthetic
    assert summary["test"]["auc"] > counts_auc(data, "test") + 0.03
    assert summary["test"]["gauc"] > 0.55
    rate = data.impressions["test"].click.mean()
    entropy = -(rate * np.log(rate) + (1 - rate) * np.log(1 - rate))
    assert summary["test"]["logloss"] < entropy
    if module is esmm:
        assert summary["test"]["ctcvr_auc"] > summary["test"]["auc"]  # the price tells much
        assert summary["test"]["cvr_auc"] > 0.65
    again = evaluate.evaluate(tmp_path, "test")
    assert again["auc"] == pytest.approx(summary["test"]["auc"], abs=1e-6)
    rows = pd.read_parquet(tmp_path / "per_user_test.parquet")
    assert len(rows) == len(data.impressions["test"]) and {"user", "click", "pctr"} <= set(rows)
    best = recommend.recommend(tmp_path, users=[3, 5], k=4)
    assert best.groupby("user").size().tolist() == [4, 4]
    clicked = data.train.item[data.train.user == 3]
    assert not np.isin(best.item[best.user == 3], data.item_ids[clicked]).any()


def test_conversions_are_asked_of_those_that_have_them(tmp_path, synthetic):
    data, _ = synthetic
    without = {n: dataclasses.replace(p, conversion=None) for n, p in data.impressions.items()}
    with pytest.raises(UserError, match="has no conversions, which ESMM learns"):
        ESMM.context(dataclasses.replace(data, impressions=without))
    config = small(deepfm)
    config.eval.metrics = ("auc", "ctcvr_auc")
    with pytest.raises(UserError, match="DeepFM does not predict"):
        train.train(config, tmp_path)


def test_items_are_ranked_by_the_latest_fields(synthetic):
    data, _ = synthetic
    ctx = click.context(data)
    tables = {name: np.asarray(value) for name, value in ctx.tables.items()}
    names = [name for name, _ in data.spec.fields]
    whole = tables["user_fields"][7][None] + tables["item_fields"]  # [I, F]
    part = data.impressions["train"]
    for name, index, entity in (("user_group", part.user, 7), ("item_genre", part.item, 9)):
        column = names.index(name)
        value = part.fields[index == entity, column][0]
        rows = whole[:, column] if entity == 7 else whole[9:10, column]
        assert (rows == value).all()
    shown = np.concatenate([p.fields for p in data.impressions.values()])
    hour = names.index("hour")
    assert (whole[:, hour] == np.bincount(shown[:, hour]).argmax()).all()

    model = DeepFM(data.spec, dim=4, hidden=(8,))
    history = queries.windows(data.train, np.arange(150), data.spec.max_len)
    query = queries.blocks(np.arange(150), 150, 150, None, data.train, None, sequence=history)
    query = jax.tree.map(lambda x: jnp.asarray(x[0]), query)
    one = Examples(
        jnp.full(100, 7), jnp.arange(100), jnp.asarray(whole), jnp.tile(history[7][None], (100, 1))
    )
    params = model.init(jax.random.key(0), one, True, method="logits")
    scores = model.apply(params, ctx.tables, query, method="score")
    assert scores.shape == (150, 100)
    alone = model.apply(params, one, True, method="logits")
    np.testing.assert_allclose(scores[7], alone, rtol=1e-5, atol=1e-6)


def test_defaults_of_the_configuration_are_those_of_load():
    config = base.get_config().data
    assert not config.impressions and config.fields == () and config.click_rating == 0
