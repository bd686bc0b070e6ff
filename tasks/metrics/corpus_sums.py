"""Scores of a corpus that follow from sums over its examples, so that a resample costs one matrix product."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

_ORDERS = 4  # BLEU counts n-grams of 1 to 4 words


def statistics(name: str, predictions: Sequence[Any], references: Sequence[Any]) -> Array:
    """What is summed over the examples of a resample: (n, k) numbers.

    f1_a: rightly chosen, chosen, right. perplexity: negative log-likelihood, tokens. bleu: matching n-grams of each
    order, n-grams of each order, words, words of the nearest reference.
    """
    if name == "perplexity":
        return np.stack([np.asarray(predictions, np.float64), np.asarray(references, np.float64)], axis=1)
    pairs = zip(predictions, references, strict=True)
    if name == "f1_a":
        from bench.tasks.metrics.pooled_f1 import counts

        return np.asarray([counts(*pair) for pair in pairs], np.float64)
    from sacrebleu.metrics.bleu import BLEU

    from bench.tasks.metrics.bleu import tokenizer

    bleu = BLEU(
        effective_order=True, tokenize=tokenizer(references)
    )  # changes a sentence's score, not its counts; without it sacrebleu warns
    found = [bleu.sentence_score(*pair) for pair in pairs]
    return np.asarray([[*one.counts, *one.totals, one.sys_len, one.ref_len] for one in found], np.float64)


def pooled_f1(sums: Array) -> Array:
    """F1a of sums (b, 3): (b,), 0 where nothing is chosen or right."""
    below = sums[:, 1] + sums[:, 2]
    found: Array = np.divide(2 * sums[:, 0], below, out=np.zeros(len(sums)), where=below > 0)
    return found


def perplexity(sums: Array) -> Array:
    """exp of the mean negative log-likelihood, of sums (b, 2): (b,), nan without a token."""
    with np.errstate(over="ignore"):
        mean = np.divide(sums[:, 0], sums[:, 1], out=np.full(len(sums), np.nan), where=sums[:, 1] > 0)
        found: Array = np.exp(mean)
    return found


def bleu(sums: Array) -> Array:
    """BLEU of sums (b, 10): (b,), 0 to 100; sacreBLEU's, orders without a match smoothed exponentially."""
    correct, total = sums[:, :_ORDERS], sums[:, _ORDERS : 2 * _ORDERS]
    length, wanted = sums[:, -2], sums[:, -1]
    smooth = 2.0 ** np.cumsum((correct == 0) & (total > 0), axis=1)
    matches = np.where(correct == 0, 1 / smooth, correct)
    defined = (total > 0).all(1) & (correct > 0).any(1)
    precision = np.where(total > 0, matches / np.maximum(total, 1), 1.0)
    brevity = np.minimum(0.0, 1 - wanted / np.maximum(length, 1))
    found: Array = np.where(defined, 100 * np.exp(brevity + np.log(precision).mean(1)), 0.0)
    return found


OF_SUMS: dict[str, Callable[[Array], Array]] = {"f1_a": pooled_f1, "perplexity": perplexity, "bleu": bleu}
