"""Simulated methods: which examples they get right over seeds, with a known difference, or none."""

from __future__ import annotations

import numpy as np

COMPARISONS = 2000


def within(rate: float, target: float, trials: int = COMPARISONS) -> bool:
    """Whether a simulated rate is its target but for sampling error: three standard errors."""
    return abs(rate - target) <= 3 * (target * (1 - target) / trials) ** 0.5


def right(rng: np.random.Generator, n: int, seeds: int, spread: float = 0.0, better: float = 0.0) -> list[np.ndarray]:
    """Two methods × seeds: (seeds, n) booleans each, which examples are answered right.

    An example is as hard for both, each method has its own strengths, each seed its own level (``spread``) and its
    own noise. ``better`` is added to the first method's level.
    """
    easy = rng.normal(1.0, 1.0, n)
    made = []
    for level in (better, 0.0):
        strengths = rng.normal(0, 0.7, n)
        seed_levels = rng.normal(0, spread, (seeds, 1)) if spread else np.zeros((seeds, 1))
        made.append(easy + strengths + level + seed_levels + rng.normal(0, 0.5, (seeds, n)) > 0)
    return made


def labelled(rng: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """References of two classes and two methods' predictions, each right four times in five, partly together."""
    references = rng.random(n) < 0.4
    hard = rng.random(n) < 0.2
    wrong = [np.where(rng.random(n) < 0.5, hard, rng.random(n) < 0.2) for _ in range(2)]
    return references.astype(int), (references ^ wrong[0]).astype(int), (references ^ wrong[1]).astype(int)


def numbers(rng: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Numeric references and two methods' predictions of equal correlation with them."""
    references = rng.normal(0, 1, n)
    shared = rng.normal(0, 0.5, n)
    first, second = (references + shared + rng.normal(0, 0.5, n) for _ in range(2))
    return references, first, second
