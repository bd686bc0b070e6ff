"""The record of a run, put together from what its stages gave."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bench.store.record import Record


@dataclass
class Progress:
    """How far a run has come.

    Attributes:
        record: what the finished stages gave, and the points of the curve that are known.
        step: the optimizer step that was reached.
    """

    record: Record
    step: int = 0

    def add(self, facts: Mapping[str, Any]) -> None:
        """Take in what a stage gave; members of the record that are objects are merged."""
        for name, value in facts.items():
            there = self.record.get(name)
            merged = isinstance(there, dict) and isinstance(value, Mapping)
            self.record[name] = {**there, **value} if merged else value  # type: ignore[dict-item]

    def reached(self, point: Mapping[str, Any]) -> None:
        """A step was reached; a point with a loss belongs to the curve, also of a run that is stopped later."""
        self.step = point["step"]
        if "loss" in point:
            self.record["curve"].append(dict(point))

    def finished(self, diverged: int | None, learning_rate: float) -> None:
        """All stages are over.

        Args:
            diverged: the step of the first loss that was not finite, None where all were.
        """
        self.record["status"] = "ok" if diverged is None else "diverged"
        if diverged is not None:
            self.record["error"] = f"the loss was not finite at step {diverged} (learning rate {learning_rate:g})"

    def interrupted(self) -> None:
        """The user stopped the run."""
        at = f" after step {self.step}" if self.step else ""
        self.record["status"] = "interrupted"
        self.record["error"] = f"stopped by the user{at}; the same command starts it again"

    def failed(self, error: BaseException, status: str, trace: str) -> None:
        """A stage raised an error."""
        lines = str(error).strip().splitlines()
        self.record["status"] = status
        self.record["error"] = f"{type(error).__name__}: {lines[0] if lines else ''}"
        self.record["traceback"] = trace
