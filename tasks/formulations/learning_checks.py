"""Checks that training taught the model something."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from bench.store.record import PASS


def beats_majority(predictions: Sequence[Any], references: Sequence[Any], kind: str) -> str:
    """A classifier must be right more often than always answering the commonest class; a regressor must do better
    than always answering the mean (mean squared error)."""
    if kind == "regression":
        guess = float(np.mean(references))
        error = float(np.mean((np.asarray(predictions) - np.asarray(references)) ** 2))
        base = float(np.mean((guess - np.asarray(references)) ** 2))
        return PASS if error < base else f"fail: mean squared error {error:.4g}, of the mean {base:.4g}"
    if len(set(references)) == 1:
        return "skip: all scored examples are of one class"
    common = Counter(references).most_common(1)[0][1] / len(references)
    right = float(np.mean(np.asarray(predictions) == np.asarray(references)))
    return PASS if right > common else f"fail: accuracy {right:.4f}, of the majority class {common:.4f}"


def beats_untrained(before: np.ndarray[Any, Any] | None, after: np.ndarray[Any, Any]) -> str:
    """A language model must have a lower loss on the same held-out tokens than before training.

    Args:
        before, after: log-probabilities of the tokens, (tokens,); before is None where nothing was trained.
    """
    if before is None:
        return "skip: it came trained"
    old, new = -float(np.mean(before)), -float(np.mean(after))
    return PASS if new < old else f"fail: loss {new:.4f} a token, untrained {old:.4f}"
