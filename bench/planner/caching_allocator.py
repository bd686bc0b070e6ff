"""torch's CUDA caching allocator, replayed: what it takes from the device (reserved) for a sequence of requests.

Rules of c10/cuda/CUDACachingAllocator.cpp at its default settings (no expandable segments, no limit on splitting):
requests are rounded to 512 bytes; those up to 1 MiB are cut from segments of 2 MiB, those below 10 MiB from segments
of 20 MiB, larger ones get their own, in steps of 2 MiB; the smallest free block that is large enough is used, split
where enough is left, and joined with free neighbours when it is freed; nothing is given back.
"""

from __future__ import annotations

import bisect
from dataclasses import dataclass

MIB = 1 << 20
BLOCK = 512  # kMinBlockSize
_SMALL = MIB  # kSmallSize
_SMALL_SEGMENT = 2 * MIB  # kSmallBuffer
_MEDIUM = 10 * MIB  # kMinLargeAlloc
_MEDIUM_SEGMENT = 20 * MIB  # kLargeBuffer
_STEP = 2 * MIB  # kRoundLarge


@dataclass(eq=False)
class Block:
    """A piece of a segment; ``before`` and ``after`` are its neighbours there."""

    size: int
    address: int
    small: bool
    free: bool = False
    before: Block | None = None
    after: Block | None = None


class CachingAllocator:
    """``reserved_bytes`` only grows: it is its own peak."""

    def __init__(self) -> None:
        self.reserved_bytes = 0
        self.allocated_bytes = 0
        # Free blocks of the small and the large pool, sorted by size and then address.
        self._pools: dict[bool, list[tuple[int, int, Block]]] = {True: [], False: []}

    def allocate(self, nbytes: int) -> Block:
        """A block for ``nbytes`` (at least 1)."""
        size = -(-nbytes // BLOCK) * BLOCK
        small = size <= _SMALL
        pool = self._pools[small]
        index = bisect.bisect_left(pool, (size, -1))
        block = pool.pop(index)[2] if index < len(pool) else self._segment(size, small)
        block.free = False
        left = block.size - size
        if left >= BLOCK if small else left > _SMALL:
            rest = Block(left, block.address + size, small, True, block, block.after)
            if block.after is not None:
                block.after.before = rest
            block.size, block.after = size, rest
            bisect.insort(pool, (left, rest.address, rest))
        self.allocated_bytes += block.size
        return block

    def release(self, block: Block) -> None:
        """Give a block back to its pool."""
        self.allocated_bytes -= block.size
        pool = self._pools[block.small]
        for other in (block.before, block.after):
            if other is None or not other.free:
                continue
            pool.pop(bisect.bisect_left(pool, (other.size, other.address)))
            if other is block.before:
                block.address, block.before = other.address, other.before
                if block.before is not None:
                    block.before.after = block
            else:
                block.after = other.after
                if block.after is not None:
                    block.after.before = block
            block.size += other.size
        block.free = True
        bisect.insort(pool, (block.size, block.address, block))

    def _segment(self, size: int, small: bool) -> Block:
        if small:
            taken = _SMALL_SEGMENT
        elif size < _MEDIUM:
            taken = _MEDIUM_SEGMENT
        else:
            taken = -(-size // _STEP) * _STEP
        # Addresses of different segments never touch, so that blocks only join within one.
        block = Block(taken, self.reserved_bytes * 2, small)
        self.reserved_bytes += taken
        return block
