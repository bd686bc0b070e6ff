"""Several runs in threads of one process, one at a time, with one pass of their frozen backbone per batch.

A run works alone until it requests a reading of the backbone, and then waits until every other active run requests one
too. Equal requests are answered by one reading. A run therefore needs no knowledge of the others: its training, dev and
validation batches are shared where they are equal, and read separately where they are not.
"""

from __future__ import annotations

import random
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from bench.models.frozen_backbone import Reading, Reads, readers
from bench.training.shared import openmp

_POLL_SECONDS = 0.5  # how long a signal may wait to be noticed


@dataclass(frozen=True)
class _Request:
    """A run's request for a reading or, without a backbone, to wait until all others wait too.

    Attributes:
        backbone: identifies the backbone and what is read of it: with equal ones, equal inputs give equal readings.
        modes: gradient, inference and autocast, which are a thread's own and show in the tensors of a reading.
        inputs: the backbone's arguments by name.
    """

    backbone: str | None = None
    modes: tuple[Any, ...] = ()
    inputs: Mapping[str, Any] | None = None

    def same(self, other: _Request) -> bool:
        """Whether one reading answers both."""
        if self.backbone is None or (self.backbone, self.modes) != (other.backbone, other.modes):
            return False
        mine, theirs = self.inputs or {}, other.inputs or {}
        if mine.keys() != theirs.keys():
            return False
        # Token numbers and masks are small and tell most batches apart; an encoder's states come last.
        names = sorted(mine, key=lambda name: mine[name].numel() if isinstance(mine[name], Tensor) else 0)
        return all(_equal(mine[name], theirs[name]) for name in names)


@dataclass
class _Answer:
    """The reading for equal requests: computed for the first run that takes it, dropped after the last."""

    takers: int = 0
    reading: Reading | None = None

    def take(self, reader: Reads, inputs: Mapping[str, Any]) -> tuple[Reading, bool]:
        """The reading, and whether it was computed now."""
        self.takers -= 1
        found, fresh = self.reading, self.reading is None
        if found is None:
            found = reader.read(inputs)
        self.reading = found if self.takers else None
        return found, fresh


class Member:
    """One of the runs: answers its readers and waits for its turn.

    Attributes:
        readings, passes: readings it took, and how many of them it computed.
    """

    def __init__(self, lockstep: Lockstep) -> None:
        self.lockstep = lockstep
        self.readings = self.passes = 0
        self.baton = threading.Semaphore(0)
        self.request: _Request | None = None
        self.answer = _Answer()
        self._names: dict[int, str] = {}

    def __call__(self, reader: Reads, inputs: Mapping[str, Any]) -> Reading:
        """The reading for ``inputs``, a ``bench.models.frozen_backbone.Feed``; other runs go on meanwhile."""
        modes = (torch.is_grad_enabled(), torch.is_inference_mode_enabled(), *_autocast(self.lockstep.device.type))
        self._wait(_Request(self._names[id(reader)], modes, inputs))
        reading, fresh = self.answer.take(reader, inputs)
        self.readings += 1
        self.passes += fresh
        return reading

    def gather(self) -> None:
        """Wait until every other run calls this, waits for a reading, or has ended."""
        self._wait(_Request())

    def once(self, key: Any, make: Callable[[], Any]) -> Any:
        """The result of ``make``, computed by the first run that needs ``key``; it must not be changed."""
        made = self.lockstep.made
        if key not in made:
            made[key] = make()
        return made[key]

    @contextmanager
    def feeding(self, module: nn.Module, backbones: Mapping[str, str]) -> Iterator[None]:
        """Answer the module's readers while inside.

        Args:
            backbones: for each reader to answer, by dotted name, what identifies its backbone and what it reads.
        """
        found = {backbones[name]: reader for name, reader in readers(module).items() if name in backbones}
        self._names = {id(reader): backbone for backbone, reader in found.items()}
        for reader in found.values():
            reader.feed = self
        try:
            yield
        finally:
            for reader in found.values():
                reader.feed = None

    def _wait(self, request: _Request) -> None:
        self.request = request
        self.lockstep.pass_on(self)
        self.request = None


class Lockstep:
    """Runs functions in threads, never two at a time; each draws the random numbers it would draw alone.

    Args:
        acts: called with its ``Member``, each in a thread of its own; the first begins.
        device: its random state is kept per run, like those of the CPU, NumPy and Python.
    """

    def __init__(self, acts: Sequence[Callable[[Member], None]], device: torch.device) -> None:
        self.device, self.size = device, len(acts)
        self.made: dict[Any, Any] = {}
        self._begun = _generators(device)
        self._live = {Member(self): act for act in acts}
        self._ready: deque[Member] = deque()
        self._over = threading.Event()
        self._core: int | None = None  # of the thread that ran last
        self._error: BaseException | None = None

    def run(self) -> None:
        """Run all functions; returns when the last one has ended.

        Raises:
            BaseException: the first that a function raised, once the others have finished.
        """
        self._ready.extend(self._live)
        for member, act in self._live.items():
            threading.Thread(target=self._work, args=(member, act), daemon=True).start()
        self._next_one()
        while not self._over.wait(_POLL_SECONDS):
            pass  # signals are handled in this thread, between two waits
        if self._error is not None:
            raise self._error

    def pass_on(self, member: Member) -> None:
        """Let another member run; returns when it is this one's turn again, with its random states restored."""
        own = _generators(self.device)
        self._rest()
        self._next_one()
        self._take(member)
        _restore(own, self.device)

    def _work(self, member: Member, act: Callable[[Member], None]) -> None:
        self._take(member)
        _restore(self._begun, self.device)
        try:
            act(member)
        except BaseException as error:  # raised by run(), in its thread
            self._error = self._error or error
        finally:
            del self._live[member]
            self._rest()
            self._next_one()

    def _rest(self) -> None:
        openmp.dismiss_team()
        self._core = openmp.core()

    def _take(self, member: Member) -> None:
        openmp.acquire(member.baton)
        openmp.go_on_at(self._core)

    def _next_one(self) -> None:
        """Release the next member; when none can go on, first answer those that wait."""
        if not self._ready:
            self._answer()
        if self._ready:
            self._ready.popleft().baton.release()
        else:
            self._over.set()

    def _answer(self) -> None:
        """Group equal requests; one group after the other, so that only one reading is in memory."""
        groups: list[list[Member]] = []
        for member in self._live:
            request = member.request or _Request()
            group = next((group for group in groups if request.same(group[0].request or _Request())), None)
            if group is None:
                groups.append([member])
            else:
                group.append(member)
        for group in groups:
            answer = _Answer(len(group))
            for member in group:
                member.answer = answer
            self._ready.extend(group)


def _equal(one: Any, other: Any) -> bool:
    """Whether two arguments are equal: tensors by value, other objects by identity."""
    if one is other:
        return True
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        alike = (one.dtype, one.device, one.shape) == (other.dtype, other.device, other.shape)
        return alike and torch.equal(one, other)
    return type(one) is type(other) and isinstance(one, bool | int | float | str) and one == other


def _autocast(device: str) -> tuple[Any, ...]:
    return torch.is_autocast_enabled(device), torch.get_autocast_dtype(device)


def _generators(device: torch.device) -> tuple[Any, ...]:
    """The states of Python's, NumPy's and torch's global generators."""
    cuda = torch.cuda.get_rng_state(device) if device.type == "cuda" else None
    return random.getstate(), np.random.get_state(), torch.get_rng_state(), cuda


def _restore(states: tuple[Any, ...], device: torch.device) -> None:
    python, numpy, cpu, cuda = states
    random.setstate(python)
    np.random.set_state(numpy)
    torch.set_rng_state(cpu)
    if cuda is not None:
        torch.cuda.set_rng_state(cuda, device)
