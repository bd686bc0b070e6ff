"""A head on the model gives one number a class, or the number itself: texts or images in, logits out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import nn

from bench import checks, metrics
from bench.api import Task
from bench.data import Rows
from bench.forms.base import Outcome, Seat
from bench.forms.pairs import Array


@dataclass(frozen=True)
class Head:
    """Classification, or regression, by the logits of a fresh head.

    Attributes:
        encoder: from a dataset and a cache key to encoded rows.
    """

    task: Task
    seat: Seat
    encoder: Callable[[Any, str], Rows]

    @property
    def dev(self) -> tuple[str, bool]:
        return self.task.main_score, self.task.higher_is_better

    def encode(self, rows: Any, cache_key: str) -> Rows:
        return self.encoder(rows, cache_key)

    def numbers(self, module: nn.Module, rows: Rows) -> Array:
        return self._logits(module, rows)[0]

    def _logits(self, module: nn.Module, rows: Rows) -> tuple[Array, float]:
        return self.seat.engine.predict(module, rows, self.seat.settings.eval_batch_size)

    def dev_score(self, module: nn.Module, rows: Rows) -> float:
        predictions = answers(self.task, self.numbers(module, rows))
        return self.task.score(predictions, rows.labels.tolist())[self.task.main_score]

    def judge(self, module: nn.Module, rows: Rows) -> Outcome:
        return judged(self.task, rows, *self._logits(module, rows))

    def again(self, module: nn.Module, rows: Rows) -> float:
        return self._logits(module, rows)[1]

    def beats(self, before: Array | None, after: Array, outcome: Outcome) -> tuple[str, str]:
        return beats_majority(self.task, outcome)


def answers(task: Task, logits: Array) -> list[Any]:
    """Class indices, or numbers for regression."""
    if task.kind == "regression":
        return [float(value) for value in logits.reshape(-1)]
    return [int(value) for value in logits.argmax(axis=-1)]


def judged(task: Task, rows: Rows, logits: Array, seconds: float) -> Outcome:
    """Score logits (rows, classes): predictions, scores and their standard error."""
    if not np.isfinite(logits).all():
        return Outcome(finite=False)
    predictions, references = answers(task, logits), rows.labels.tolist()
    stderr = None
    if task.main_score in metrics.METRICS:  # a task may bring a score of its own
        stderr = metrics.standard_error(task.main_score, predictions, references)
    columns = {"prediction": predictions, "reference": references, "logits": list(logits.astype(np.float32))}
    return Outcome(task.score(predictions, references), stderr, columns, len(predictions), seconds)


def beats_majority(task: Task, outcome: Outcome) -> tuple[str, str]:
    """The check against always giving the commonest class, or the mean."""
    columns = outcome.columns
    return "beats majority", checks.beats_majority(columns["prediction"], columns["reference"], task.kind)
