"""Checkpoints that survive a kill and do not trust what they read.

``latest/`` holds the newest two states, to go on from; ``best/`` the parameters that validated
best by then, to evaluate with. Orbax renames a finished save into place, so an interrupted one
is never seen, but it restores flipped bytes without complaint: every leaf is checked against its
CRC-32.
"""

from __future__ import annotations

import zlib
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp
from absl import logging

from mmrec_jax.types import PyTree, TrainState, UserError


class Checkpoints:
    """The checkpoints of one working directory.

    Args:
      workdir: they live in ``workdir/checkpoints``.
    """

    def __init__(self, workdir: str | Path):
        root = Path(workdir).resolve() / "checkpoints"
        self._latest, self._best = _manager(root / "latest"), _manager(root / "best")

    def save(self, state: TrainState, best: PyTree, progress: dict) -> None:
        """Saves, in the background, a state to go on from.

        Args:
          state: of the run.
          best: linen variables that validated best, of epoch ``progress["best_epoch"]``.
          progress: JSON-able facts that go with the state.
        """
        if progress["best_epoch"] not in self._best.all_steps():
            _save(self._best, progress["best_epoch"], best, progress)
        self._best.wait_until_finished()  # a state must not outlive the best that it speaks of
        _save(self._latest, int(state.epoch), _portable(state), progress)

    def restore(self, like: TrainState) -> tuple[TrainState, PyTree, dict] | None:
        """The newest sound state, its best variables and its progress; None if there is none.

        ``like`` gives their structure; shapes are enough.

        A state counts as sound if its own leaves and those of its best are as they were written.
        Whatever is newer than what is restored is removed.
        """
        found = None
        for epoch in sorted(self._latest.all_steps(), reverse=True):
            try:
                state, progress = _restore(self._latest, epoch, jax.eval_shape(_portable, like))
                best = self.restore_best(variables_of(like), progress["best_epoch"])
            except Exception as error:  # damage shows as any of a dozen exceptions
                logging.warning(
                    "the checkpoint of epoch %d cannot be used (%s); trying the one before",
                    epoch,
                    _first_line(error),
                )
                continue
            found = _typed(state), best, progress
            break
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
        """
        epoch = self._best.latest_step() if epoch is None else epoch
        if epoch is None:
            raise UserError(f"no finished checkpoint in {self._best.directory}; train first")
        try:
            return _restore(self._best, epoch, like)[0]
        except Exception as error:
            raise UserError(
                f"the checkpoint {self._best.directory}/{epoch} is damaged ({_first_line(error)}); "
                "run --mode=train with the same workdir to make it again"
            ) from error

    def close(self) -> None:
        """Waits for what is being written."""
        for manager in (self._best, self._latest):
            manager.wait_until_finished()
            manager.close()


def variables_of(state: TrainState) -> PyTree:
    """What linen's ``apply`` takes."""
    return {"params": state.params, **state.collections}


def _manager(directory: Path) -> ocp.CheckpointManager:
    options = ocp.CheckpointManagerOptions(max_to_keep=2, create=True)  # the newest may be damaged
    return ocp.CheckpointManager(directory, options=options)


def _save(manager: ocp.CheckpointManager, epoch: int, tree: PyTree, progress: dict) -> None:

    meta = {"progress": progress, "crc32": _checksums(tree)}
    saved = ocp.args.Composite(tree=ocp.args.StandardSave(tree), meta=ocp.args.JsonSave(meta))
    manager.save(epoch, args=saved, force=True)


def _restore(manager: ocp.CheckpointManager, epoch: int, like: PyTree) -> tuple[PyTree, dict]:
    wanted = ocp.args.Composite(
        tree=ocp.args.StandardRestore(jax.tree.map(ocp.utils.to_shape_dtype_struct, like)),
        meta=ocp.args.JsonRestore(),
    )
    read = manager.restore(epoch, args=wanted)
    damaged = [
        name
        for name, crc in _checksums(read["tree"]).items()
        if read["meta"]["crc32"].get(name) != crc
    ]
    if damaged:
        raise ValueError(f"checksum of {damaged[0]} differs")
    return read["tree"], read["meta"]["progress"]


def _checksums(tree: PyTree) -> dict[str, int]:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    crc = lambda leaf: zlib.crc32(np.ascontiguousarray(leaf).reshape(-1).view(np.uint8))
    return {jax.tree_util.keystr(path): crc(leaf) for path, leaf in leaves}


def _portable(state: TrainState) -> TrainState:
    """The state with its key as plain numbers, which can be summed."""
    return state.replace(key=jax.random.key_data(state.key))


def _typed(state: TrainState) -> TrainState:
    return state.replace(key=jax.random.wrap_key_data(state.key))


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]
