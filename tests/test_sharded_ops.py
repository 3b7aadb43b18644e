"""Ranking, neighbours and softmax over a mesh of devices: as on one, and without whole scores.

The cases run in a process of their own, as the number of devices is fixed when JAX starts:
XLA_FLAGS=--xla_force_host_platform_device_count=8 pytest -n 0 -o python_functions=case_* FILE
"""

import functools
import importlib
import math
import os
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from mmrec_jax import evaluate
from mmrec_jax import mesh as meshes
from mmrec_jax import run as runs
from mmrec_jax.checkpoint import variables_of
from mmrec_jax.ops import neighbours, softmax, topk
from mmrec_jax.types import Query

MESHES = [(8, 1), (4, 2), (2, 4), (1, 8)]


def test_on_eight_devices():
    flags = "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=1"
    command = [sys.executable, "-m", "pytest", "-q", "-n", "0", "-p", "no:cacheprovider"]
    command += ["-o", "python_functions=case_*", __file__]
    environment = {name: x for name, x in os.environ.items() if "XDIST" not in name}
    environment |= {"XLA_FLAGS": flags, "NPROC": "32"}  # with fewer threads devices wait for ever
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-6000:]
    assert "skipped" not in done.stdout


def make_mesh(data, model):
    return jax.make_mesh((data, model), ("data", "model"), axis_types=(AxisType.Auto,) * 2)


@pytest.fixture(params=MESHES, ids=lambda shape: "x".join(map(str, shape)))
def mesh(request):
    return make_mesh(*request.param)


def on(mesh, function, *args):
    """The result of ``function``, compiled for all devices of ``mesh``."""
    with jax.set_mesh(mesh):
        return jax.tree.map(np.asarray, jax.jit(function)(*args))


def collectives(mesh, function, *args):
    with jax.set_mesh(mesh):
        return told(jax.jit(function).lower(*args).compile().as_text())


def told(text):
    """Kind and number of elements of everything that devices of a program tell each other."""
    kinds = "all-gather|all-reduce|reduce-scatter|all-to-all|collective-permute"
    found = re.findall(rf"= (\(?[a-z].*?) ({kinds})(?:-start)?\(", text)
    shape = re.compile(r"[a-z]\w*\[([\d,]*)\]")
    count = lambda dims: math.prod(int(d) for d in dims.split(",") if d)
    return [(kind, max(map(count, shape.findall(types)))) for types, kind in found]


def queries(size, items, targets=4, masked=30, seed=0):
    rng = np.random.default_rng(seed)
    none = jnp.zeros(0, jnp.int32)
    return Query(
        user=jnp.arange(size),
        valid=jnp.ones(size, bool),
        target=jnp.asarray(rng.integers(-1, items, (size, targets)), jnp.int32),
        history_row=none,
        history_item=none,
        masked_row=jnp.asarray(rng.integers(0, size + 1, masked), jnp.int32),
        masked_item=jnp.asarray(rng.integers(0, items, masked), jnp.int32),
        sequence=jnp.zeros((size, 0), jnp.int32),
    )


def tying_scores(size, items, seed=0):
    """Few distinct values, zeros of both signs, infinities and NaN among them."""
    values = np.array([-np.inf, -1, -0.0, 0.0, 1, 2, np.inf, np.nan], np.float32)
    share = [0.1, 0.2, 0.2, 0.2, 0.15, 0.05, 0.05, 0.05]
    return np.random.default_rng(seed).choice(values, (size, items), p=share)


@pytest.mark.parametrize(("size", "items", "k"), [(16, 64, 5), (13, 21, 30)])
def case_lists_and_ranks_are_those_of_one_device(mesh, size, items, k):
    scores, query = tying_scores(size, items), queries(size, items)
    both = lambda scores, query: (topk.best(scores, query, k), topk.target_ranks(scores, query))
    (item, value), rank = jax.jit(both)(scores, query)
    (got, got_value), got_rank = on(mesh, both, scores, query)
    np.testing.assert_array_equal(got, item)
    np.testing.assert_array_equal(got_value, value)
    np.testing.assert_array_equal(got_rank, rank)


def case_ties_across_devices_fall_to_the_smaller_item():
    scores = np.zeros((8, 16), np.float32)
    scores[:, [3, 9, 15]] = 1.0  # of devices 1, 4 and 7
    lists, _ = on(make_mesh(1, 8), lambda s, q: topk.best(s, q, 5), scores, queries(8, 16, 1, 0))
    np.testing.assert_array_equal(lists, np.tile([3, 9, 15, 0, 1], (8, 1)))


def case_no_device_sees_the_scores_of_all_items():
    mesh, size, items, width, k = make_mesh(2, 4), 64, 4096, 16, 20
    rng = np.random.default_rng(0)
    where = lambda *axes: NamedSharding(mesh, PartitionSpec(*axes))
    draw = lambda *shape: rng.normal(size=shape).astype(np.float32)
    user = jax.device_put(draw(size, width), where("data"))
    item = jax.device_put(draw(items, width), where("model"))
    query = queries(size, items)
    own = size // 2 * items // 4

    lists = lambda user, item, query: topk.best(user @ item.T, query, k)
    found = collectives(mesh, lists, user, item, query)
    assert ("all-gather", size // 2 * 4 * k) in found
    assert max(count for _, count in found) == size // 2 * 4 * k

    ranks = lambda user, item, query: topk.target_ranks(user @ item.T, query)
    found = collectives(mesh, ranks, user, item, query)
    assert {kind for kind, _ in found} == {"all-reduce"}
    assert max(count for _, count in found) <= size

    weight = jnp.ones(size)
    loss = lambda item, user, query: softmax.cross_entropy(
        user, item, jnp.maximum(query.target[:, 0], 0), weight
    )
    plain = lambda item, user, query: jnp.mean(jax.nn.log_softmax(user @ item.T, axis=-1)[:, 0])
    for objective in (loss, plain):
        found = collectives(mesh, jax.value_and_grad(objective), item, user, query)
        assert {kind for kind, _ in found} == {"all-reduce"}
        assert max(count for _, count in found) == items // 4 * width < own  # the gradient


@pytest.mark.parametrize("block", [7, 512])
def case_neighbours_are_those_of_one_device_to_the_bit(mesh, block):
    rng = np.random.default_rng(0)
    features = rng.normal(size=(101, 16)).astype(np.float32)
    features[50:60] = features[:10]
    present = rng.random(101) > 0.2
    want = topk.knn(features, 6, present, block)
    with jax.set_mesh(mesh):
        got = topk.knn(features, 6, present, block)
        edges = neighbours.knn_graph(features, 6, present, weighted=True)
    for part, expected in zip(got, want, strict=True):
        np.testing.assert_array_equal(part, expected)
    for part, expected in zip(edges, neighbours.knn_graph(features, 6, present, True), strict=True):
        np.testing.assert_array_equal(part, expected)


def case_each_device_compares_one_block_of_its_rows_at_a_time():
    mesh, size, width, block = make_mesh(2, 4), 1000, 8, 50  # 20 blocks, 3 for a device
    rows, present = np.ones((size, width), np.float32), np.ones(size, bool)
    find = functools.partial(topk.nearest, k=5, block=block)
    with jax.set_mesh(mesh):
        program = jax.jit(find).lower(rows, present).compile()
    assert re.search(r'known_trip_count":{"n":"3"}', program.as_text())
    assert program.memory_analysis().temp_size_in_bytes < 4 * 4 * block * size  # of size x size: 20
    got, want = on(mesh, find, rows, present), jax.jit(find)(rows, present)
    jax.tree.map(np.testing.assert_array_equal, got, jax.tree.map(np.asarray, want))


@pytest.mark.parametrize(("positions", "items"), [(13, 21), (5, 3)])
def case_cross_entropy_and_gradients_are_those_of_one_device(mesh, monkeypatch, positions, items):
    monkeypatch.setattr(softmax, "_ENTRIES", 64)  # several chunks, not as many on each device
    rng = np.random.default_rng(0)
    draw = lambda *shape: rng.normal(size=shape).astype(np.float32)
    hidden, table = draw(positions, 6), draw(items, 6)
    target = rng.integers(0, items, positions).astype(np.int32)
    where = np.where(np.arange(positions) < positions // 2, rng.random(positions), 0)
    where = where.astype(np.float32)

    def of(hidden, table):
        return 3 * softmax.cross_entropy(hidden, table, target, where)

    def plainly(hidden, table):
        chosen = jnp.take_along_axis(jax.nn.log_softmax(hidden @ table.T), target[:, None], 1)
        return -3 * jnp.sum(chosen[:, 0] * where) / where.sum()

    loss, (d_hidden, d_table) = on(mesh, jax.value_and_grad(of, (0, 1)), hidden, table)
    want, (want_hidden, want_table) = jax.value_and_grad(plainly, (0, 1))(hidden, table)
    np.testing.assert_allclose(loss, want, rtol=1e-5)
    np.testing.assert_allclose(d_hidden, want_hidden, atol=1e-6)
    np.testing.assert_allclose(d_table, want_table, atol=1e-6)


def case_cross_entropy_of_nothing_and_along_a_sweep():
    hidden, table = np.ones((2, 8, 4), np.float32), np.eye(20, 4, dtype=np.float32)
    target, where = np.arange(8, dtype=np.int32), np.zeros(8, np.float32)
    of = lambda where: jax.vmap(lambda h: softmax.cross_entropy(h, table, target, where))
    mesh = make_mesh(2, 4)
    np.testing.assert_array_equal(on(mesh, of(where), hidden), [0, 0])
    got, want = on(mesh, of(where + 1), hidden), jax.jit(of(where + 1))(hidden)
    np.testing.assert_allclose(got, want, rtol=1e-6)


def case_work_that_is_cut_by_hand_already_is_not_cut_again():
    scores, query = tying_scores(16, 24), queries(16, 24, masked=0)
    whole = PartitionSpec()
    lone = jax.shard_map(
        lambda s: topk.best(s, query, 4)[0], in_specs=whole, out_specs=whole, check_vma=False
    )
    got = on(make_mesh(2, 4), lone, scores)
    np.testing.assert_array_equal(got, topk.best(jnp.asarray(scores), query, 4)[0])


def case_an_evaluation_divides_the_items():
    config = importlib.import_module("configs.graph.lightgcn").get_config("debug")
    config.data.knobs.num_users, config.data.knobs.num_items = 304, 242  # does not divide
    config.mesh.data, config.mesh.model = 2, 4
    with meshes.ambient(meshes.make(config)):
        run, data, ctx = runs.setup(config)
        arrays = run.task.prepare(data, config)
        start = functools.partial(runs.init_state, run)
        state = jax.eval_shape(start, jax.random.key(0), {}, ctx, arrays)
        variables = meshes.shapes(variables_of(state), run)
        measure = evaluate.Evaluator(run, data, "valid", config)
        text = measure.compile(variables, {}, ctx).as_text()
    scores = config.eval.block // 2 * 242
    assert 0 < max(count for _, count in told(text)) < scores // 2
