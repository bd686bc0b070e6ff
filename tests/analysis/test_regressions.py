"""Real training: a broken LoRA, doubled memory and a step twice as slow are caught; honest repeats are not."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from bench.analysis import baseline, regression_check
from tests.analysis import regressions
from tests.tiny import Place, place


@pytest.fixture(scope="module")
def where(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    with place(tmp_path_factory.mktemp("gate")) as made:
        yield made


@pytest.fixture(scope="module")
def known(where: Place) -> dict[str, Any]:
    return baseline.make(regressions.train(where))


def failures(known: dict[str, Any], records: list[dict[str, Any]]) -> set[str]:
    return {finding.measure for finding in regression_check.check(regressions.only(known, "lora"), records).failures}


def test_a_dropped_scale_is_caught_by_the_scores(where: Place, known: dict[str, Any]) -> None:
    with regressions.scale_dropped():
        broken = regressions.train(where, ("lora",))
    assert all(record["checks"]["merged equals unmerged"] == "pass" for record in broken), "no check sees it"
    assert "accuracy" in failures(known, broken)


def test_doubled_memory_is_caught(where: Place, known: dict[str, Any]) -> None:
    (lora,) = regressions.only(known, "lora")["runs"]
    with regressions.twice_the_memory(lora["bytes"]["train_peak_bytes"][0]):
        assert "train_peak_bytes" in failures(known, regressions.train(where, ("lora",), seeds=(0,)))


def test_a_step_twice_as_slow_is_caught(where: Place, known: dict[str, Any]) -> None:
    with regressions.twice_as_slow():
        assert "speed" in failures(known, regressions.train(where, ("lora",), seeds=(0, 1, 2)))


def test_the_same_seed_again_and_other_seeds_raise_no_alarm(where: Place, known: dict[str, Any]) -> None:
    again = regression_check.check(
        regressions.only(known, "lora"), regressions.train(where, ("lora",), seeds=(5, 6, 7, 8, 9))
    )
    assert again.failures == []
    repeated = {
        finding.measure: finding.said
        for finding in regression_check.check(known, regressions.train(where, ("pfeiffer",), seeds=(0,))).findings
        if finding.label == "pfeiffer"
    }
    assert "exact" in repeated["train_peak_bytes"] and "→" not in repeated["train_peak_bytes"]
