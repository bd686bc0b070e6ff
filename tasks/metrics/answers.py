"""Answers in words with several right ones: exact match and token F1 as in SQuAD (Rajpurkar et al. 2016,
arXiv 1606.05250, section 6.1), which SuperGLUE's ReCoRD is scored by."""

import re
import string
from collections import Counter
from collections.abc import Sequence

import datasets
import evaluate

_ARTICLES = re.compile(r"\b(a|an|the)\b")


def normal(text: str) -> str:
    """Lower case, without punctuation, articles and double spaces."""
    bare = "".join(character for character in text.lower() if character not in string.punctuation)
    return " ".join(_ARTICLES.sub(" ", bare).split())


def exact(prediction: str, answers: Sequence[str]) -> float:
    """1 when the prediction equals any right answer, both made normal; else 0."""
    return float(any(normal(prediction) == normal(answer) for answer in answers))


def token_f1(prediction: str, answers: Sequence[str]) -> float:
    """The best F1 of the words shared with a right answer, 0 to 1; two empty texts share all."""

    def one(answer: str) -> float:
        given, wanted = normal(prediction).split(), normal(answer).split()
        if not given or not wanted:
            return float(given == wanted)
        shared = sum((Counter(given) & Counter(wanted)).values())
        return 2 * shared / (len(given) + len(wanted))

    return max((one(answer) for answer in answers), default=0.0)


class Answers(evaluate.Metric):  # type: ignore[misc]  # evaluate has no types
    """Mean over examples of the best match with any of the right answers, from 0 to 1."""

    def _info(self) -> evaluate.MetricInfo:
        text = datasets.Value("string")
        return evaluate.MetricInfo(
            description="Exact match and token F1 against the best of several right answers.",
            citation="",
            inputs_description="predictions: texts; references: a list of right answers per example.",
            features=datasets.Features({"predictions": text, "references": datasets.Sequence(text)}),
        )

    def _compute(self, predictions: list[str], references: list[list[str]]) -> dict[str, float]:
        pairs = list(zip(predictions, references, strict=True))
        return {
            "exact_match": sum(exact(*pair) for pair in pairs) / len(pairs),
            "f1": sum(token_f1(*pair) for pair in pairs) / len(pairs),
        }
