"""An executor that does runs at once by making their records up, for tests of what surrounds the runs."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Self

from bench.sweep.expand import RunSpec
from bench.training.job import Job
from tests import factories


def specs(count: int, method: str = "lora") -> list[RunSpec]:
    """Run specifications of one method under so many seeds; nothing behind them can be run."""
    nothing: Any = None
    return [RunSpec(factories.spec(method, seed), nothing, nothing, nothing) for seed in range(count)]


class Fake:
    """Finishes one run per call of ``events``, as ``outcome`` says.

    Args:
        outcome: from a job to its record; None: a process that died.
    """

    def __init__(self, outcome: Callable[[Job], dict[str, Any] | None], slots: int = 1) -> None:
        self.outcome, self.slots = outcome, slots
        self.jobs: list[Job] = []
        self.records: dict[str, dict[str, Any] | None] = {}
        self.stopped: list[str] = []
        self.submitted: list[str] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.jobs.clear()

    def submit(self, job: Job) -> None:
        self.jobs.append(job)
        self.submitted.append(job.run_id)

    def events(self, timeout: float) -> list[dict[str, Any]]:
        if not self.jobs:
            return []
        job = self.jobs.pop(0)
        self.records[job.run_id] = self.outcome(job)
        why = "its process died" if self.records[job.run_id] is None else ""
        return [{"run_id": job.run_id, "event": "exit", "code": int(bool(why)), "why": why}]

    def result(self, run_id: str) -> dict[str, Any] | None:
        return self.records.pop(run_id, None)

    def log_tail(self, run_id: str) -> str:
        return "last words"

    def stop(self, run_ids: Iterable[str]) -> None:
        self.stopped += list(run_ids)


def record(job: Job) -> dict[str, Any]:
    """The record of a run that went well."""
    return factories.measured(job.spec) | {"run_id": job.run_id}
