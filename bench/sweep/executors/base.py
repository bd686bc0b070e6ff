"""The protocol of executors: local processes, Ray and Slurm."""

from __future__ import annotations

import signal
from collections.abc import Iterable, Sequence
from typing import Any, Protocol, Self, runtime_checkable

from bench.store.record import Record
from bench.training.job import Job


class WorkerDied(RuntimeError):
    """The executor's own process died; its active runs are lost and can be repeated."""


class Executor(Protocol):
    """Carries out jobs and reports on them. A context manager: leaving it ends every active run."""

    @property
    def slots(self) -> int:
        """How many jobs it takes at the same time."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...

    def submit(self, job: Job) -> None:
        """Start a job, or queue it where something else decides when it starts."""
        ...

    def events(self, timeout: float) -> list[dict[str, Any]]:
        """Events of the last ``timeout`` seconds at most, each with its ``run_id`` and ``event``.

        ``step`` and ``phase`` come from the run; ``exit`` comes once when it is over, with ``code`` 0 when it left a
        record, else with ``why`` in words, with ``again`` when the run never began, and ``killed`` when its process was
        ended from outside.

        Raises:
            WorkerDied: when there will be no more events.
        """
        ...

    def result(self, run_id: str) -> Record | None:
        """The record of a finished run, once; None when its process died before writing one."""
        ...

    def log_tail(self, run_id: str) -> str:
        """The last lines that a run's process printed."""
        ...

    def stop(self, run_ids: Iterable[str]) -> None:
        """Ask runs to finish their current step and write a record of what they have."""
        ...


@runtime_checkable
class RunsTogether(Protocol):
    """An executor that can train several runs in one process with one frozen backbone; they take one slot."""

    def submit_together(self, jobs: Sequence[Job]) -> None:
        """Start jobs that share their frozen backbone; each has its own events and record."""
        ...


def killed(code: int) -> bool:
    """Whether a process was ended from outside, which says nothing about its run."""
    return code in (-signal.SIGKILL, -signal.SIGTERM, -signal.SIGHUP)


def died(code: int) -> str:
    """How a process without a record ended, in words; negative codes are signals."""
    if code == -9:
        return "its process was killed (signal 9): by someone, or by the kernel because memory ran out"
    return f"its process died from signal {-code}" if code < 0 else f"its process ended with exit code {code}"
