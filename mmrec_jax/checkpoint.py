"""Checkpoints that survive a kill and do not trust what they read.

``latest/`` holds the newest two states, to go on from; ``best/`` the parameters that validated
best by then, to evaluate with. Orbax renames a finished save into place, so an interrupted one
is never seen, but it restores flipped bytes without complaint: every leaf is checked against its
CRC-32.

Of several hosts each saves and restores what its own devices hold, in a file system that all of
them see. The checksums are those of whole leaves, so that they hold on any mesh; for that, leaves
that are spread over hosts pass through each of them, a few MB at a time.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from absl import logging

from mmrec_jax import hosts, store
from mmrec_jax.types import PyTree, TrainState, UserError


class UnfitError(UserError):
    """A checkpoint is of another method, or of data of other sizes."""


class Damaged(ValueError):
    """A checkpoint cannot be read, or is not what was written."""


class Checkpoints:
    """The checkpoints of one working directory.

    Args:
      workdir: they live in ``workdir/checkpoints``.
      read_only: leave everything as it is, for there may be a run that writes; otherwise what a
        killed process had half saved is removed.
    """

    def __init__(self, workdir: str | Path, read_only: bool = False):
        self._root = Path(workdir).resolve() / "checkpoints"
        with store.saving(self._root):
            self._latest = _manager(self._root / "latest", read_only)
            self._best = _manager(self._root / "best", read_only)

    def save(self, state: TrainState, best: PyTree, progress: dict) -> None:
        """Saves, in the background, a state to go on from.

        Args:
          state: of the run.
          best: linen variables that validated best, of epoch ``progress["best_epoch"]``.
          progress: JSON-able facts that go with the state.
        """
        with store.saving(self._root):
            if progress["best_epoch"] not in self._best.all_steps():
                _save(self._best, progress["best_epoch"], best, progress)
            self._best.wait_until_finished()  # a state must not outlive the best it speaks of
            _save(self._latest, int(state.epoch), _portable(state), progress)

    def restore(self, like: TrainState) -> tuple[TrainState, PyTree, dict] | None:
        """The newest sound state, its best variables and its progress; None if there is none.

        ``like`` gives their structure; shapes are enough.

        A state counts as sound if its own leaves and those of its best are as they were written.
        Whatever is newer than what is restored is removed.

        Raises:
          UnfitError: there is none, but one of another method or other sizes.
        """
        found = unfit = None
        for manager in (self._best, self._latest):  # a save that has not ended cannot be read
            manager.wait_until_finished()
        for epoch in sorted(self._latest.all_steps(), reverse=True):
            try:
                state, progress = _restore(self._latest, epoch, _portable_shapes(like))
                best = self.restore_best(variables_of(like), progress["best_epoch"])
            except (Damaged, UserError) as error:
                if isinstance(error, UnfitError):
                    unfit = error
                    continue
                logging.warning(
                    "the checkpoint of epoch %d cannot be used (%s); trying the one before",
                    epoch,
                    _first_line(error),
                )
                continue
            found = _typed(state), best, progress
            break
        if found is None and unfit is not None:
            raise unfit
        keep = -1 if found is None else int(found[0].epoch)
        for manager in (self._latest, self._best):
            for epoch in manager.all_steps():
                if epoch > keep:
                    manager.delete(epoch)
        return found

    def restore_best(self, like: PyTree, epoch: int | None = None) -> PyTree:
        """The best parameters, in the structure of ``like``.

        Raises:
          UserError: if there are none, or they are damaged.
          UnfitError: if they are of another method or other sizes.
        """
        epoch = self._best.latest_step() if epoch is None else epoch
        if epoch is None:
            raise UserError(f"no finished checkpoint in {self._best.directory}; train first")
        try:
            return _restore(self._best, epoch, like)[0]
        except Damaged as error:
            raise UserError(
                f"the checkpoint {self._best.directory}/{epoch} is damaged ({_first_line(error)}); "
                "run --mode=train with the same workdir to make it again"
            ) from error

    def close(self) -> None:
        """Waits for what is being written, of the one though the other may fail."""
        with store.saving(self._root), contextlib.ExitStack() as both:
            for manager in (self._latest, self._best):
                both.callback(manager.close)
                both.callback(manager.wait_until_finished)


def variables_of(state: TrainState) -> PyTree:
    """What linen's ``apply`` takes."""
    return {"params": state.params, **state.collections}


def _manager(directory: Path, read_only: bool = False) -> ocp.CheckpointManager:
    options = ocp.CheckpointManagerOptions(
        max_to_keep=2,  # the newest may be damaged
        create=not read_only,
        cleanup_tmp_directories=not read_only,
    )
    return ocp.CheckpointManager(directory, options=options)


def _save(manager: ocp.CheckpointManager, epoch: int, tree: PyTree, progress: dict) -> None:

    meta = {"progress": store.sealed(progress), "crc32": _checksums(tree)}
    meta["shapes"] = store.sealed(_shapes(tree))
    saved = ocp.args.Composite(tree=ocp.args.StandardSave(tree), meta=ocp.args.JsonSave(meta))
    manager.save(epoch, args=saved, force=True)


def _restore(manager: ocp.CheckpointManager, epoch: int, like: PyTree) -> tuple[PyTree, dict]:
    wanted = ocp.args.Composite(
        tree=ocp.args.StandardRestore(jax.tree.map(_placed, like)),
        meta=ocp.args.JsonRestore(),
    )
    try:
        _check_fit(manager, epoch, like)
        read = _read(manager, epoch, wanted)
        progress = store.unsealed(read["meta"]["progress"])
    except UnfitError:
        raise
    except Exception as error:  # damage shows as any of a dozen exceptions
        hosts.agree(False)
        raise Damaged(_first_line(error)) from error
    if not hosts.agree(True):
        raise Damaged("another host cannot read it")
    damaged = [
        name
        for name, crc in _checksums(read["tree"]).items()
        if read["meta"]["crc32"].get(name) != crc
    ]
    if damaged:
        raise Damaged(f"checksum of {damaged[0]} differs")
    return read["tree"], progress


def _read(manager: ocp.CheckpointManager, epoch: int, wanted: ocp.args.Composite) -> Any:
    """What this host needs of a checkpoint, whether or not the others can read theirs.

    The manager itself would wait for them, and for ever for one that has failed.
    """
    mine = jax.process_index()
    options = ocp.options.MultiprocessingOptions(
        primary_host=mine, active_processes={mine}, barrier_sync_key_prefix=f"host{mine}"
    )
    with ocp.Checkpointer(
        ocp.CompositeCheckpointHandler(), multiprocessing_options=options
    ) as reader:
        return reader.restore(manager.directory / str(epoch), args=wanted)


def _check_fit(manager: ocp.CheckpointManager, epoch: int, like: PyTree) -> None:
    """Raises UnfitError if the arrays of a checkpoint are not those of ``like``."""
    read = _read(manager, epoch, ocp.args.Composite(meta=ocp.args.JsonRestore()))
    if "shapes" not in read["meta"]:  # written before there were any
        return
    stored, wanted = store.unsealed(read["meta"]["shapes"]), _shapes(like)
    for name in sorted({*stored, *wanted}):
        if stored.get(name) != wanted.get(name):
            has, needs = (shapes.get(name, "missing") for shapes in (stored, wanted))
            raise UnfitError(
                f"{manager.directory}/{epoch}: a checkpoint of another method or of other data: "
                f"the shape of {name} is {has} there and {needs} here; name another --workdir"
            )


def _shapes(tree: PyTree) -> dict[str, list[int]]:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path): [*leaf.shape] for path, leaf in leaves}


def _checksums(tree: PyTree) -> dict[str, int]:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path): hosts.crc32(leaf) for path, leaf in leaves}


def _portable(state: TrainState) -> TrainState:
    """The state with its key as plain numbers, which can be summed."""
    return state.replace(key=jax.random.key_data(state.key))


def _portable_shapes(like: TrainState) -> TrainState:
    """Shapes of :func:`_portable`, each where the leaf of ``like`` is."""
    key, where = jax.eval_shape(jax.random.key_data, like.key), like.key.sharding
    return like.replace(key=jax.ShapeDtypeStruct(key.shape, key.dtype, sharding=where))


def _placed(leaf: jax.Array | jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
    """The shape of a leaf and where to restore it to, which is not where it was saved from."""
    where = leaf.sharding or jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where)


def _typed(state: TrainState) -> TrainState:
    return state.replace(key=jax.random.wrap_key_data(state.key))


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]
