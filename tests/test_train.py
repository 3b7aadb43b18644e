"""The loop: optimisers by name, early stopping, and a loss that stops being a number."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import made
import numpy as np
import optax
import pytest

from configs import base
from configs.graph import lightgcn
from mmrec_jax import logs, optimize, train
from mmrec_jax import run as runs
from mmrec_jax.types import UserError


def tiny(**changes):
    return made.config(lightgcn, **{"model.dim": 8, **changes})


def steps(config, count, grad=2.0, value=1.0, epochs=2):
    """Values of one parameter over ``count`` steps with a constant gradient."""
    optimizer = optimize.build(config, config.lr, config.weight_decay, count // epochs, epochs)
    params = jnp.array(value)
    state, seen = optimizer.init(params), []
    for _ in range(count):
        updates, state = optimizer.update(jnp.array(grad), state, params)
        params = optax.apply_updates(params, updates)
        seen.append(float(params))
    return np.array(seen)


def optim(**changes):
    config = base.get_config().optim
    config.update({"name": "sgd", "lr": 0.1, **changes})
    return config


def test_schedules_scale_the_steps():
    np.testing.assert_allclose(np.diff(steps(optim(), 4)), -0.2, rtol=1e-5)
    linear = np.diff(steps(optim(schedule="linear"), 4), prepend=1.0)
    np.testing.assert_allclose(linear, [-0.2, -0.15, -0.1, -0.05], rtol=1e-5)
    cosine = np.diff(steps(optim(schedule="cosine"), 4), prepend=1.0)
    np.testing.assert_allclose(cosine, -0.2 * (1 + np.cos(np.pi * np.arange(4) / 4)) / 2, rtol=1e-5)
    warm = np.diff(steps(optim(warmup_steps=2), 4), prepend=1.0)
    np.testing.assert_allclose(warm, [0, -0.1, -0.2, -0.2], rtol=1e-5, atol=1e-7)
    falling = np.diff(steps(optim(schedule="exponential", decay_rate=0.5), 100), prepend=1.0)
    np.testing.assert_allclose(falling[50], -0.2 * 0.5 ** (50 / 2500), rtol=1e-4)


def test_clipping_and_decay():
    np.testing.assert_allclose(steps(optim(clip_norm=0.5), 1, epochs=1), 1 - 0.1 * 0.5, rtol=1e-6)
    coupled = steps(optim(weight_decay=0.3), 1, epochs=1)
    np.testing.assert_allclose(coupled, 1 - 0.1 * (2 + 0.3), rtol=1e-6)
    decoupled = steps(optim(name="adamw", weight_decay=0.3), 1, epochs=1)
    np.testing.assert_allclose(decoupled, 1 - 0.1 * (1 + 0.3), rtol=1e-4)


@pytest.mark.parametrize("name", ["adam", "adamw", "adagrad", "rmsprop"])
def test_optimisers_go_downhill(name):
    assert (np.diff(steps(optim(name=name), 4), prepend=1.0) < 0).all()


@pytest.mark.parametrize("key,word", [("name", "adamm"), ("schedule", "cosin")])
def test_unknown_names_are_named(key, word):
    with pytest.raises(UserError, match=f"optim.{key} is '{word}'; it must be one of"):
        steps(optim(**{key: word}), 1, epochs=1)


def test_early_stopping_wants_strict_improvement():
    config = tiny(**{"eval.patience": 2})
    progress = train.Progress()
    taken = [progress.update(v, e, True) for e, v in enumerate([0.1, 0.1, 0.2, 0.2, 0.1], 1)]
    assert taken == [True, False, True, False, False]
    assert (progress.best_epoch, progress.stale) == (3, 2)
    assert not progress.stopped(config)  # two are borne
    assert not progress.update(0.2, 6, True) and progress.stopped(config)


def test_without_validation_the_latest_epoch_is_the_best():
    progress = train.Progress()
    assert all(progress.update(None, epoch, False) for epoch in (1, 2))
    assert progress.best_epoch == 2 and not progress.stopped(tiny())


def test_a_loss_that_is_not_finite_stops_the_run_with_its_step(tmp_path):
    config = tiny(**{"optim.name": "sgd", "optim.lr": 1e38, "train.epochs": 3})
    with pytest.raises(train.Diverged, match=r"not finite from step \d+ of \d+ in epoch \d"):
        train.train(config, tmp_path)
    assert not (tmp_path / "summary.json").exists()


def test_a_run_without_validation_trains_all_epochs_and_is_tested(tmp_path):
    lines = [f"{u} {' '.join(str((u * 3 + j) % 17) for j in range(8))}" for u in range(30)]
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "train.txt").write_text("\n".join(lines) + "\n")
    held_out = "\n".join(f"{u} {(u * 3 + 9) % 17}" for u in range(30)) + "\n"
    (tmp_path / "data" / "test.txt").write_text(held_out)
    config = tiny(**{"data.source": str(tmp_path / "data"), "data.ratios": (1.0, 0.0, 0.0)})
    summary = train.train(config, tmp_path / "run")
    assert summary["epochs"] == summary["best_epoch"] == 3
    assert "valid" not in summary and 0 < summary["test"]["recall@20"] <= 1
    assert len(logs.read(tmp_path / "run")) == 3


def test_a_checkpoint_due_before_the_first_validation_waits_for_it(tmp_path):
    config = tiny(**{"eval.every": 3, "checkpoint.every": 1})
    assert train.train(config, tmp_path)["best_epoch"] == 3


def test_order_and_negatives_change_with_the_epoch_and_with_nothing_else():
    config = tiny(**{"optim.name": "sgd", "optim.lr": 0.0})
    run, data, ctx = runs.setup(config)
    arrays = run.task.prepare(data, config)
    run = dataclasses.replace(run, steps=-(-run.task.size(arrays) // config.train.batch_size))
    start = runs.init_state(run, jax.random.key(0), {}, ctx, arrays)
    epoch = jax.jit(functools.partial(train.train_epoch, run))
    first, logs = epoch(start, {}, ctx, arrays)
    second = epoch(first, {}, ctx, arrays)[1]
    np.testing.assert_array_equal(first.params["user"], start.params["user"])  # nothing is learned
    assert logs["loss"] == epoch(start, {}, ctx, arrays)[1]["loss"]
    assert logs["loss"] != second["loss"]
