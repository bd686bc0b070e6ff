"""The minimum detectable difference of a comparison, and the sample size needed to settle a tie.

All of it is planning from observed variances (normal approximation to the power of ``estimate``'s test), and as
uncertain as they are: with three seeds the spread over seeds may well be wrong by a factor of two. The number needed
"if the true difference is the observed one" is a forecast too: a tie's observed difference is mostly noise, so it is
given with the minimum detectable difference of the present design.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

from scipy.special import ndtri, stdtrit

from bench.analysis.variance import Estimate, Seeds

POWER = 0.8
_MOST_SEEDS = 1000
_MOST_TIMES = 1e6


@dataclass(frozen=True)
class Settling:
    """The sample size needed to detect the observed difference with a chance of ``power``.

    Attributes:
        detectable: the difference that the present seeds and examples show with that chance; None when nothing
            varied, so that there is nothing to plan from.
        seeds: seeds needed in all with the present examples; None when none of up to 1,000 suffices, or when seeds
            were not varied.
        examples: examples needed in all with the present seeds; None when no number suffices.
    """

    detectable: float | None
    seeds: int | None
    examples: int | None


def settling(found: Estimate, alpha: float = 0.05, power: float = POWER) -> Settling:
    """How many seeds, or examples, would show the observed difference at level alpha with the given power."""
    if found.stderr == 0:
        return Settling(None, None, None)
    return Settling(
        detectable(found, alpha, power),
        _seeds_needed(found, alpha, power),
        _examples_needed(found, alpha, power),
    )


def detectable(found: Estimate, alpha: float = 0.05, power: float = POWER) -> float:
    """The least difference that a comparison with these variances finds with the given chance."""
    return (float(ndtri(power)) - float(stdtrit(found.freedom, alpha / 2))) * found.stderr


def planned(found: Estimate, seeds: int | None = None, examples: int | None = None) -> Estimate:
    """The same comparison with another number of seeds or examples, its variances scaled as the model has them."""
    n = examples or found.examples
    share = found.examples / n
    parts = tuple(
        Seeds(part.variance - part.own * (1 - share), seeds or part.count, part.own * share) for part in found.seeds
    )
    return dataclasses.replace(found, seeds=parts, example_variance=found.example_variance * share, examples=n)


def _seeds_needed(found: Estimate, alpha: float, power: float) -> int | None:
    if not found.seeds:
        return None
    counts = range(2, _MOST_SEEDS + 1)
    return next((k for k in counts if detectable(planned(found, seeds=k), alpha, power) <= abs(found.mean)), None)


def _examples_needed(found: Estimate, alpha: float, power: float) -> int | None:
    def shows(n: int) -> bool:
        return detectable(planned(found, examples=n), alpha, power) <= abs(found.mean)

    low, high = 1, math.ceil(found.examples * _MOST_TIMES)
    if found.mean == 0 or not shows(high):
        return None
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if shows(middle) else (middle + 1, high)
    return low
