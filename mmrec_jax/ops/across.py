"""The mesh of devices under which a program is traced, as operations see it.

Most operations leave it to the compiler how arrays are spread. Those that it would gather, or
have every device repeat, cut their work by hand (``jax.shard_map``) where :func:`mesh` finds
devices: examples over the axis "data", items over "model".
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import AbstractMesh, PartitionSpec

from mmrec_jax.types import Array

AXES = ("data", "model")


def mesh() -> AbstractMesh | None:
    """The mesh in force; None on one device, and where the work is cut by hand already."""
    found = jax.sharding.get_abstract_mesh()
    if found.axis_names != AXES or found.size == 1 or found.manual_axes:
        return None
    return found


def spread_scores(scores: Array) -> Array:
    """Scores [B, I], queries over "data", where they divide, and items over "model"."""
    found = mesh()
    if found is None:
        return scores
    queries = "data" if len(scores) % found.shape["data"] == 0 else None
    return lax.with_sharding_constraint(scores, PartitionSpec(queries, "model"))


def pad(x: Array, multiple: int, axis: int = 0, fill: float = 0) -> Array:
    """``x`` filled up along an axis, so that its length divides by ``multiple``."""
    width = [(0, 0)] * x.ndim
    width[axis] = (0, -x.shape[axis] % multiple)
    return jnp.pad(x, width, constant_values=fill)
