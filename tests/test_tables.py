"""What can stand in for an embedding table: by hand, and in five methods of all kinds."""

import dataclasses
import functools
import importlib
import json
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from mmrec_jax import evaluate, recommend, report, store, tables, train
from mmrec_jax import run as runs
from mmrec_jax.checkpoint import variables_of
from mmrec_jax.models.baseline.mf import MF
from mmrec_jax.models.graph.lightgcn import LightGCN
from mmrec_jax.types import Context, Spec, UserError

ROOT = Path(__file__).parent.parent
KINDS = ("hashed", "features", "both", "motor")
METHODS = (
    "baseline.mf", "graph.lightgcn", "multimodal.vbpr", "multimodal.freedom", "sequence.gru4rec",
    "multimodal.bm3", "sequence.sasrec", "sequence.hstu",
)  # fmt: skip
# Sequence methods take the most time to compile.
CASES = [
    (name, kind) for name in METHODS for kind in KINDS if name in METHODS[:5] or kind == "motor"
]
normal = nn.initializers.normal(0.1)


def configuration(name, kind, **changes):
    config = importlib.import_module(f"configs.{name}").get_config("debug")
    config.data.knobs.num_users, config.data.knobs.num_items = 90, 60
    config.data.knobs.missing = 0.2  # so that some items have neither modality
    config.train.batch_size, config.eval.block = 128, 45
    both_sides = kind == "hashed" and not name.startswith("sequence.")
    config.update_from_flattened_dict(
        {
            "model.dim": 8,
            "table.item": kind,
            "table.user": "hashed" if both_sides else "id",
            "table.hash_width": 4,
            "table.codebooks": 2,
            "table.codebook_size": 8,
            "table.token_dim": 4,
        }
    )
    with config.unlocked():
        for key, value in {"layers": 1, "head_dim": 4, "heads": 2, "hidden": 8}.items():
            if key in config.model:
                config.model[key] = value
    config.update_from_flattened_dict(changes)
    return config


@pytest.mark.parametrize("name,kind", CASES)
def test_methods_train_with_other_tables_without_a_change(name, kind):
    config = configuration(name, kind)
    run, data, ctx = runs.setup(config)
    arrays = run.task.prepare(data, config)
    run = runs.count_steps(run, arrays)
    start = jax.jit(functools.partial(runs.init_state, run))(jax.random.key(0), {}, ctx, arrays)
    assert "item" not in start.params and "tables_item" in start.params

    epoch = jax.jit(functools.partial(train.train_epoch, run))
    state, first = epoch(start, {}, ctx, arrays)
    state, second = epoch(state, {}, ctx, arrays)
    assert epoch._cache_size() == 1  # no retrace
    assert np.isfinite(first["loss"]) and second["loss"] != first["loss"]
    for path, leaf in jax.tree_util.tree_leaves_with_path(state.params):
        before = functools.reduce(lambda tree, key: tree[key.key], path, start.params)
        # Adam leaves a parameter where it was only if no gradient ever reaches it.
        assert np.isfinite(leaf).all() and (leaf != before).any(), jax.tree_util.keystr(path)

    measured = evaluate.Evaluator(run, data, "test", config)(variables_of(state), {}, ctx)
    assert all(np.isfinite(value).all() for value in measured.values())

    def scores(variables, ctx, query):
        model = run.model({}, ctx)
        rep = model.apply(variables, ctx, method="represent")
        return model.apply(variables, rep, query, method="score")

    block = jax.tree.map(lambda x: x[0], run.task.queries(data, "test", config))
    shape = jax.eval_shape(scores, variables_of(state), ctx, block).shape
    assert shape == (config.eval.block, data.spec.num_items)


def test_a_run_resumes_evaluates_and_recommends(tmp_path):
    changes = {"train.epochs": 3, "checkpoint.every": 1, "table.user": "hashed"}
    config = configuration("baseline.mf", "motor", **changes)
    whole = train.train(config, tmp_path / "whole")
    run, data, ctx = runs.setup(config)
    arrays = run.task.prepare(data, config)
    run = runs.count_steps(run, arrays)
    (tmp_path / "cut").mkdir()
    checkpoints = train.Checkpoints(tmp_path / "cut")
    valid = evaluate.Evaluator(run, data, "valid", config)
    programs = train.Programs(run)
    train.fit(run, programs, ctx, arrays, valid, checkpoints, tmp_path / "cut", until=1)
    checkpoints.close()
    store.write_json(tmp_path / "cut" / "config.json", json.loads(config.to_json()))
    cut = train.train(config, tmp_path / "cut")
    assert cut["epochs"] == 3 and cut["test"] == whole["test"] and cut["valid"] == whole["valid"]
    assert evaluate.evaluate(tmp_path / "whole") == whole["test"]
    assert len(recommend.recommend(tmp_path / "whole", k=3)) == 3 * data.spec.num_users


def test_the_tokens_that_a_run_was_trained_with_are_those_it_is_evaluated_with(tmp_path):
    config = configuration("baseline.mf", "motor")
    summary = train.train(config, tmp_path)
    run, data, ctx, variables = runs.load(tmp_path)
    other = {
        name: (array + 1) % 8 if "tokens" in name else array for name, array in ctx.tables.items()
    }
    again = evaluate.Evaluator(run, data, "test", config)
    assert again.mean(variables, {}, ctx.replace(tables=other)) == summary["test"]
    learned = sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
    assert summary["parameters"] == learned
    assert summary["model_bytes"] == 4 * (learned + 60 * 2 * 2)  # tokens are int32 [60, 2], twice


def test_members_of_a_sweep_share_the_tables_of_their_context():
    config = configuration("baseline.mf", "motor")
    run, data, ctx = runs.setup(config)
    arrays = run.task.prepare(data, config)
    run = runs.count_steps(run, arrays)

    def go(key):
        state = runs.init_state(run, key, {}, ctx, arrays)
        return train.train_epoch(run, state, {}, ctx, arrays)[1]["loss"]

    keys = jax.random.split(jax.random.key(3), 2)
    both = jax.jit(jax.vmap(go))(keys)
    np.testing.assert_allclose(both, [jax.jit(go)(key) for key in keys], rtol=1e-5)


def test_features_are_arguments_of_the_epoch_and_no_constants():
    config = configuration("baseline.mf", "features")
    run, data, ctx = runs.setup(config)
    arrays = run.task.prepare(data, config)
    run = runs.count_steps(run, arrays)
    state = jax.eval_shape(
        functools.partial(runs.init_state, run), jax.random.key(0), {}, ctx, arrays
    )
    epoch = functools.partial(train.train_epoch, run)

    def largest(function, *arguments):
        constants = jax.jit(function).trace(*arguments).jaxpr.consts
        return max((np.size(constant) for constant in constants), default=0)

    assert largest(epoch, state, {}, ctx, arrays) < 60
    assert largest(lambda state: epoch(state, {}, ctx, arrays), state) >= 60 * 64  # closed over


def test_bfloat16_reaches_the_tables():
    config = configuration("baseline.mf", "both", **{"train.precision": "bfloat16"})
    run, data, ctx = runs.setup(config)
    arrays = run.task.prepare(data, config)
    run = runs.count_steps(run, arrays)
    state = jax.jit(functools.partial(runs.init_state, run))(jax.random.key(0), {}, ctx, arrays)
    text = (
        jax.jit(functools.partial(train.train_epoch, run)).lower(state, {}, ctx, arrays).as_text()
    )
    products = [line for line in text.splitlines() if "dot_general" in line and "60x64x" in line]
    assert products and all("60x64xbf16" in line for line in products)


def test_id_tables_are_what_they_were():
    config = configuration("baseline.mf", "id")
    run, _, ctx = runs.setup(config)
    plain = MF(run.fields["spec"], 8)  # the width stays the second field by place
    make = lambda model: model.init(jax.random.key(5), ctx, method="represent")["params"]
    ours = make(run.model({}))
    assert set(ours) == {"user", "item"}
    jax.tree.map(np.testing.assert_array_equal, ours, make(plain))


def test_a_hashed_table_serves_users_and_items_without_a_run():
    spec = Spec(num_users=5, num_items=7)
    shared = tables.Hashed(rows=3, width=2)
    model = MF(spec, dim=4, tables={"user": shared, "item": shared})
    params = model.init(jax.random.key(0), Context(), method="represent")["params"]
    assert jax.tree.map(np.shape, params) == {"tables_item": {"shared": (3, 2)}}
    rep = model.apply({"params": params}, Context(), method="represent")
    rows = np.asarray(params["tables_item"]["shared"])
    for name, count in (("user", 5), ("item", 7)):
        halves = np.asarray(rep[name]).reshape(count, 2, 2)
        found = (halves[:, :, None] == rows).all(-1)  # every half is one row of the table
        assert (found.sum(-1) == 1).all()
    wide = tables.Hashed(rows=10_000, width=4)  # where nothing collides by chance
    model = MF(spec, dim=4, tables={"user": wide, "item": wide})
    rep = model.init_with_output(jax.random.key(0), Context(), method="represent")[0]
    assert len(np.unique(np.concatenate([rep["user"], rep["item"]]), axis=0)) == 12
    only = LightGCN(spec, dim=4, tables={"item": tables.Hashed(rows=3, width=4)})
    init = functools.partial(only.init, method="_nodes")
    names = jax.eval_shape(init, jax.random.key(0))["params"]
    assert set(names) == {"user", "tables_item"}


def mix(x):
    """MurmurHash3's finaliser on Python's integers."""
    x = (x ^ (x >> 16)) * 0x85EBCA6B % 2**32
    x = (x ^ (x >> 13)) * 0xC2B2AE35 % 2**32
    return x ^ (x >> 16)


def test_hash_functions_are_murmurs_differ_and_fill_the_table_evenly():
    assert mix(1) == 0x514E28B7  # published for this finaliser
    for seed in (0, 1, 2**32 - 1):
        expected = [mix(n ^ mix(seed)) % 97 for n in range(50)]
        np.testing.assert_array_equal(tables.slots(50, 97, seed), expected)
    one, two = (np.asarray(tables.slots(20_000, 100, seed)) for seed in (3, 4))
    counts = np.bincount(one, minlength=100)  # 200 expected, deviation 14
    assert counts.min() > 130 and counts.max() < 270
    assert 0.005 < (one == two).mean() < 0.015  # 1 in 100 by chance


def test_entries_start_out_as_those_of_the_methods_own_table():
    init = nn.initializers.xavier_uniform()
    bound = (6 / (500 + 20)) ** 0.5
    for shape in ((7,), (31, 16), (300, 100)):  # the last is larger than the table itself
        drawn = tables.alike(init, 500, 20)(jax.random.key(0), shape)
        assert drawn.shape == shape and np.abs(drawn).max() <= bound
    np.testing.assert_allclose(drawn.std(), bound / 3**0.5, rtol=0.02)
    assert len(np.unique(drawn)) > 0.98 * drawn.size  # no draw is used twice


@pytest.mark.parametrize("kind", ["hashed", "features", "mlp", "motor"])
def test_vectors_start_out_as_long_as_those_of_an_id_table(kind):
    rng = np.random.default_rng(0)
    x = {"a": jnp.asarray(rng.normal(size=(400, 48)) * 30, jnp.float32)}
    tokens = {"a": jnp.asarray(rng.integers(0, 16, (400, 4)), jnp.int32)}
    module = {
        "hashed": tables.Hashed(800, 8),
        "features": tables.Features(x, {"a": jnp.ones(400, bool)}),
        "mlp": tables.Features(x, {"a": jnp.ones(400, bool)}, hidden=64),
        "motor": tables.Motor(tokens, size=16, token_dim=8),
    }[kind]
    table, _ = module.init_with_output(jax.random.key(0), "item", 400, 32, normal)
    assert table.shape == (400, 32) and 0.05 < table.std() < 0.15


def test_features_average_over_what_is_there():
    features = {
        "a": jnp.array([[3.0, 4.0], [0.0, 0.0], [0.0, 0.0]]),
        "b": jnp.array([[2.0], [5], [0]]),
    }
    present = {"a": jnp.array([True, False, False]), "b": jnp.array([True, True, False])}
    module = tables.Features(features, present, with_id=True)
    a, b, ids = np.array([[1.0, 0], [0, 10]]), np.array([[7.0, 9]]), np.full((3, 2), 100.0)
    params = {"a": {"kernel": a}, "b": {"kernel": b}, "id": ids}
    table = module.apply({"params": params}, "item", 3, 2, normal)
    # item 0: mean of (3, 4) / 5 @ a = (.6, 8) and 1 @ b = (7, 9); item 1: b alone; item 2: none
    np.testing.assert_allclose(table, [[103.8, 108.5], [107, 109], [100, 100]], rtol=1e-6)
    alone = dataclasses.replace(module, with_id=False)
    table = alone.apply({"params": params}, "item", 3, 2, normal)
    np.testing.assert_allclose(table[2], 0)


def test_a_hidden_layer_is_a_perceptron_on_scaled_rows():
    features, present = {"a": jnp.array([[3.0, 4.0]])}, {"a": jnp.array([True])}
    module = tables.Features(features, present, hidden=1)
    params = {"a_hidden": {"kernel": np.array([[1.0], [2.0]])}, "a": {"kernel": np.array([[5.0]])}}
    inner = (0.6 * 1 + 0.8 * 2) * 2**0.5
    expected = 5 * jax.nn.gelu(inner)
    np.testing.assert_allclose(
        module.apply({"params": params}, "item", 1, 1, normal), [[expected]], rtol=1e-6
    )


def test_motor_crosses_the_tokens_of_an_item():
    tokens = {"a": jnp.array([[1], [0]]), "b": jnp.array([[0], [2]])}  # 2 stands for missing
    module = tables.Motor(tokens, size=2, token_dim=1, cross_layers=2)
    embedding = np.array([[1.0], [2], [3], [4], [5], [6]])  # a: 1, 2 and 3 if missing; b: 4, 5, 6
    first, second = np.array([[1.0, 0], [1, 1]]), np.array([[0.0, 1], [1, 0]])
    params = {
        "tokens": embedding,
        "cross_0": {"kernel": first, "bias": np.array([1.0, 0])},
        "cross_1": {"kernel": second, "bias": np.zeros(2)},
        "project": {"kernel": np.eye(2)},
    }
    table = module.apply({"params": params, "codes": tokens}, "item", 2, 2, normal)
    for row, x0 in zip(table, ([2.0, 4.0], [1.0, 6.0]), strict=True):
        x0 = np.array(x0)
        x1 = x0 + x0 * np.array([x0[0] + x0[1] + 1, x0[1]])
        x2 = x1 + x0 * x1[::-1]
        np.testing.assert_allclose(row, x2 / np.sqrt((x2**2).mean()) / 2**0.5, rtol=1e-5)


def test_product_tokens_name_the_clusters_of_each_part_and_mark_what_is_missing():
    rng = np.random.default_rng(0)
    left, right = rng.integers(0, 3, 40), rng.integers(0, 2, 40)
    centres = np.array([[0.0, 0], [10, 0], [0, 10]]), np.array([[-5.0], [5]])
    x = np.concatenate([centres[0][left], centres[1][right]], axis=1)
    x = (x + rng.normal(size=x.shape) * 0.1).astype(np.float32)
    present = np.arange(40) != 7
    x[~present] = 0
    tokens = tables.product_tokens(x, present, codebooks=2, size=3)
    assert tokens.shape == (40, 2) and tokens.dtype == np.int32
    np.testing.assert_array_equal(tokens[7], [3, 3])
    assert len(set(zip(left[present], tokens[present, 0], strict=True))) == 3  # one to one
    by_token = {t: set(right[present][tokens[present, 1] == t]) for t in range(3)}
    assert all(len(seen) <= 1 for seen in by_token.values())
    np.testing.assert_array_equal(tokens, tables.product_tokens(x, present, 2, 3))
    few = tables.product_tokens(x[:2], present[:2], codebooks=3, size=256)
    assert few.max() < 2 and not (few[0] == few[1]).all()
    assert (tables.product_tokens(x, np.zeros(40, bool), 2, 3) == 3).all()


def test_only_the_modalities_named_are_read():
    changes = {"table.modalities": ("text",)}
    for kind, entry in (("features", "kernel"), ("motor", None)):
        run, data, ctx = runs.setup(configuration("baseline.mf", kind, **changes))
        arrays = run.task.prepare(data, run.config)
        init = functools.partial(runs.init_state, run)
        state = jax.eval_shape(init, jax.random.key(0), {}, ctx, arrays)
        assert all("image" not in name for name in ctx.tables)
        own = state.params["tables_item"]
        assert "image" not in own and ("text" in own) == bool(entry)
    ctx = runs.setup(configuration("multimodal.vbpr", "features"))[2]
    assert not ctx.tables  # what the method has in its context is not there twice


@pytest.mark.parametrize(
    "name,kind,changes,message",
    [
        ("baseline.mf", "hash", {}, "table.item is 'hash'; it must be one of id, features, both,"),
        ("baseline.mf", "id", {"table.user": "motor"}, "table.user is 'motor'; .* id, hashed"),
        ("baseline.mf", "hashed", {"table.hash_width": 3}, "table.hash_width is 3 .* divisor of 8"),
        (
            "baseline.mf",
            "features",
            {"table.modalities": ("audio",)},
            "names audio, but .*has image",
        ),
        ("baseline.mf", "motor", {"table.codebooks": 99}, "table.codebooks is 99 .* 64 columns"),
        ("sequence.gru4rec", "id", {"table.user": "hashed"}, "GRU4Rec has no user table; leave"),
    ],
)
def test_mistakes_are_named(name, kind, changes, message):
    config = configuration(name, kind, **changes)
    with pytest.raises(UserError, match=message):
        run, data, ctx = runs.setup(config)
        arrays = run.task.prepare(data, config)
        init = functools.partial(runs.init_state, run)
        jax.eval_shape(init, jax.random.key(0), {}, ctx, arrays)


def test_tables_that_read_data_ask_for_a_context():
    run, _, ctx = runs.setup(configuration("baseline.mf", "motor"))
    for missing in (None, ctx.replace(tables={})):
        with pytest.raises(
            UserError, match="table.item is 'motor', which reads the tokens of image"
        ):
            run.model({}, missing)
    hashed = runs.setup(configuration("baseline.mf", "hashed"))[0]
    assert set(hashed.model({}).tables) == {"user", "item"}  # it reads nothing


def test_data_without_features_are_named():
    config = configuration("baseline.mf", "features")
    data = dataclasses.replace(runs.setup(config)[1], features={}, present={})
    with pytest.raises(UserError, match="has no item features; name some in data.features"):
        runs.setup(config, data)


def test_the_launcher_takes_the_tables_by_flag(tmp_path):
    small = [f"--config.data.knobs.num_{x}=60" for x in ("users", "items")]
    done = subprocess.run(
        [
            sys.executable, "launch.py", "--config=configs/baseline/mf.py:debug", *small,
            f"--workdir={tmp_path}", "--config.table.item=motor", "--config.table.codebooks=2",
            "--config.table.modalities=('text',)", "--config.table.codebook_size=8",
        ],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["config"]["table"]["item"] == "motor" and summary["test"]["recall@20"] > 0


def test_reports_show_parameters_and_the_kind_of_table(tmp_path):
    workdirs = []
    for kind in ("id", "hashed"):
        workdirs.append(tmp_path / kind)
        train.train(configuration("baseline.mf", kind, **{"train.epochs": 1}), workdirs[-1])
    lines = report.results(workdirs, ["recall@20"], ["parameters", "model_bytes"]).splitlines()
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines[2:]]
    assert cells[0][:5] == ["method", "runs", "recall@20", "parameters", "model bytes"]
    by_id, hashed = cells[2:]
    assert by_id[0] == "baseline.mf (table.item=id, table.user=id)"
    assert hashed[0] == "baseline.mf (table.item=hashed, table.user=hashed)"
    assert by_id[3:5] == [str(150 * 8), str(150 * 8 * 4)]
    assert hashed[3:5] == [str(150 * 4), str(150 * 4 * 4)]
