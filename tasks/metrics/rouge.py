"""ROUGE-L (Lin 2004): F1 of the longest common subsequence of words, as Google's rouge-score computes it.

Words are lower-cased runs of letters, marks and digits of any script (of ASCII text the same words as rouge-score's);
in scripts without spaces between words, each character.
"""

import re
import unicodedata

import datasets
import evaluate

_NO_SPACES = re.compile(
    "([\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff])"
)


class _Words:
    """A tokenizer of rouge-score."""

    def tokenize(self, text: str) -> list[str]:
        """The words of a text."""
        kept = (char if unicodedata.category(char)[0] in "LMN" else " " for char in text.lower())
        return _NO_SPACES.sub(r" \1 ", "".join(kept)).split()


def rouge_l(predictions: list[str], references: list[list[str]]) -> list[float]:
    """The F1 of each prediction with the nearest of its references, 0 to 1; words are lower-cased, not stemmed."""
    from rouge_score.rouge_scorer import RougeScorer  # it imports nltk: a second

    scorer = RougeScorer(["rougeL"], tokenizer=_Words())
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
