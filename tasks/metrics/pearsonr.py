"""Pearson correlation: how linear the relation of predictions and references is."""

import math
import warnings

import datasets
import evaluate
from scipy.stats import NearConstantInputWarning, pearsonr


class Pearsonr(evaluate.Metric):  # type: ignore[misc]  # evaluate has no types
    """Covariance / (std x std), from -1 to 1; nan for a side that is constant or not finite."""

    def _info(self) -> evaluate.MetricInfo:
        numbers = datasets.Value("float64")
        return evaluate.MetricInfo(
            description="Linear correlation of predictions and references.",
            citation="",
            inputs_description="predictions, references: numbers, one per example.",
            features=datasets.Features({"predictions": numbers, "references": numbers}),
        )

    def _compute(self, predictions: list[float], references: list[float]) -> dict[str, float]:
        finite = all(map(math.isfinite, (*predictions, *references)))
        if not finite or len(set(predictions)) < 2 or len(set(references)) < 2:  # scipy gives nan too, but warns
            return {"pearsonr": math.nan}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NearConstantInputWarning)  # a collapsed model; its score says so
            return {"pearsonr": float(pearsonr(predictions, references).statistic)}
