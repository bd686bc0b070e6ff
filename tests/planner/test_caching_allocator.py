"""The CUDA caching allocator's rules, on cases counted by hand."""

from __future__ import annotations

import numpy as np
import pytest

from bench.planner.allocation_trace import Trace
from bench.planner.caching_allocator import MIB, CachingAllocator
from bench.planner.scaling import largest
from bench.training.storage_tracker import CATEGORIES


def test_small_requests_share_a_segment_of_two_mebibytes() -> None:
    allocator = CachingAllocator()
    blocks = [allocator.allocate(size) for size in (1, 512, 513)]
    assert [block.size for block in blocks] == [512, 512, 1024]
    assert (allocator.allocated_bytes, allocator.reserved_bytes) == (2048, 2 * MIB)
    allocator.allocate(MIB)  # the last small size; 1 MiB and 2 KiB of 2 MiB are taken now
    assert allocator.reserved_bytes == 2 * MIB
    allocator.allocate(MIB)
    assert allocator.reserved_bytes == 4 * MIB


def test_medium_requests_share_twenty_and_large_ones_get_their_own() -> None:
    allocator = CachingAllocator()
    for _ in range(3):
        allocator.allocate(6 * MIB)
    assert allocator.reserved_bytes == 20 * MIB
    allocator.allocate(6 * MIB)  # 2 MiB are left of the first
    assert allocator.reserved_bytes == 40 * MIB
    allocator.allocate(11 * MIB)  # rounded to a multiple of 2 MiB; the second has 14 left
    assert allocator.reserved_bytes == 40 * MIB
    allocator.allocate(11 * MIB)
    assert allocator.reserved_bytes == 52 * MIB


def test_a_large_block_is_only_split_when_more_than_a_mebibyte_is_left() -> None:
    allocator = CachingAllocator()
    block = allocator.allocate(12 * MIB)
    allocator.release(block)
    whole = allocator.allocate(11 * MIB)  # leaves one: too little
    assert (whole.size, allocator.allocated_bytes) == (12 * MIB, 12 * MIB)
    allocator.release(whole)
    assert allocator.allocate(11 * MIB - 512).size == 11 * MIB - 512
    assert allocator.reserved_bytes == 12 * MIB


def test_the_best_fit_is_taken_and_neighbours_join() -> None:
    allocator = CachingAllocator()
    large, small = allocator.allocate(40 * MIB), allocator.allocate(30 * MIB)
    allocator.release(large)
    allocator.release(small)
    assert allocator.allocate(28 * MIB).address == small.address
    parts = [allocator.allocate(10 * MIB) for _ in range(4)]  # cut the other one up
    assert allocator.reserved_bytes == 70 * MIB
    for index in (1, 3, 0, 2):
        allocator.release(parts[index])
    allocator.allocate(40 * MIB)  # which only fits when all four have joined again
    assert allocator.reserved_bytes == 70 * MIB


def test_segments_do_not_join() -> None:
    allocator = CachingAllocator()
    for block in [allocator.allocate(20 * MIB), allocator.allocate(20 * MIB)]:
        allocator.release(block)
    allocator.allocate(40 * MIB)
    assert allocator.reserved_bytes == 80 * MIB


def trace(*rows: tuple[int, int, int, int, str]) -> Trace:
    """Rows of storage, size, previous event, phase, category; phase 0 is loaded, 1 forward, 2 step."""
    storage, size, previous, phase = (np.array(column, dtype=np.int64) for column in list(zip(*rows, strict=True))[:4])
    category = np.array([CATEGORIES.index(row[4]) for row in rows], dtype=np.int64)
    firsts = [int(np.flatnonzero(phase == number)[0]) for number in (0, 1, 2)]
    marks = tuple(zip(firsts, range(3), strict=True))
    return Trace(storage, size, previous, phase, category, ("loaded", "forward", "step"), marks)


STEP = trace(
    (0, 1000, -1, 0, "weights"),
    (1, 300, -1, 1, "activations"),
    (1, 0, 1, 1, "activations"),
    (2, 100, -1, 2, "optimizer"),
    (3, 50, -1, 2, "other"),
    (3, 0, 4, 2, "other"),
)


def test_what_is_left_at_the_end_of_a_step_was_there_from_the_beginning_of_the_next() -> None:
    peaks = STEP.peaks(1, extra=7)
    assert {name: peak.total_bytes for name, peak in peaks.items()} == {"loaded": 1007, "forward": 1407, "step": 1157}
    assert peaks["forward"].split == {
        "weights": 1000, "gradients": 0, "optimizer": 100, "activations": 300, "other": 7
    }  # fmt: skip
    assert STEP.peaks(512)["forward"].total_bytes == 1024 + 512 + 512


def test_reserved_is_of_two_steps() -> None:
    assert STEP.replayed().reserved_bytes == 2 * MIB
    big = STEP.resized(np.array([30, 12, 0, 12, 12, 0]) * MIB)
    # The optimizer's state takes the activations' block in the first step, so the second needs another.
    assert big.replayed().reserved_bytes == (30 + 12 + 12) * MIB
    assert big.replayed((40 * MIB,)).reserved_bytes == (30 + 12 + 12 + 40) * MIB


def test_what_is_handed_out_is_whole_blocks() -> None:
    assert STEP.replayed().peaks == {"loaded": 1024, "forward": 1024 + 512 + 512, "step": 1024 + 512 + 512}
    # The activations' block serves the optimizer's smaller state whole: less than 1 MiB would be left of it.
    big = STEP.resized(np.array([30 * MIB, 12 * MIB, 0, 12 * MIB - 1024, 0, 0]))
    assert big.replayed().peaks["step"] == (30 + 12) * MIB


@pytest.mark.parametrize(
    ("edge", "start", "limit", "found"),
    [(0, 5, 100, 0), (7, 5, 100, 7), (7, 50, 100, 7), (100, 3, 100, 100), (500, 3, 100, 100), (1, 1, 1, 1)],
)
def test_the_largest_that_fits(edge: int, start: int, limit: int, found: int) -> None:
    assert largest(lambda number: number <= edge, start, limit) == found
