"""Spearman correlation: the Pearson correlation of the ranks, ties sharing their mean rank."""

import math

import datasets
import evaluate
from scipy.stats import spearmanr


class Spearmanr(evaluate.Metric):  # type: ignore[misc]  # evaluate has no types
    """Pearson correlation of the ranks, from -1 to 1; nan for a side that is constant or not finite."""

    def _info(self) -> evaluate.MetricInfo:
        numbers = datasets.Value("float64")
        return evaluate.MetricInfo(
            description="Rank correlation of predictions and references.",
            citation="",
            inputs_description="predictions, references: numbers, one per example.",
            features=datasets.Features({"predictions": numbers, "references": numbers}),
        )

    def _compute(self, predictions: list[float], references: list[float]) -> dict[str, float]:
        finite = all(map(math.isfinite, (*predictions, *references)))
        if not finite or len(set(predictions)) < 2 or len(set(references)) < 2:  # scipy gives nan too, but warns
            return {"spearmanr": math.nan}
        return {"spearmanr": float(spearmanr(predictions, references).statistic)}
