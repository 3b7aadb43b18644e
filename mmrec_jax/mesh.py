"""One run on many devices: which of them holds and computes what.

A mesh has two axes. The examples of a batch, and queries, are divided over ``data``; tables, which
are what has a row per user, item or token, over ``model``, and so are the items when all of them
are scored. The rest is on every device. From this the compiler derives everything else, so that
programs, random numbers and results are those of one device.

The mesh is ambient: a run enters it once, and who places or computes something asks for it here.
Where there is none, whatever is given to a function of this module comes back as it is.
"""

from __future__ import annotations

import contextlib
import functools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from mmrec_jax import hosts, store
from mmrec_jax.ops import across
from mmrec_jax.types import PyTree, Spec, UserError

DATA, MODEL = across.AXES
LAYOUTS = {"columns": (1, 0), "rows": (0, 1)}  # which axis of a table to divide, or else the other
# Tables whatever their number of rows: embeddings of ids, of hashes, of tokens and of fields.
_NAMES = {"user", "item", "id", "shared", "token", "tokens", "field"}


def make(config: Any) -> Mesh | None:
    """The mesh of ``config.mesh``; None for one device.

    Raises:
      UserError: sizes that mean nothing, or divide no batch, or are more than there are devices.
    """
    section = config.get("mesh") or {}
    shape = section.get(DATA, 1), section.get(MODEL, 1)
    layout = section.get("tables", "columns")
    if min(shape) < 1:
        raise UserError(f"mesh.data is {shape[0]} and mesh.model {shape[1]}; 1 is the least")
    if layout not in LAYOUTS:
        raise UserError(f"mesh.tables is {layout!r}; it must be one of {', '.join(LAYOUTS)}")
    needed, found = shape[0] * shape[1], jax.device_count()
    if hosts.several() and needed != found:
        raise UserError(
            f"mesh.data x mesh.model is {shape[0]} x {shape[1]}, but the processes have {found} "
            "devices together; a run on several takes them all"
        )
    if needed > found:
        raise UserError(
            f"mesh.data x mesh.model is {shape[0]} x {shape[1]} = {needed} devices, but JAX finds "
            f"{found} ({jax.default_backend()}); choose smaller ones"
        )
    sizes = {"train.batch_size": config.train.batch_size, "eval.block": config.eval.block}
    for key, size in sizes.items():
        if size % shape[0]:
            near = -(-size // shape[0]) * shape[0]
            raise UserError(
                f"{key} is {size}, which mesh.data = {shape[0]} must divide; try {near}"
            )
    return None if needed == 1 else _of(shape)


def _of(shape: tuple[int, int]) -> Mesh:
    return jax.make_mesh(shape, across.AXES, axis_types=(AxisType.Auto, AxisType.Auto))


def ambient(mesh: Mesh | None) -> contextlib.AbstractContextManager:
    """Makes ``mesh`` the one that arrays are made and programs are traced for, if it is one."""
    return contextlib.nullcontext() if mesh is None else jax.set_mesh(mesh)


def as_configured(function: Callable) -> Callable:
    """Has a function run on the mesh of the configuration that is its first argument."""

    @functools.wraps(function)
    def run(config, *args, **options):
        with ambient(make(config)):
            return function(config, *args, **options)

    return run


def as_trained(function: Callable) -> Callable:
    """Has a function run on the mesh of the workdir that is its first argument, or on one device.

    The latter where there are too few devices now.
    """

    @functools.wraps(function)
    def run(workdir, *args, **options):
        there = Path(workdir, "config.json").exists()
        section = store.read_config(workdir).get("mesh", {}) if there else {}
        shape = section.get(DATA, 1), section.get(MODEL, 1)
        needed, found = shape[0] * shape[1], jax.device_count()
        there = needed == found if hosts.several() else needed <= found
        if not there:
            print(f"trained on {shape[0]} x {shape[1]} devices, goes on with one", file=sys.stderr)
        with ambient(_of(shape) if there and needed > 1 else None):
            return function(workdir, *args, **options)

    return run


def specs(tree: PyTree, spec: Spec, layout: str) -> PyTree:
    """How the leaves of variables, an optimiser's state or a context are divided.

    A table is known by its name or by a row per user, item or node. It is divided along the axis
    that ``layout`` names or, if that does not go, along the other; all else is replicated.
    """
    parts = jax.sharding.get_abstract_mesh().shape[MODEL]

    def of(path, leaf):
        for axis in LAYOUTS[layout] if _is_table(path, leaf, spec) else ():
            if leaf.shape[axis] % parts == 0:
                return PartitionSpec(*[None] * axis, MODEL)
        return PartitionSpec()

    return jax.tree_util.tree_map_with_path(of, tree)


def _is_table(path: tuple, leaf: Any, spec: Spec) -> bool:
    names = [getattr(key, "key", getattr(key, "name", None)) for key in path]
    if len(leaf.shape) != 2 or "graphs" in names:
        return False
    rows = spec.num_users, spec.num_items, spec.num_users + spec.num_items
    return names[-1] in _NAMES or leaf.shape[0] in rows


def _divided(function: Callable[[Any, PartitionSpec], Any], tree: PyTree, run: Any) -> PyTree:
    if across.mesh() is None:
        return tree
    return jax.tree.map(function, tree, specs(tree, run.fields["spec"], run.config.mesh.tables))


def place(tree: PyTree, run: Any) -> PyTree:
    """The arrays of a run (``run.Run``), moved to where they belong."""
    mesh = jax.sharding.get_mesh()
    return _divided(lambda x, spec: hosts.place(x, NamedSharding(mesh, spec)), tree, run)


def shapes(tree: PyTree, run: Any) -> PyTree:
    """The shapes of a run's arrays, with where they belong."""
    mesh, struct = jax.sharding.get_mesh(), jax.ShapeDtypeStruct
    of = lambda x, spec: struct(x.shape, x.dtype, sharding=NamedSharding(mesh, spec))
    return _divided(of, tree, run)


def keep(tree: PyTree, run: Any) -> PyTree:
    """Traced arrays of a run, held where they belong."""
    return _divided(lax.with_sharding_constraint, tree, run)


def feed(tree: PyTree, count: int) -> PyTree:
    """Host arrays [blocks, B, ...] on the devices, those with B = ``count`` divided along it.

    A host copies no more than its own devices take.
    """
    mesh = jax.sharding.get_mesh()
    if across.mesh() is None:
        return jax.tree.map(jnp.asarray, tree)

    def move(x):
        divides = x.shape[1:2] == (count,) and count % mesh.shape[DATA] == 0
        part = PartitionSpec(None, DATA) if divides else PartitionSpec()
        return hosts.place(x, NamedSharding(mesh, part))

    return jax.tree.map(move, tree)


def over_data(tree: PyTree, count: int) -> PyTree:
    """Traced arrays, those with ``count`` rows divided by row: one per example or query."""
    mesh = across.mesh()
    if mesh is None or count % mesh.shape[DATA]:
        return tree

    def divide(x):
        free = [PartitionSpec.UNCONSTRAINED] * (x.ndim - 1)
        ours = x.shape[:1] == (count,)
        return lax.with_sharding_constraint(x, PartitionSpec(DATA, *free)) if ours else x

    return jax.tree.map(divide, tree)


def over_items(rep: PyTree, run: Any) -> PyTree:
    """A traced representation, of which arrays with a row per item are divided by item.

    So the scores of all items are too. From columns, devices would add up those of all items.
    """
    mesh, items = across.mesh(), run.fields["spec"].num_items
    if mesh is None or mesh.shape[MODEL] == 1:
        return rep

    def divide(x):
        if getattr(x, "ndim", 0) < 2 or x.shape[0] != items:
            return x
        return lax.with_sharding_constraint(x, PartitionSpec(MODEL))

    return jax.tree.map(divide, rep)


def facts(variables: PyTree, run: Any) -> dict[str, Any]:
    """What the summary tells: the mesh, and tables that neither way divides."""
    mesh, spec = across.mesh(), run.fields["spec"]
    if mesh is None:
        return {"mesh": {DATA: 1, MODEL: 1}}
    layout, whole = run.config.mesh.tables, []

    def note(path, leaf, part):
        if part == PartitionSpec() and _is_table(path, leaf, spec):
            whole.append(jax.tree_util.keystr(path, simple=True, separator="/"))

    jax.tree_util.tree_map_with_path(note, variables, specs(variables, spec, layout))
    return {"mesh": {**mesh.shape, "tables": layout, "undivided": whole}}
