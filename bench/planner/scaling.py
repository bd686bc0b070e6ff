"""How a step's memory grows with batch size and length: few traces give every other one.

Whatever a step allocates is either as large as the batch or independent of it, and grows with the length at most as
its square (attention). So sizes at one other batch size and two other lengths give the sizes at all, as long as the
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
        # One row is a special case in many kernels and masks; twice the batch is not.
        other = trace(2 * batch, length)
        if not base.like(other):
            return None
        slope = other.size - base.size
        if (slope % batch).any():
            return None
        found: list[tuple[int, Ints]] | None = []
        if longest != 0:
            found = _longer(trace, base, place, longest)
        if found is None:
            return None
        return cls(base, batch, length, base.size - slope, slope // batch, tuple(found))

    def trace(self, batch: int, length: int) -> Trace:
        """The trace at other sizes."""
        if length == self.length:
            return self.base.resized(self.fixed + self.per_row * batch)
        whole = self._at(length)
        # What is fixed at one length is fixed at all; what is mixed grows with the length as a whole.
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


def _longer(
    trace: Callable[[int, int], Trace], base: Trace, place: tuple[int, int], longest: int | None
) -> list[tuple[int, Ints]] | None:
    """Sizes at two other lengths, rather longer than shorter; None when the operations differ.

    They differ by multiples of 16, where there is room, so that kernels align their rows as at the base's length.
    """
    batch, length = place
    step = max(16, length // 64 * 16)
    down = length // 48 * 16 or max(1, (length - 1) // 2)
    ways = [(length + step, length + 2 * step), (length - down, length - 2 * down)]
    for chosen in ways:
        if min(chosen) < 1 or (longest is not None and max(chosen) > longest):
            continue
        try:
            found = [(there, trace(batch, there)) for there in chosen]
        except RequestError:  # virtual tokens take positions too
            continue
        if all(base.like(longer) for _, longer in found):
            return [(there, longer.size) for there, longer in found]
    return None


def largest(fits: Callable[[int], bool], start: int, limit: int) -> int:
    """The largest whole number up to ``limit`` that fits, where larger ones never do once one does not; 0 for none.

    Args:
        fits: the question.
        start: where to begin to look.
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
