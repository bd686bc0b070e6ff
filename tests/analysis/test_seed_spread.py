"""The limits of the gate: known numbers, and how often unchanged code would fail."""

from __future__ import annotations

import math

import numpy as np
import pytest

from bench.analysis.seed_spread import Spread, limit, spreads


def test_the_larger_of_own_and_common_spread() -> None:
    found = spreads([1.0, 4.0, 1.0], [2, 2, 2])
    assert [spread.deviation for spread in found] == pytest.approx([math.sqrt(2), 2.0, math.sqrt(2)])
    assert {spread.freedom for spread in found} == {4.0}, "three configurations: twice their own"
    assert spreads([9.0], [2]) == [Spread(3.0, 2.0)], "alone it has nothing to share"
    assert {spread.freedom for spread in spreads([1.0] * 9, [2] * 9)} == {6.0}


def test_the_limit_is_students() -> None:
    # t table: 95 % of Student's t with 4 degrees of freedom lies below 2.132
    assert limit(Spread(1.0, 4.0), 0.05, 2, 2) == pytest.approx(2.132, abs=5e-4)
    assert limit(Spread(3.0, 4.0), 0.05, 4, 12) == pytest.approx(3 * 2.132 * math.sqrt(1 / 3), abs=2e-3)


@pytest.mark.parametrize("unlike", [0.0, 0.7])
def test_unchanged_code_seldom_fails(unlike: float) -> None:
    generator = np.random.default_rng(3)
    configurations, seeds, rate, repeats = 7, 3, 0.02, 2000
    failed = 0
    for _ in range(repeats):
        deviations = np.exp(generator.normal(0, unlike, configurations))[:, None]
        before, after = generator.normal(0, 1, (2, configurations, seeds)) * deviations
        found = spreads(list(before.var(axis=1, ddof=1)), [seeds - 1] * configurations)
        limits = [limit(spread, rate / configurations, seeds, seeds) for spread in found]
        failed += bool((before.mean(axis=1) - after.mean(axis=1) > limits).any())
    assert failed / repeats < rate


def test_a_fall_of_five_spreads_is_caught_with_five_seeds() -> None:
    found = spreads([1.0] * 7, [4] * 7)[0]
    assert limit(found, 0.005 / 21, 5, 5) < 4
