"""ROUGE-L (Lin 2004): F1 of the longest common subsequence of words, as Google's rouge-score computes it."""

import datasets
import evaluate


def rouge_l(predictions: list[str], references: list[list[str]]) -> list[float]:
    """The F1 of each prediction with the nearest of its references, 0 to 1; words are lower-cased, not stemmed."""
    from rouge_score.rouge_scorer import RougeScorer  # it imports nltk: a second

    scorer = RougeScorer(["rougeL"], use_stemmer=False)
    return [
        scorer.score_multi(wanted, given)["rougeL"].fmeasure
        for given, wanted in zip(predictions, references, strict=True)
    ]


class Rouge(evaluate.Metric):  # type: ignore[misc]  # evaluate has no types
    """Mean ROUGE-L F1 over examples, from 0 to 1."""

    def _info(self) -> evaluate.MetricInfo:
        text = datasets.Value("string")
        return evaluate.MetricInfo(
            description="F1 of the longest common subsequence of words.",
            citation="",
            inputs_description="predictions: texts; references: a list of texts per example.",
            features=datasets.Features({"predictions": text, "references": datasets.Sequence(text)}),
        )

    def _compute(self, predictions: list[str], references: list[list[str]]) -> dict[str, float]:
        values = rouge_l(predictions, references)
        return {"rougeL": sum(values) / len(values)}
