"""Tokenizers: quantisation by hand, RQ-VAE against LC-Rec's, and what a run leaves behind."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pyarrow.parquet as pq
import pytest
from ml_collections import ConfigDict

from configs.generative import rkmeans as rkmeans_config
from configs.generative import rqvae as rqvae_config
from mmrec_jax import data as datasets
from mmrec_jax import evaluate, recommend, store, train
from mmrec_jax.models.generative.rkmeans import ResidualKMeans
from mmrec_jax.models.generative.rqvae import RQVAE
from mmrec_jax.ops import quantize
from mmrec_jax.tasks import codes
from mmrec_jax.types import Context, Spec, UserError

FIXTURE = Path(__file__).parent / "fixtures" / "rqvae.npz"
column = lambda *values: jnp.array(values, jnp.float32)[:, None]


def test_kmeans_finds_means_and_leaves_out_weight_zero():
    x = column(0, 2, 10, 14)
    for seed in range(5):
        found = quantize.kmeans(jax.random.key(seed), x, 2)
        np.testing.assert_allclose(np.sort(found, axis=0), column(1, 12))
        weight = jnp.array([1.0, 1.0, 1.0, 0.0])
        found = quantize.kmeans(jax.random.key(seed), x, 2, weight=weight)
        np.testing.assert_allclose(np.sort(found, axis=0), column(1, 10))


def test_the_start_draws_no_vector_twice():
    x = column(*[0.0] * 50, 1.0, 2.0, 3.0)
    for seed in range(5):
        start = quantize._spread(jax.random.key(seed), x, jnp.ones(len(x)), 4)
        np.testing.assert_array_equal(np.sort(start, axis=0), column(0, 1, 2, 3))


def test_empty_clusters_move_to_the_vectors_farthest_from_their_centroids():
    moved = quantize._lloyd(column(0, 1, 11), jnp.ones(3), column(0, 100, 200))
    np.testing.assert_allclose(moved, column(4, 11, 1))
    moved = quantize._lloyd(column(0, 1, 11), jnp.array([1.0, 1.0, 0.0]), column(0, 100, 200))
    np.testing.assert_allclose(moved[:2], column(0.5, 1))


def test_more_centroids_than_vectors_still_describe_them():
    x = column(0, 3, 7)
    found = quantize.kmeans(jax.random.key(0), x, 5)
    np.testing.assert_array_equal(found[quantize.assign(x, found)], x)


def test_assign_takes_the_smaller_of_equals_and_works_by_chunks():
    np.testing.assert_array_equal(quantize.assign(column(1, 5), column(0, 2, 2)), [0, 1])
    x = jax.random.normal(jax.random.key(0), (quantize.CHUNK + 70, 3))
    centroids = x[:40] + 0.1
    expected = ((x[:, None] - centroids[None]) ** 2).sum(-1).argmin(-1)
    found = quantize.assign(x, centroids)
    assert found.dtype == jnp.int32
    np.testing.assert_array_equal(found, expected)


def test_kmeans_never_holds_all_distances():
    x = jnp.zeros((60_000, 4))
    program = quantize.kmeans.lower(jax.random.key(0), x, 128, 3).compile()
    assert program.memory_analysis().temp_size_in_bytes < len(x) * 128 * 4 / 2


def test_encode_sums_centroids_of_residuals():
    code, total, residual = quantize.encode(column(11, -4), [column(0, 10), column(-3, 2)])
    np.testing.assert_array_equal(code, [[1, 1], [0, 0]])
    np.testing.assert_array_equal(total, column(12, -3))
    np.testing.assert_array_equal(residual, column(1, -4))
    books = quantize.residual_kmeans(jax.random.key(0), column(0, 2, 10, 12), (2, 2))
    np.testing.assert_allclose(np.sort(books[0], axis=0), column(1, 11))
    np.testing.assert_allclose(np.sort(books[1], axis=0), column(-1, 1))


def test_sinkhorn_by_hand():
    # Scaling keeps the cross ratio, here 3: p^2 / (1 - p)^2 = 3 on the diagonal of a 2 x 2 plan.
    p = 3**0.5 / (1 + 3**0.5)
    cost = jnp.array([[0.0, np.log(3.0)], [0.0, 0.0]])
    plan = quantize.sinkhorn(cost, 1.0, 50)
    np.testing.assert_allclose(plan, [[p, 1 - p], [1 - p, p]], rtol=1e-5)
    padded = jnp.concatenate([jnp.array([[5.0, -7.0]]), cost])
    plan = quantize.sinkhorn(padded, 1.0, 50, jnp.array([0.0, 1.0, 1.0]))
    np.testing.assert_allclose(plan, [[0, 0], [p, 1 - p], [1 - p, p]], rtol=1e-5)
    strict = quantize.sinkhorn(cost, 1e-4, 50)  # exp(-cost / epsilon) is 0 in float32
    np.testing.assert_allclose(strict, [[1, 0], [0, 1]], atol=0.02)  # ties converge slowly


def test_balanced_uses_all_codes_alike():
    squares = quantize.distances(column(0, 1, 2, 3), column(0, 100))
    np.testing.assert_array_equal(squares.argmin(1), [0, 0, 0, 0])
    np.testing.assert_array_equal(quantize.balanced(squares, 0.003, 100), [0, 0, 1, 1])
    squares = jax.random.uniform(jax.random.key(0), (24, 6))
    wide = jnp.concatenate([squares, jnp.array([[-9.0, 99, 9, 9, 9, 9]])])  # scale and codes stay
    weight = jnp.r_[jnp.ones(24), 0.0]
    found = quantize.balanced(wide, 0.003, 50, weight)[:24]
    np.testing.assert_array_equal(found, quantize.balanced(squares, 0.003, 50))


def test_suffixes_count_through_items_alike():
    given = np.array([[1, 2], [1, 2], [0, 3], [1, 2]], np.int32)
    expected = [[1, 2, 0], [1, 2, 1], [0, 3, 0], [1, 2, 2]]
    np.testing.assert_array_equal(quantize.suffixed(given), expected)
    found = quantize.deduplicated("suffix", given, column(0, 0, 0, 0), column(0))
    np.testing.assert_array_equal(found, expected)
    same = quantize.deduplicated("none", given, column(0, 0, 0, 0), column(0))
    np.testing.assert_array_equal(same, given)
    with pytest.raises(UserError, match="model.unique is 'sufix'; it must be one of suffix, sink"):
        quantize.deduplicated("sufix", given, column(0, 0, 0, 0), column(0))


def test_settled_gives_the_nearest_free_code_to_the_nearest_item():
    codebook = column(0, 1, 2, 3)
    given = np.array([[5, 0], [5, 0], [5, 0], [6, 0], [6, 1]], np.int32)
    residual = column(0, 0.1, 0.4, 0, 0)
    expected = [[5, 0], [5, 2], [5, 1], [6, 0], [6, 1]]
    np.testing.assert_array_equal(quantize.settled(given, residual, codebook), expected)
    crowded = np.zeros((5, 2), np.int32)  # five items, four codes
    found = quantize.settled(crowded, column(0, 1, 2, 3, 4), codebook)
    assert sorted(found[:, 1]) == [0, 0, 1, 2, 3] and not found[:, 0].any()


def test_respread_moves_items_alike_by_sinkhorn_and_no_others():
    codebook = column(0, 1, 2, 3)
    given = np.array([[5, 0], [5, 3], [5, 0], [7, 0]], np.int32)
    residual = column(0.0, 3.0, 0.4, 0.0)
    # Alone, the first and third share out four codes: 0 and 1 are nearer to the first.
    found = quantize.respread(given, residual, codebook, rounds=1)
    squares = quantize.distances(residual[jnp.array([0, 2])], codebook)
    moved = quantize.balanced(squares, 0.003, 50)
    assert len(set(moved.tolist())) == 2
    np.testing.assert_array_equal(found[[1, 3]], given[[1, 3]])
    np.testing.assert_array_equal(found[[0, 2], 1], moved)
    many = np.repeat(np.array([[0, 1], [2, 3]], np.int32), [9, 30], axis=0)
    residual = jax.random.normal(jax.random.key(0), (39, 4))
    codebook = jax.random.normal(jax.random.key(1), (32, 4))
    found = quantize.respread(many, residual, codebook)
    assert len(np.unique(found, axis=0)) == 39
    np.testing.assert_array_equal(found[:, 0], many[:, 0])


def lcrec(fixture):
    """Our RQ-VAE with the recorded weights, and a context of the recorded items."""
    model = RQVAE(
        Spec(1, len(fixture["x"]), feature_dims=(("text", fixture["x"].shape[1]),)),
        sizes=(8, 8, 6),
        layers=(14, 12),
        dim=5,
        quantization=0.7,
        revive_after=0.0,
    )
    items = jnp.asarray(fixture["x"])
    return model, Context(tables={"items": items, "known": jnp.ones(len(items))})


def recorded(fixture, prefix):
    """Arrays named ``prefix`` + PyTorch's name, as a tree of our parameters."""
    tree = {"encoder": {}, "decoder": {}}
    for part in tree:
        for n in range(3):  # a layer is dropout, linear and activation there
            kernel = fixture[f"{prefix}{part}.mlp_layers.{3 * n + 1}.weight"].T
            bias = fixture[f"{prefix}{part}.mlp_layers.{3 * n + 1}.bias"]
            tree[part][f"Dense_{n}"] = {"kernel": kernel, "bias": bias}
    for level in range(3):
        tree[f"moved_{level}"] = fixture[f"{prefix}rq.vq_layers.{level}.embedding.weight"]
    return jax.tree.map(jnp.asarray, tree)


@pytest.mark.parametrize("kind", ["nearest", "balanced"])
@pytest.mark.parametrize("padding", [0, 5])
def test_rqvae_computes_what_lcrec_does(kind, padding):
    """RUCAIBox/LC-Rec, index/models at e6f1b3b3f8b4fee55a49a7b3dfeba29dbfcf0669."""
    with np.load(FIXTURE, allow_pickle=False) as file:
        fixture = dict(file)
    model, ctx = lcrec(fixture)
    model = model.clone(balanced=kind == "balanced")
    batch = codes.Batch(
        jnp.arange(len(fixture["x"]) + padding) % len(fixture["x"]),
        jnp.r_[jnp.ones(len(fixture["x"])), jnp.zeros(padding)],
    )
    params = recorded(fixture, "param/")
    keys = {"params": jax.random.key(0), "dropout": jax.random.key(0)}
    shapes = jax.eval_shape(lambda: model.init(keys, batch, ctx, method="loss"))
    constants = jax.tree.map(lambda x: jnp.zeros(x.shape), shapes["codebooks"])

    def loss(params):
        (value, parts), _ = model.apply(
            {"params": params, "codebooks": constants},
            batch,
            ctx,
            method="loss",
            rngs={"dropout": jax.random.key(0)},
            mutable=["codebooks"],
        )
        return value, parts

    (value, parts), grads = jax.jit(jax.value_and_grad(loss, has_aux=True))(params)
    np.testing.assert_allclose(value, fixture[f"{kind}/loss"], rtol=5e-6)
    for name in ("reconstruction", "quantization"):
        np.testing.assert_allclose(parts[name], fixture[f"{kind}/{name}"], rtol=5e-6)
    expected = recorded(fixture, f"{kind}/grad/")
    for path, grad in jax.tree_util.tree_leaves_with_path(grads):
        theirs = expected
        for step in path:
            theirs = theirs[step.key]
        scale = np.abs(theirs).max()
        assert scale > 0
        np.testing.assert_allclose(grad, theirs, atol=5e-6 * scale, err_msg=str(path))
    rep = model.apply({"params": params, "codebooks": constants}, ctx, method="represent")
    np.testing.assert_array_equal(rep.codes, fixture[f"{kind}/indices"])
    if kind == "nearest":
        error = ((fixture["nearest/decoded"] - fixture["x"]) ** 2).sum(1)
        np.testing.assert_allclose(rep.error, error, rtol=1e-5)


def test_sinkhorn_is_lcrecs():
    with np.load(FIXTURE, allow_pickle=False) as file:
        squares, plan = file["sinkhorn/squares"], file["sinkhorn/plan"]
    middle, spread = (squares.max() + squares.min()) / 2, (squares.max() - squares.min()) / 2
    cost = jnp.asarray((squares - middle) / (spread + 1e-5))
    np.testing.assert_allclose(quantize.sinkhorn(cost, 0.05, 50), plan, atol=2e-5)
    np.testing.assert_array_equal(quantize.balanced(squares, 0.05, 50), plan.argmax(1))


def small(**fields):
    """An RQ-VAE of 40 items, its context, a batch of the first 8 and its initial variables."""
    settings = dict(sizes=(4, 4), layers=(8,), dim=3) | fields
    model = RQVAE(Spec(1, 40, feature_dims=(("text", 6),)), **settings)
    items = jax.random.normal(jax.random.key(0), (40, 6))
    ctx = Context(tables={"items": items, "known": jnp.ones(40)})
    batch = codes.Batch(jnp.arange(8), jnp.ones(8))
    keys = {"params": jax.random.key(1), "dropout": jax.random.key(2)}
    init = jax.jit(lambda: model.init(keys, batch, ctx, method="loss"))
    return model, ctx, batch, init()


def test_codebooks_start_at_kmeans_of_all_items():
    model, ctx, _, variables = small()
    rep = model.apply(variables, ctx, method="represent")
    assert not any(jnp.any(variables["params"][f"moved_{n}"]) for n in range(2))
    latent = model.apply(variables, ctx.tables["items"], method=lambda m, x: m.encoder(x))
    for code in range(4):  # at convergence, each centroid is the mean of its items
        mean = latent[rep.codes[:, 0] == code].mean(0)
        np.testing.assert_allclose(mean, variables["codebooks"]["start_0"][code], rtol=1e-4)


def test_dead_codes_are_revived_at_items_of_the_batch():
    def step(far, **fields):
        model, ctx, batch, variables = small(**fields)
        start = variables["codebooks"]["start_0"].at[2].set(far)
        idle = jnp.array([0.0, 0.0, 0.9, 0.0])
        constants = variables["codebooks"] | {"start_0": start, "idle_0": idle}
        variables = variables | {"codebooks": constants}
        parts, changed = model.apply(
            variables,
            batch,
            ctx,
            method="loss",
            rngs={"dropout": jax.random.key(3)},
            mutable=["codebooks"],
        )
        latent = model.apply(variables, ctx.tables["items"][:8], method=lambda m, x: m.encoder(x))
        return parts[1]["revived"], changed["codebooks"], latent, start

    revived, after, latent, start = step(100.0, revive_after=1.0)
    distance = np.abs(np.asarray(latent) - np.asarray(after["start_0"][2])[None]).max(1)
    assert revived == 1 and distance.min() < 1e-5
    assert after["idle_0"][2] == 0
    np.testing.assert_array_equal(np.delete(after["start_0"], 2, 0), np.delete(start, 2, 0))
    revived, after, _, start = step(100.0, revive_after=2.0)  # 0.9 + 8 / 40 epochs are not 2
    assert revived == 0
    np.testing.assert_allclose(after["idle_0"][2], 1.1)
    np.testing.assert_array_equal(after["start_0"], start)
    assert step(100.0, revive_after=0.0)[0] == 0  # never


def test_padding_leaves_no_trace():
    for balanced in (False, True):
        model, ctx, batch, variables = small(balanced=balanced)
        go = lambda batch, m=model, c=ctx, v=variables: m.apply(
            v, batch, c, method="loss", rngs={"dropout": jax.random.key(0)}, mutable=["codebooks"]
        )
        padded = codes.Batch(jnp.arange(40), jnp.r_[batch.weight, jnp.zeros(32)])
        (loss, parts), after = go(batch)
        (loss_padded, _), after_padded = go(padded)
        np.testing.assert_allclose(loss, loss_padded, rtol=1e-6)
        idle = lambda changed: [changed["codebooks"][f"idle_{n}"] for n in range(2)]
        jax.tree.map(np.testing.assert_array_equal, idle(after), idle(after_padded))


def toy(features, present, ids=None):
    """Just enough of a data set to make codes from."""
    count = len(next(iter(features.values())))
    ids = np.arange(count) if ids is None else ids
    return SimpleNamespace(name="toy", features=features, present=present, item_ids=ids)


def test_modalities_weigh_the_same_and_missing_rows_are_at_the_centre():
    rng = np.random.default_rng(0)
    features = {"image": rng.normal(7, 50, (30, 8)), "text": rng.normal(0, 0.1, (30, 2))}
    present = {name: np.ones(30, bool) for name in features}
    present["text"][[3, 4]] = present["image"][4] = False
    features["text"][[3, 4]] = features["image"][4] = 0
    ctx = codes.context(toy(features, present))
    items = np.asarray(ctx.tables["items"])
    assert not items[3, 8:].any() and items[3, :8].any() and not items[4].any()
    assert ctx.tables["known"].tolist() == [1.0] * 4 + [0.0] + [1.0] * 25
    shares = [(items[:, :8] ** 2).sum() / 29, (items[:, 8:] ** 2).sum() / 28]
    np.testing.assert_allclose(shares, 5, rtol=1e-5)  # half of ten columns each
    np.testing.assert_allclose(items[present["image"], :8].mean(0), 0, atol=1e-5)
    rep = codes.rated(ctx, jnp.zeros((30, 1), jnp.int32), jnp.ones((30, 10)), items, items[:1])
    assert rep.error[4] == 0 and rep.energy[4] == 0 and rep.error[3] > 0
    with pytest.raises(UserError, match="toy: codes are made from item features"):
        codes.context(SimpleNamespace(name="toy", features={}, present={}))


def test_summary_by_hand():
    measured = {
        "code_0": np.array([0, 0, 3, 3], np.float32),
        "code_1": np.array([1, 1, 1, 0], np.float32),
        "error": np.array([1, 0, 1, 0], np.float32),
        "energy": np.array([2, 2, 2, 2], np.float32),
    }
    found = codes.summarise(measured, np.arange(4))
    assert found["unique"] == 0.75 and found["fit"] == 0.75
    assert found["use@1"] == 2 and found["use@2"] == 2
    np.testing.assert_allclose(found["perplexity@1"], 2)
    np.testing.assert_allclose(found["perplexity@2"], 4 / 27**0.25)  # 3/4 and 1/4
    config = ConfigDict({"model": {"sizes": (4, 2)}, "eval": {"metrics": ("unique",)}})
    assert set(codes.labels(config)) == set(found)
    config.eval.metrics = ("recall",)
    with pytest.raises(UserError, match="eval.metrics has 'recall'; of codes there are unique"):
        codes.labels(config)


def test_collisions_by_hand():
    found = codes.collisions(np.array([[0, 1], [0, 1], [0, 1], [2, 2], [2, 2], [3, 0]]))
    assert found == {"rate": 0.5, "items": 5, "largest": 3}


def test_queries_are_all_items_whatever_the_split():
    data = SimpleNamespace(spec=Spec(1, 5))
    for split in ("valid", "test"):
        query = codes.queries(data, split, ConfigDict({"eval": {"block": 2}}))
        np.testing.assert_array_equal(query.user, [[0, 1], [2, 3], [4, 4]])
        np.testing.assert_array_equal(query.valid, [[1, 1], [1, 1], [1, 0]])


def test_fingerprint_knows_rows_but_not_their_order():
    features = {"text": np.arange(8, dtype=np.float32).reshape(4, 2)}
    present = {"text": np.array([True, True, False, True])}
    ids = np.array(["b", "a", "d", "c"])
    order = np.array([2, 0, 3, 1])
    moved = toy({"text": features["text"][order]}, {"text": present["text"][order]}, ids[order])
    one = codes.fingerprint(toy(features, present, ids))
    assert one == codes.fingerprint(moved)
    assert one["text"]["missing"] == 1 and one["text"]["width"] == 2
    assert one != codes.fingerprint(toy(features, present, np.char.add(ids, "x")))
    assert one != codes.fingerprint(toy({"text": features["text"] + 1}, present, ids))


def test_residual_kmeans_finds_planted_codes():
    planted = np.stack(np.divmod(np.arange(16), 4), axis=1)
    features = {
        "text": np.concatenate([np.eye(8)[:4] * 10, np.eye(8)[4:]])[planted + [0, 4]].sum(1)
    }
    data = toy(features, {"text": np.ones(16, bool)})
    model = ResidualKMeans(Spec(1, 16, feature_dims=(("text", 8),)), sizes=(4, 4))
    rep = model.apply({}, ResidualKMeans.context(data, sizes=(4, 4)), method="represent")
    found = np.asarray(rep.codes)
    for ours, theirs in ((found[:, :1], planted[:, :1]), (found, planted)):
        both = np.concatenate([ours, theirs], axis=1)
        count = len(np.unique(theirs, axis=0))
        assert len(np.unique(ours, axis=0)) == len(np.unique(both, axis=0)) == count
    assert rep.error.sum() < 1e-3 * rep.energy.sum()


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A finished run of each tokenizer, by name: its directory and summary."""
    done = {}
    for name, module, unique in (
        ("rkmeans", rkmeans_config, "sinkhorn"),
        ("rqvae", rqvae_config, "suffix"),
    ):
        config = module.get_config("debug")
        config.model.unique = unique
        if config.train.epochs:
            config.train.epochs = 30
            config.eval.every = 10
        workdir = tmp_path_factory.mktemp(name)
        done[name] = workdir, train.train(config, workdir)
    return done


@pytest.mark.parametrize("name", ["rkmeans", "rqvae"])
def test_a_run_leaves_codes_for_every_item(trained, name):
    workdir, summary = trained[name]
    health = store.read_json(workdir / "codes.json", "")
    table = pq.read_table(workdir / "codes.parquet")
    levels = len(health["sizes"])
    assert table.column_names == ["item", *(f"code_{n}" for n in range(levels))]
    assert levels == {"rkmeans": 3, "rqvae": 4}[name]
    config = ConfigDict(store.read_config(workdir))
    data = datasets.load(**{**config.data.to_dict(), "features": (), "item_graphs": ()})
    assert table["item"].to_pylist() == data.item_ids.astype(str).tolist()
    found = np.stack([table[f"code_{n}"].to_numpy() for n in range(levels)], 1)
    assert len(np.unique(found, axis=0)) == len(found)
    assert (found.min(0) >= 0).all() and (found.max(0) < health["sizes"]).all()
    assert health["use"] == [len(np.unique(level)) for level in found.T]
    before, after = health["collisions_before"], health["collisions_after"]
    assert before["rate"] == pytest.approx(1 - summary["test"]["unique"])
    assert after == {"rate": 0.0, "items": 0, "largest": 1}
    assert (workdir / "codes.png").stat().st_size > 1000
    assert summary["codes"] == health and summary["valid"] == summary["test"]
    assert {n: f["missing"] for n, f in health["features"].items()} == {
        n: int((~p).sum()) for n, p in data.present.items()
    }
    per_item = pq.read_table(workdir / "per_item_test.parquet")
    assert per_item["item"].to_pylist() == data.item_ids.tolist()


@pytest.mark.parametrize("name", ["rkmeans", "rqvae"])
def test_a_run_is_measured_again_as_it_was_and_ranks_no_items(trained, name):
    workdir, summary = trained[name]
    assert evaluate.evaluate(workdir) == pytest.approx(summary["test"])
    with pytest.raises(UserError, match="which ranks no items"):
        recommend.recommend(workdir)


def test_training_improves_the_reconstruction(trained):
    workdir, summary = trained["rqvae"]
    log = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    fits = [record["valid/fit"] for record in log if "valid/fit" in record]
    assert fits[0] < fits[-1] and log[-1]["reconstruction"] < 0.8 * log[0]["reconstruction"]
    assert trained["rkmeans"][1]["test"]["fit"] > 0.5
    assert summary["best_epoch"] in (10, 20, 30)


def test_codes_do_not_depend_on_the_split():
    config = rkmeans_config.get_config("debug")
    made = []
    for seed in (0, 1):
        data = datasets.load(**{**config.data.to_dict(), "split_seed": seed, "split": "ratio"})
        data = dataclasses.replace(data, test=data.valid)
        ctx = ResidualKMeans.context(data, sizes=(8, 8))
        rep = ResidualKMeans(data.spec, sizes=(8, 8)).apply({}, ctx, method="represent")
        ids = data.item_ids.astype(str)
        made.append(dict(zip(ids.tolist(), np.asarray(rep.codes).tolist(), strict=True)))
        made.append(codes.fingerprint(data))
    assert made[1] == made[3] and made[0] == made[2]


def test_mistakes_are_told_in_one_line(tmp_path):
    config = rkmeans_config.get_config("debug")
    config.model.unique = "sufix"
    with pytest.raises(UserError, match="model.unique is 'sufix'; it must be one of suffix"):
        train.train(config, tmp_path / "a")
    assert not (tmp_path / "a").exists()  # told before any work
    config = rkmeans_config.get_config("debug")
    config.train.epochs = 3
    with pytest.raises(UserError, match="learns nothing by steps; set train.epochs to 0"):
        train.train(config, tmp_path / "b")
    config = rqvae_config.get_config("debug")
    config.eval.metric = "recall@20"
    with pytest.raises(UserError, match="eval.metric is 'recall@20'; measured are unique, fit"):
        train.train(config, tmp_path / "c")
