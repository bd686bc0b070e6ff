"""Threads of OpenMP: those that stand idle behind one Python thread slow down those of another.

Each thread that computes has a team of its own. libgomp counts them all, and when they are more than the cores it no
longer lets them wait for work without sleeping, which makes every small operation wait for the kernel. So a thread
that rests ends its team, and the next one makes its own, where the last one worked (``go_on_at``). Linux starts those
threads on their maker's core; only a core that falls idle after that takes one over at once, others some ten
milliseconds later. So whoever rests naps a few times before it sleeps (``acquire``).
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import threading
from collections.abc import Callable
from typing import Any

import torch

_SOFT = 1  # omp_pause_soft, OpenMP 5.0, section 3.2.44
_NAPS, _NAP_SECONDS = 8, 6e-4  # as tried in tests/speed/baton.py


def dismiss_team() -> None:
    """End the calling thread's team; its next parallel operation makes another. Nothing where OpenMP is not found."""
    pause = _pause()
    if pause is not None:
        pause(_SOFT)


def acquire(semaphore: threading.Semaphore) -> None:
    """Acquire it, with a few naps first, so that the core the thread was on takes over one of the next one's team."""
    if not any(semaphore.acquire(timeout=_NAP_SECONDS) for _ in range(_NAPS)):
        semaphore.acquire()


def core() -> int | None:
    """The core that the calling thread is on; None where the system does not tell."""
    found = _sched_getcpu()
    number = found() if found is not None else -1
    return number if number >= 0 else None


def go_on_at(core: int | None) -> None:
    """Move the calling thread to a core, from which it may be moved again. Nothing where that cannot be done."""
    if core is None:
        return
    allowed = os.sched_getaffinity(0)
    if len(allowed) > 1 and core in allowed:
        with contextlib.suppress(OSError):  # the cores were taken away meanwhile
            os.sched_setaffinity(0, {core})
            os.sched_setaffinity(0, allowed)


@functools.cache
def _sched_getcpu() -> Callable[[], int] | None:
    if not hasattr(os, "sched_setaffinity"):  # without it there is nothing to do with the answer
        return None
    return getattr(ctypes.CDLL(None), "sched_getcpu", None)


@functools.cache
def _pause() -> Callable[[int], Any] | None:
    """``omp_pause_resource_all`` of the library that torch uses: a process may hold others (scikit-learn's)."""
    return getattr(ctypes.CDLL(torch._C.__file__), "omp_pause_resource_all", None)
