"""Several runs in the threads of one process, one at a time, over one pass of their frozen trunk per batch.

Strict baton passing: a run works alone until it asks its feed for a reading, and then waits until every other run that
is still at work asks too. Those that ask for the same get one reading. So a run needs to know nothing of the others:
its training, dev and validation batches are shared where they are equal, and where they are not it gets its own.
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
    """What a run asks for: a reading, or, without a trunk, only that all others get as far as it is.

    Attributes:
        trunk: names the reader and what it would do with inputs: equal ones give equal readings.
        modes: gradient, inference and autocast, which are a thread's own and show in the tensors of a reading.
        inputs: the trunk's arguments by name.
    """

    trunk: str | None = None
    modes: tuple[Any, ...] = ()
    inputs: Mapping[str, Any] | None = None

    def same(self, other: _Request) -> bool:
        """Whether one reading answers both."""
        if self.trunk is None or (self.trunk, self.modes) != (other.trunk, other.modes):
            return False
        mine, theirs = self.inputs or {}, other.inputs or {}
        if mine.keys() != theirs.keys():
            return False
        # Token numbers and masks are small and tell most batches apart; an encoder's states come last.
        names = sorted(mine, key=lambda name: mine[name].numel() if isinstance(mine[name], Tensor) else 0)
        return all(_equal(mine[name], theirs[name]) for name in names)


@dataclass
class _Answer:
    """A reading for those who asked for the same; the first to come has the trunk run, the last lets it go."""

    takers: int = 0
    reading: Reading | None = None

    def take(self, reader: Reads, inputs: Mapping[str, Any]) -> tuple[Reading, bool]:
        """The reading, and whether the trunk ran for it now."""
        self.takers -= 1
        found, fresh = self.reading, self.reading is None
        if found is None:
            found = reader.read(inputs)
        self.reading = found if self.takers else None
        return found, fresh


class Member:
    """One of the runs: the feed of its readers, and its place in the line.

    Attributes:
        readings, passes: readings it took, and how many of them it had its trunk run for.
    """

    def __init__(self, lockstep: Lockstep) -> None:
        self.lockstep = lockstep
        self.readings = self.passes = 0
        self.baton = threading.Semaphore(0)
        self.request: _Request | None = None
        self.answer = _Answer()
        self._names: dict[int, str] = {}

    def __call__(self, reader: Reads, inputs: Mapping[str, Any]) -> Reading:
        """The reading for ``inputs``, a ``bench.models.frozen_backbone.Feed``; other runs work meanwhile."""
        modes = (torch.is_grad_enabled(), torch.is_inference_mode_enabled(), *_autocast(self.lockstep.device.type))
        self._wait(_Request(self._names[id(reader)], modes, inputs))
        reading, fresh = self.answer.take(reader, inputs)
        self.readings += 1
        self.passes += fresh
        return reading

    def gather(self) -> None:
        """Wait until every other run is at such a point, or waits for a reading, or has ended."""
        self._wait(_Request())

    def once(self, key: Any, make: Callable[[], Any]) -> Any:
        """What ``make`` gives, made by the first run that asks for ``key``; nobody may change it."""
        made = self.lockstep.made
        if key not in made:
            made[key] = make()
        return made[key]

    @contextmanager
    def feeding(self, module: nn.Module, trunks: Mapping[str, str]) -> Iterator[None]:
        """Answer the module's readers while inside.

        Args:
            trunks: for each reader to answer, by dotted name, what tells its trunk and what it reads from others.
        """
        found = {trunks[name]: reader for name, reader in readers(module).items() if name in trunks}
        self._names = {id(reader): trunk for trunk, reader in found.items()}
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
    """Runs acts in threads of their own, never two at a time; each draws random numbers as it would alone.

    Args:
        acts: what each thread does with its membership; the first begins.
        device: whose random state is a run's own, beside those of the CPU, NumPy and Python.
    """

    def __init__(self, acts: Sequence[Callable[[Member], None]], device: torch.device) -> None:
        self.device, self.size = device, len(acts)
        self.made: dict[Any, Any] = {}
        self._begun = _generators(device)
        self._live = {Member(self): act for act in acts}
        self._ready: deque[Member] = deque()
        self._over = threading.Event()
        self._core: int | None = None  # where the last one worked
        self._error: BaseException | None = None

    def run(self) -> None:
        """Do all acts; returns when the last one ended.

        Raises:
            BaseException: what an act raised, the first of them; the others are finished before.
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
        """Give the baton away and come back with it, and with the own random states."""
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
        except BaseException as error:  # told by run(), in the thread that asked
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
        """Release the next member; when nobody is left who can work, answer those who wait first."""
        if not self._ready:
            self._answer()
        if self._ready:
            self._ready.popleft().baton.release()
        else:
            self._over.set()

    def _answer(self) -> None:
        """Put together those who asked for the same; one group after the other, so that one reading is held."""
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
    """Whether two arguments are the same; tensors by their values, objects that nobody knows by identity."""
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
