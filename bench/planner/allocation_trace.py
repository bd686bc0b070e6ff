"""One training step's allocations as numbers: its peaks, and what the CUDA allocator would reserve for it.

A trace is of the first step but represents every later one: what is still held at its end (optimizer state, caches)
is held from the start of the next step, so it is counted from the start here.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bench.planner.caching_allocator import Block, CachingAllocator
from bench.training.storage_tracker import CATEGORIES, Peak, StorageTracker

Ints = np.ndarray[Any, np.dtype[np.int64]]

FIRST_PHASE = "loaded"


@dataclass(frozen=True)
class Replay:
    """The result of replaying a trace in the CUDA caching allocator.

    Attributes:
        reserved_bytes: what it takes from the device.
        peaks: the peak of each phase in allocated bytes: blocks, which may be larger than the requests.
    """

    reserved_bytes: int
    peaks: dict[str, int]


@dataclass(frozen=True)
class Trace:
    """The events of a step, one array entry each, in order.

    Attributes:
        storage: number of the storage that was allocated, resized or released.
        size: its size in bytes after the event.
        previous: index of the event before this one for the same storage, or -1.
        phase, category: indices into ``phases`` and CATEGORIES.
        phases: names in the order in which the phases began.
        marks: pairs of the number of events before a phase began, and the phase's index.
    """

    storage: Ints
    size: Ints
    previous: Ints
    phase: Ints
    category: Ints
    phases: tuple[str, ...]
    marks: tuple[tuple[int, int], ...]

    @classmethod
    def of(cls, tracker: StorageTracker) -> Trace:
        """Read the log of a tracker that does not round."""
        rows: list[tuple[int, int, int, int, int]] = []
        last: dict[int, int] = {}
        phases: dict[str, int] = {}
        marks: list[tuple[int, int]] = []
        for serial, change, phase, category in tracker.log():
            number = phases.setdefault(phase, len(phases))
            if serial is None:
                marks.append((len(rows), number))
            if serial is None or change == 0:
                continue
            before = last.get(serial, -1)
            size = change + (rows[before][1] if before >= 0 else 0)
            last[serial] = len(rows)
            rows.append((serial, size, before, number, CATEGORIES.index(category)))
        columns = np.array(rows, dtype=np.int64).reshape(-1, 5).T
        return cls(columns[0], columns[1], columns[2], columns[3], columns[4], tuple(phases), tuple(marks))

    def like(self, other: Trace) -> bool:
        """Whether both have the same events in the same order, apart from sizes."""
        return (self.phases, self.marks) == (other.phases, other.marks) and all(
            np.array_equal(getattr(self, name), getattr(other, name))
            for name in ("storage", "previous", "phase", "category")
        )

    def resized(self, size: Ints) -> Trace:
        """The same events with other sizes."""
        return dataclasses.replace(self, size=size)

    def lasting(self) -> Ints:
        """Per event, 1 where its storage is still held at the end, else 0."""
        final: dict[int, int] = dict(zip(self.storage.tolist(), self.size.tolist(), strict=True))
        return np.array([final[storage] > 0 for storage in self.storage.tolist()], dtype=np.int64)

    def changes(self, block: int) -> Ints:
        """Bytes by which each event changes what is held, sizes rounded up to ``block``."""
        rounded = -(-self.size // block) * block
        before = np.where(self.previous >= 0, rounded[self.previous], 0)
        return rounded - before

    def peaks(self, block: int, extra: int = 0) -> dict[str, Peak]:
        """Each phase's peak in a step that is not the first.

        Args:
            block: the allocator's block size in bytes; 1 for none.
            extra: bytes held throughout besides the storages, as "other".
        """
        change = self.changes(block)
        late = self.lasting().astype(bool) & (self.phase > 0)
        # One column before the first event, and one after each event.
        held = np.zeros((len(CATEGORIES), len(change) + 1), dtype=np.int64)
        held[self.category, np.arange(1, len(change) + 1)] = np.where(late, 0, change)
        held = held.cumsum(axis=1)
        start = np.array([change[late & (self.category == index)].sum() for index in range(len(CATEGORIES))])
        peaks = {}
        for number, name in enumerate(self.phases):
            began = [events for events, phase in self.marks if phase == number]
            moments = np.concatenate([np.array(began, dtype=np.int64), np.flatnonzero(self.phase == number) + 1])
            columns = held[:, moments] + (start[:, None] if number else 0)
            best = columns[:, columns.sum(axis=0).argmax()].copy()
            best[CATEGORIES.index("other")] += extra
            split = dict(zip(CATEGORIES, map(int, best), strict=True))
            peaks[name] = Peak(int(best.sum()), split, name)
        return peaks

    def replayed(self, extra: Sequence[int] = ()) -> Replay:
        """Two such steps in the CUDA caching allocator.

        Args:
            extra: further requests, made at the start of the first step and never released.
        """
        allocator = CachingAllocator()
        blocks: dict[int, Block] = {}
        highest = [0] * len(self.phases)
        lasting, phase = self.lasting().tolist(), self.phase.tolist()
        storages, sizes = self.storage.tolist(), self.size.tolist()
        waiting = list(extra)
        for second in (False, True):
            for index, storage in enumerate(storages):
                while waiting and phase[index] > 0:
                    allocator.allocate(waiting.pop(0))
                if second and (lasting[index] or phase[index] == 0):
                    continue
                held = blocks.pop(storage, None)
                if held is not None:
                    allocator.release(held)
                if sizes[index] > 0:
                    blocks[storage] = allocator.allocate(sizes[index])
                highest[phase[index]] = max(highest[phase[index]], allocator.allocated_bytes)
        return Replay(allocator.reserved_bytes, dict(zip(self.phases, highest, strict=True)))
