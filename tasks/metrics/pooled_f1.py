"""F1 over all answers of all questions: F1a of MultiRC (Khashabi et al. 2018, NAACL, section 5; SuperGLUE)."""

import datasets
import evaluate


def counts(prediction: list[int], reference: list[int]) -> tuple[int, int, int]:
    """Of one question's answers: rightly chosen, chosen, right."""
    hits = sum(given == wanted == 1 for given, wanted in zip(prediction, reference, strict=True))
    return hits, sum(given == 1 for given in prediction), sum(wanted == 1 for wanted in reference)


class PooledF1(evaluate.Metric):  # type: ignore[misc]  # evaluate has no types
    """2 tp / (chosen + right), each summed over all questions; 0 when nothing is chosen or right."""

    def _info(self) -> evaluate.MetricInfo:
        marks = datasets.Sequence(datasets.Value("int64"))
        return evaluate.MetricInfo(
            description="F1 of the answers marked 1, over all questions' answers together.",
            citation="",
            inputs_description="predictions, references: a list of 0 and 1 per question, one for each answer.",
            features=datasets.Features({"predictions": marks, "references": marks}),
        )

    def _compute(self, predictions: list[list[int]], references: list[list[int]]) -> dict[str, float]:
        found = [counts(given, wanted) for given, wanted in zip(predictions, references, strict=True)]
        hits, chosen, right = map(sum, zip(*found, strict=True))
        return {"f1_a": 2 * hits / (chosen + right) if chosen + right else 0.0}
