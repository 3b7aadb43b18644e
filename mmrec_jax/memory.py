"""What compiled programs will need in memory, and what there is of it."""

from __future__ import annotations

import ctypes
import os
import sys
from pathlib import Path
from typing import Any

import jax

from mmrec_jax.types import UserError


def needed(program: Any) -> int:
    """Bytes that a compiled program needs, its arguments included; 0 where that is unknown."""
    found = program.memory_analysis()
    if found is None:
        return 0
    sizes = found.argument_size_in_bytes, found.output_size_in_bytes, found.temp_size_in_bytes
    return sum(sizes) - found.alias_size_in_bytes


def available() -> int:
    """Bytes that programs may use: of the device, or else of the machine."""
    stats = jax.local_devices()[0].memory_stats() or {}
    if "bytes_limit" in stats:
        return stats["bytes_limit"]
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = Path("/sys/fs/cgroup/memory.max")  # of a container
    text = limit.read_text().strip() if limit.exists() else "max"
    return physical if text == "max" else min(physical, int(text))


def peak() -> int:
    """Most bytes in use so far: of the fullest device, or of this process where that is unknown."""
    import resource

    stats = [device.memory_stats() or {} for device in jax.local_devices()]
    peaks = [entry["peak_bytes_in_use"] for entry in stats if "peak_bytes_in_use" in entry]
    status = Path("/proc/self/status")
    if not peaks and status.exists():  # getrusage would count the process that started this one
        lines = status.read_text().splitlines()
        peaks = [1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM")]
    unit = 1 if sys.platform == "darwin" else 1024
    return max(peaks, default=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit)


def check(program: Any, name: str, remedy: str) -> None:
    """Raises UserError if a compiled program cannot fit.

    Args:
      program: compiled.
      name: what it does, as in "an epoch".
      remedy: configuration keys of which smaller values help.
    """
    need, have = needed(program), available()
    if need > have:
        work = program.memory_analysis().temp_size_in_bytes
        raise UserError(
            f"{name} needs {need / 1e9:.2g} GB ({(need - work) / 1e9:.2g} for parameters, their "
            f"optimiser and data, {work / 1e9:.2g} to compute in), but there are {have / 1e9:.2g} "
            f"GB; try a smaller {remedy}"
        )


def release() -> None:
    """Gives what the compiler has freed back to the system, which glibc keeps otherwise.

    A compilation leaves some 200 MB behind in small pieces.
    """
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "malloc_trim"):
        libc.malloc_trim(0)
