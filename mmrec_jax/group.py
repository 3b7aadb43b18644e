"""Members of a sweep, and groups of them that one set of compiled programs serves."""

from __future__ import annotations

import dataclasses
import functools
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from mmrec_jax import evaluate, logs, mesh, side_by_side, space, store, train
from mmrec_jax import run as runs
from mmrec_jax.checkpoint import variables_of
from mmrec_jax.types import Array, Dataset, PyTree, TrainState, UserError


@dataclasses.dataclass
class Member:
    """One run of a sweep.

    Attributes:
      setting: number of its setting.
      values: what is varied, the seed among it, by dotted key.
      config: of the run.
      workdir: of the run.
      facts: what training has to tell the summary; empty before.
    """

    setting: int
    values: dict[str, Any]
    config: ConfigDict
    workdir: Path
    facts: dict[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def summary(self) -> dict[str, Any]:
        """Its summary; empty if it has not ended, or diverged."""
        return store.read_summary(self.workdir)

    def open(self) -> None:
        """Makes the working directory."""
        self.workdir.mkdir(parents=True, exist_ok=True)
        store.write_json(self.workdir / "config.json", json.loads(self.config.to_json()))

    def give_up(self, error: train.Diverged) -> None:
        """Notes that the run has diverged."""
        with store.replacing(self.workdir / "diverged.txt") as part:
            part.write_text(f"{error}\n")

    @property
    def diverged(self) -> bool:
        return (self.workdir / "diverged.txt").exists()

    @property
    def ended(self) -> bool:
        return self.diverged or (self.workdir / "summary.json").exists()

    def reached(self, epoch: float = math.inf) -> float:
        """The best validation value until ``epoch``; minus infinity where there is none."""
        metric = self.config.eval.metric
        if self.diverged:
            return -math.inf
        if not self.config.train.epochs:
            values = [self.summary.get("valid", {}).get(metric)]
        else:
            log = logs.read(self.workdir)
            if len(log) < self.summary.get("epochs", 0):
                raise UserError(
                    f"{self.workdir / 'metrics.jsonl'}: damaged, it lacks epochs; put back a sound "
                    f"copy, or remove {self.workdir} and start the same command again"
                )
            values = [r.get(f"valid/{metric}") for r in log if r["epoch"] <= epoch]
        return max((v for v in values if v is not None), default=-math.inf)


class ReadOnHostError(Exception):
    """Code outside the compiled programs read the value of ``key``, so it cannot be traced."""

    def __init__(self, key: str):
        super().__init__(key)
        self.key = key


class Untouched:
    """Stands in a configuration for a value that only the compiled programs may read."""

    def __init__(self, key: str):
        self._key = key

    def _read(self, *_, **__):
        raise ReadOnHostError(self._key)

    __bool__ = __int__ = __float__ = __index__ = __array__ = __jax_array__ = _read
    __eq__ = __ne__ = __lt__ = __le__ = __gt__ = __ge__ = __hash__ = _read
    __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = __neg__ = __abs__ = _read
    __truediv__ = __rtruediv__ = __pow__ = __rpow__ = __str__ = __format__ = _read


class Group:
    """What members share that differ in nothing but traced numbers.

    Attributes:
      traced: keys whose values may differ.
      run: with the common values, and :class:`Untouched` for the traced ones.
      ctx, arrays: what the method and its task read; the latter None if nothing is trained.
      valid: validation queries.
      programs: those of a lone run.
    """

    def __init__(self, member: Member, data: Dataset, traced: Sequence[str], like: Group | None):
        config = _without(member.config, traced)
        if like is None:
            run, _, self.ctx = runs.setup(config, data)
            train.check(run)
            self.arrays = run.task.prepare(data, config) if config.train.epochs else None
        else:
            run, self.ctx, self.arrays = like.run, like.ctx, like.arrays
        self.run = _with_config(run, config)
        if self.arrays is not None:
            self.run = runs.count_steps(self.run, self.arrays)
        self.traced = tuple(traced)
        self._numbers = {"optim.lr", *traced} - {"seed"}  # the seed comes in as a key
        self.valid = evaluate.Evaluator(self.run, data, "valid", config)
        self.programs = train.Programs(self.run)
        self.together: dict[tuple, side_by_side.SideBySide] = {}
        self._fixed = self._rest(member)

    def takes(self, member: Member) -> bool:
        """Whether the compiled programs serve this member too."""
        return self._rest(member) == self._fixed

    def _rest(self, member: Member) -> dict[str, str]:
        return {k: repr(v) for k, v in member.values.items() if k not in self.traced}

    def hyper(self, member: Member) -> dict[str, Array]:
        """The member's values of the traced keys, and, as in a lone run, its learning rate."""
        known = dict(space.leaves(member.config))
        return {key: jnp.float32(known[key]) for key in self._numbers}

    def run_of(self, member: Member) -> runs.Run:
        """The run as the member would have it alone."""
        return _with_config(self.run, member.config)

    def variables(self) -> PyTree:
        """Shapes of the linen variables of a member."""
        if self.arrays is None:
            return {}
        return mesh.shapes(variables_of(self._state()), self.run)

    def compiles(self) -> bool:
        """Whether everything can be traced with the values of ``traced`` unknown."""
        try:
            state = self._state()
            epoch = functools.partial(train.train_epoch, self.run)
            state, _ = jax.eval_shape(epoch, state, self._shapes(), self.ctx, self.arrays)
            self.valid.trace(variables_of(state), self._shapes(), self.ctx)
        except Exception:  # whatever a method makes of a number without a value
            return False
        return True

    def _shapes(self) -> dict[str, Any]:
        return {key: jax.ShapeDtypeStruct((), jnp.float32) for key in self._numbers}

    def _state(self) -> TrainState:
        init = self.programs.init
        return jax.eval_shape(init, jax.random.key(0), self._shapes(), self.ctx, self.arrays)


def _without(config: ConfigDict, keys: Sequence[str]) -> ConfigDict:
    """The configuration with nothing to be read at ``keys``."""
    config = config.copy_and_resolve_references()
    with config.ignore_type(), config.unlocked():
        config.update_from_flattened_dict({key: Untouched(key) for key in keys})
    return config


def _with_config(run: runs.Run, config: ConfigDict) -> runs.Run:
    """The run with the hyper-parameters of ``config``."""
    fields = {key: value for key, value in config.model.items() if key != "name"}
    return dataclasses.replace(run, fields={**run.fields, **fields}, config=config)


def form(member: Member, data: Dataset, keys: Sequence[str]) -> Group:
    """The group of a member, with as many of ``keys`` traced as its method can bear.

    What reads a value on the host, or cannot do without one when traced, is not traced; no method
    has to say so.
    """
    try:
        group = Group(member, data, keys, None)
        if not keys or group.compiles():
            return group
        able = [key for key in keys if Group(member, data, [key], group).compiles()]
        return Group(member, data, able, group)
    except ReadOnHostError as error:
        return form(member, data, [key for key in keys if key != error.key])
    except Exception:
        if not keys:
            raise
        return form(member, data, ())  # if it was a mistake of the user, it will be said now
