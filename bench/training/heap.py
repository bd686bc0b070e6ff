"""Memory that a training step frees is kept for the next one, where the C library can be told to (glibc)."""

from __future__ import annotations

import ctypes
import sys

_TRIM, _PAD, _MAPPED = -1, -2, -3  # M_TRIM_THRESHOLD, M_TOP_PAD and M_MMAP_THRESHOLD of malloc.h
_MOST = 2**31 - 1
_LARGEST = 32 << 20  # of a threshold for mapping; glibc takes no more
_STEP = 64 << 20


def keep_freed() -> bool:
    """Have this process's heap keep what is freed, and say whether it does.

    glibc gives large blocks back to the kernel, which then hands out zeroed pages again, step after step.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is None:
        return False
    return all(mallopt(option, value) == 1 for option, value in ((_MAPPED, _LARGEST), (_TRIM, _MOST), (_PAD, _STEP)))
