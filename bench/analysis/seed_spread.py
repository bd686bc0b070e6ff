"""How much a mean over few seeds may move by chance.

Three seeds of one configuration may agree by luck, and a limit made of their spread would then be far too tight; the
other configurations of the same task and model say what a usual spread is. Each is given the larger of its own
standard deviation and the common one (root mean variance), with one to three times its own degrees of freedom.

In simulations with normal scores whose standard deviations differ among configurations by a log-normal factor of
sigma 0, 0.5 or 1, checks of unchanged code at a stated 1 % failed in 0.0 to 1.2 % of the cases (1 to 20
configurations of 3 or 5 seeds; one of them: ``tests/analysis/test_seed_spread.py``). Moderated variances (Smyth 2004),
which draw each towards the common one, failed in up to 3.7 %: so few do not tell how much spreads differ.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

_MOST_TIMES = 3.0


class Spread(NamedTuple):
    """A standard deviation over seeds and the degrees of freedom it is taken to rest on."""

    deviation: float
    freedom: float


def spreads(variances: Sequence[float], freedoms: Sequence[int]) -> list[Spread]:
    """The spread of each of several configurations.

    Args:
        variances: sample variances over seeds.
        freedoms: their degrees of freedom (seeds − 1), each at least 1.
    """
    common = sum(v * f for v, f in zip(variances, freedoms, strict=True)) / sum(freedoms)
    # One configuration: its own degrees of freedom; five or more: three times as many.
    times = min(_MOST_TIMES, (len(variances) + 1) / 2)
    return [Spread(math.sqrt(max(v, common)), f * times) for v, f in zip(variances, freedoms, strict=True)]


def limit(spread: Spread, share: float, first: int, second: int) -> float:
    """How far the mean of ``second`` runs may fall below that of ``first`` runs with a chance of ``share``.

    Student's t for the difference of two means of one variance.
    """
    from scipy.stats import t

    return float(t.isf(share, spread.freedom)) * spread.deviation * math.sqrt(1 / first + 1 / second)
