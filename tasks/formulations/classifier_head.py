"""Classification and regression with a head on the model: texts or images in, logits out."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from torch import nn

from bench.core.protocols import GroupedPrediction, Task
from bench.data.encoding import Rows
from bench.tasks.formulations import learning_checks
from bench.tasks.formulations.base import EvalResult, FormulationContext
from bench.tasks.formulations.prompt_batches import Array
from bench.tasks.metrics import compute


@dataclass(frozen=True)
class Head:
    """Classification, or regression, by the logits of a fresh head.

    Attributes:
        encoder: from a dataset and a cache key to encoded rows.
    """

    task: Task
    context: FormulationContext
    encoder: Callable[[Any, str], Rows]
    reads_untrained: ClassVar[bool] = False

    @property
    def dev(self) -> tuple[str, bool]:
        return self.task.main_score, self.task.higher_is_better

    def encode(self, rows: Any, cache_key: str) -> Rows:
        found: Any = self.encoder(rows, cache_key)
        examples = kept(self.task, rows)
        again: Rows = found if examples is None else dataclasses.replace(found, examples=examples)
        return again

    def outputs(self, module: nn.Module, rows: Rows) -> Array:
        return self._logits(module, rows)[0]

    def _logits(self, module: nn.Module, rows: Rows) -> tuple[Array, float]:
        return self.context.engine.predict(module, rows, self.context.settings.eval_batch_size)

    def dev_score(self, module: nn.Module, rows: Rows) -> float:
        return self.task.score(*settled(self.task, rows, self.outputs(module, rows)))[self.task.main_score]

    def evaluate(self, module: nn.Module, rows: Rows) -> EvalResult:
        return judged(self.task, rows, *self._logits(module, rows))

    def time_inference(self, module: nn.Module, rows: Rows) -> float:
        return self._logits(module, rows)[1]

    def check_learned(self, before: Array | None, after: Array, outcome: EvalResult) -> tuple[str, str]:
        return beats_majority(self.task, outcome)


def answers(task: Task, logits: Array) -> list[Any]:
    """Class indices, or numbers for regression."""
    if task.kind == "regression":
        return [float(value) for value in logits.reshape(-1)]
    return [int(value) for value in logits.argmax(axis=-1)]


def kept(task: Task, rows: Any) -> Any:
    """The dataset for a task that predicts groups of rows together; else None."""
    return rows if isinstance(task, GroupedPrediction) else None


def settled(task: Task, rows: Any, logits: Array) -> tuple[list[Any], list[Any]]:
    """Predictions and references, one per example: a row, or a group of rows that are predicted together."""
    if isinstance(task, GroupedPrediction) and rows.examples is not None:
        return task.settle(logits, rows.examples)
    return answers(task, logits), rows.labels.tolist()


def judged(task: Task, rows: Rows, logits: Array, seconds: float) -> EvalResult:
    """Score logits (rows, classes): predictions, scores and their standard error."""
    if not np.isfinite(logits).all():
        return EvalResult(finite=False)
    predictions, references = settled(task, rows, logits)
    stderr = None
    if task.main_score in compute.METRICS:  # a task may bring a score of its own
        stderr = compute.standard_error(task.main_score, predictions, references)
    columns = {"prediction": predictions, "reference": references}
    if len(predictions) == len(logits):
        columns["logits"] = list(logits.astype(np.float32))
    by_row = (answers(task, logits), rows.labels.tolist())
    return EvalResult(task.score(predictions, references), stderr, columns, len(logits), seconds, by_row=by_row)


def beats_majority(task: Task, outcome: EvalResult) -> tuple[str, str]:
    """The check against always predicting the most frequent class, or the mean."""
    predictions, references = outcome.columns["prediction"], outcome.columns["reference"]
    if not all(isinstance(value, int | float) for value in references):  # marks or texts: no class is the commonest
        predictions, references = outcome.by_row
    return "beats majority", learning_checks.beats_majority(predictions, references, task.kind)
