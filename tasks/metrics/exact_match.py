"""Exact match: the share of predicted texts equal to their reference, character by character."""

import datasets
import evaluate


class ExactMatch(evaluate.Metric):  # type: ignore[misc]  # evaluate has no types
    """(number of i with predictions[i] == references[i]) / n, over texts as they are; from 0 to 1."""

    def _info(self) -> evaluate.MetricInfo:
        text = datasets.Value("string")
        return evaluate.MetricInfo(
            description="Share of predicted texts that equal their reference.",
            citation="",
            inputs_description="predictions, references: texts, one per example.",
            features=datasets.Features({"predictions": text, "references": text}),
        )

    def _compute(self, predictions: list[str], references: list[str]) -> dict[str, float]:
        equal = sum(given == wanted for given, wanted in zip(predictions, references, strict=True))
        return {"exact_match": equal / len(references)}
