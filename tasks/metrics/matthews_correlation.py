"""Matthews correlation coefficient (Matthews 1975): correlation of predicted and true classes, GLUE's CoLA score."""

import datasets
import evaluate
from sklearn.metrics import matthews_corrcoef


class MatthewsCorrelation(evaluate.Metric):  # type: ignore[misc]  # evaluate has no types
    """From -1 to 1 over class indices, two or more classes; 0 when either side holds a single class."""

    def _info(self) -> evaluate.MetricInfo:
        indices = datasets.Value("int64")
        return evaluate.MetricInfo(
            description="Correlation of predicted and true classes.",
            citation="",
            inputs_description="predictions, references: class indices, one per example.",
            features=datasets.Features({"predictions": indices, "references": indices}),
        )

    def _compute(self, predictions: list[int], references: list[int]) -> dict[str, float]:
        if len(set(predictions)) < 2 or len(set(references)) < 2:  # sklearn gives 0 too, but may warn
            return {"matthews_correlation": 0.0}
        return {"matthews_correlation": float(matthews_corrcoef(references, predictions))}
