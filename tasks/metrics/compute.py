"""Scores by name, computed offline, each with a standard error.

Every other module here but ``resampling`` and ``sufficient`` is a metric in the form that ``evaluate.load`` accepts
from a path: ``evaluate.load("bench/metrics/accuracy.py")``. Importing this package imports none of them.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from bench.core.errors import unknown

# Names as those of ``evaluate``'s GLUE metric, where it has them.
OF_CLASSES = ("accuracy", "f1", "f1_macro", "f1_micro", "matthews_correlation")
OF_NUMBERS = ("pearson", "spearmanr")
OF_TEXTS = ("exact_match", "bleu", "rougeL", "answer_exact_match", "answer_f1")
METRICS = (*OF_CLASSES, *OF_NUMBERS, *OF_TEXTS, "f1_a", "perplexity")
LOWER_IS_BETTER = ("perplexity",)

_MEANS = ("accuracy", "f1_micro", "exact_match", "rougeL", "answer_exact_match", "answer_f1")
_SEVERAL = ("bleu", "rougeL", "answer_exact_match", "answer_f1")  # take several right texts an example


def compute(names: Sequence[str], predictions: Sequence[Any], references: Sequence[Any]) -> dict[str, float]:
    """Score predictions against references, by each named metric.

    Predictions are class indices (OF_CLASSES), numbers (OF_NUMBERS), texts (OF_TEXTS), lists of 0 and 1 (f1_a) or
    summed negative log-likelihoods against numbers of tokens (perplexity). References are alike, but for bleu, rougeL
    and the answer scores a text or a list of texts; exact_match also compares numbers and lists, as JSON writes them.

    Works in memory, without network. A correlation of a constant side is undefined and gives nan; Matthews
    correlation and F1 give 0 there, as scikit-learn does.

    Raises:
        ValueError: for an unknown name, no examples, or predictions and references of unlike length.
    """
    _check(names, predictions, references)
    scores = {}
    for name in names:
        given, wanted = inputs(name, predictions, references)
        metric, options, key = _metric(name)
        # a new instance each time: evaluate's keep their examples between calls, which threads must not share
        found = metric(keep_in_memory=True).compute(predictions=given, references=wanted, **options)
        scores[name] = found[key]
    return scores


def each(name: str, predictions: Sequence[Any], references: Sequence[Any]) -> list[float] | None:
    """The score of every example by itself where the metric is their mean; None where it is not.

    Raises:
        ValueError: as ``compute``.
    """
    _check([name], predictions, references)
    return _values(name, *inputs(name, predictions, references)) if name in _MEANS else None


def standard_error(name: str, predictions: Sequence[Any], references: Sequence[Any]) -> float:
    """Standard error of a score over examples, in the score's own unit.

    A mean over examples: sqrt(variance / n), for accuracy sqrt(p (1 - p) / n). Else the standard deviation over 1,000
    bootstrap resamples of the examples, always the same ones (seeded); resamples without a defined score are left
    out, and nan is given when fewer than two remain.

    Raises:
        ValueError: as ``compute``.
    """
    _check([name], predictions, references)
    given, wanted = inputs(name, predictions, references)
    if name in _MEANS:
        values = np.asarray(_values(name, given, wanted), dtype=np.float64)
        return math.sqrt(float(np.var(values)) / len(values))
    from bench.tasks.metrics.bootstrap import bootstrap

    scores = bootstrap(name, given, wanted)
    defined = scores[np.isfinite(scores)]
    return float(np.std(defined, ddof=1)) if len(defined) > 1 else math.nan


def _metric(name: str) -> tuple[Any, dict[str, Any], str]:
    """The metric's class, the options it computes with, and which of its scores it is.

    Imported when asked for: evaluate takes seconds where torch and transformers are not loaded yet, sacrebleu and
    rouge-score are not needed by most runs.
    """
    if name in OF_CLASSES or name in OF_NUMBERS:
        from bench.tasks.metrics.accuracy import Accuracy
        from bench.tasks.metrics.f1 import F1
        from bench.tasks.metrics.matthews_correlation import MatthewsCorrelation
        from bench.tasks.metrics.pearsonr import Pearsonr
        from bench.tasks.metrics.spearmanr import Spearmanr

        plain = {
            "accuracy": (Accuracy, "accuracy"),
            "matthews_correlation": (MatthewsCorrelation, "matthews_correlation"),
            "pearson": (Pearsonr, "pearsonr"),
            "spearmanr": (Spearmanr, "spearmanr"),
        }
        if name in plain:
            return plain[name][0], {}, plain[name][1]
        return F1, {"average": name.removeprefix("f1").removeprefix("_") or "binary"}, "f1"
    if name == "bleu":
        from bench.tasks.metrics.bleu import Bleu

        return Bleu, {}, name
    from bench.tasks.metrics.answers import Answers
    from bench.tasks.metrics.exact_match import ExactMatch
    from bench.tasks.metrics.perplexity import Perplexity
    from bench.tasks.metrics.pooled_f1 import PooledF1
    from bench.tasks.metrics.rouge import Rouge

    of_texts = {"exact_match": ExactMatch, "rougeL": Rouge, "f1_a": PooledF1, "perplexity": Perplexity}
    return of_texts.get(name, Answers), {}, name.removeprefix("answer_")


def inputs(name: str, predictions: Sequence[Any], references: Sequence[Any]) -> tuple[list[Any], list[Any]]:
    """Predictions and references as the metric takes them: arrays become lists, one right text a list of one."""
    if name in (*OF_CLASSES, *OF_NUMBERS, "perplexity"):
        return np.asarray(predictions).tolist(), np.asarray(references).tolist()
    if name == "exact_match":
        return _texts(predictions), _texts(references)
    if name in _SEVERAL:
        return list(predictions), [[text] if isinstance(text, str) else list(text) for text in references]
    return [list(marks) for marks in predictions], [list(marks) for marks in references]


def _texts(values: Sequence[Any]) -> list[str]:
    return [value if isinstance(value, str) else json.dumps(value) for value in values]


def _values(name: str, given: list[Any], wanted: list[Any]) -> list[float]:
    """The score of every example by itself, for the metrics that are their mean."""
    if name == "rougeL":
        from bench.tasks.metrics.rouge import rouge_l

        return rouge_l(given, wanted)
    if name in ("answer_exact_match", "answer_f1"):
        from bench.tasks.metrics.answers import exact, token_f1

        one = exact if name == "answer_exact_match" else token_f1
        return [one(*pair) for pair in zip(given, wanted, strict=True)]
    return [float(left == right) for left, right in zip(given, wanted, strict=True)]


def _check(names: Sequence[str], predictions: Sequence[Any], references: Sequence[Any]) -> None:
    for name in names:
        if name not in METRICS:
            raise ValueError(unknown("metric", name, METRICS))
    if len(predictions) != len(references):
        raise ValueError(f"{len(predictions)} predictions for {len(references)} references")
    if len(predictions) == 0:
        raise ValueError("there are no examples to score")
