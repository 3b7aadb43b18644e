"""Members of a sweep side by side: one compiled program that takes an epoch of each of them."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from mmrec_jax import logs, memory, signals, train
from mmrec_jax import run as runs
from mmrec_jax.checkpoint import Checkpoints, variables_of
from mmrec_jax.types import Array, Context, PyTree, TrainState

if TYPE_CHECKING:
    from mmrec_jax.group import Group, Member
    from mmrec_jax.report import Board


class SideBySide:
    """Compiled programs over ``size`` members of a group at once.

    Attributes:
      size: n; in mode ``devices`` a multiple of their number.
      shared: context and arrays, where the programs want them.
      init: keys and hyper-parameters, stacked, to stacked states.
      epoch: stacked states, then (hyper-parameters, bool [n] active) to new ones and logs; the
        states of inactive members stay as they are.
      valid: validation queries to all.
      compile_seconds: what compiling took.
      memory_bytes: what the programs need of the device.
    """

    def __init__(self, group: Group, members: Sequence[Member], mode: str):
        began = time.perf_counter()
        self._devices = _all_devices() if mode == "devices" else None
        count = self._devices.size if self._devices else 1
        self.size = -(-len(members) // count) * count
        apart = functools.partial(_apart, self._devices)
        over = {"vmap": _vmap, "map": _map, "devices": apart}[mode]
        self.init = jax.jit(over(functools.partial(runs.init_state, group.run)))
        keys, hyper = self.stack(group, members)
        shared = self.shared = self._place((group.ctx, group.arrays), PartitionSpec())
        states = self._own_shapes(jax.eval_shape(self.init, keys, hyper, *shared))
        step = jax.jit(over(functools.partial(_epoch_if_active, group.run)), donate_argnums=0)
        active = self.own(jnp.ones(self.size, bool))
        self.epoch = step.lower(states, (hyper, active), *shared).compile()
        self.valid = group.valid.over(over)
        evaluation = self.valid.compile(variables_of(states), hyper, shared[0])
        best = sum(_size(leaf) for leaf in jax.tree.leaves(variables_of(states)))
        keep = best // count
        self.memory_bytes = keep + max(memory.needed(self.epoch), memory.needed(evaluation))
        self.compile_seconds = time.perf_counter() - began

    def stack(self, group: Group, members: Sequence[Member]) -> tuple[Array, dict[str, Array]]:
        """:func:`stacked` of members, the last of them repeated until there are n."""
        filled = [*members, *[members[-1]] * (self.size - len(members))]
        return self.own(stacked(group, filled))

    def own(self, tree: PyTree) -> PyTree:
        """Arrays [n, ...], each member's on its device."""
        return self._place(tree, PartitionSpec("member"))

    def _place(self, tree: PyTree, part: PartitionSpec) -> PyTree:
        return jax.device_put(tree, NamedSharding(self._devices, part)) if self._devices else tree

    def _own_shapes(self, tree: PyTree) -> PyTree:
        if self._devices is None:
            return tree
        where = NamedSharding(self._devices, PartitionSpec("member"))
        of = lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where)
        return jax.tree.map(of, tree)


def _all_devices() -> Mesh:
    devices = jax.local_devices()
    return jax.make_mesh((len(devices),), ("member",), (AxisType.Auto,), devices=devices)


def _apart(devices: Mesh, function: Callable) -> Callable:
    """Each device takes its own members in turn, and none waits for another."""

    def call(own, more, *shared):
        mine, all_of_it = PartitionSpec("member"), PartitionSpec()
        return jax.shard_map(
            _map(function),
            mesh=devices,
            in_specs=(mine, mine, *[all_of_it] * len(shared)),
            out_specs=mine,
            check_vma=False,
        )(own, more, *shared)

    return call


def _vmap(function: Callable) -> Callable:
    return jax.vmap(function, in_axes=(0, 0, None, None))


def _map(function: Callable) -> Callable:
    return lambda own, more, *shared: lax.map(lambda pair: function(*pair, *shared), (own, more))


def _epoch_if_active(run, state: TrainState, steering, ctx: Context, arrays: PyTree):
    hyper, active = steering
    new, training = train.train_epoch(run, state, hyper, ctx, arrays)
    return jax.tree.map(functools.partial(jnp.where, active), new, state), training


def _size(leaf: Any) -> int:
    return leaf.size * leaf.dtype.itemsize


def stacked(group: Group, members: Sequence[Member]) -> tuple[Array, dict[str, Array]]:
    """Keys [n] and hyper-parameters [n] of members."""
    keys = jnp.stack([jax.random.key(member.config.seed) for member in members])
    hypers = [group.hyper(member) for member in members]
    return keys, jax.tree.map(lambda *values: jnp.stack(values), *hypers)


class Place:
    """A member on its way through :func:`fit`: the host's part of a lone loop."""

    def __init__(self, member: Member, like: TrainState, until: int, files: contextlib.ExitStack):
        closing = lambda part: files.enter_context(contextlib.closing(part))
        self.member, self.until = member, until
        self.checkpoints = closing(Checkpoints(member.workdir))
        self.log = closing(logs.Log(member.workdir))
        found = self.checkpoints.restore(like)
        self.state, self.best, progress = found or (None, None, {})
        self.progress = train.Progress(**progress)
        self.done = 0 if found is None else int(self.state.epoch)
        self.log.rewind(self.done)
        self.diverged = False

    @property
    def active(self) -> bool:
        stopped = self.diverged or self.progress.stopped(self.member.config)
        return not stopped and self.done < self.until

    @property
    def validates(self) -> bool:
        config = self.member.config
        return self.done % config.eval.every == 0 or self.done == config.train.epochs

    def saves(self, stop: bool) -> bool:
        """Whether to save now, in any case if the run is to ``stop``."""
        due = stop or not self.active or self.done % self.member.config.checkpoint.every == 0
        return due and self.progress.best_epoch is not None


def fit(
    group: Group, members: Sequence[Member], programs: SideBySide, until: int, board: Board
) -> None:
    """Trains members of a group at once, each to its own end or to epoch ``until``.

    Who has stopped or diverged is carried along unchanged. Each member has its own log and
    checkpoints, so that it may go on from them in any mode.
    """
    keys, hyper = programs.stack(group, members)
    states = programs.init(keys, hyper, *programs.shared)
    with contextlib.ExitStack() as files, signals.waiting():
        places = [Place(m, _at(states, i), until, files) for i, m in enumerate(members)]
        states = programs.own(_replace(states, [place.state for place in places]))
        found = [place.best for place in places]
        best = programs.own(_replace(variables_of(states), found))
        while any(place.active for place in places):
            active = np.array([place.active for place in places])
            active = np.pad(active, (0, programs.size - len(places)))
            began = time.perf_counter()
            steering = hyper, programs.own(jnp.asarray(active))
            states, training = programs.epoch(states, steering, *programs.shared)
            training = jax.device_get(training)
            seconds = (time.perf_counter() - began) / active.sum()
            going = [(i, place) for i, place in enumerate(places) if place.active]
            for i, place in going:
                place.done += 1
                _note_divergence(place, training["bad_step"][i], group.run.steps)
            going = [(i, place) for i, place in going if not place.diverged]
            means, evaluation = _validate(programs, going, variables_of(states), hyper, group)
            improved = np.zeros(programs.size, bool)
            for i, place in going:
                record = {"epoch": place.done, "seconds": seconds}
                record |= {"evaluation_seconds": evaluation} if i in means else {}
                record |= {name: float(v[i]) for name, v in training.items() if name != "bad_step"}
                record |= {f"valid/{name}": v for name, v in means.get(i, {}).items()}
                value = means.get(i, {}).get(place.member.config.eval.metric)
                improved[i] = place.progress.update(value, place.done, choosing=True)
                place.log.write(record)
                board.update(place.member, place.done, record["loss"], value)
            best = _keep(jnp.asarray(improved), variables_of(states), best)
            stop = signals.asked()
            if saving := [(i, place) for i, place in going if place.saves(stop)]:
                _save(states, best, saving)
            if stop:
                raise signals.Stopped(f" after epoch {max(place.done for place in places)}")
    for place in places:
        place.member.facts = {
            "epochs": place.done,
            "best_epoch": place.progress.best_epoch,
            "seconds_per_epoch": train.median(place.member.workdir, "seconds"),
            "seconds_per_evaluation": train.median(place.member.workdir, "evaluation_seconds"),
            "compile_seconds": programs.compile_seconds / len(members),
            "forecast_memory_bytes": programs.memory_bytes,
        }


def _validate(programs, going, variables, hyper, group) -> tuple[dict[int, dict], float]:
    """Validation metrics by place for those that validate now, and the seconds of each."""
    wanted = [i for i, place in going if place.validates]
    if not wanted:
        return {}, 0.0
    began = time.perf_counter()
    measured = programs.valid(variables, hyper, programs.shared[0])
    task, users = group.run.task, programs.valid.users
    one = lambda i: {name: value[i] for name, value in measured.items()}
    means = {i: task.summarise(one(i), users) for i in wanted}
    return means, (time.perf_counter() - began) / len(wanted)


def _note_divergence(place: Place, bad_step: float, steps: int) -> None:
    try:
        train.check_finite(bad_step, steps, place.done, place.member.workdir)
    except train.Diverged as error:
        place.diverged = True
        place.member.give_up(error)


@functools.partial(jax.jit, donate_argnums=2)
def _keep(improved: Array, new: PyTree, best: PyTree) -> PyTree:
    """The variables of those that improved, [n, ...], in place of their best ones."""
    shape = lambda leaf: improved.reshape(-1, *[1] * (leaf.ndim - 1))
    return jax.tree.map(lambda a, b: jnp.where(shape(a), a, b), new, best)


def _at(tree: PyTree, i: int) -> PyTree:
    return jax.tree.map(lambda leaf: leaf[i], tree)


def _replace(tree: PyTree, found: Sequence[PyTree | None]) -> PyTree:
    """A copy of a stacked tree with what was found for the first of its members."""
    count = jax.tree.leaves(tree)[0].shape[0]
    parts = [_at(tree, i) for i in range(count)]
    parts[: len(found)] = [b if a is None else a for a, b in zip(found, parts, strict=False)]
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *parts)


def _save(states: TrainState, best: PyTree, saving: list[tuple[int, Place]]) -> None:
    """Saves members to their checkpoints, by way of one copy of all to the host."""
    keys, rest = states.key, states.replace(key=())
    rest, best = jax.device_get((rest, best))
    for i, place in saving:
        take = functools.partial(jax.tree.map, lambda leaf, i=i: leaf[i, ...])
        progress = dataclasses.asdict(place.progress)
        place.log.sync()
        place.checkpoints.save(take(rest).replace(key=keys[i]), take(best), progress)
