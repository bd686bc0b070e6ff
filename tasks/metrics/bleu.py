"""BLEU (Papineni et al. 2002) as sacreBLEU computes it (Post 2018, arXiv 1804.08771), up to 4-grams.

Its tokenizers: 13a; zh where references have Chinese characters; char where they have kana or another script that puts
no spaces between words.
"""

import re
from collections.abc import Sequence
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
        return {"bleu": float(BLEU(tokenize=tokenizer(references)).corpus_score(predictions, streams).score)}


def tokenizer(references: Sequence[Sequence[str]]) -> str:
    """The name of sacreBLEU's tokenizer for a corpus."""
    text = "".join(text for texts in references for text in texts)
    if re.search("[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff]", text):
        return "char"
    return "zh" if re.search("[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]", text) else "13a"
