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

from bench.tasks.metrics import bootstrap, compute

Array = NDArray[Any]

LOSS, PERPLEXITY = "loss", "perplexity"  # of a token, by the model's likelihoods


class Undefined(ValueError):
    """A score that cannot be computed again from the predictions, or not on enough resamples; says why."""


@dataclass(frozen=True)
class Sample:
    """The score of one run on n examples.

    Attributes:
        value: the score, in its own unit.
        errors: (m,) such that ``a.errors @ b.errors`` estimates the covariance of two runs' scores over samples of
            n examples; m is n for means over examples, the number of resamples for other scores. Entries may be nan
            where a resample has no defined score.
        examples: n.
        correct: (n,) booleans where every example is right or wrong, which McNemar's test counts; else None.
        resampled: whether the errors come from resamples.
    """

    value: float
    errors: Array
    examples: int
    correct: Array | None = None
    resampled: bool = False


def sample(name: str, predictions: Sequence[Any] | Array, references: Sequence[Any] | Array) -> Sample:
    """Score one run's predictions.

    A mean over examples (accuracy, exact match, ROUGE-L, the answer scores): the sample covariance of the examples'
    own scores, in closed form. F1, Matthews, the correlations, BLEU: 1,000 bootstrap resamples (Efron 1979), the same
    for all runs of as many examples.

    Args:
        name: a metric of ``bench.tasks.metrics.compute``.
        predictions, references: n of each, as ``bench.tasks.metrics.compute.compute`` takes them.

    Raises:
        Undefined: when the metric is not known or has no value on these predictions.
    """
    if name not in compute.METRICS:
        raise Undefined(f"{name} is not one of the scores that can be computed again from predictions")
    given, wanted = list(predictions), list(references)
    if name in bootstrap.NAMES:
        return _resampled(name, *bootstrap.shared(name, *compute.inputs(name, given, wanted)), len(given))
    values = np.asarray(compute.each(name, given, wanted), dtype=np.float64)
    return of_examples(values == 1 if np.isin(values, (0, 1)).all() else values)


def of_tokens(name: str, losses: Array, tokens: Array, texts: Array | None = None) -> Sample:
    """The sample of a loss a token, or of its perplexity: examples are resampled, each with all its tokens.

    Args:
        name: LOSS or PERPLEXITY.
        losses, tokens: (rows,) mean negative log-likelihood and number of tokens of each row.
        texts: (rows,) which text each row is of: then texts are the examples, with all their rows; else rows are.

    Raises:
        Undefined: for a single text, which shows no spread.
    """
    sums = np.stack([losses * tokens, tokens], axis=1)
    if texts is not None:
        place = np.unique(texts, return_inverse=True)[1]
        sums = np.stack([np.bincount(place, column) for column in sums.T], axis=1)
        if len(sums) < 2:
            raise Undefined("all of it is one text, which shows no spread")

    def of(draws: Array) -> Array:
        summed = draws @ sums
        mean = np.divide(summed[:, 0], summed[:, 1], out=np.full(len(summed), np.nan), where=summed[:, 1] > 0)
        found: Array = np.exp(np.minimum(mean, 700.0)) if name == PERPLEXITY else mean
        return found

    return _resampled(name, *bootstrap.resampled(of, len(sums)), len(sums))


def of_examples(values: Array) -> Sample:
    """The sample of a score that is the mean of one value per example, (n,) booleans or numbers."""
    n = len(values)
    scaled = np.asarray(values, dtype=np.float64)
    mean = float(scaled.mean())
    errors = (scaled - mean) / math.sqrt(n * max(1, n - 1))
    return Sample(mean, errors, n, values if values.dtype == bool else None)


def _resampled(name: str, value: float, scores: Array, examples: int) -> Sample:
    if not math.isfinite(value):
        raise Undefined(f"{name} is not defined on these predictions")
    defined = np.isfinite(scores)
    if defined.sum() < len(scores) / 2:
        raise Undefined(f"{name} is not defined on most resamples of the examples")
    return Sample(value, (scores - scores[defined].mean()) / math.sqrt(len(scores) - 1), examples, resampled=True)
