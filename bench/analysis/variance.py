"""A mean over seeds whose uncertainty has two sources: the seeds that were run, and the examples that were scored.

Model: seed s of a method scores mu + a_s + e + r_s on a sample of n examples, with e common to all of its seeds (they
see the same examples), a_s the seed's own effect and r_s what the choice of examples does to one seed alone. Then

    Var(mean over k seeds) = Var(a + r) / k + Var(e)

The first is the variance of the k values, with k - 1 degrees of freedom, and at least Var(r), which the samples' error
vectors tell: two seeds that happen to score alike do not show that seeds are alike. The second is the covariance of two
seeds over examples, from the same vectors, with n - 1. For the difference of two methods, seeds are independent
draws for each (their variances add) and examples are shared (e is the difference of the two methods' e, in which what
makes an example easy or hard for both cancels). This is Obuchowski & Rockette's (1995) model of several readers who
read the same cases, with seeds for readers; degrees of freedom are Welch's and Satterthwaite's (1946), as Hillis (2007)
has them there.

False positives at 5 %, in simulations (tests/analysis): 4 to 5 % with 3 or more seeds and methods that vary alike
over seeds, 2 to 5 % with two. The approximation errs when few seeds meet a spread over seeds that is both much larger
than the examples' error and much larger for one method than the other: then up to 8 % with 3 seeds, 12 % with 2, 6 %
with 5.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtr, stdtrit

Array = NDArray[Any]


@dataclass(frozen=True)
class Seeds:
    """How a method varies over seeds.

    Attributes:
        variance: of one seed's score around the method's mean, on these examples: Var(a + r).
        count: seeds.
        own: Var(r), the part of the variance that more examples would shrink.
    """

    variance: float
    count: int
    own: float = 0.0


@dataclass(frozen=True)
class Estimate:
    """A mean and what it rests on.

    Attributes:
        mean: of the scores over seeds, or of the difference of two methods.
        seeds: one entry for a score, two for a difference; none for a single seed, when how much seeds vary was not
            measured and nothing here includes it.
        example_variance: of what all seeds share when examples are sampled anew, Var(e); for a single seed Var(e + r).
        examples: n.
    """

    mean: float
    seeds: tuple[Seeds, ...]
    example_variance: float
    examples: int

    @property
    def stderr(self) -> float:
        """Standard error for new seeds (where several were run) and new examples."""
        return math.sqrt(self._over_seeds() + self.example_variance)

    @property
    def freedom(self) -> float:
        """Welch's and Satterthwaite's degrees of freedom of ``stderr``."""
        return self._freedom(self.example_variance)

    def half(self, alpha: float = 0.05) -> float:
        """Half the (1 - alpha) interval for new seeds and new examples; for a single seed: for new examples."""
        return -float(stdtrit(self.freedom, alpha / 2)) * self.stderr

    def half_over_seeds(self, alpha: float = 0.05) -> float | None:
        """Half Student's t interval over seeds: new seeds, these same examples. None for a single seed."""
        if not self.seeds:
            return None
        return -float(stdtrit(self._freedom(0.0), alpha / 2)) * math.sqrt(self._over_seeds())

    def p_value(self) -> float:
        """Two-sided p-value of the hypothesis that the mean is 0; 1 of a single example, which shows no spread."""
        if self.mean == 0 or self.examples < 2:
            return 1.0
        return 2 * float(stdtr(self.freedom, -abs(self.mean) / self.stderr)) if self.stderr else 0.0

    def _over_seeds(self) -> float:
        return sum(part.variance / part.count for part in self.seeds)

    def _freedom(self, example_variance: float) -> float:
        parts = [(part.variance / part.count, part.count - 1) for part in self.seeds]
        parts.append((example_variance, max(1, self.examples - 1)))
        below = sum(variance**2 / freedom for variance, freedom in parts)
        least = min(freedom for _, freedom in parts)
        return sum(variance for variance, _ in parts) ** 2 / below if below > 0 else least


def score(values: Array, errors: Array, examples: int) -> Estimate:
    """Estimate a method's score from k seeds that were scored on the same n examples.

    Args:
        values: (k,) one score per seed.
        errors: (k, m) their error vectors (``scores.Sample``); columns that are nan anywhere are left out.
        examples: n.
    """
    shared, own = _parts(errors)
    if len(values) == 1:
        return Estimate(float(values[0]), (), shared + own, examples)
    return Estimate(float(np.mean(values)), (_seeds(values, own),), shared, examples)


def difference(first: tuple[Array, Array], second: tuple[Array, Array], examples: int) -> Estimate:
    """Estimate the first method's score minus the second's, from the same k seeds of both.

    Args:
        first, second: (k,) scores and (k, m) error vectors of each method, in the same order of seeds.
        examples: n.
    """
    (one, one_errors), (other, other_errors) = first, second
    mean = float(np.mean(one) - np.mean(other))
    shared, own = _parts(one_errors - other_errors)
    if len(one) == 1:
        return Estimate(mean, (), shared + own, examples)
    seeds = tuple(_seeds(values, _parts(errors)[1]) for values, errors in (first, second))
    return Estimate(mean, seeds, shared, examples)


def from_stderrs(values: Sequence[float], stderrs: Sequence[float], examples: int) -> Estimate:
    """A method's score where each seed's standard error over examples is known, but not which examples went wrong.

    The examples' part is then the mean of the seeds' variances, its greatest possible value: the interval is at least
    as wide as the one that predictions give.
    """
    most = float(np.mean(np.square(stderrs)))
    seeds = (_seeds(np.asarray(values), 0.0),) if len(values) > 1 else ()
    return Estimate(float(np.mean(values)), seeds, most, examples)


def _seeds(values: Array, own: float) -> Seeds:
    variance = float(np.var(values, ddof=1))
    return Seeds(max(variance, own), len(values), own)


def _parts(errors: Array) -> tuple[float, float]:
    """Var(e) and Var(r) of k seeds: the mean covariance of two of them, and what each has beyond it."""
    defined = np.isfinite(errors).all(0)
    used = errors[:, defined] * math.sqrt(errors.shape[1] / max(1, int(defined.sum())))
    covariance = used @ used.T
    k = len(errors)
    each = float(np.trace(covariance)) / k
    shared = (float(covariance.sum()) - each * k) / (k * (k - 1)) if k > 1 else each
    shared = min(max(shared, 0.0), each)
    return shared, each - shared
