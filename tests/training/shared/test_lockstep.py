"""Runs in lockstep: one works at a time, equal questions get one answer, and each draws what it draws alone."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from bench.models.frozen_backbone import Feed, Reading
from bench.training.shared import openmp
from bench.training.shared.lockstep import Lockstep, Member

CPU = torch.device("cpu")


class Trunk(nn.Module):
    """A reader whose trunk doubles its input and counts how often it did."""

    steady, taps = True, "all"

    def __init__(self, passes: list[int]) -> None:
        super().__init__()
        self.backbone: nn.Module = nn.Identity()
        self.feed: Feed | None = None
        self.passes = passes

    def read(self, inputs: Any) -> Reading:
        self.passes.append(threading.get_ident())
        with torch.no_grad():
            return Reading(None, [inputs["x"] * 2], [])

    def forward(self, **inputs: Any) -> torch.Tensor:
        reading = self.read(inputs) if self.feed is None else self.feed(self, inputs)
        return reading.features[0]


def together(*acts: Callable[[Member, Trunk], None]) -> int:
    """Do acts, each with a reader that is fed; returns how often a trunk ran."""
    passes: list[int] = []

    def fed(act: Callable[[Member, Trunk], None], member: Member) -> None:
        reader = Trunk(passes)
        with member.feeding(nn.ModuleDict({"base": reader}), {"base": "one trunk"}):
            act(member, reader)
        assert reader.feed is None

    Lockstep([lambda member, act=act: fed(act, member) for act in acts], CPU).run()
    return len(passes)


def batches(*numbers: float) -> Callable[[Member, Trunk], None]:
    def act(_: Member, reader: Trunk) -> None:
        for number in numbers:
            x = torch.full((2, 3), number)
            assert torch.equal(reader(x=x, mask=None, deep=True), x * 2)

    return act


def test_equal_batches_are_read_once_and_others_by_each() -> None:
    assert together(batches(1, 2, 3), batches(1, 2, 3), batches(1, 2, 3)) == 3
    assert together(batches(1, 2, 3), batches(1, 9, 3), batches(1, 2, 3)) == 4
    assert together(batches(1, 2), batches(3, 4)) == 4


def test_who_ends_earlier_is_not_waited_for() -> None:
    assert together(batches(1), batches(1, 2, 3, 4), batches(1, 2)) == 4


@pytest.mark.parametrize(
    "other",
    [
        {"x": torch.ones(2, 3, dtype=torch.float64), "deep": True},
        {"x": torch.ones(2, 4), "deep": True},
        {"x": torch.ones(2, 3), "deep": False},
        {"x": torch.ones(2, 3), "deep": 1},
        {"x": torch.ones(2, 3), "deep": object()},
        {"x": torch.ones(2, 3)},
    ],
)
def test_inputs_that_differ_in_anything_are_not_shared(other: dict[str, Any]) -> None:
    def first(_: Member, reader: Trunk) -> None:
        reader(x=torch.ones(2, 3), deep=True)

    assert together(first, lambda _, reader: (reader(**other), None)[1]) == 2


def test_training_evaluation_and_autocast_never_share() -> None:
    def under(*modes: Any) -> Callable[[Member, Trunk], None]:
        def act(_: Member, reader: Trunk) -> None:
            for mode in modes:
                mode.__enter__()
            reader(x=torch.ones(2))
            for mode in reversed(modes):
                mode.__exit__(None, None, None)

        return act

    plain, again = under(), under()
    scoring = [under(torch.inference_mode()) for _ in range(2)]
    mixed = under(torch.autocast("cpu", dtype=torch.bfloat16))
    assert together(plain, again, *scoring, mixed, under(torch.no_grad())) == 4


def test_one_works_at_a_time_and_a_reading_is_let_go() -> None:
    working: list[int] = []
    alive: list[Any] = []

    def act(member: Member, reader: Trunk) -> None:
        for step in range(20):
            working.append(1)
            assert sum(working) == 1
            working.pop()
            answer = member.answer
            reader(x=torch.full((1,), float(step)))
            alive.append(answer)
        assert all(answer.reading is None for answer in alive[:-4]), "a reading outlived its batch"

    assert together(act, act, act) == 20


def test_each_draws_what_it_draws_alone() -> None:
    def drawing(seed: int, found: list[Any]) -> Callable[[Member, Trunk], None]:
        def act(_: Member, reader: Trunk) -> None:
            random.seed(seed)
            np.random.seed(seed)
            torch.manual_seed(seed)
            for step in range(4):
                found.append((random.random(), np.random.rand(), torch.rand(2).tolist()))
                reader(x=torch.full((1,), float(step)))

        return act

    alone: list[list[Any]] = [[], []]
    for seed in (0, 1):
        together(drawing(seed, alone[seed]))
    shared: list[list[Any]] = [[], []]
    together(*(drawing(seed, shared[seed]) for seed in (0, 1)))
    assert shared == alone and alone[0] != alone[1]


def test_an_act_that_fails_leaves_the_others_their_readings() -> None:
    """It fails while others wait for the reading that it was to make, and the error is told after all ended."""
    ended = []

    def broken(member: Member, reader: Trunk) -> None:
        reader(x=torch.ones(2))

        def no_memory(inputs: Any) -> Reading:
            raise MemoryError("full")

        reader.read = no_memory  # type: ignore[method-assign]
        reader(x=torch.zeros(2))

    def whole(member: Member, reader: Trunk) -> None:
        for value in (1.0, 0.0, 5.0):
            reader(x=torch.full((2,), value))
        ended.append((member.readings, member.passes))

    with pytest.raises(MemoryError, match="full"):
        together(broken, whole, whole)
    assert ended == [(3, 2), (3, 0)]


def test_gathering_waits_for_all_and_once_is_made_once() -> None:
    said: list[str] = []
    made: list[int] = []

    def act(name: str) -> Callable[[Member, Trunk], None]:
        def work(member: Member, _: Trunk) -> None:
            member.once("data", lambda: made.append(1))
            said.append(f"{name} before")
            member.gather()
            said.append(f"{name} after")

        return work

    together(act("a"), act("b"))
    assert said == ["a before", "b before", "a after", "b after"] and made == [1]


def test_modules_without_readers_or_unknown_ones_are_left_alone() -> None:
    def act(member: Member) -> None:
        reader = Trunk([])
        with member.feeding(nn.ModuleDict({"base": reader}), {"other": "trunk"}):
            assert reader.feed is None
        with member.feeding(nn.Linear(1, 1), {}):
            pass

    Lockstep([act], CPU).run()


@pytest.mark.parametrize("after", [0.0, 0.05])
def test_a_thread_that_rests_wakes_up_however_long_it_took(after: float) -> None:
    semaphore = threading.Semaphore(0)
    threading.Timer(after, semaphore.release).start()
    openmp.acquire(semaphore)
    assert not semaphore.acquire(blocking=False), "taken once"


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="cores cannot be chosen here")
def test_going_on_at_a_core_leaves_the_choice_of_cores_as_it_was() -> None:
    allowed = os.sched_getaffinity(0)
    for core in (None, *sorted(allowed), max(allowed) + 1):
        openmp.go_on_at(core)
        assert os.sched_getaffinity(0) == allowed
    assert openmp.core() in allowed


_DISMISSED = """
import os, torch, sklearn.metrics
from bench.training.shared import openmp
torch.set_num_threads(2)
torch.ones(1 << 20).add_(1)
team = len(os.listdir("/proc/self/task"))
openmp.dismiss_team()
print(team - len(os.listdir("/proc/self/task")))
"""


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="threads are counted in /proc")
def test_the_team_that_is_dismissed_is_torchs_also_beside_another_openmp() -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "2"}
    done = subprocess.run(
        [sys.executable, "-c", _DISMISSED], env=environment, capture_output=True, text=True, timeout=120, check=True
    )
    assert done.stdout.strip() == "1"
