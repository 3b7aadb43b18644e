"""SIGTERM and Ctrl-C: a run that trains ends after the epoch at hand, saved; all else ends at once.

An epoch is one compiled call that nothing interrupts, so between epochs a flag is read.
"""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator

from mmrec_jax import hosts

_WATCHED = (signal.SIGTERM, signal.SIGINT)
_asked: signal.Signals | None = None
_waits = False  # whether who trains will look at what was asked


class Stopped(BaseException):
    """A signal asked to stop. No Exception, so that nothing takes it for damage.

    Attributes:
      status: exit status, as the shell has it for the signal.
    """

    def __init__(self, when: str = ""):
        number = _asked or signal.SIGTERM
        super().__init__(f"stopped by {number.name}{when}; the same command goes on")
        self.status = 128 + number


@contextlib.contextmanager
def watched() -> Iterator[None]:
    """Has SIGTERM and Ctrl-C raise :class:`Stopped` in the main thread; a second one kills."""
    global _asked
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, _stop) for number in _WATCHED}
    before[signal.SIGALRM] = signal.signal(signal.SIGALRM, _raise)
    hook, sys.unraisablehook = sys.unraisablehook, functools.partial(_again, sys.unraisablehook)
    try:
        yield
    finally:
        _asked = None
        signal.setitimer(signal.ITIMER_REAL, 0)
        sys.unraisablehook = hook
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def waiting() -> Iterator[None]:
    """Within, what is asked waits until :func:`asked` is read."""
    global _waits
    _waits = True
    try:
        yield
    finally:
        _waits = False


def asked() -> bool:
    """Whether to stop; processes that train together all get the same answer."""
    return not hosts.agree(_asked is None)


def _raise(*_) -> None:
    raise Stopped()


def _again(otherwise: Callable, told) -> None:
    """Raises later what nothing could catch, as in the garbage collector's calls."""
    if isinstance(told.exc_value, Stopped):
        signal.setitimer(signal.ITIMER_REAL, 0.01)
    else:
        otherwise(told)


def _stop(number: int, _frame) -> None:
    global _asked
    for watched_too in _WATCHED:
        signal.signal(watched_too, signal.SIG_DFL)
    _asked = signal.Signals(number)
    if not _waits:
        _raise()
    # Not by print, which may be what was interrupted.
    os.write(2, f"{_asked.name}: saving after the epoch at hand\n".encode())
