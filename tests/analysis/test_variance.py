"""Means over seeds: known numbers, scipy's answers, and the two sources of variance."""

import math

import numpy as np
import pytest
from scipy import stats

from bench.analysis import variance
from bench.analysis.samples import of_examples

FIVE = np.array([0.80, 0.82, 0.84, 0.81, 0.83])


def test_five_scores_give_students_interval():
    """Mean 0.82, standard deviation sqrt(0.001/4), t(4) = 2.776445: half = 2.776445 · 0.0158114 / sqrt 5."""
    found = variance.score(FIVE, np.zeros((5, 4)), 4)
    assert found.mean == pytest.approx(0.82) and found.seeds[0].variance == pytest.approx(0.00025)
    assert found.half_over_seeds() == pytest.approx(0.0196324, abs=1e-6)
    assert found.half() == pytest.approx(found.half_over_seeds()), "no variance over examples"
    low, high = stats.t.interval(0.95, 4, loc=FIVE.mean(), scale=stats.sem(FIVE))
    assert (found.mean - found.half(), found.mean + found.half()) == pytest.approx((low, high))


def test_one_seed_has_the_examples_standard_error_alone():
    """Three of five right: p = 0.6, sample variance 0.3, standard error sqrt(0.3 / 5), t(4)."""
    sample = of_examples(np.array([True, True, True, False, False]))
    found = variance.score(np.array([sample.value]), sample.errors[None], 5)
    assert found.mean == 0.6 and found.seeds == () and found.half_over_seeds() is None
    assert found.stderr == pytest.approx(math.sqrt(0.3 / 5))
    assert found.half() == pytest.approx(2.776445 * math.sqrt(0.06), abs=1e-6)


def test_two_seeds_on_four_examples_by_hand():
    """Seeds right on 1,1,1,0 and 1,1,0,0. Scores 3/4 and 1/2: variance 1/32. Per-example sample covariance of the two:
    sum of (¼,¼,¼,-¾)·(½,½,-½,-½) = ½, over 3 and n = 4: 1/24. Own variances 3/4 / 12 and 1 / 12: mean 7/96."""
    runs = [of_examples(np.array(row, dtype=bool)) for row in ([1, 1, 1, 0], [1, 1, 0, 0])]
    found = variance.score(np.array([run.value for run in runs]), np.stack([run.errors for run in runs]), 4)
    assert found.mean == 0.625
    assert found.seeds[0].variance == pytest.approx(1 / 32)
    assert found.example_variance == pytest.approx(1 / 24)
    assert found.seeds[0].own == pytest.approx(min(1 / 32, 7 / 96 - 1 / 24))
    assert found.stderr == pytest.approx(math.sqrt(1 / 64 + 1 / 24))
    freedom = (1 / 64 + 1 / 24) ** 2 / ((1 / 64) ** 2 / 1 + (1 / 24) ** 2 / 3)
    assert found.freedom == pytest.approx(freedom)
    assert found.half(0.1) == pytest.approx(stats.t.ppf(0.95, freedom) * found.stderr)


def test_without_variance_over_examples_a_difference_is_welchs_test():
    other = np.array([0.79, 0.83, 0.75, 0.80, 0.72])
    nothing = np.zeros((5, 3))
    found = variance.difference((FIVE, nothing), (other, nothing), 3)
    welch = stats.ttest_ind(FIVE, other, equal_var=False)
    assert found.p_value() == pytest.approx(welch.pvalue)
    assert found.freedom == pytest.approx(welch.df)
    interval = welch.confidence_interval(0.95)
    assert (found.mean - found.half(), found.mean + found.half()) == pytest.approx((interval.low, interval.high))


def test_one_seed_each_is_the_paired_t_test_over_examples():
    rng = np.random.default_rng(0)
    one, other = rng.normal(0.5, 1, 40), rng.normal(0.2, 1, 40)
    first, second = of_examples(one), of_examples(other)
    found = variance.difference(
        (np.array([first.value]), first.errors[None]), (np.array([second.value]), second.errors[None]), 40
    )
    assert found.p_value() == pytest.approx(stats.ttest_rel(one, other).pvalue)


def test_resamples_without_a_score_are_left_out():
    errors = np.array([[0.1, np.nan, -0.1, 0.0], [0.1, 0.2, -0.1, np.nan]])
    found = variance.score(np.array([0.5, 0.5]), errors, 10)
    assert found.example_variance == pytest.approx(0.02 * 4 / 2)


def test_known_standard_errors_alone_give_an_interval_at_least_as_wide():
    rng = np.random.default_rng(1)
    rows = [of_examples(rng.random(200) < 0.8) for _ in range(3)]
    values = np.array([row.value for row in rows])
    exact = variance.score(values, np.stack([row.errors for row in rows]), 200)
    cautious = variance.from_stderrs(values.tolist(), [math.sqrt(row.errors @ row.errors) for row in rows], 200)
    assert cautious.mean == exact.mean and cautious.stderr >= exact.stderr


def test_equal_scores_have_p_one_and_a_sure_difference_has_p_zero():
    nothing = np.zeros((1, 3))
    assert variance.difference((FIVE[:1], nothing), (FIVE[:1], nothing), 3).p_value() == 1
    assert variance.difference((FIVE[:1], nothing), (FIVE[1:2], nothing), 3).p_value() == 0
