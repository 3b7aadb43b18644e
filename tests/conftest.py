"""Strict numerics, and a compile cache of each worker's own."""

from __future__ import annotations

import os
import sys

if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("NPROC", "1")  # XLA's threads: the workers already fill the cores

import jax
import pytest


@pytest.hookimpl
def pytest_configure(config: pytest.Config) -> None:
    # Strict dtype promotion would be welcome too, but optax.adam does not pass it.
    jax.config.update("jax_numpy_rank_promotion", "raise")
    # One folder per worker: JAX writes an entry in place, so another could read half of it.
    worker = os.environ.get("PYTEST_XDIST_WORKER", "main")
    cache = config.rootpath / ".pytest_cache" / "xla" / worker
    jax.config.update("jax_compilation_cache_dir", str(cache))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)


def pytest_sessionfinish() -> None:
    assert "tensorflow" not in sys.modules, "something imports TensorFlow"
    assert "torch" not in sys.modules, "something imports PyTorch"
