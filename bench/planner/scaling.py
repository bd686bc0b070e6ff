"""How a step's memory grows with batch size and length, from a few traces.

Every allocation of a step is either proportional to the batch or independent of it, and grows at most with the square
of the length (attention). So sizes at one other batch size and two other lengths determine all sizes, as long as the
step does the same operations in the same order, which is checked.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from bench.core.errors import RequestError
from bench.planner.allocation_trace import Ints, Trace


@dataclass(frozen=True)
class ScalingModel:
    """Traces by batch size and length.

    Attributes:
        base: a trace at ``batch`` rows of ``length`` tokens.
        fixed, per_row: its sizes as fixed + per_row · batch.
        at: two other lengths with the sizes there, at ``batch`` rows; empty where the length is fixed.
    """

    base: Trace
    batch: int
    length: int
    fixed: Ints
    per_row: Ints
    at: tuple[tuple[int, Ints], ...]

    @classmethod
    def measure(
        cls, trace: Callable[[int, int], Trace], base: Trace, place: tuple[int, int], longest: int | None
    ) -> ScalingModel | None:
        """Trace around ``place`` (batch size, length); None when the operations depend on the sizes.

        Args:
            trace: makes a trace for a batch size and a length.
            base: the trace at ``place``.
            longest: the longest length that the model takes; 0 where it cannot vary.
        """
        batch, length = place
        # Twice the batch, since one row is a special case in many kernels and masks.
        other = trace(2 * batch, length)
        if not base.like(other):
            return None
        slope = other.size - base.size
        if (slope % batch).any():
            return None
        at = _other_lengths(trace, base, place, longest) if longest != 0 else []
        if at is None:
            return None
        return cls(base, batch, length, base.size - slope, slope // batch, tuple(at))

    def trace(self, batch: int, length: int) -> Trace:
        """The trace at other sizes."""
        if length == self.length:
            return self.base.resized(self.fixed + self.per_row * batch)
        whole = self._at(length)
        # Fixed at one length means fixed at all; a mixed size scales with the length as a whole.
        share = np.divide(self.fixed, self.base.size, out=np.zeros(len(self.fixed)), where=self.base.size > 0)
        fixed = np.rint(whole * share).astype(np.int64)
        return self.base.resized(fixed + (whole - fixed) * batch // self.batch)

    def _at(self, length: int) -> Ints:
        """Sizes at the base's batch and a length: the parabola through three lengths, exact in 64-bit floats."""
        places = [(self.length, self.base.size), *self.at]
        total = np.zeros(len(self.base.size))
        for index, (mine, sizes) in enumerate(places):
            weight = 1.0
            for other, _ in places[:index] + places[index + 1 :]:
                weight *= (length - other) / (mine - other)
            total += weight * sizes
        return np.maximum(np.rint(total).astype(np.int64), 0)


def _other_lengths(
    trace: Callable[[int, int], Trace], base: Trace, place: tuple[int, int], longest: int | None
) -> list[tuple[int, Ints]] | None:
    """Sizes at two other lengths, longer ones if possible; None when the operations differ.

    Lengths differ by multiples of 16 where possible, so that kernels align rows as at the base's length.
    """
    batch, length = place
    step = max(16, length // 64 * 16)
    down = length // 48 * 16 or max(1, (length - 1) // 2)
    for chosen in ((length + step, length + 2 * step), (length - down, length - 2 * down)):
        if min(chosen) < 1 or (longest is not None and max(chosen) > longest):
            continue
        try:
            traces = [(other, trace(batch, other)) for other in chosen]
        except RequestError:  # virtual tokens take positions too
            continue
        if all(base.like(other) for _, other in traces):
            return [(tokens, other.size) for tokens, other in traces]
    return None


def largest(fits: Callable[[int], bool], start: int, limit: int) -> int:
    """The largest whole number up to ``limit`` that fits, by bisection; 0 for none.

    Args:
        fits: monotone: false for every number above one that does not fit.
        start: where the search begins.
        limit: the largest number to consider.
    """
    low, high = 0, min(start, limit)
    while high < limit and fits(high):
        low, high = high, min(2 * high, limit)
    if high == limit and fits(limit):
        return limit
    while high - low > 1:
        middle = (low + high) // 2
        if fits(middle):
            low = middle
        else:
            high = middle
    return low
