"""F1 of the positive class: the harmonic mean of its precision and recall (class 1, as GLUE scores MRPC, QQP)."""

import datasets
import evaluate
from sklearn.metrics import f1_score


class F1(evaluate.Metric):  # type: ignore[misc]  # evaluate has no types
    """2 tp / (2 tp + fp + fn) for class 1; 0 when class 1 is neither predicted nor there."""

    def _info(self) -> evaluate.MetricInfo:
        indices = datasets.Value("int64")
        return evaluate.MetricInfo(
            description="Harmonic mean of precision and recall of the positive class.",
            citation="",
            inputs_description="predictions, references: 0 or 1, one per example.",
            features=datasets.Features({"predictions": indices, "references": indices}),
        )

    def _compute(self, predictions: list[int], references: list[int], pos_label: int = 1) -> dict[str, float]:
        # labels=[…] with "macro" over one class is the binary score, and also takes data without that class
        score = f1_score(references, predictions, labels=[pos_label], average="macro", zero_division=0.0)
        return {"f1": float(score)}
