"""A run: its method, data and task, a fresh state for it, and how it is found again."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import importlib
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from mmrec_jax import data as datasets
from mmrec_jax import hosts, limits, mesh, optimize, store, streamed, tables
from mmrec_jax.checkpoint import Checkpoints, variables_of
from mmrec_jax.types import Array, Context, Dataset, PyTree, Recommender, TrainState, UserError


@dataclasses.dataclass(frozen=True)
class Run:
    """What stays fixed while the programs of a run are compiled.

    Attributes:
      method: class of the method.
      fields: its hyper-parameters, ``spec`` among them.
      task: module of its task.
      config: the whole configuration.
      steps: optimiser steps in an epoch, or in each of its calls.
      calls: compiled calls that make up an epoch.
      objective: what a step minimises, a method's name or a function of (model, batch, ctx).
    """

    method: type[Recommender]
    fields: dict[str, Any]
    task: ModuleType
    config: ConfigDict
    steps: int = 0
    calls: int = 1
    objective: str | Callable = "loss"

    def model(self, hyper: dict[str, Any], ctx: Context | None = None) -> Recommender:
        """The method with the fields ``model.*`` of ``hyper``, which may be traced, in place.

        Tables that read data take it from ``ctx``, so build the method where that is traced.

        Raises:
          UserError: if such tables are configured and ``ctx`` has not what they read.
        """
        varied = {k.removeprefix("model."): v for k, v in hyper.items() if k.startswith("model.")}
        instead = tables.build(self.config.get("table"), self.fields["spec"], ctx)
        return self.method(**{**self.fields, **varied}, tables=instead)

    def optimizer(self, hyper: dict[str, Any]):
        """The optax transformation, its numbers taken from ``hyper`` where that has them."""
        optim = self.config.optim
        lr = hyper.get("optim.lr", optim.lr)
        decay = hyper.get("optim.weight_decay", optim.weight_decay)
        return optimize.build(optim, lr, decay, self.steps * self.calls, self.config.train.epochs)


class Vault:
    """Data sets, which it hands out without their test part; the latest is kept in memory."""

    def __init__(self):
        self._name, self._data = "", None

    def load(self, config: ConfigDict) -> Dataset:
        """The data to train and to choose with."""
        data, none = self.reveal(config), np.zeros(0, np.int64)
        shown = dict(data.impressions)
        if shown:
            shown["test"] = shown["train"].take(none)
        return dataclasses.replace(data, test=data.valid.take(none), impressions=shown)

    def reveal(self, config: ConfigDict) -> Dataset:
        """The data with the test part, for what has been chosen."""
        name = config.data.to_json()
        if self._data is None or name != self._name:
            self._name, self._data = name, datasets.load(**config.data)
        return self._data


def init_state(run: Run, key: Array, hyper: dict, ctx: Context, arrays: PyTree) -> TrainState:
    """Fresh parameters and optimiser state; pure."""
    init_key, run_key = jax.random.split(key)
    keys = dict(zip(("params", "dropout", "batch"), jax.random.split(init_key, 3), strict=True))
    size = run.config.train.batch_size
    index, weight = jnp.zeros(size, jnp.int32), jnp.ones(size, jnp.float32)
    batch = run.task.batch(keys.pop("batch"), arrays, index, weight)
    model = run.model(hyper, ctx)
    collections = dict(model.init(keys, batch, ctx, method=run.objective))
    params = collections.pop("params", {})
    tables.check_read(model, params)
    opt_state = run.optimizer(hyper).init(params)
    state = TrainState(params, collections, opt_state, run_key, jnp.zeros((), jnp.int32))
    return mesh.keep(state, run)


def setup(config: ConfigDict, data: Dataset | None = None) -> tuple[Run, Dataset, Context]:
    """Loads the data unless given, finds the method by its name, and builds what it reads."""
    data = datasets.load(**config.data) if data is None else data
    streamed.check(data, config.data.get("budget", 0))
    hosts.check_same(configuration=config, split=data.notes.get("split_hash"))
    for name, rows in data.features.items() if hosts.several() else ():
        hosts.check_same(**{f"feature {name}": hosts.crc32(rows)})
    fields = dict(config.model)
    method = _method(fields.pop("name"))
    known = {f.name for f in dataclasses.fields(method)} - {"parent", "name", "spec", "tables"}
    for key in fields:
        if key not in known:
            raise UserError(f"config.model.{key}: {method.__name__} reads only {sorted(known)}")
    ctx = method.context(data, **defaults(method, known) | fields)
    ctx = tables.prepare(config.get("table"), data, ctx)
    task = importlib.import_module(f"mmrec_jax.tasks.{method.task}")
    run = Run(method, {"spec": data.spec, **fields}, task, config)
    return run, data, mesh.place(ctx, run)


def count_steps(run: Run, arrays: PyTree) -> Run:
    """The run, with the steps that an epoch over ``arrays`` takes."""
    steps = -(-run.task.size(streamed.example(arrays)) // run.config.train.batch_size)
    calls = arrays.train.parts if isinstance(arrays, streamed.Parts) else 1
    return dataclasses.replace(run, steps=steps, calls=calls)


def defaults(method: type[Recommender], names: set[str]) -> dict[str, Any]:
    """Default values of the fields ``names`` of a method."""
    return {f.name: f.default for f in dataclasses.fields(method) if f.name in names}


def _method(name: str) -> type[Recommender]:
    try:
        return importlib.import_module(f"mmrec_jax.models.{name}").Model
    except (ModuleNotFoundError, AttributeError) as error:
        if error.name != "Model" and not (error.name or "").startswith("mmrec_jax.models"):
            raise
        models = Path(__file__).parent / "models"
        known = sorted(
            ".".join(path.relative_to(models).with_suffix("").parts)
            for path in models.rglob("*.py")
            if path.stem != "__init__"
        )
        raise UserError(f"config.model.name {name!r} is none of {', '.join(known)}") from error


def load(
    workdir: str | Path, change: Callable[[Dataset], Dataset] | None = None
) -> tuple[Run, Dataset, Context, PyTree]:
    """The configuration, data and best parameters of a finished or running ``workdir``.

    With ``change``, data and context are those of the changed data, the parameters stay.

    Raises:
      UserError: if no run is there.
    """
    path = Path(workdir) / "config.json"
    if not path.exists():
        raise UserError(f"{path} does not exist; train with --mode=train --workdir={workdir} first")
    config = ConfigDict(tuples(store.read_config(workdir)))
    if odd := set(config.get("data", ())) - datasets.KEYS:
        raise UserError(f"{path}: config.data has no key {min(odd)!r}; take it out, or train anew")
    if lacking := {"data", "model", "optim", "train", "eval"} - set(config):
        raise UserError(f"{path}: there is no section {min(lacking)!r}; train anew")
    limits.check(config)
    data = datasets.load(**config.data)
    run, data, ctx = setup(config, change(data) if change else data)
    if not config.train.epochs:
        return run, data, ctx, {}
    arrays = streamed.example(run.task.prepare(data, config))
    make = functools.partial(init_state, run)
    like = jax.eval_shape(make, jax.random.key(0), {}, ctx, arrays)
    with contextlib.closing(Checkpoints(workdir, read_only=True)) as checkpoints:
        best = checkpoints.restore_best(mesh.shapes(variables_of(like), run))
    return run, data, ctx, best


def tuples(value: Any) -> Any:
    """JSON's lists as the tuples that the configuration had."""
    if isinstance(value, dict):
        return {key: tuples(entry) for key, entry in value.items()}
    return tuple(map(tuples, value)) if isinstance(value, list) else value
