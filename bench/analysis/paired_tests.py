"""Two methods compared on the same examples, and over the same seeds where there are several.

- One seed, accuracy or another score of right and wrong: McNemar's exact test, on the examples where exactly one of
  the two is right. Exact means conservative: with few such examples it errs well below alpha (3 % at 5 % with some 70
  of them).
- One seed, another mean over examples (ROUGE-L): Student's paired t over the examples.
- One seed, a score of all examples together: the paired bootstrap. Both scores are computed on the same resamples, and
  the standard deviation of their difference gives Student's t with n - 1 degrees of freedom. (The share of resamples
  beyond zero, the percentile form, cannot be smaller than 1 in 1,000: too coarse to correct for many comparisons.)
  Spearman's resampled ranks have ties, which makes it conservative on fewer than a few hundred examples.
- Several seeds: the mean difference against both the variance over seeds and the variance over the shared examples
  (``estimate.difference``). Only seeds that both methods have are used, so that both saw the same batches. McNemar
  over pooled seeds would count every example k times and take no notice of seeds; a bootstrap that also resamples
  k seeds understates their variance by (k - 1)/k, a third with three.

What a significant difference says: with several seeds, that the method is better (with other seeds, on other examples
of this kind); with one, only that this trained model is.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import bdtr, ndtri

from bench.analysis.samples import Sample
from bench.analysis.variance import Array, Estimate, difference

MCNEMAR = "exact McNemar"
BOOTSTRAP = "paired bootstrap"
PAIRED = "paired t over examples"
SEEDS = "t over seeds and examples"


@dataclass(frozen=True)
class Comparison:
    """The difference of two methods, first minus second, in the score's own unit.

    Attributes:
        difference: of the means over the seeds that both have.
        low, high: ends of its (1 - alpha) interval, not corrected for other comparisons.
        p_value: two-sided, not corrected.
        test: MCNEMAR, PAIRED, BOOTSTRAP or SEEDS.
        seeds: how many both have.
        estimate: the variances that it rests on.
    """

    difference: float
    low: float
    high: float
    p_value: float
    test: str
    seeds: int
    estimate: Estimate


def compare(first: Sequence[Sample], second: Sequence[Sample], alpha: float = 0.05) -> Comparison:
    """Compare two methods by their samples, one per seed, the same seeds in the same order.

    Raises:
        ValueError: for unlike numbers of seeds or examples, or none.
    """
    k = len(first)
    if k != len(second) or not first:
        raise ValueError(f"{k} and {len(second)} seeds cannot be paired")
    n, shape = first[0].examples, first[0].errors.shape
    if any(run.examples != n or run.errors.shape != shape for run in (*first, *second)):
        raise ValueError("runs scored on unlike examples cannot be paired")
    found = difference(arrays(first), arrays(second), n)
    one, other = first[0].correct, second[0].correct
    if k == 1 and one is not None and other is not None:
        wins, losses = int((one & ~other).sum()), int((~one & other).sum())
        low, high = mcnemar_interval(wins, losses, n, alpha)
        return Comparison(found.mean, low, high, mcnemar(wins, losses), MCNEMAR, k, found)
    half = found.half(alpha)
    test = SEEDS if k > 1 else BOOTSTRAP if first[0].resampled else PAIRED
    return Comparison(found.mean, found.mean - half, found.mean + half, found.p_value(), test, k, found)


def arrays(runs: Sequence[Sample]) -> tuple[Array, Array]:
    """The scores (k,) and error vectors (k, m) of k runs."""
    return np.array([run.value for run in runs]), np.stack([run.errors for run in runs])


def mcnemar(wins: int, losses: int) -> float:
    """Exact two-sided p-value that an example which only one of two gets right goes to either with equal chance.

    Args:
        wins, losses: examples that only the first, only the second gets right (McNemar 1947).
    """
    return min(1.0, 2 * float(bdtr(min(wins, losses), wins + losses, 0.5)))


def mcnemar_interval(wins: int, losses: int, examples: int, alpha: float = 0.05) -> tuple[float, float]:
    """Interval of the difference of two accuracies on the same n examples (Bonett & Price 2012, equation 2).

    Wald's with one example added to each kind of disagreement, so that it has a width also where the two never
    disagree. It and the exact test can differ at the border, as they do not condition on the same things.
    """
    p, q = (wins + 1) / (examples + 2), (losses + 1) / (examples + 2)
    half = -float(ndtri(alpha / 2)) * math.sqrt((p + q - (p - q) ** 2) / (examples + 2))
    return max(-1.0, p - q - half), min(1.0, p - q + half)
