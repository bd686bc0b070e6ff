"""A run to do, as it crosses from the sweep to the process that does it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Job:
    """A run's specification, and where it reads and writes (which does not change its identity).

    Attributes:
        run_id: hash of ``spec``.
        spec: as the record keeps it.
        plugins: Python files to load first.
        mirror: folder of data sets in the Hub's layout, or None.
        predictions: file the per-example predictions go to.
        adapter: folder the tuned weights go to, or None when they are not kept.
        workers: parallel runs on this machine, for the record.
        cache_limit: bytes that kept features of frozen backbones may take; what was used longest ago makes room.
        threads: CPU threads of this run; None: torch's default.
    """

    run_id: str
    spec: dict[str, Any]
    plugins: tuple[str, ...]
    mirror: str | None
    predictions: str
    adapter: str | None
    workers: int = 1
    threads: int | None = None
    cache_limit: int = 8 * 10**9
