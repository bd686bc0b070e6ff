"""The record of a run, assembled from the results of its stages."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bench.store.record import Record


@dataclass
class Progress:
    """The progress of a run.

    Attributes:
        record: the results of finished stages, and the curve so far.
        step: the current optimizer step.
    """

    record: Record
    step: int = 0

    def add(self, facts: Mapping[str, Any]) -> None:
        """Add the results of a stage; members of the record that are objects are merged."""
        for name, value in facts.items():
            known = self.record.get(name)
            merged = isinstance(known, dict) and isinstance(value, Mapping)
            self.record[name] = {**known, **value} if merged else value  # type: ignore[dict-item]

    def reached(self, point: Mapping[str, Any]) -> None:
        """Note the current step; a point with a loss is added to the curve."""
        self.step = point["step"]
        if "loss" in point:
            self.record["curve"].append(dict(point))

    def finished(self, diverged: int | None, learning_rate: float) -> None:
        """Set the status after the last stage.

        Args:
            diverged: the step of the first loss that was not finite, None where all were.
        """
        self.record["status"] = "ok" if diverged is None else "diverged"
        if diverged is not None:
            self.record["error"] = f"the loss was not finite at step {diverged} (learning rate {learning_rate:g})"

    def interrupted(self) -> None:
        """Set the status of a run that was stopped by the user."""
        at = f" after step {self.step}" if self.step else ""
        self.record["status"] = "interrupted"
        self.record["error"] = f"stopped by the user{at}; the same command starts it again"

    def failed(self, error: BaseException, status: str, trace: str) -> None:
        """Set the status after an error."""
        lines = str(error).strip().splitlines()
        self.record["status"] = status
        self.record["error"] = f"{type(error).__name__}: {lines[0] if lines else ''}"
        self.record["traceback"] = trace
