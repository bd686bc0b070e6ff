"""BLEU (Papineni et al. 2002) as sacreBLEU computes it (Post 2018, arXiv 1804.08771): 13a tokens, up to 4-grams."""

from itertools import zip_longest

import datasets
import evaluate
from sacrebleu.metrics.bleu import BLEU


class Bleu(evaluate.Metric):  # type: ignore[misc]  # evaluate has no types
    """Corpus BLEU from 0 to 100; each example may have several references, not all the same number."""

    def _info(self) -> evaluate.MetricInfo:
        text = datasets.Value("string")
        return evaluate.MetricInfo(
            description="sacreBLEU's corpus BLEU.",
            citation="",
            inputs_description="predictions: texts; references: a list of texts per example.",
            features=datasets.Features({"predictions": text, "references": datasets.Sequence(text)}),
        )

    def _compute(self, predictions: list[str], references: list[list[str]]) -> dict[str, float]:
        streams = [list(stream) for stream in zip_longest(*references)]
        return {"bleu": float(BLEU().corpus_score(predictions, streams).score)}
