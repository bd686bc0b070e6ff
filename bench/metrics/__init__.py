"""Scores by name, computed offline, each with a standard error.

Every other module here but ``resampling`` is a metric in the form that ``evaluate.load`` accepts from a path:
``evaluate.load("bench/metrics/accuracy.py")``. Importing this package imports none of them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from bench.errors import unknown

# Names as those of ``evaluate``'s GLUE metric.
METRICS = ("accuracy", "f1", "matthews_correlation", "pearson", "spearmanr")


def compute(names: Sequence[str], predictions: Sequence[Any], references: Sequence[Any]) -> dict[str, float]:
    """Score predictions (class indices or numbers) against references, by each named metric.

    Works in memory, without network. A correlation of a constant side is undefined and gives nan; Matthews
    correlation and F1 give 0 there, as scikit-learn does.

    Raises:
        ValueError: for an unknown name, no examples, or predictions and references of unlike length.
    """
    _check(names, predictions, references)
    # evaluate takes seconds to import where torch and transformers are not loaded yet
    from bench.metrics.accuracy import Accuracy
    from bench.metrics.f1 import F1
    from bench.metrics.matthews_correlation import MatthewsCorrelation
    from bench.metrics.pearsonr import Pearsonr
    from bench.metrics.spearmanr import Spearmanr

    metrics: dict[str, Any] = dict(zip(METRICS, (Accuracy, F1, MatthewsCorrelation, Pearsonr, Spearmanr), strict=True))
    given, wanted = np.asarray(predictions).tolist(), np.asarray(references).tolist()
    scores = {}
    for name in names:
        # a new instance each time: evaluate's keep their examples between calls, which threads must not share
        metric = metrics[name](keep_in_memory=True)
        (scores[name],) = metric.compute(predictions=given, references=wanted).values()
    return scores


def standard_error(name: str, predictions: Sequence[Any], references: Sequence[Any]) -> float:
    """Standard error of a score over examples, in the score's own unit.

    Accuracy: sqrt(p (1 - p) / n). Else the standard deviation over 1,000 bootstrap resamples of the examples,
    always the same ones (seeded); resamples without a defined score are left out, and nan is given when fewer than
    two remain.

    Raises:
        ValueError: as ``compute``.
    """
    _check([name], predictions, references)
    given, wanted = np.asarray(predictions), np.asarray(references)
    if name == "accuracy":
        share = float(np.mean(given == wanted))
        return math.sqrt(share * (1 - share) / len(given))
    from bench.metrics.resampling import bootstrap

    scores = bootstrap(name, given, wanted)
    defined = scores[np.isfinite(scores)]
    return float(np.std(defined, ddof=1)) if len(defined) > 1 else math.nan


def _check(names: Sequence[str], predictions: Sequence[Any], references: Sequence[Any]) -> None:
    for name in names:
        if name not in METRICS:
            raise ValueError(unknown("metric", name, METRICS))
    if len(predictions) != len(references):
        raise ValueError(f"{len(predictions)} predictions for {len(references)} references")
    if len(predictions) == 0:
        raise ValueError("there are no examples to score")
