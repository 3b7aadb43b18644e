"""Interrupted and damaged runs end as if nothing had happened, bit for bit."""

import contextlib
import json
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import made
import numpy as np
import pytest

from configs.graph import lightgcn
from mmrec_jax import checkpoint, evaluate, logs, train
from mmrec_jax import run as runs
from mmrec_jax.types import UserError

EPOCHS = 6
# Orbax leaves the errors of its other readers unretrieved when one meets damage.
unretrieved = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


def tiny():
    changes = {"model.dim": 8, "train.epochs": EPOCHS, "checkpoint.every": 2}
    return made.config(lightgcn, None, **changes)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("undisturbed")
    return workdir, train.train(tiny(), workdir)


def stop_after(monkeypatch, epoch):
    """Makes the run die once ``epoch`` is logged, before it is saved."""

    def write(log, record):
        original(log, record)
        if record["epoch"] == epoch:
            raise KeyboardInterrupt

    original = logs.Log.write
    monkeypatch.setattr(logs.Log, "write", write)


def leaves(workdir):
    return jax.tree.leaves(runs.load(workdir)[3])


def assert_same_run(workdir, summary, undisturbed):
    for mine, theirs in zip(leaves(workdir), leaves(undisturbed[0]), strict=True):
        np.testing.assert_array_equal(mine, theirs)
    for split in ("valid", "test"):
        assert summary[split] == undisturbed[1][split]
    assert summary["best_epoch"] == undisturbed[1]["best_epoch"]
    logged = [
        [
            {name: value for name, value in record.items() if "seconds" not in name}
            for record in logs.read(w)
        ]
        for w in (workdir, undisturbed[0])
    ]
    assert logged[0] == logged[1]


@pytest.mark.parametrize("epoch", [1, 4])
def test_a_killed_run_goes_on_to_the_same_result(tmp_path, monkeypatch, undisturbed, epoch):
    with monkeypatch.context() as patch:
        stop_after(patch, epoch)
        with pytest.raises(KeyboardInterrupt):
            train.train(tiny(), tmp_path)
    assert_same_run(tmp_path, train.train(tiny(), tmp_path), undisturbed)


def newest(workdir, kind):
    steps = (Path(workdir) / "checkpoints" / kind).glob("[0-9]*")
    return max(steps, key=lambda path: int(path.name))


def damage(directory, how):
    """Flips bytes in, or truncates, every file of some size below ``directory``."""
    for path in directory.rglob("*"):
        if path.is_file() and path.stat().st_size > 200 and "METADATA" not in path.name:
            content = bytearray(path.read_bytes())
            if how == "truncated":
                content = content[: len(content) // 2]
            else:
                for place in range(len(content) // 2, len(content), 97):
                    content[place] ^= 0x41
            path.write_bytes(content)


@unretrieved
@pytest.mark.parametrize("how", ["flipped", "truncated", "missing"])
def test_a_damaged_newest_checkpoint_falls_back(tmp_path, monkeypatch, undisturbed, caplog, how):
    with monkeypatch.context() as patch:
        stop_after(patch, 5)
        with pytest.raises(KeyboardInterrupt):
            train.train(tiny(), tmp_path)
    target = newest(tmp_path, "latest")
    shutil.rmtree(target / "tree") if how == "missing" else damage(target, how)
    summary = train.train(tiny(), tmp_path)
    assert f"checkpoint of epoch {target.name} cannot be used" in caplog.text
    assert_same_run(tmp_path, summary, undisturbed)


@unretrieved
def test_a_damaged_best_is_made_again(tmp_path, undisturbed, caplog):
    shutil.copytree(undisturbed[0], tmp_path / "run")
    damage(newest(tmp_path / "run", "best"), "flipped")
    with pytest.raises(UserError, match="is damaged.*--mode=train"):
        evaluate.evaluate(tmp_path / "run")
    summary = train.train(tiny(), tmp_path / "run")
    assert_same_run(tmp_path / "run", summary, undisturbed)


def test_a_flipped_bit_is_noticed(tmp_path):
    tree = {"a": np.arange(4.0), "b": {"c": np.ones((2, 3), np.int32)}}
    before = checkpoint._checksums(tree)
    tree["b"]["c"][1, 2] = 3
    changed = {name for name, crc in checkpoint._checksums(tree).items() if before[name] != crc}
    assert changed == {"['b']['c']"}


def test_a_workdir_of_another_configuration_is_refused(undisturbed):
    config = tiny()
    config.model.dim = 16
    before = json.loads((undisturbed[0] / "config.json").read_text())
    with pytest.raises(UserError, match="other values of model.dim; name another --workdir"):
        train.train(config, undisturbed[0])
    assert json.loads((undisturbed[0] / "config.json").read_text()) == before


def test_a_finished_run_is_not_trained_again(undisturbed):
    summary = train.train(tiny(), undisturbed[0])
    for name in ("test", "seconds_per_epoch", "seconds_per_evaluation"):
        assert summary[name] == undisturbed[1][name]
    assert len(logs.read(undisturbed[0])) == summary["epochs"]


@unretrieved
def test_no_flipped_byte_is_restored_as_if_nothing_were(tmp_path):
    tree = {"a": jnp.asarray(np.random.default_rng(0).standard_normal((64, 8)), jnp.float32)}
    with contextlib.closing(checkpoint._manager(tmp_path / "run")) as manager:
        checkpoint._save(manager, 1, tree, {})
        manager.wait_until_finished()
    files = [path for path in (tmp_path / "run" / "1" / "tree").rglob("*") if path.is_file()]
    path = max(files, key=lambda path: path.stat().st_size)
    sound, silent = path.read_bytes(), 0
    for place in range(50, len(sound), len(sound) // 12):
        path.write_bytes(sound[:place] + bytes([sound[place] ^ 1]) + sound[place + 1 :])
        with contextlib.closing(checkpoint._manager(tmp_path / "run")) as manager:
            try:
                got = checkpoint._restore(manager, 1, tree)[0]
            except Exception:
                continue
            silent += not np.array_equal(got["a"], tree["a"])
    assert silent == 0
