"""How fast something grows: the exponent of a power law through measured points."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence


def exponent(sizes: Sequence[float], values: Sequence[float]) -> tuple[float, float]:
    """b of value = a · size^b by least squares of the logarithms, and its standard error (nan for two points)."""
    xs, ys = [math.log(size) for size in sizes], [math.log(value) for value in values]
    slope, intercept = statistics.linear_regression(xs, ys)
    if len(xs) < 3:
        return slope, math.nan
    rest = sum((y - intercept - slope * x) ** 2 for x, y in zip(xs, ys, strict=True))
    spread = sum((x - statistics.fmean(xs)) ** 2 for x in xs)
    return slope, math.sqrt(rest / (len(xs) - 2) / spread)
