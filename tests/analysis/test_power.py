"""What would settle a tie: the model's scaling, by hand and by trying."""

import pytest
from scipy import stats

from bench.analysis.power import detectable, planned, settling
from bench.analysis.variance import Estimate, Seeds

# Spread over seeds 1 point, of which a third is the examples'; examples' own error half a point.
TIE = Estimate(0.009, (Seeds(1e-4, 3, 3e-5), Seeds(1e-4, 3, 3e-5)), 2.5e-5, 1000)


def test_the_detectable_difference_by_hand():
    """One seed, standard error 0.01, 1000 examples: (0.841621 + t(999)) · 0.01 = 0.0280396."""
    assert detectable(Estimate(0.0, (), 1e-4, 1000)) == pytest.approx((0.8416212 + stats.t.ppf(0.975, 999)) * 0.01)


def test_more_seeds_and_more_examples_shrink_their_own_part():
    seeds = planned(TIE, seeds=12)
    assert seeds.stderr**2 == pytest.approx(2e-4 / 12 + 2.5e-5)
    examples = planned(TIE, examples=4000)
    assert examples.stderr**2 == pytest.approx(2 * (7e-5 + 3e-5 / 4) / 3 + 2.5e-5 / 4)


def test_the_number_needed_is_the_least_that_does():
    found = settling(TIE)
    wide = Estimate(0.02, TIE.seeds, TIE.example_variance, TIE.examples)
    assert found.detectable > 0.009 and found.seeds is None, "examples alone leave ± 0.5: no number of seeds does"
    needed = settling(wide).seeds
    assert detectable(planned(wide, seeds=needed)) <= 0.02 < detectable(planned(wide, seeds=needed - 1))
    assert found.examples is None, "seeds alone leave more than that"
    steady = Estimate(0.009, (), 1e-4, 1000)
    n = settling(steady).examples
    assert detectable(planned(steady, examples=n)) <= 0.009 < detectable(planned(steady, examples=n - 1))
    assert settling(steady).seeds is None, "seeds were not varied"


def test_nothing_settles_equal_scores():
    found = settling(Estimate(0.0, (), 1e-4, 1000))
    assert found.examples is None and found.detectable == pytest.approx(0.028, abs=1e-3)
    nothing = settling(Estimate(0.0, (), 0.0, 1000))
    assert (nothing.detectable, nothing.seeds, nothing.examples) == (None, None, None)
