"""Makes a validation split: seeded, stratified by label, with groups and repeated texts kept together."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import pyarrow as pa


def make(classes: np.ndarray[Any, Any] | None, groups: np.ndarray[Any, Any], share: float, seed: int) -> tuple[
    np.ndarray[Any, Any], np.ndarray[Any, Any]
]:  # fmt: skip
    """Split row numbers into (train, validation).

    Args:
        classes: (rows,) class of each row, for its share of both sides to be alike; None without classes.
        groups: (rows,) rows of one group stay on one side; a group counts for the class of its first row.
        share: of the groups of each class that go to validation, rounded; a class keeps one group in train.
        seed: the split depends on it and on the rows' order alone.
    """
    _, first, group_of = np.unique(groups, return_index=True, return_inverse=True)
    kinds = np.zeros(len(first), np.int64) if classes is None else classes[first]
    generator = np.random.default_rng(seed)
    chosen = np.zeros(len(first), bool)
    for kind in np.unique(kinds):
        members = generator.permutation(np.flatnonzero(kinds == kind))
        size = min(round(share * len(members)), len(members) - 1)
        chosen[members[:size]] = True
    outside = chosen[group_of]
    return np.flatnonzero(~outside), np.flatnonzero(outside)


def same_text(text: str) -> str:
    """A text without differences that do not make it another example: white space and Unicode form."""
    return " ".join(unicodedata.normalize("NFC", text).split())


def repeats(columns: Sequence[pa.ChunkedArray]) -> np.ndarray[Any, Any]:
    """Numbers (rows,) that are equal for rows with equal cells: 64-bit hashes, computed one chunk at a time.

    Texts that differ only in white space or in their Unicode normal form are equal.
    """
    from pandas.util import hash_array

    def cells(chunk: pa.Array) -> Any:
        values = chunk.to_numpy(zero_copy_only=False)
        if values.dtype != object:
            return values
        return np.array([same_text(value) if isinstance(value, str) else value for value in values], dtype=object)

    found = np.zeros(len(columns[0]), np.uint64)
    for column in columns:
        parts = [hash_array(cells(chunk), categorize=False) for chunk in column.chunks]
        found = found * np.uint64(0x9E3779B97F4A7C15) + np.concatenate(parts)
    return found
