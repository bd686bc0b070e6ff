"""Samples rows: which are held out or dropped, and in which batches they come."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from bench.data.validation_split import same_text

_CHUNK_BATCHES = 50  # batches whose rows are sorted by length together


def hold_out(
    rows: int, size: int, seed: int = 0, groups: np.ndarray[Any, Any] | None = None
) -> tuple[list[int], list[int]]:
    """Split row numbers into (train, dev): at most ``size`` and at most a tenth of the rows become dev.

    The split depends on the number of rows alone, or their groups, so every method and every seed has the same dev
    split. Rows of one group (``groups``, (rows,) of codes) stay on one side: what is learned from some methods of a
    class is no help with others of it.
    """
    size = min(size, rows // 10)
    if groups is None:
        order = np.random.default_rng(seed).permutation(rows)
        return sorted(order[size:].tolist()), sorted(order[:size].tolist())
    chosen = np.isin(groups, _some_groups(groups, size, seed))
    return np.flatnonzero(~chosen).tolist(), np.flatnonzero(chosen).tolist()


def _some_groups(groups: np.ndarray[Any, Any], size: int, seed: int | list[int]) -> list[Any]:
    """Whole groups, drawn in random order while they fit into ``size`` rows."""
    names, counts = np.unique(groups, return_counts=True)
    taken, chosen = 0, []
    for index in np.random.default_rng(seed).permutation(len(names)):
        if taken + counts[index] <= size:
            taken += int(counts[index])
            chosen.append(names[index])
    return chosen


def groups_of(dataset: Any, columns: str | Sequence[str] | None) -> np.ndarray[Any, Any] | None:
    """A code for each row of a ``datasets.Dataset``, equal where the columns are (texts but for white space and Unicode
    form); None without one."""
    if columns is None:
        return None
    names = (columns,) if isinstance(columns, str) else columns
    codes: dict[Any, int] = {}
    cells = zip(*(map(_cell, dataset[name]) for name in names), strict=True)
    return np.asarray([codes.setdefault(value, len(codes)) for value in cells], dtype=np.int64)


def _cell(value: Any) -> Any:
    return same_text(value) if isinstance(value, str) else value


def subsample(
    rows: Sequence[int], size: int | None, seed: int = 0, groups: np.ndarray[Any, Any] | None = None
) -> list[int]:
    """At most ``size`` of the rows, drawn once for all methods and seeds, in their order; groups whole or not at all.

    Args:
        groups: (len(rows),) codes of the rows' groups.
    """
    if size is None or size >= len(rows):
        return list(rows)
    if groups is not None:
        taken = _some_groups(groups, size, [seed, 1]) or groups[:1]  # one group at least, though it is larger
        chosen = np.flatnonzero(np.isin(groups, taken))
        return [rows[index] for index in chosen.tolist()]
    chosen = np.random.default_rng([seed, 1]).choice(len(rows), size, replace=False)
    return [rows[index] for index in sorted(chosen.tolist())]


def training_batches(lengths: np.ndarray[Any, Any], batch_size: int, seed: int) -> Iterator[list[int]]:
    """Endless batches of row numbers, epoch after epoch: rows shuffled, sorted by length within chunks of
    50 batches, batches of a chunk in random order. The same seed gives every method the same batches.

    Every batch of an epoch is full but the last, which holds what is left.
    """
    generator = np.random.default_rng(seed)
    while True:
        order = generator.permutation(len(lengths))
        for start in range(0, len(order), batch_size * _CHUNK_BATCHES):
            chunk = order[start : start + batch_size * _CHUNK_BATCHES]
            chunk = chunk[np.argsort(lengths[chunk], kind="stable")]
            batches = [chunk[at : at + batch_size].tolist() for at in range(0, len(chunk), batch_size)]
            for index in generator.permutation(len(batches)):
                yield batches[index]


def steps_of(epochs: float, rows: int, batch_size: int, grad_accum: int) -> int:
    """Optimizer steps of a number of epochs; a step may have batches of two epochs."""
    return max(1, math.ceil(round(epochs * math.ceil(rows / batch_size)) / grad_accum))


def evaluation_batches(lengths: np.ndarray[Any, Any], batch_size: int) -> list[list[int]]:
    """Batches of row numbers, longest rows first, so that the first batch is the largest."""
    order = np.argsort(-lengths, kind="stable").tolist()
    return [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
