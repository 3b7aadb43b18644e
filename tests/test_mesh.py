"""One run on a mesh of eight simulated devices gives what one device gives.

The cases run in a process of their own (this file as a script), as the number of devices is fixed
when JAX starts.
"""

import contextlib
import functools
import importlib
import itertools
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mmrec_jax import evaluate, recommend

MESHES = ((8, 1), (4, 2), (2, 4), (1, 8))
CONFIGS = sorted(
    ".".join(path.relative_to("configs").with_suffix("").parts)
    for path in Path("configs").rglob("*.py")
    if path.stem not in ("base", "__init__")
)


def on_eight_devices(function, *arguments):
    """Calls a function of this file, by name, where JAX has eight devices."""
    flags = "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0"
    flags += " --xla_cpu_collective_call_terminate_timeout_seconds=600"  # on a busy machine
    # Fewer threads than devices wait for each other for ever: NPROC is how many XLA starts.
    more = {"XLA_FLAGS": flags, "NPROC": "32", "PYTHONPATH": ".", "TF_CPP_MIN_LOG_LEVEL": "2"}
    command = [sys.executable, __file__, function.__name__, json.dumps(arguments)]
    done = subprocess.run(command, env=os.environ | more, capture_output=True, text=True)
    assert done.returncode == 0, f"{done.stdout[-3000:]}\n{done.stderr[-6000:]}"
    print(done.stdout)


def configured(name, mesh=(1, 1), layout="columns", items=64):
    config = importlib.import_module(f"configs.{name}").get_config("debug")
    config.data.knobs.num_users, config.data.knobs.num_items = 96, items
    config.train.epochs = min(config.train.epochs, 2)
    # Few steps: in a network with kinks, a rounding error grows with each of them.
    most = 2048 if name.startswith("ctr.") else 256
    config.train.batch_size = min(config.train.batch_size, most) // 8 * 8
    config.optim.name = "adagrad"  # unlike Adam, no rounding error becomes a step
    config.mesh.data, config.mesh.model = mesh
    config.mesh.tables = layout
    return config


class Trained:
    """What a method's initialisation, first epoch and evaluation give on a mesh."""

    def __init__(self, config):
        import jax
        import jax.numpy as jnp
        import numpy as np

        from mmrec_jax import mesh, train
        from mmrec_jax import run as runs
        from mmrec_jax.checkpoint import variables_of

        with mesh.ambient(mesh.make(config)):
            run, data, ctx = runs.setup(config)
            variables, self.logs = {}, {}
            if config.train.epochs:
                arrays = run.task.prepare(data, config)
                run = runs.count_steps(run, arrays)
                hyper = {"optim.lr": jnp.float32(1e-2)}
                inputs = jax.random.key(0), hyper, ctx, arrays
                state = jax.jit(functools.partial(runs.init_state, run))(*inputs)
                self.start = jax.device_get(variables_of(state))
                epoch = jax.jit(functools.partial(train.train_epoch, run))
                self.program = epoch.lower(state, *inputs[1:]).compile()
                self.before = state
                state, logs = self.program(state, *inputs[1:])
                self.program(state, *inputs[1:])  # takes what it has given
                self.logs = {key: float(value) for key, value in logs.items()}
                variables = variables_of(state)
            self.variables = jax.device_get(variables)
            measure = evaluate.Evaluator(run, data, "valid", config)
            self.metrics = measure.mean(variables, {}, ctx)
            self.finite = bool(np.isfinite(list(self.metrics.values())).all())


def compare(name, meshes, layouts, items=64):
    import jax
    import numpy as np

    alone = Trained(configured(name, items=items))
    assert alone.finite
    for mesh, layout in itertools.product(meshes, layouts):
        spread = Trained(configured(name, mesh, layout, items))
        print(name, mesh, layout, {"seconds": round(time.process_time())}, flush=True)
        for got, wanted in ((spread.logs, alone.logs), (spread.metrics, alone.metrics)):
            assert got.keys() == wanted.keys()
            for key, value in wanted.items():
                # An AUC counts pairs, of some thousand, of which a rounding error may turn one.
                close = {"rtol": 1e-3} if key.endswith("auc") else {"rtol": 1e-5, "atol": 1e-7}
                np.testing.assert_allclose(got[key], value, **close, err_msg=key)
        if not alone.logs:
            continue
        same = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6)
        jax.tree.map(same, spread.start, alone.start)  # codebooks start from means of others
        jax.tree.map(_moved_alike, alone.start, alone.variables, spread.start, spread.variables)
        _check_memory(alone, spread, mesh[1])
        if name == "baseline.mf" and mesh == [8, 1]:  # all it does is by example, but the update
            one, each = (case.program.cost_analysis()["flops"] for case in (alone, spread))
            assert each < 0.6 * one, "every device computes the whole batch"


def _moved_alike(start, end, other_start, other_end):
    import numpy as np

    step, other = (
        np.subtract(new, old, dtype=np.float64).ravel()
        for new, old in ((end, start), (other_end, other_start))
    )
    assert np.linalg.norm(step - other) <= 1e-3 * np.linalg.norm(step) + 1e-6


def _check_memory(alone, spread, parts):
    """What the arguments of an epoch take on a device falls by 1 - 1/parts of the tables."""
    import jax

    tables = 0
    for path, leaf in jax.tree_util.tree_leaves_with_path(spread.before):
        if leaf.ndim == 2 and path[-1].key in ("user", "item"):
            shard = leaf.addressable_shards[0].data
            assert shard.nbytes * parts == leaf.nbytes, (path, leaf.shape, shard.shape)
            tables += leaf.nbytes
    one, each = (case.program.memory_analysis().argument_size_in_bytes for case in (alone, spread))
    assert one - each >= tables * (1 - 1 / parts) - 1024, (one, each, tables)


def _propagation(shape, layout):
    """What devices send each other in a propagation there and back: names and shapes."""
    import jax
    import jax.numpy as jnp
    import numpy as np
    from jax.sharding import AxisType, NamedSharding, PartitionSpec

    from mmrec_jax import mesh
    from mmrec_jax.ops import graph

    rng = np.random.default_rng(0)
    adj = graph.bipartite(rng.integers(0, 304, 3000), rng.integers(0, 240, 3000), 304, 240)
    part = {"columns": PartitionSpec(None, "model"), "rows": PartitionSpec("model")}[layout]
    devices = jax.make_mesh(shape, ("data", "model"), axis_types=(AxisType.Auto,) * 2)

    def there_and_back(x, cotangent):
        y, back = jax.vjp(lambda x: graph.mean_propagate(adj, x, 3), x)
        return jax.lax.with_sharding_constraint((y, *back(cotangent)), part)

    with mesh.ambient(devices):
        where = NamedSharding(devices, part)
        x = jax.ShapeDtypeStruct((544, 64), jnp.float32, sharding=where)
        text = jax.jit(there_and_back).lower(x, x).compile().as_text()
    kinds = "all-reduce|all-gather|all-to-all|reduce-scatter|collective-permute"
    return set(re.findall(rf" ({kinds})(?:-start)?\(", text))


def propagate():
    assert _propagation((1, 8), "columns") == set()
    assert _propagation((4, 2), "columns") == set()
    assert _propagation((1, 8), "rows") == {"all-to-all"}  # the table there, the result back


def run_and_move(folder):
    """A run that goes from one device to 4 x 2 to 8 x 1 ends as one that never moved."""
    import numpy as np

    from mmrec_jax import logs, train

    def config(mesh, layout="columns"):
        made = configured("baseline.mf", mesh, layout)
        made.train.epochs, made.checkpoint.every, made.model.dim = 3, 1, 16
        return made

    class Killed(Exception):
        pass

    def kill(epoch):
        def check(bad_step, steps, now, workdir):
            if now > epoch:
                raise Killed

        return check

    moved, check = f"{folder}/moved", train.check_finite
    for epoch, mesh, layout in ((1, (1, 1), "rows"), (2, (4, 2), "rows")):
        train.check_finite = kill(epoch)
        with contextlib.suppress(Killed):
            train.train(config(mesh, layout), moved)
    train.check_finite = check
    read = logs.read(moved)
    assert [record["epoch"] for record in read] == [1, 2], read
    summary = train.train(config((8, 1)), moved)
    assert summary["mesh"] == {"data": 8, "model": 1, "tables": "columns", "undivided": []}
    still = train.train(config((1, 1)), f"{folder}/still")
    assert summary["epochs"] == still["epochs"] == 3
    for key, value in still["test"].items():
        np.testing.assert_allclose(summary["test"][key], value, rtol=1e-5, err_msg=key)
    measured = evaluate.evaluate(moved)
    np.testing.assert_allclose([*measured.values()], [*summary["test"].values()], rtol=1e-6)
    lists = recommend.recommend(moved, k=5)
    Path(folder, "lists.json").write_text(lists.to_json())
    Path(folder, "measured.json").write_text(json.dumps(measured))


def refuse():
    """What cannot be is said in one line, before anything is read."""
    from mmrec_jax import mesh
    from mmrec_jax.types import UserError

    for changes, message in (
        ({"mesh.data": 4, "mesh.model": 4}, "4 x 4 = 16 devices, but JAX finds 8"),
        ({"mesh.data": 0}, "mesh.data is 0 and mesh.model 1; 1 is the least"),
        ({"mesh.tables": "row"}, "mesh.tables is 'row'; it must be one of columns, rows"),
        ({"mesh.data": 8, "train.batch_size": 100}, "train.batch_size is 100, .* try 104"),
        ({"mesh.data": 8, "eval.block": 12}, "eval.block is 12, .* try 16"),
    ):
        config = configured("baseline.mf")
        config.update_from_flattened_dict(changes)
        with pytest.raises(UserError, match=message):
            mesh.make(config)
    assert mesh.make(configured("baseline.mf")) is None


def sweep_apart(folder):
    """Three members on two devices are three lone runs, and no device speaks to another."""
    import jax

    from mmrec_jax import side_by_side, sweep
    from mmrec_jax.types import UserError

    texts = []

    class Watched(side_by_side.SideBySide):
        def __init__(self, *arguments):
            super().__init__(*arguments)
            texts.extend(program.as_text() for program in (self.epoch, self.valid._program))

    two = jax.make_mesh((2,), ("member",), (jax.sharding.AxisType.Auto,))
    side_by_side.SideBySide, side_by_side._all_devices = Watched, lambda: two

    def config(mode):
        made = configured("baseline.mf")
        made.train.epochs, made.model.dim, made.sweep.mode = 2, 8, mode
        return made

    space = {"optim.lr": (0.3, 0.02, 0.1), "seed": (0,)}
    found = [sweep.sweep(config(mode), space, f"{folder}/{mode}") for mode in ("loop", "devices")]
    tables = [Path(folder, mode, "results.csv").read_text() for mode in ("loop", "devices")]
    assert (
        found[1]["mode"] == "devices" and tables[0] == tables[1] and tables[0].count("ended") == 3
    )
    assert len(texts) == 2 and not any(re.search("all-|collective-|reduce-sc", t) for t in texts)
    both = config("devices")
    both.mesh.model = 2
    with pytest.raises(UserError, match="sweep.mode is 'devices', in which a run has one device"):
        sweep.sweep(both, space, f"{folder}/both")


def test_a_mesh_changes_no_result():
    on_eight_devices(compare, "multimodal.vbpr", [(4, 2)], ["columns"])


def test_items_need_not_divide():  # then their table has columns divided, that of users rows
    on_eight_devices(compare, "baseline.mf", [(8, 1), (2, 4)], ["rows"], 61)


@pytest.mark.slow  # the whole of them an hour of processor time
@pytest.mark.parametrize("name", CONFIGS)
def test_no_mesh_changes_any_result(name):
    on_eight_devices(compare, name, MESHES, ["columns", "rows"])


def test_propagation_sends_no_more_than_tables():
    on_eight_devices(propagate)


def test_a_run_moves_from_mesh_to_mesh(tmp_path, capsys):
    on_eight_devices(run_and_move, str(tmp_path))
    moved = tmp_path / "moved"  # and now to one device, which is all that there is here
    told = json.loads((tmp_path / "measured.json").read_text())
    assert evaluate.evaluate(moved) == pytest.approx(told, rel=1e-5)
    assert "trained on 8 x 1 devices, goes on with one" in capsys.readouterr().err
    lists = json.loads((tmp_path / "lists.json").read_text())
    assert json.loads(recommend.recommend(moved, k=5).to_json())["item"] == lists["item"]


def test_what_cannot_be_is_said():
    on_eight_devices(refuse)


def test_a_sweep_gives_each_device_its_own_runs(tmp_path):
    on_eight_devices(sweep_apart, str(tmp_path))


if __name__ == "__main__":
    import jax

    jax.config.update("jax_numpy_rank_promotion", "raise")
    globals()[sys.argv[1]](*json.loads(sys.argv[2]))
