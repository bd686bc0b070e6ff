"""Where runs are done: the one small contract that the sweep knows of local processes, Ray and Slurm."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Protocol, Self, runtime_checkable

from bench.store.record import Record
from bench.training.job import Job


class WorkerDied(RuntimeError):
    """What carries out the runs ended by itself; the runs it was doing are lost and can be done again."""


class Executor(Protocol):
    """Takes jobs and tells what becomes of them. A context manager: leaving it ends whatever still runs."""

    @property
    def slots(self) -> int:
        """Jobs it wants at once; the sweep keeps the others back."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...

    def submit(self, job: Job) -> None:
        """Start a job, or queue it where something else decides when it starts."""
        ...

    def events(self, timeout: float) -> list[dict[str, Any]]:
        """What happened within ``timeout`` seconds, each with its ``run_id`` and ``event``.

        ``step`` and ``phase`` come from the run; ``exit`` comes once when it is over, with ``code`` 0 when it left a
        record, else with ``why`` in words, and with ``again`` when the run never began.

        Raises:
            WorkerDied: when nothing more will come.
        """
        ...

    def result(self, run_id: str) -> Record | None:
        """The record of a run that is over, once; None when its process died before it could leave one."""
        ...

    def log_tail(self, run_id: str) -> str:
        """The last lines that a run's process printed."""
        ...

    def stop(self, run_ids: Iterable[str]) -> None:
        """Ask runs to finish the step they are at and leave a record of how far they came."""
        ...


@runtime_checkable
class RunsTogether(Protocol):
    """An executor that can do several runs in one process, over one frozen trunk; they take one slot."""

    def submit_together(self, jobs: Sequence[Job]) -> None:
        """Start jobs that share their trunk; each has events and a record of its own."""
        ...


def died(code: int) -> str:
    """How a process that left no record ended, in words; negative codes are signals."""
    if code == -9:
        return "its process was killed (signal 9): by someone, or by the kernel because memory ran out"
    return f"its process died from signal {-code}" if code < 0 else f"its process ended with exit code {code}"
