"""Averages, ranks, fronts and PSCP."""

import itertools

import numpy as np
import pytest

from bench.analysis.across_tasks import Measures, front, overall, ranks
from bench.analysis.pscp import Weights, pscp


def test_ranks_share_ties_and_follow_the_direction():
    assert ranks({"a": 0.9, "b": 0.8, "c": 0.8, "d": 0.1}) == {"a": 1, "b": 2.5, "c": 2.5, "d": 4}
    assert ranks({"a": 3.0, "b": 2.0}, higher_is_better=False) == {"a": 2, "b": 1}


def test_overall_averages_what_all_tasks_have():
    scores = {
        "sst2": {"lora": (0.9, 0.03), "lst": (0.8, 0.03), "full": (0.95, 0.01)},
        "rte": {"lora": (0.6, 0.04), "lst": (0.7, None)},
    }
    made = overall(scores, {"sst2": True, "rte": True})
    assert [row.label for row in made] == ["lora", "lst"], "full lacks a task; equal ranks in the order of names"
    assert made[0].average == pytest.approx(0.75) and made[0].average_rank == 1.5
    assert made[0].half == pytest.approx(0.025) and made[1].half is None
    assert overall({}, {}) == []


def test_the_front_is_what_nothing_dominates():
    rng = np.random.default_rng(0)
    points = {f"m{i}": Measures(*map(float, rng.integers(0, 4, 4))) for i in range(30)}
    found = set(front(points))

    def as_good(a, b):
        return a.score >= b.score and a.memory <= b.memory and a.throughput >= b.throughput and (
            a.parameters <= b.parameters
        )  # fmt: skip

    beaten = {
        b for a, b in itertools.permutations(points, 2) if as_good(points[a], points[b]) and points[a] != points[b]
    }
    assert found == set(points) - beaten and 0 < len(found) < 30
    assert front({"a": Measures(0.9, None, 1.0, 1.0), "b": Measures(0.1, 1.0, 1.0, 1.0)}) == ["b"], "not measured"
    errors = {"a": Measures(0.2, 1.0, 1.0, 1.0), "b": Measures(0.1, 1.0, 1.0, 1.0)}
    assert front(errors, higher_is_better=False) == ["b"]


def test_pscp_by_hand():
    """LoRA on an 8 B model: 80.1 / (1 + 14,680,064/5e8) / (1 + 27.75/94) = 80.1 / 1.029360 / 1.295213 = 60.080."""
    assert pscp(80.1, 14_680_064, 0.0, 27.75e9) == pytest.approx(60.080, abs=1e-3)
    assert pscp(1.0, 5e8, 10e12, 94e9) == pytest.approx(1 / 8)
    assert pscp(1.0, 5e8, 10e12, 94e9, Weights(beta=2)) == pytest.approx(1 / 64)
    with pytest.raises(ValueError, match="negative score"):
        pscp(-0.1, 1, 1, 1)
    with pytest.raises(ValueError, match="less than the base"):
        pscp(0.1, 1, -11e12, 1)
