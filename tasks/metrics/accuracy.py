"""Accuracy: the share of predictions equal to their reference."""

import datasets
import evaluate
from sklearn.metrics import accuracy_score


class Accuracy(evaluate.Metric):  # type: ignore[misc]  # evaluate has no types
    """(number of i with predictions[i] == references[i]) / n, over class indices; from 0 to 1."""

    def _info(self) -> evaluate.MetricInfo:
        indices = datasets.Value("int64")
        return evaluate.MetricInfo(
            description="Share of predictions that equal their reference.",
            citation="",
            inputs_description="predictions, references: class indices, one per example.",
            features=datasets.Features({"predictions": indices, "references": indices}),
        )

    def _compute(self, predictions: list[int], references: list[int]) -> dict[str, float]:
        return {"accuracy": float(accuracy_score(references, predictions))}
