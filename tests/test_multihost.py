"""Two processes on loopback, each with four simulated devices, do what one does with one."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import zlib
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmrec_jax import evaluate, hosts, logs, mesh, store, streamed
from mmrec_jax.types import UserError

ROOT = Path(__file__).parent.parent
SMALL = ["data.knobs.num_users=304", "data.knobs.num_items=240", "checkpoint.every=1"]


@pytest.fixture
def begin(request):
    """Starts a Python process, which is killed if the test ends before it."""
    started = []

    def start(*command, devices=1, **variables):
        flags = f"--xla_force_host_platform_device_count={devices}"
        environment = os.environ | {
            "XLA_FLAGS": f"{flags} --xla_backend_optimization_level=1",
            "PYTHONPATH": str(ROOT),
            "JAX_ENABLE_COMPILATION_CACHE": "false",
            "NPROC": "32",  # with fewer threads than devices, these wait for ever
            **variables,
        }
        started.append(
            subprocess.Popen(
                [sys.executable, *map(str, command)],
                env=environment,
                cwd=ROOT,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def finish(*processes):
    """Status, standard output and standard error of each."""
    texts = [process.communicate(timeout=900) for process in processes]
    return [(process.returncode, *text) for process, text in zip(processes, texts, strict=True)]


def launch(begin, workdir, config, shape=None, *settings):
    """Trains: on one device in one process, or on a mesh in two of four devices each."""
    arguments = ["launch.py", f"--config=configs/{config}.py:debug", f"--workdir={workdir}"]
    arguments += [f"--config.{setting}" for setting in (*SMALL, *settings)]
    if shape is None:
        return [begin(*arguments)]
    arguments += [f"--config.mesh.data={shape[0]}", f"--config.mesh.model={shape[1]}"]
    arguments += [f"--coordinator=127.0.0.1:{free_port()}", "--processes=2"]
    return [begin(*arguments, f"--process={number}", devices=4) for number in (0, 1)]


def trained(begin, *arguments):
    """What both processes print; they must succeed."""
    results = finish(*launch(begin, *arguments))
    for status, _, errors in results:
        assert status == 0, errors[-3000:]
    return results


def assert_same_run(workdir, reference):
    ours, theirs = store.read_summary(workdir), store.read_summary(reference)
    for split in ("valid", "test"):
        for name, value in theirs[split].items():
            np.testing.assert_allclose(ours[split][name], value, rtol=1e-5, err_msg=name)
    logs = [[r["loss"] for r in logs.read(path)] for path in (workdir, reference)]
    np.testing.assert_allclose(*logs, rtol=1e-5)


def test_one_process_has_nothing_to_join(monkeypatch):
    monkeypatch.delenv("JAX_COORDINATOR_ADDRESS", raising=False)
    hosts.join(None, None, None)
    assert hosts.first() and not hosts.several() and not jax.distributed.is_initialized()
    assert hosts.agree(True) and not hosts.agree(False)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((None, 2, 0), "several processes need --coordinator"),
        (("here:1", None, 0), "--processes is not given; give it, or JAX_NUM_PROCESSES"),
        (("here:1", 2, None), "--process is not given; give it, or JAX_PROCESS_ID"),
        (("here:1", 2, 2), "--process is 2; of 2 processes the last is 1"),
        (("here", 2, 0), "--coordinator is 'here'; it must be HOST:PORT"),
        (("auto", None, None), "the processes of the run do not meet"),
    ],
)
def test_a_process_that_cannot_join_says_why(monkeypatch, arguments, message):
    for name in ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(UserError, match=message):
        hosts.join(*arguments)


def test_several_processes_use_all_their_devices(monkeypatch):
    from configs import base

    config = base.get_config()
    assert mesh.make(config) is None
    monkeypatch.setattr(hosts, "several", lambda: True)
    monkeypatch.setattr(jax, "device_count", lambda: 8)
    with pytest.raises(UserError, match="1 x 1, but the processes have 8 devices together"):
        mesh.make(config)


def test_the_checksum_does_not_depend_on_how_an_array_is_cut(monkeypatch):
    x = np.random.default_rng(0).normal(size=(37, 5)).astype(np.float32)
    assert hosts.crc32(x) == hosts.crc32(jnp.asarray(x)) == zlib.crc32(x.tobytes())
    assert hosts.crc32(jnp.float32(2)) == zlib.crc32(np.float32(2).tobytes())
    assert hosts.crc32(np.zeros((0, 3))) == 0
    assert hosts.crc32(x.T) == zlib.crc32(np.ascontiguousarray(x.T).tobytes())


def share(folder):
    """What two processes share, run by each of them."""
    from jax.sharding import AxisType, NamedSharding, PartitionSpec

    from mmrec_jax.ops import topk

    hosts.join(None, None, None)  # told by the environment
    mine = jax.process_index()
    assert hosts.several() and hosts.first() == (mine == 0) and jax.device_count() == 8
    assert hosts.agree(True) and not hosts.agree(mine == 0)
    for writer in (0, 1):  # one after the other
        if hosts.agree(True) and mine == writer:
            store.write_json(Path(folder) / "who.json", {"writer": mine})
    with store.alone(folder):  # a lock of all of them
        hosts.agree(True)

    hosts._BYTES = 256  # several pieces
    over = jax.make_mesh((2, 4), ("data", "model"), axis_types=(AxisType.Auto,) * 2)
    x = np.random.default_rng(0).normal(size=(40, 8)).astype(np.float32)
    with jax.set_mesh(over):
        for axes in [(), ("data",), (None, "model"), ("data", "model"), (("data", "model"),)]:
            placed = hosts.place(x, NamedSharding(over, PartitionSpec(*axes)))
            assert hosts.crc32(placed) == zlib.crc32(x.tobytes()), axes
            np.testing.assert_array_equal(hosts.whole({"x": placed})["x"], x)
            pieces = [piece.nbytes for piece in hosts.pieces(placed)]
            assert max(pieces) <= (256 if "data" in str(axes) else x.nbytes), pieces
        hosts.check_same(data="as given")
        with pytest.raises(UserError, match="the data differs between the processes"):
            hosts.check_same(data=f"of {mine}")
        queries = mesh.feed({"a": x.reshape(5, 8, 8), "b": x[:, :7]}, 8)
        shards = queries["a"].addressable_shards
        assert {shard.index[1].start for shard in shards} == {4 * mine}
        np.testing.assert_array_equal(
            shards[0].data, x.reshape(5, 8, 8)[:, 4 * mine : 4 * mine + 4]
        )
        assert queries["b"].is_fully_replicated
        got = topk.knn(x, 3, block=6)
    for part, expected in zip(got, topk.knn(x, 3, block=6), strict=True):
        np.testing.assert_array_equal(part, expected)

    sizes = np.array([3, 1, 4, 1, 5])  # of records that stay on disk
    ends, read = np.cumsum(sizes), []

    def records(numbers):
        read.extend(numbers)
        rows = [np.arange(ends[n] - sizes[n], ends[n], dtype=np.int32) for n in numbers]
        return [{"user": row, "item": row + 100} for row in rows]

    parts = list(streamed.Streamed(records, sizes, 8, 14, 114).epoch([0]))
    order = np.random.default_rng([0]).permutation(5)
    dealt = np.array_split(order, 2)  # 14 rows, 8 at most at once
    for part, numbers in zip(parts, dealt, strict=True):
        expected = np.concatenate([np.arange(ends[n] - sizes[n], ends[n]) for n in numbers])
        np.testing.assert_array_equal(part.user, expected)
        np.testing.assert_array_equal(part.item, expected + 100)
    assert read == [n for numbers in dealt for n in np.array_split(numbers, 2)[mine]]
    print("shared", mine)


def test_two_processes_share_arrays(begin, tmp_path):
    where = {"JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{free_port()}", "JAX_NUM_PROCESSES": "2"}
    each = [
        begin(__file__, tmp_path, devices=4, JAX_PROCESS_ID=str(number), **where)
        for number in (0, 1)
    ]
    for number, (status, output, errors) in enumerate(finish(*each)):
        assert status == 0 and f"shared {number}" in output, errors[-3000:]
    assert json.loads((tmp_path / "who.json").read_text())["writer"] == 0
    assert {path.name for path in tmp_path.iterdir()} == {"who.json", ".lock"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("config", "shape", "layout"),
    [
        ("graph/lightgcn", (4, 2), "rows"),
        ("multimodal/freedom", (2, 4), "columns"),
        ("sequence/sasrec", (1, 8), "columns"),
    ],
)
def test_a_run_on_two_processes_is_that_of_one(begin, tmp_path, config, shape, layout):
    trained(begin, tmp_path / "one", config)
    (_, table, _), (_, silence, _) = trained(
        begin, tmp_path / "two", config, shape, f"mesh.tables={layout}"
    )
    assert_same_run(tmp_path / "two", tmp_path / "one")
    summary = store.read_summary(tmp_path / "two")
    assert summary["device"]["count"] == 8 and summary["mesh"]["data"] == shape[0]
    assert "recall" in table and "results in" in table
    assert "recall" not in silence and "results" not in silence
    written = [{path.name for path in (tmp_path / run).iterdir()} for run in ("one", "two")]
    assert written[0] == written[1]
    # What both have saved is restored onto the one device that there is here.
    means = evaluate.evaluate(tmp_path / "two", "valid")
    for name, value in summary["valid"].items():
        np.testing.assert_allclose(means[name], value, rtol=1e-5)


@pytest.mark.slow
def test_what_one_host_cannot_read_none_goes_on_from(begin, tmp_path):
    trained(begin, tmp_path / "one", "graph/lightgcn")
    trained(begin, tmp_path / "two", "graph/lightgcn", (1, 8))
    saved = (tmp_path / "two/checkpoints/latest/3/tree/ocdbt.process_1/d").iterdir()
    largest = max(saved, key=lambda path: path.stat().st_size)
    os.truncate(largest, 100)  # with this mesh, only the second process reads it
    for _, _, errors in trained(begin, tmp_path / "two", "graph/lightgcn", (1, 8)):
        assert "the checkpoint of epoch 3 cannot be used" in errors
    assert_same_run(tmp_path / "two", tmp_path / "one")


@pytest.mark.slow
@pytest.mark.parametrize(("number", "who"), [(signal.SIGTERM, 1), (signal.SIGKILL, 0)])
def test_processes_that_end_early_end_together_and_go_on(begin, tmp_path, number, who):
    longer = ["train.epochs=12", "eval.every=4"]
    trained(begin, tmp_path / "one", "graph/lightgcn", None, *longer)
    both = launch(begin, tmp_path / "two", "graph/lightgcn", (4, 2), *longer)
    log = tmp_path / "two/metrics.jsonl"
    while not (log.exists() and log.read_text().count("\n") >= 2):
        assert both[who].poll() is None
        time.sleep(0.05)
    both[who].send_signal(number)
    for status, _, errors in finish(*both):
        if number == signal.SIGTERM:
            assert status == 128 + signal.SIGTERM and "the same command goes on" in errors
        assert status != 0
    assert not (tmp_path / "two/summary.json").exists()
    trained(begin, tmp_path / "two", "graph/lightgcn", None, *longer)  # in one process
    assert_same_run(tmp_path / "two", tmp_path / "one")
    assert json.loads((tmp_path / "two/config.json").read_text())["mesh"]["data"] == 1


if __name__ == "__main__":
    share(sys.argv[1])
