"""Threads of OpenMP: those that stand idle behind one Python thread slow down those of another.

Each thread that computes has a team of its own. libgomp counts them all, and when they are more than the cores it no
longer lets them wait for work without sleeping, which makes every small operation wait for the kernel.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

_SOFT = 1  # omp_pause_soft, OpenMP 5.0, section 3.2.44


def dismiss_team() -> None:
    """End the calling thread's team; its next parallel operation makes another. Nothing where OpenMP is not found."""
    pause = _pause()
    if pause is not None:
        pause(_SOFT)


@functools.cache
def _pause() -> Callable[[int], Any] | None:
    """``omp_pause_resource_all`` of the library that torch uses; loaded libraries are listed on Linux alone."""
    maps = Path("/proc/self/maps")
    lines = maps.read_text().splitlines() if maps.is_file() else []
    for path in dict.fromkeys(line.split()[-1] for line in lines if "omp" in line.rpartition("/")[2]):
        found = getattr(ctypes.CDLL(path), "omp_pause_resource_all", None) if ".so" in path else None
        if found is not None:
            return found  # type: ignore[no-any-return]
    return None
