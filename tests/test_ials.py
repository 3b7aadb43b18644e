"""iALS against the normal equations, against its authors' code, and as a run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import made
import numpy as np
import pytest

from configs.baseline import ials as config_file
from mmrec_jax import sweep, train
from mmrec_jax.models.baseline.ials import IALS
from mmrec_jax.ops import least_squares
from mmrec_jax.tasks import matrix

FIXTURE = Path(__file__).parent / "fixtures" / "ials.npz"


def random_matrix(rows=70, columns=50, seed=0):
    """Zeros and ones with rows of very different length, some of them empty."""
    rng = np.random.default_rng(seed)
    share = rng.choice([0.0, 0.02, 0.1, 0.4, 0.9], rows)[:, None]
    ones = (rng.random((rows, columns)) < share).astype(float)
    ones[0] = np.arange(columns) < 2  # short, so that what is written for padding would show here
    return ones


def epochs(data, count, start=None, **hyper):
    """Factors after each of ``count`` sweeps, and the logged objective."""
    model, batch = IALS(data.spec, **hyper), matrix.prepare(data, None)
    variables = model.init(jax.random.key(0), batch, None, method="loss")
    if start is not None:
        variables["factors"]["user"] = jnp.asarray(start, jnp.float32)
    step = jax.jit(lambda v: model.apply(v, batch, None, method="loss", mutable=["factors"]))
    found = []
    for _ in range(count):
        (loss, _), variables = step(variables)
        found.append((variables["factors"]["user"], variables["factors"]["item"], loss))
    return found


def test_one_row_by_hand():
    # V = [1, 2, 3] of one dimension, ones at columns 0 and 2, alpha 1/2, ridge 3:
    # (1 + 9) + (1 + 4 + 9) / 2 + 3 = 20, so x = (1 + 3) / 20 = 0.2, and the errors at the ones
    # are 0.8 and 0.4. Their squares sum to 0.8. The second row has no ones.
    rows = least_squares.from_pairs([0, 0], [0, 2], (2, 3))
    x, error = least_squares.solve(
        rows, jnp.float32([[1], [2], [3]]), 0.5, jnp.full(2, jnp.float32(3))
    )
    np.testing.assert_allclose(x, [[0.2], [0]], rtol=1e-6)
    np.testing.assert_allclose(error, 0.8, rtol=1e-6)


@pytest.mark.parametrize("dim", [3, 8, 60])  # rows longer than that, of either kind, and shorter
@pytest.mark.parametrize("entries", [40, 8192])  # several blocks of a width, and one
def test_rows_equal_the_normal_equations(monkeypatch, dim, entries):
    monkeypatch.setattr(least_squares, "_ENTRIES", entries)
    ones = random_matrix()
    factors = np.random.default_rng(1).normal(size=(ones.shape[1], dim))
    unobserved, ridge = 0.3, 0.1 + np.arange(len(ones)) / 10
    want = np.zeros((len(ones), dim))
    for row, mine in enumerate(ones):
        normal = factors.T @ (mine[:, None] * factors) + unobserved * factors.T @ factors
        normal += ridge[row] * np.eye(dim)
        want[row] = np.linalg.solve(normal, factors.T @ mine)
    rows = least_squares.from_pairs(*np.nonzero(ones), ones.shape)
    got, error = least_squares.solve(
        rows, jnp.float32(factors), unobserved, jnp.asarray(ridge, jnp.float32)
    )
    np.testing.assert_allclose(got, want, atol=1e-4)
    np.testing.assert_allclose(error, (ones * (1 - want @ factors.T) ** 2).sum(), rtol=1e-4)


def test_rows_keep_every_pair_once():
    ones = random_matrix()
    row, column = np.nonzero(ones)
    twice = least_squares.from_pairs(np.tile(row, 2), np.tile(column, 2), ones.shape)
    np.testing.assert_array_equal(twice.count, ones.sum(1))
    back = np.zeros((len(ones) + 1, ones.shape[1] + 1))
    for number, own in zip(twice.number, twice.column, strict=True):
        np.add.at(back, (np.asarray(number)[..., None], np.asarray(own)), 1)
    np.testing.assert_array_equal(back[:-1, :-1], ones)


def test_sweeps_equal_the_authors_code():
    """Four iterations of google-research's ials at 1d4d2f1a from the same start."""
    with np.load(FIXTURE, allow_pickle=False) as stored:
        case = dict(stored)
    hyper = {"reg": float(case["reg"]), "alpha": float(case["alpha"])}
    dim = case["start"].shape[1]
    data = made.dataset(case["user"], case["item"])
    user, item, _ = epochs(data, int(case["epochs"]), case["start"], dim=dim, **hyper)[-1]
    np.testing.assert_allclose(user, case["user_factors"], atol=1e-4)
    np.testing.assert_allclose(item, case["item_factors"], atol=1e-4)


@pytest.mark.parametrize("exponent", [1.0, 0.5])
def test_the_objective_is_the_papers_and_never_rises(exponent):
    ones = random_matrix(seed=4)
    data = made.dataset(*np.nonzero(ones), *ones.shape)
    reg, alpha = 0.02, 0.2
    found = epochs(data, 8, dim=5, reg=reg, alpha=alpha, reg_exponent=exponent, init_scale=1.0)
    losses = np.array([float(loss) for *_, loss in found])
    assert losses[-1] < 0.9 * losses[0]
    assert (np.diff(losses) <= 1e-6).all()
    for user, item, loss in (found[0], found[-1]):
        user, item = np.asarray(user, np.float64), np.asarray(item, np.float64)
        scores = user @ item.T
        want = (ones * (1 - scores) ** 2).sum() + alpha * (scores**2).sum()
        for factors, count, partners in ((user, ones.sum(1), 50), (item, ones.sum(0), 70)):
            weight = reg * (count + alpha * partners) ** exponent
            want += (weight * (factors**2).sum(1)).sum()
        np.testing.assert_allclose(float(loss), want / ones.sum(), rtol=1e-5)


def test_the_start_has_the_scale_asked_for_and_follows_the_seed():
    data = made.dataset([0, 1999], [0, 29], 2000, 30)
    model, batch = IALS(data.spec, dim=16, init_scale=0.5), matrix.prepare(data, None)
    draw = lambda seed: model.init(jax.random.key(seed), batch, None, method="loss")["factors"]
    first = draw(0)
    assert np.sqrt((np.asarray(first["user"]) ** 2).sum(1).mean()) == pytest.approx(0.5, rel=0.05)
    assert np.abs(draw(1)["user"] - first["user"]).max() > 0.1
    np.testing.assert_array_equal(first["item"], 0)  # solved for first


def tiny(**changes):
    config = config_file.get_config("debug")
    config.model.dim = 4
    config.update_from_flattened_dict({"data.knobs.num_users": 80, "data.knobs.num_items": 40})
    config.update_from_flattened_dict({"train.epochs": 4, **changes})
    return config


def test_a_sweep_shares_one_program_and_equals_lone_runs(tmp_path):
    wanted = {"model.reg": (0.003, 0.03), "model.alpha": (0.1,), "seed": (3,)}
    sweep.sweep(tiny(), wanted, tmp_path / "sweep")
    member = json.loads((tmp_path / "sweep" / "001" / "summary.json").read_text())
    alone = train.train(
        tiny(**{"model.reg": 0.03, "model.alpha": 0.1, "seed": 3}), tmp_path / "alone"
    )
    assert member["valid"] == pytest.approx(alone["valid"], abs=1e-6)
    other = json.loads((tmp_path / "sweep" / "000" / "summary.json").read_text())
    assert other["valid"] != member["valid"]
    assert member["epochs"] == 4 and member["compile_seconds"] == other["compile_seconds"]


def test_without_regularisation_it_says_that_the_loss_is_no_number(tmp_path):
    with pytest.raises(train.Diverged, match="loss"):
        train.train(tiny(**{"model.reg": 0.0, "model.alpha": 0.0}), tmp_path)


def test_blocks_do_not_wait_for_each_other_on_two_processors():
    # Hangs where two batches of factorisations run at once: they share the threads they wait for.
    code = """
import jax, numpy as np
from mmrec_jax.ops import least_squares
rng = np.random.default_rng(0)
user, item = rng.integers(0, 1000, 20000), (rng.random(20000) ** 2 * 900).astype(int)
rows = least_squares.from_pairs(item, user, (900, 1000))
solve = jax.jit(lambda x: least_squares.solve(rows, x, 0.03, rows.count + 0.1)[0])
factors = rng.normal(size=(1000, 64)).astype(np.float32)
for _ in range(60):
    solve(factors).block_until_ready()
"""
    environment = {**os.environ, "NPROC": "2", "PYTHONPATH": str(Path(__file__).parent.parent)}
    subprocess.run([sys.executable, "-c", code], env=environment, timeout=60, check=True)
