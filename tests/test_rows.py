"""Rows task, embedding bags and Mult-VAE: hand-worked cases, RecBole's numbers, resumed runs."""

import functools
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import made
import numpy as np
import pytest
from ml_collections import ConfigDict

from configs.generative import multvae as multvae_config
from mmrec_jax import run as runs
from mmrec_jax import train
from mmrec_jax.layers import Annealing
from mmrec_jax.models.generative.multvae import MultVAE, unit
from mmrec_jax.ops import bag
from mmrec_jax.tasks import rows
from mmrec_jax.types import Query, UserError

FIXTURE = Path(__file__).parent / "fixtures" / "multvae.npz"


def batch_of(data, size, index, weight=None):
    arrays = rows.prepare(data, ConfigDict({"train": {"batch_size": size}}))
    weight = np.ones(size) if weight is None else weight
    index, weight = jnp.asarray(index, jnp.int32), jnp.asarray(weight, jnp.float32)
    return arrays, jax.jit(rows.batch)(jax.random.key(0), arrays, index, weight)


def pairs_of(batch):
    used = np.asarray(batch.row) < batch.user.shape[0]
    return list(zip(np.asarray(batch.row)[used], np.asarray(batch.item)[used], strict=True))


@pytest.fixture
def four():
    # Rows {2, 4}, {}, {0, 1, 4}, {3}; user 0 has item 4 twice.
    return made.dataset([3, 0, 2, 2, 0, 2, 0], [3, 4, 1, 0, 2, 4, 4], users=4, items=5)


def test_a_batch_holds_the_rows_of_its_users(four):
    arrays, batch = batch_of(four, 2, [1, 0])
    assert arrays.user.tolist() == [0, 2, 3]  # user 1 has nothing to learn from
    assert rows.size(arrays) == 3
    assert batch.user.tolist() == [2, 0]
    assert pairs_of(batch) == [(0, 0), (0, 1), (0, 4), (1, 2), (1, 4)]
    _, batch = batch_of(four, 2, [2, 1])
    assert pairs_of(batch) == [(0, 3), (1, 0), (1, 1), (1, 4)]
    assert batch.row[4:].tolist() == [2]  # room for the two longest rows


def test_an_example_that_only_fills_up_has_no_items(four):
    _, batch = batch_of(four, 2, [1, 0], [1, 0])
    assert pairs_of(batch) == [(0, 0), (0, 1), (0, 4)]
    arrays, batch = batch_of(four, 9, [0, 1, 2, 0, 0, 0, 0, 0, 0], [1, 1, 1, 0, 0, 0, 0, 0, 0])
    assert arrays.pairs == 6  # all there are
    assert [row for row, _ in pairs_of(batch)] == [0, 0, 1, 1, 1, 2]


def random_pairs(seed, size, num_items, count, longest=None):
    rng = np.random.default_rng(seed)
    row, item = np.unique(rng.integers(0, (size, num_items), (count, 2)), axis=0).T
    padding = 70
    row = np.concatenate([row, np.full(padding, size)]).astype(np.int32)
    item = np.concatenate([item, np.zeros(padding)]).astype(np.int32)
    return row, item, rng.normal(size=len(row)).astype(np.float32)


@pytest.mark.parametrize("count", [0, 5, 256, 700])  # none, and less and more than a chunk
def test_embedding_bag_equals_the_dense_product(count):
    size, num_items, dim = 40, 30, 7
    row, item, weight = random_pairs(0, size, num_items, count)
    table = np.random.default_rng(1).normal(size=(num_items, dim)).astype(np.float32)
    matrix = np.zeros((size + 1, num_items))
    matrix[row, item] = weight
    out = np.random.default_rng(2).normal(size=(size, dim)).astype(np.float32)

    @functools.partial(jax.jit, static_argnums=2)
    def both(table, pairs, size):
        result, pull = jax.vjp(lambda t: bag.embedding_bag(t, *pairs, size), table)
        return result, *pull(jnp.asarray(out))

    result, gradient = both(table, (row, item, weight), size)
    np.testing.assert_allclose(result, matrix[:size] @ table, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(gradient, matrix[:size].T @ out, rtol=1e-5, atol=1e-5)


def test_embedding_bag_is_mapped_over_members_of_different_lengths():
    size, num_items = 20, 15
    parts = [random_pairs(seed, size, num_items, 200) for seed in (3, 4)]
    parts[1][0][20:] = size  # one chunk is enough for this one, not for the other
    length = min(len(row) for row, _, _ in parts)
    row, item, weight = (np.stack([p[n][:length] for p in parts]) for n in range(3))
    tables = jax.random.normal(jax.random.key(5), (2, num_items, 3))

    def loss(table, row, item, weight):
        return (bag.embedding_bag(table, row, item, weight, size) ** 2).sum()

    together = jax.vmap(jax.grad(loss))(tables, row, item, weight)
    for member in range(2):
        alone = jax.grad(loss)(tables[member], row[member], item[member], weight[member])
        np.testing.assert_allclose(together[member], alone, rtol=1e-6)


def test_embedding_bag_adds_in_float32():
    row, item = jnp.zeros(300, jnp.int32), jnp.zeros(300, jnp.int32)
    table = jnp.full((1, 1), 1.0, jnp.bfloat16)  # which has no 257
    total = bag.embedding_bag(table, row, item, jnp.ones(300), 1)
    assert total.dtype == jnp.bfloat16 and total[0, 0] == 300


def test_repeated_pairs_and_padding_are_marked():
    row, item = jnp.asarray([0, 0, 0, 1, 1, 2, 2]), jnp.asarray([3, 3, 4, 4, 4, 0, 0])
    got = bag.distinct(row, item, 2)
    assert got.tolist() == [True, False, True, True, False, False, False]
    assert bag.distinct(row[:0], item[:0], 2).shape == (0,)


def test_rows_are_scaled_to_length_one():
    row, item = jnp.asarray([0, 0, 0, 2, 3]), jnp.asarray([1, 4, 4, 0, 0])
    np.testing.assert_allclose(unit(row, item, 3), [0.5**0.5, 0.5**0.5, 0, 1, 0], rtol=1e-6)


def make_query(row, item, size):
    return Query(
        user=jnp.zeros(size, jnp.int32),
        valid=jnp.ones(size, bool),
        target=jnp.full((size, 1), -1),
        history_row=jnp.asarray(row),
        history_item=jnp.asarray(item),
        masked_row=jnp.zeros(0, jnp.int32),
        masked_item=jnp.zeros(0, jnp.int32),
        sequence=jnp.zeros((size, 0), jnp.int32),
    )


def test_multvae_by_hand():
    # One user with items 0 and 2 of three, every width 1. The first layer sums (1 + 3) / sqrt(2).
    tree = {
        "item": [[1.0], [2.0], [3.0]],
        "item_bias": [-(8**0.5)],  # that makes 0
        "encoder_0": {"kernel": [[1.0, 1.0]], "bias": [2.0, 0.0]},  # mean 2, log-variance 0
        "decoder_0": {"kernel": [[1.0]], "bias": [-3.0]},  # at noise 1: tanh(2 + 1 - 3) = 0
        "output": [[1.0], [1.0], [1.0]],
        "output_bias": list(np.log([1.0, 2.0, 5.0])),
    }
    variables = {"params": jax.tree.map(jnp.asarray, tree, is_leaf=lambda x: isinstance(x, list))}
    data = made.dataset([0, 0], [0, 2], 1, 3)
    model = MultVAE(data.spec, dim=1, hidden=(1,))
    _, batch = batch_of(data, 1, [0])
    weight = unit(batch.row, batch.item, 1)
    likelihood, divergence = model.apply(variables, batch, weight, jnp.ones((1, 1)), method="bound")
    np.testing.assert_allclose(likelihood, -np.log(1 / 8) - np.log(5 / 8), rtol=1e-6)
    np.testing.assert_allclose(divergence, 2.0, rtol=1e-6)  # (mean^2 + 1 - 1 - 0) / 2
    query = make_query([0, 0, 1], [0, 2, 0], 1)
    rep = model.apply(variables, None, method="represent")
    got = model.apply(variables, rep, query, method="score")
    np.testing.assert_allclose(got, np.tanh(-1) + np.log([[1.0, 2.0, 5.0]]), rtol=1e-6)


def nested(case, prefix):
    """The entries ``prefix/a.b`` of a fixture as a tree."""
    tree = {}
    for name, value in case.items():
        if name.startswith(prefix + "/"):
            *path, leaf = name.removeprefix(prefix + "/").split(".")
            functools.reduce(lambda t, k: t.setdefault(k, {}), path, tree)[leaf] = value
    return tree


def test_multvae_agrees_with_recbole():
    """The fixture holds what RecBole's MultiVAE, commit 7b02be5, returns for one batch.

    The weights, the input's dropout and the noise were given to both; RecBole's own noise has a
    deviation of .01, the authors' one of 1.
    """
    with np.load(FIXTURE, allow_pickle=False) as stored:
        case = dict(stored)
    params = jax.tree.map(jnp.asarray, nested(case, "param"))
    num_items, size = len(case["param/item"]), len(case["batch"])
    data = made.dataset(case["user"], case["item"], case["user"].max() + 1, num_items)
    model = MultVAE(data.spec, dim=case["noise"].shape[1], hidden=(10, 8))
    _, batch = batch_of(data, size, case["batch"])
    plain = unit(batch.row, batch.item, size)
    weight = plain * jnp.asarray(case["mask"]).at[batch.row, batch.item].get(mode="fill")

    def loss(params):
        likelihood, divergence = model.apply(
            {"params": params}, batch, jnp.nan_to_num(weight), case["noise"], method="bound"
        )
        return likelihood + case["beta"].item() * divergence

    value, gradients = jax.jit(jax.value_and_grad(loss))(params)
    np.testing.assert_allclose(value, case["loss"].item(), rtol=1e-6)
    assert jax.tree.structure(gradients) == jax.tree.structure(nested(case, "grad"))
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6),
        gradients,
        nested(case, "grad"),
    )
    encode = functools.partial(model.apply, {"params": params}, method="encode")
    mean, log_variance = encode(params["item"], batch.row, batch.item, plain, size)
    np.testing.assert_allclose(mean, case["mean"], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(log_variance, case["log_variance"], rtol=1e-5, atol=1e-6)
    query = make_query(batch.row, batch.item, size)
    scores = model.apply({"params": params}, params["item"], query, method="score")
    np.testing.assert_allclose(scores, case["scores"], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("cap", "steps", "want"), [(0.2, 10, [0, 0.1, 0.2, 0.2]), (0.3, 0, [0.3, 0.3])]
)
def test_the_divergence_counts_for_more_with_every_step(cap, steps, want):
    model, variables = Annealing(cap, steps), {}
    variables = model.init(jax.random.key(0))
    got = []
    for _ in want:
        weight, variables = model.apply(variables, mutable=["schedule"])
        got.append(weight)
    np.testing.assert_allclose(got, want, rtol=1e-6)


def small_config():
    config = multvae_config.get_config("debug")
    config.model.dim, config.model.hidden = 8, (16,)
    config.model.anneal_steps = 20  # four steps an epoch: the cap is reached in the second
    config.eval.metrics, config.eval.ks = ("recall",), (20,)
    return config


def test_dropout_noise_and_annealing_enter_the_loss():
    run, _, ctx = runs.setup(small_config())
    arrays = run.task.prepare(*(runs.setup(run.config)[1], run.config))
    state = runs.init_state(run, jax.random.key(0), {}, ctx, arrays)
    assert int(state.collections["schedule"]["annealing"]["steps"]) == 0
    index = jnp.arange(run.config.train.batch_size)
    batch = run.task.batch(jax.random.key(0), arrays, index, jnp.ones(index.shape))

    def loss(steps, key, **fields):
        model = run.method(**{**run.fields, **fields})
        variables = {
            "params": state.params,
            "schedule": {"annealing": {"steps": jnp.int32(steps)}},
        }
        return model.apply(
            variables, batch, ctx, method="loss", rngs={"dropout": key}, mutable=["schedule"]
        )

    (total, parts), changed = loss(3, jax.random.key(1), anneal_cap=1.0)
    assert changed["schedule"]["annealing"]["steps"] == 4
    want = parts["likelihood"] + 3 / 20 * parts["divergence"]
    np.testing.assert_allclose(total, want, rtol=1e-6)
    assert parts["divergence"] > 0
    other = loss(3, jax.random.key(2), dropout=0.0)[0][1]
    same = loss(3, jax.random.key(1), dropout=0.0)[0][1]
    assert other["likelihood"] != same["likelihood"]  # the noise
    assert other["divergence"] == same["divergence"] != parts["divergence"]  # the dropout


def test_a_resumed_run_equals_one_that_never_stopped(tmp_path):
    config = small_config()
    config.train.epochs = 3
    whole = train.train(config, tmp_path / "whole")
    run, data, ctx = runs.setup(config)
    arrays = run.task.prepare(data, config)
    run = runs.count_steps(run, arrays)
    from mmrec_jax.checkpoint import Checkpoints
    from mmrec_jax.evaluate import Evaluator

    valid = Evaluator(run, data, "valid", config)
    (tmp_path / "parts").mkdir()
    for until in (1, None):
        checkpoints = Checkpoints(tmp_path / "parts")
        programs = train.Programs(run)
        train.fit(run, programs, ctx, arrays, valid, checkpoints, tmp_path / "parts", until=until)
        checkpoints.close()

    def log(name):
        lines = (tmp_path / name / "metrics.jsonl").read_text().splitlines()
        seen = lambda name: "seconds" not in name and name != "crc32"
        return [{k: v for k, v in json.loads(line).items() if seen(k)} for line in lines]

    assert log("whole") == log("parts")
    assert len(log("parts")) == whole["epochs"] == 3


def test_anneal_cap_and_dropout_may_vary_along_a_sweep():
    run, data, ctx = runs.setup(small_config())
    arrays = run.task.prepare(data, run.config)
    run = runs.count_steps(run, arrays)

    def go(hyper):
        state = runs.init_state(run, jax.random.key(0), hyper, ctx, arrays)
        for _ in range(2):
            state, logs = train.train_epoch(run, state, hyper, ctx, arrays)
        return logs["loss"], state.collections["schedule"]["annealing"]["steps"]

    hyper = {"model.anneal_cap": jnp.float32([0.0, 0.3]), "model.dropout": jnp.float32([0.5, 0.2])}
    losses, steps = jax.jit(jax.vmap(go))(hyper)
    alone = [jax.jit(go)(jax.tree.map(lambda x, m=m: x[m], hyper))[0] for m in range(2)]
    np.testing.assert_allclose(losses, alone, rtol=1e-5)
    assert losses[0] != losses[1]
    assert steps.tolist() == [2 * run.steps] * 2


@pytest.mark.parametrize("hyper", [{"hidden": ()}, {"dim": 0}, {"hidden": (600, 0)}])
def test_multvae_says_that_widths_are_wrong(four, hyper):
    with pytest.raises(UserError, match="model.dim and model.hidden"):
        MultVAE.context(four, **hyper)


def test_another_item_table_takes_the_place_of_the_first_layer():
    config = small_config()
    config.table.item, config.table.hash_width = "hashed", 8
    run, data, ctx = runs.setup(config)
    arrays = run.task.prepare(data, config)
    state = runs.init_state(run, jax.random.key(0), {}, ctx, arrays)
    assert "tables_item" in state.params and "item" not in state.params
    run = runs.count_steps(run, arrays)
    state, logs = train.train_epoch(run, state, {}, ctx, arrays)
    assert np.isfinite(logs["loss"])
