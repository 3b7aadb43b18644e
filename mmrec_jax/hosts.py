"""One run on several hosts: a process on each, all of which run the same program.

Every process loads the data and takes part in every computation; the first alone writes what a
run leaves behind, except for checkpoints, of which each writes what its devices hold. On one host
everything here does nothing.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.experimental import multihost_utils
from jax.sharding import Sharding

from mmrec_jax.types import Array, PyTree, UserError

_BYTES = 2**26  # of an array that is spread over hosts, fetched at a time


def join(coordinator: str | None, processes: int | None, process: int | None) -> None:
    """Makes this process one of a run; call it before JAX is used.

    Args:
      coordinator: HOST:PORT of the first process, or "auto" for what the cluster says; None and
        no JAX_COORDINATOR_ADDRESS in the environment: there is but one process.
      processes: how many there are; None takes JAX_NUM_PROCESSES.
      process: which this is, from 0; None takes JAX_PROCESS_ID.

    Raises:
      UserError: one of them is missing or means nothing, or the others do not turn up.
    """
    coordinator = coordinator or os.environ.get("JAX_COORDINATOR_ADDRESS")
    if not coordinator:
        if processes not in (None, 1) or process not in (None, 0):
            raise UserError("several processes need --coordinator=HOST:PORT, that of the first")
        return
    if coordinator == "auto":
        arguments = {}
    else:
        count = _number("--processes", processes, "JAX_NUM_PROCESSES")
        mine = _number("--process", process, "JAX_PROCESS_ID")
        if not 0 <= mine < count:
            raise UserError(f"--process is {mine}; of {count} processes the last is {count - 1}")
        if not coordinator.rpartition(":")[2].isdigit():
            raise UserError(f"--coordinator is {coordinator!r}; it must be HOST:PORT")
        arguments = dict(coordinator_address=coordinator, num_processes=count, process_id=mine)
    try:
        jax.distributed.initialize(**arguments)
    except (RuntimeError, ValueError) as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise UserError(f"the processes of the run do not meet: {lines[0]}") from error


def _number(flag: str, given: int | None, variable: str) -> int:
    text = os.environ.get(variable, "") if given is None else str(given)
    if not text.isdigit():
        raise UserError(f"{flag} is {text or 'not given'}; give it, or {variable}, as a number")
    return int(text)


def several() -> bool:
    """Whether more processes than this one take part."""
    return jax.distributed.is_initialized() and jax.process_count() > 1


def first() -> bool:
    """Whether this process is the one that writes and tells."""
    return number() == 0


def count() -> int:
    """How many processes take part."""
    return jax.process_count() if several() else 1


def number() -> int:
    """Which of them this is, from 0."""
    return jax.process_index() if several() else 0


def each(mine: np.ndarray) -> np.ndarray:
    """What every host has of the same shape as ``mine``, in their order, [hosts, ...]."""
    return np.asarray(multihost_utils.process_allgather(mine)) if several() else mine[None]


def place(x: Array | np.ndarray, where: Sharding) -> Array:
    """An array that all hosts have alike, placed; each copies only what its own devices hold."""
    if where.is_fully_addressable or not getattr(x, "is_fully_replicated", True):
        return jax.device_put(x, where)
    if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
        return jax.random.wrap_key_data(place(jax.random.key_data(x), where))
    mine = np.asarray(x)
    return jax.make_array_from_callback(mine.shape, where, lambda part: mine[part])


def whole(tree: PyTree) -> PyTree:
    """NumPy arrays, whole on every host, of what may be spread over them."""
    return jax.tree.map(_whole, tree)


def _whole(x):
    if not isinstance(x, jax.Array) or x.is_fully_addressable or x.is_fully_replicated:
        return np.asarray(x)
    return multihost_utils.process_allgather(x, tiled=True)


def pieces(x: Array) -> Iterator[np.ndarray]:
    """The elements of an array in order, on every host; no more than some MB at a time."""
    if not isinstance(x, jax.Array) or x.is_fully_addressable or x.is_fully_replicated:
        yield np.ascontiguousarray(x)
        return
    rows = max(1, _BYTES * len(x) // x.nbytes)
    for start in range(0, len(x), rows):
        part = lax.dynamic_slice_in_dim(x, start, min(rows, len(x) - start))
        yield np.ascontiguousarray(_whole(part))


def crc32(x: Array) -> int:
    """The CRC-32 of an array's bytes, the same however it is spread."""
    crc = 0
    for piece in pieces(x):
        crc = zlib.crc32(piece.reshape(-1).view(np.uint8), crc)
    return crc


def check_same(**what: Any) -> None:
    """Raises UserError if something, as it prints, differs between the hosts.

    Nothing else would tell: each fills its own devices.
    """
    for name, value in what.items() if several() else ():
        mine = np.uint32(zlib.crc32(str(value).encode()))
        if np.unique(each(mine)).size > 1:
            raise UserError(
                f"the {name} differs between the processes of the run; start all with the same"
            )


def agree(fine: bool) -> bool:
    """Whether all is fine on every host."""
    return bool(each(np.asarray(fine)).all())
