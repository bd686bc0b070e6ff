"""One run's score, and how it moves with the examples: the building block of every comparison here.

A score's errors are a vector, scaled so that the covariance of two scores over new samples of examples is the dot
product of their vectors, whatever the score. The vectors of runs scored on the same examples are made from the same
resamples, which is what pairs them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench import metrics
from bench.metrics import resampling

Array = NDArray[Any]

_GROUPS = 50  # of the jackknife: each costs one computation of the score


class Undefined(ValueError):
    """A score that cannot be computed again from the predictions, or not on enough resamples; says why."""


@dataclass(frozen=True)
class Sample:
    """The score of one run on n examples.

    Attributes:
        value: the score, in its own unit.
        errors: (m,) such that ``a.errors @ b.errors`` estimates the covariance of two runs' scores over samples of
            n examples; m is n for accuracy, the number of resamples for other scores. Entries may be nan where a
            resample has no defined score.
        examples: n.
        correct: (n,) booleans for accuracy, which McNemar's test counts; None for every other score.
        jackknife: whether the errors come from leaving examples out, not from resamples.
    """

    value: float
    errors: Array
    examples: int
    correct: Array | None = None
    jackknife: bool = False


def sample(name: str, predictions: Sequence[Any] | Array, references: Sequence[Any] | Array) -> Sample:
    """Score one run's predictions.

    Accuracy: the sample covariance of per-example correctness, in closed form. F1, Matthews and the correlations:
    1,000 bootstrap resamples (Efron 1979), the same for all runs of as many examples. Any other metric of
    ``bench.metrics``: a jackknife that leaves out one of 50 groups of examples at a time (Shao & Wu 1989).

    Args:
        name: a metric of ``bench.metrics``.
        predictions, references: (n,) class indices, numbers or texts.

    Raises:
        Undefined: when the metric is not known or has no value on these predictions.
    """
    if name not in metrics.METRICS:
        raise Undefined(f"{name} is not one of the scores that can be computed again from predictions")
    given, wanted = np.asarray(predictions), np.asarray(references)
    if name == "accuracy":
        return of_examples(given == wanted)
    if name in resampling.NAMES:
        value, scores = resampling.shared(name, given, wanted)
        _refuse_undefined(name, value)
        return Sample(value, _scaled(scores, 1 / (len(scores) - 1)), len(given))
    value = metrics.compute([name], given.tolist(), wanted.tolist())[name]
    _refuse_undefined(name, value)
    left_out = _leave_out(name, given.tolist(), wanted.tolist())
    return Sample(value, _scaled(left_out, (len(left_out) - 1) / len(left_out)), len(given), jackknife=True)


def of_examples(values: Array) -> Sample:
    """The sample of a score that is the mean of one value per example, (n,) booleans or numbers."""
    n = len(values)
    scaled = np.asarray(values, dtype=np.float64)
    mean = float(scaled.mean())
    errors = (scaled - mean) / math.sqrt(n * max(1, n - 1))
    return Sample(mean, errors, n, values if values.dtype == bool else None)


def _refuse_undefined(name: str, value: float) -> None:
    if not math.isfinite(value):
        raise Undefined(f"{name} is not defined on these predictions")


def _scaled(scores: Array, factor: float) -> Array:
    defined = np.isfinite(scores)
    if defined.sum() < len(scores) / 2:
        raise Undefined("the score is not defined on most resamples of the examples")
    scaled: Array = (scores - scores[defined].mean()) * math.sqrt(factor)
    return scaled


def _leave_out(name: str, predictions: list[Any], references: list[Any]) -> Array:
    """The score without each of at most 50 groups of examples; rows are dealt to groups in turn."""
    n = len(predictions)
    groups = min(_GROUPS, n)
    found = []
    for group in range(groups):
        kept = [row for row in range(n) if row % groups != group]
        given, wanted = [predictions[row] for row in kept], [references[row] for row in kept]
        found.append(metrics.compute([name], given, wanted)[name] if kept else math.nan)
    return np.asarray(found)
