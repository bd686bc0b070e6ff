"""The reference work: fixed, cheap, timed between steps, and without a trace in what is trained."""

from __future__ import annotations

from pathlib import Path

import torch

from bench.training.reference_workload import TIMES, Reference
from tests.tiny import place


class Counter:
    """A clock that counts."""

    def __init__(self) -> None:
        self.started = self.stopped = 0

    def start(self) -> None:
        self.started += 1

    def stop(self) -> None:
        self.stopped += 1

    def seconds(self) -> list[float]:
        return [0.0] * self.stopped


def timed(steps: int) -> int:
    counter = Counter()
    reference = Reference(torch.device("cpu"), counter, steps)
    for step in range(1, steps + 1):
        reference.at(step)
    assert counter.started == counter.stopped
    return counter.stopped


def test_it_is_timed_as_often_in_a_short_run_as_in_a_long_one_but_no_more_than_four_times_a_step() -> None:
    assert timed(24) == timed(1000) == TIMES
    assert abs(timed(13) - TIMES) <= 5 and timed(7) == 28 and timed(1) == 4


def test_it_leaves_random_state_and_gradients_alone() -> None:
    torch.manual_seed(5)
    wanted = torch.rand(3)
    torch.manual_seed(5)
    reference = Reference(torch.device("cpu"), Counter(), 10)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        reference.at(10)
    assert torch.equal(torch.rand(3), wanted)
    assert all(weight.grad is None and weight.dtype == torch.float32 for weight in reference.weights)


def test_a_run_keeps_the_times_and_is_trained_as_without(tmp_path: Path) -> None:
    from unittest import mock

    with place(tmp_path) as where:
        record = where.run("lora", steps=30, sets=("lora.rank=2",))
        with mock.patch.object(Reference, "at", lambda self, step: None):
            without = where.run("lora", steps=30, sets=("lora.rank=2",))
    times = record["speed"]["reference_step_seconds"]
    assert TIMES * 0.8 <= len(times) <= TIMES * 1.2 and min(times) > 0
    assert without["speed"]["reference_step_seconds"] == []
    assert record["parameters"]["trained_sha256"] == without["parameters"]["trained_sha256"]
    assert record["memory"] == without["memory"]
