"""Two methods compared: known numbers, and how often simulated pairs are called different."""

from itertools import combinations

import numpy as np
import pytest
from scipy import stats

from bench.analysis.multiple_testing import holm
from bench.analysis.paired_tests import BOOTSTRAP, MCNEMAR, SEEDS, compare, mcnemar, mcnemar_interval
from bench.analysis.power import detectable
from bench.analysis.samples import of_examples, sample
from tests.analysis.worlds import COMPARISONS, labelled, numbers, right, within


def test_mcnemar_of_seven_that_differ_by_hand():
    """One against six: 2 · (1 + 7) / 2⁷ = 0.125."""
    assert mcnemar(1, 6) == mcnemar(6, 1) == pytest.approx(0.125)
    assert mcnemar(0, 0) == mcnemar(3, 3) == 1
    for wins, losses in ((0, 5), (12, 30), (700, 640)):
        assert mcnemar(wins, losses) == pytest.approx(stats.binomtest(wins, wins + losses).pvalue)


def test_mcnemars_interval_by_hand():
    """9 and 2 of 98: p = 0.10, q = 0.03, 0.07 ± 1.959964 sqrt((0.13 - 0.0049) / 100)."""
    assert mcnemar_interval(9, 2, 98) == pytest.approx((0.07 - 0.0693233, 0.07 + 0.0693233), abs=1e-6)
    low, high = mcnemar_interval(0, 0, 98)
    assert -low == high > 0, "no disagreement among 98 does not mean none anywhere"


def test_an_accuracy_of_one_seed_is_mcnemars():
    ours = np.array([True] * 90 + [False] * 10)
    theirs = np.array([True] * 80 + [False] * 20)
    found = compare([of_examples(ours)], [of_examples(theirs)])
    assert (found.test, found.seeds, found.difference) == (MCNEMAR, 1, pytest.approx(0.10))
    assert found.p_value == mcnemar(10, 0)


def test_swapping_the_two_turns_the_sign_alone():
    rng = np.random.default_rng(0)
    first, second = ([of_examples(row) for row in rows] for rows in right(rng, 100, 3, 0.1))
    one, other = compare(first, second), compare(second, first)
    assert one.difference == pytest.approx(-other.difference) and one.low == pytest.approx(-other.high)
    assert one.p_value == pytest.approx(other.p_value) and one.test == SEEDS


def test_unlike_seeds_or_examples_are_refused():
    short, long = of_examples(np.array([True, False])), of_examples(np.array([True, False, True]))
    with pytest.raises(ValueError, match="1 and 2 seeds"):
        compare([short], [short, short])
    with pytest.raises(ValueError, match="unlike examples"):
        compare([short], [long])


def rejected(seeds: int, n: int, spread: float, better: float = 0.0, seed: int = 0) -> float:
    """Share of simulated comparisons called different at 5 %."""
    rng = np.random.default_rng([seed, seeds, n])
    called = 0
    for _ in range(COMPARISONS):
        first, second = ([of_examples(row) for row in rows] for rows in right(rng, n, seeds, spread, better))
        called += compare(first, second).p_value < 0.05
    return called / COMPARISONS


def test_false_positives_of_mcnemar_are_at_most_five_percent():
    """Exact, so conservative: about 3 to 4 % with some 130 examples on which the two differ."""
    rate = rejected(1, 400, 0.0)
    assert 0.02 < rate and (rate < 0.05 or within(rate, 0.05)), rate


@pytest.mark.parametrize("seeds", [3, 5])
@pytest.mark.parametrize("spread", [0.0, 0.1, 0.3])
def test_false_positives_over_seeds_are_five_percent(seeds, spread):
    """With no spread over seeds, a spread like the examples' error, and one far beyond it."""
    rate = rejected(seeds, 150, spread)
    assert within(rate, 0.05), rate


def test_false_positives_with_two_seeds_are_at_most_five_percent():
    rates = [rejected(2, 150, spread) for spread in (0.0, 0.1, 0.3)]
    assert all(0.01 < rate and (rate < 0.05 or within(rate, 0.05)) for rate in rates), rates


@pytest.mark.parametrize("seeds", [2, 3])
def test_among_many_equal_methods_hardly_ever_one_differs(seeds):
    """Holm's correction reads the tail: two seeds that score alike by chance must not make a p-value of almost nothing
    (without the floor under the variance over seeds, 22 % of such families of ten have a pair that differs)."""
    rng, families, called = np.random.default_rng(1), 100, 0
    for _ in range(families):
        easy = rng.beta(2, 0.5, size=100)
        methods = [[of_examples(rng.random(100) < easy) for _ in range(seeds)] for _ in range(10)]
        called += min(holm([compare(*pair).p_value for pair in combinations(methods, 2)])) <= 0.05
    assert called / families <= 0.05, called


def test_one_example_shows_no_difference():
    right, wrong = of_examples(np.array([True])), of_examples(np.array([False]))
    assert compare([right], [wrong]).p_value == compare([right, right], [wrong, wrong]).p_value == 1


def test_one_seed_says_nothing_about_methods_whose_seeds_vary():
    """Why one seed's verdict is on the trained models: equal methods are called different far too often."""
    assert rejected(1, 400, 0.3) > 0.2


@pytest.mark.parametrize(("score", "make", "n"), [
    ("matthews_correlation", labelled, 150), ("pearson", numbers, 150),
])  # fmt: skip
def test_false_positives_of_the_paired_bootstrap_are_five_percent(score, make, n):
    rng = np.random.default_rng(7)
    called = 0
    for _ in range(COMPARISONS):
        references, *both = make(rng, n)
        first, second = (sample(score, given, references) for given in both)
        found = compare([first], [second])
        called += found.p_value < 0.05
    assert found.test == BOOTSTRAP
    assert within(called / COMPARISONS, 0.05), called / COMPARISONS


def test_false_positives_of_spearman_on_few_examples_are_fewer_than_five_percent():
    """Resampled ranks have ties, which widen the bootstrap of 50 examples by a fifth in variance (of 1,000, 1 %)."""
    rng = np.random.default_rng(7)
    called = 0
    for _ in range(400):
        references, *both = numbers(rng, 50)
        first, second = (sample("spearmanr", given, references) for given in both)
        called += compare([first], [second]).p_value < 0.05
    assert called / 400 <= 0.05


@pytest.mark.parametrize(("seeds", "better"), [(1, 0.355), (3, 0.37)])
def test_a_known_difference_is_found_as_often_as_the_plan_says(seeds, better):
    """Differences of 7.2 points (one seed) and 7.5 (three), which the plan says 300 examples show four times in five,
    are found in 77 % and 72 % of 2,000 comparisons."""
    rng = np.random.default_rng(3)
    spread, n, called, planned, seen = 0.1 if seeds > 1 else 0.0, 300, 0, [], []
    for _ in range(COMPARISONS):
        first, second = ([of_examples(row) for row in rows] for rows in right(rng, n, seeds, spread, better))
        found = compare(first, second)
        called += found.p_value < 0.05
        planned.append(detectable(found.estimate))
        seen.append(found.difference)
    assert np.mean(seen) == pytest.approx(np.median(planned), rel=0.08), "the simulated difference is the planned one"
    assert 0.70 < called / COMPARISONS < 0.86
