"""F1, the harmonic mean of precision and recall: of the positive class (GLUE's MRPC and QQP), or over all classes."""

import datasets
import evaluate
from sklearn.metrics import f1_score


class F1(evaluate.Metric):  # type: ignore[misc]  # evaluate has no types
    """2 tp / (2 tp + fp + fn); 0 for a class that is neither predicted nor there.

    ``average``: "binary" scores class ``pos_label``; "macro" is the plain mean over the classes that are predicted or
    there (SuperGLUE's CB); "micro" counts tp, fp and fn over all classes, which for one label a row is the accuracy.
    """

    def _info(self) -> evaluate.MetricInfo:
        indices = datasets.Value("int64")
        return evaluate.MetricInfo(
            description="Harmonic mean of precision and recall.",
            citation="",
            inputs_description="predictions, references: class indices, one per example.",
            features=datasets.Features({"predictions": indices, "references": indices}),
        )

    def _compute(
        self, predictions: list[int], references: list[int], pos_label: int = 1, average: str = "binary"
    ) -> dict[str, float]:
        # labels=[…] with "macro" over one class is the binary score, and also takes data without that class
        labels, over = ([pos_label], "macro") if average == "binary" else (None, average)
        return {"f1": float(f1_score(references, predictions, labels=labels, average=over, zero_division=0.0))}
