"""How much a mean over few seeds may move by chance: moderated variances (Smyth 2004) and one-sided limits.

Two or three seeds of one configuration say little about its spread, but all configurations together say how much
spreads vary. Each variance is taken to be drawn from a scaled inverse chi-square; its parameters are fitted to all of
them (Smyth 2004, "Linear models and empirical Bayes methods", section 6.2), and each configuration's own variance is
drawn towards the common one as far as they agree.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class Spread(NamedTuple):
    """A standard deviation over seeds and the degrees of freedom it rests on (may be infinite)."""

    deviation: float
    freedom: float


def moderated(variances: Sequence[float], freedoms: Sequence[int]) -> list[Spread]:
    """Draw variances of several configurations towards each other.

    Args:
        variances: sample variances, each above 0.
        freedoms: their degrees of freedom (seeds − 1), each at least 1.

    Returns:
        A spread for each, in their order.

    Raises:
        ValueError: when a variance or a freedom is not above 0.
    """
    if any(not value > 0 for value in (*variances, *freedoms)):
        raise ValueError("variances and degrees of freedom must be above 0")
    prior, weight = _prior(np.asarray(variances), np.asarray(freedoms, dtype=np.float64))
    most = float(sum(freedoms))
    found = []
    for variance, freedom in zip(variances, freedoms, strict=True):
        if math.isinf(weight):
            found.append(Spread(math.sqrt(prior), most))
            continue
        mixed = (weight * prior + freedom * variance) / (weight + freedom)
        found.append(Spread(math.sqrt(mixed), min(weight + freedom, most)))
    return found


def _prior(variances: NDArray[np.float64], freedoms: NDArray[np.float64]) -> tuple[float, float]:
    """The common variance and how many degrees of freedom it is worth: from the moments of the log variances."""
    from scipy.special import digamma, polygamma

    if len(variances) < 2:
        return 1.0, 0.0
    logs = np.log(variances) - digamma(freedoms / 2) + np.log(freedoms / 2)
    excess = float(np.var(logs, ddof=1) - np.mean(polygamma(1, freedoms / 2)))
    if excess <= 0:  # they differ no more than samples of one variance do
        return float(np.average(variances, weights=freedoms)), math.inf
    weight = 2 * _inverse_trigamma(excess)
    return float(np.exp(np.mean(logs) + digamma(weight / 2) - np.log(weight / 2))), weight


def _inverse_trigamma(value: float) -> float:
    """The x with trigamma(x) = value, by Newton's method on 1 / trigamma (Smyth 2004, appendix)."""
    from scipy.special import polygamma

    x = 0.5 + 1 / value
    for _ in range(50):
        trigamma = float(polygamma(1, x))
        change = trigamma * (1 - trigamma / value) / float(polygamma(2, x))
        x += change
        if -change / x < 1e-8:
            break
    return x


def limit(spread: Spread, share: float, first: int, second: int) -> float:
    """How far the mean of ``second`` runs may fall below that of ``first`` runs with a chance of ``share``.

    Student's t for the difference of two means of one variance.
    """
    from scipy.stats import t

    return float(t.isf(share, spread.freedom)) * spread.deviation * math.sqrt(1 / first + 1 / second)
