"""Holm's correction, and letters for what do not differ significantly."""

import itertools

import numpy as np
import pytest

from bench.analysis.multiple_testing import all_compared, holm, letters, levels
from tests.analysis.worlds import COMPARISONS, within


def test_holm_of_five_by_hand():
    """Sorted .001 .01 .02 .03 .5 times 5 4 3 2 1: .005 .04 .06 .06 .5, none below the one before."""
    assert holm([0.03, 0.001, 0.5, 0.02, 0.01]) == pytest.approx([0.06, 0.005, 0.5, 0.06, 0.04])
    assert holm([0.9, 0.6]) == [1.0, 1.0] and holm([]) == []
    assert levels([0.03, 0.001, 0.5]) == pytest.approx([0.05 / 2, 0.05 / 3, 0.05])


@pytest.mark.parametrize("ahead", [0.0, 6.0])
def test_the_family_is_wrong_at_most_one_time_in_twenty(ahead):
    """All 15 pairs of six methods, of which five are equal and the sixth is too, or far ahead."""
    from scipy.special import ndtr

    rng = np.random.default_rng(5)
    scores = rng.normal(0, 1, (COMPARISONS, 6))
    scores[:, 5] += ahead
    pairs = list(itertools.combinations(range(6), 2))
    p = 2 * ndtr(-np.abs(np.stack([scores[:, a] - scores[:, b] for a, b in pairs], axis=1)) / 2**0.5)
    equal = [index for index, (_, b) in enumerate(pairs) if b != 5 or not ahead]
    wrong = sum(any(holm(row)[index] <= 0.05 for index in equal) for row in p.tolist()) / COMPARISONS
    assert 0 < wrong and (wrong < 0.05 or within(wrong, 0.05)), wrong
    uncorrected = float((p[:, equal] <= 0.05).any(axis=1).mean())
    assert uncorrected > 0.2, "which is why it is corrected"


def test_letters_of_a_chain_overlap():
    """a over c and d, b over d: a b | b c | c d."""
    assert letters("abcd", {("a", "c"), ("d", "a"), ("b", "d")}) == {"a": "a", "b": "ab", "c": "bc", "d": "c"}
    assert letters("ab", set()) == {"a": "a", "b": "a"} and letters("ab", {("a", "b")}) == {"a": "a", "b": "b"}
    assert letters("", set()) == {}


def test_two_share_a_letter_exactly_when_they_were_not_told_apart():
    rng = np.random.default_rng(2)
    for _ in range(100):
        names = [f"m{index}" for index in range(int(rng.integers(2, 9)))]
        different = {pair for pair in itertools.combinations(names, 2) if rng.random() < 0.4}
        found = letters(names, different)
        for pair in itertools.combinations(names, 2):
            assert bool(set(found[pair[0]]) & set(found[pair[1]])) == (pair not in different)
        assert all(found.values())


def test_only_what_was_compared_with_all_others_has_letters():
    names = ["a", "b", "c", "d"]
    every = {(one, other) for one in names for other in names if one < other}
    assert all_compared(names, every) == names
    assert all_compared(names, {pair for pair in every if "c" not in pair}) == ["a", "b", "d"]
    assert all_compared(names, {("a", "b"), ("c", "d")}) == ["a", "b"], "the worse two are left out"
    assert all_compared(names, set()) == [] and all_compared(["a"], set()) == []


def test_forty_methods_are_lettered_quickly():
    names = [f"m{index}" for index in range(40)]
    different = {(names[a], names[b]) for a, b in itertools.combinations(range(40), 2) if b - a > 4}
    assert letters(names, different)["m0"] == "a" and len(letters(names, different)["m20"]) == 5
