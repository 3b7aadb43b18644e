"""Strict numerics, and a compile cache of each worker's own."""

from __future__ import annotations

import os
import sys
from importlib import metadata
from pathlib import Path

if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("NPROC", "1")  # XLA's threads: the workers already fill the cores
    # Most of the time goes into compiling what runs for a moment: the second flag, which later
    # releases do not know, halves it.
    flags = ["--xla_backend_optimization_level=0"]
    if metadata.version("jaxlib").startswith("0.10."):
        flags.append("--xla_cpu_use_fusion_emitters=false")
    os.environ.setdefault("XLA_FLAGS", " ".join(flags))
# One folder per worker: JAX writes an entry in place, so another could read half of it. The
# variables also reach the launchers that tests start.
_WORKER = os.environ.get("PYTEST_XDIST_WORKER", "main")
_CACHE = Path(__file__).parent.parent / ".pytest_cache" / "xla" / _WORKER
os.environ["JAX_COMPILATION_CACHE_DIR"] = str(_CACHE)
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.2"

import jax  # noqa: E402 - it reads the environment when it is imported
import pytest  # noqa: E402

# Each of these compiles an epoch anew, which takes long: all methods have them under `slow`, and by
# default those of REPRESENTATIVE, or of the gradients those whose parity tests compare none.
COMPILING = (
    "test_bfloat16_trains",
    "test_seeds_side_by_side_equal_lone_runs",
    "test_shuffled_features_change_the_scores",
)
LEARNS_SLOWLY = "test_the_loss_falls_and_the_method_beats_popularity[generative.tiger]"  # a minute
GRADIENTS = "test_every_parameter_receives_gradient"
GRADIENTS_COMPARED = (
    "generative.tiger",
    "graph.alpharec",
    "graph.dccf",
    "graph.ngcf",
    "graph.simgcl",
    "multimodal.alignrec",
    "multimodal.cm3",
    "multimodal.dgvae",
    "multimodal.lattice",
    "multimodal.lirdrec",
    "multimodal.mambarec",
    "multimodal.mgcn",
    "multimodal.mmhcl",
    "multimodal.rearm",
)

# What is run with the oldest and the newest JAX too: pytest -m versions.
VERSIONS = ("test_checkpoint", "test_graph", "test_metrics", "test_prepared", "test_topk")
REPRESENTATIVE = (
    "baseline.mf",
    "ctr.deepfm",
    "graph.lightgcn",
    "multimodal.freedom",
    "sequence.sasrec",
)


@pytest.hookimpl
def pytest_configure(config: pytest.Config) -> None:
    # Strict dtype promotion would be welcome too, but optax.adam does not pass it.
    jax.config.update("jax_numpy_rank_promotion", "raise")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        name = getattr(item, "originalname", "")
        method = getattr(item, "callspec", None) and item.callspec.params.get("case")
        if name in COMPILING and method not in REPRESENTATIVE:
            item.add_marker(pytest.mark.slow)
        elif name == GRADIENTS and method in GRADIENTS_COMPARED:
            item.add_marker(pytest.mark.slow)
        elif item.name == LEARNS_SLOWLY:
            item.add_marker(pytest.mark.slow)
        elif method in REPRESENTATIVE or item.path.stem in VERSIONS:
            item.add_marker(pytest.mark.versions)


def pytest_sessionfinish() -> None:
    assert "tensorflow" not in sys.modules, "something imports TensorFlow"
    assert "torch" not in sys.modules, "something imports PyTorch"
