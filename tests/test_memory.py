"""The forecast of memory against sums made by hand, and the line that a run too large ends with."""

import jax
import jax.numpy as jnp
import pytest

from configs.graph import lightgcn
from mmrec_jax import memory, train
from mmrec_jax.types import UserError


def test_needed_counts_arguments_and_results_but_donated_memory_once():
    x = jnp.zeros((1000, 1000))
    own = jax.jit(lambda x: x + 1).lower(x).compile()
    donated = jax.jit(lambda x: x + 1, donate_argnums=0).lower(x).compile()
    assert memory.needed(own) == pytest.approx(8e6, rel=0.01)
    assert memory.needed(donated) == pytest.approx(4e6, rel=0.01)


def test_available_is_no_more_than_the_machine_has():
    assert 1e8 < memory.available() < 1e14


def test_a_run_that_cannot_fit_says_so_before_it_takes_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "available", lambda: 2e6)
    config = lightgcn.get_config("debug")
    with pytest.raises(UserError) as error:
        train.train(config, tmp_path / "run")
    assert str(error.value).startswith("an epoch of graph.lightgcn needs 0.002")
    assert str(error.value).endswith("try a smaller train.batch_size or model.dim")


def test_an_evaluation_that_cannot_fit_names_its_block(tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "available", lambda: 2e5)  # it needs 5e5
    monkeypatch.setattr(train.Programs, "epoch", lambda *_: None)
    with pytest.raises(UserError, match=r"^an evaluation of graph.lightgcn .* smaller eval.block$"):
        train.train(lightgcn.get_config("debug"), tmp_path / "run")
