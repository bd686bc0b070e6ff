"""Tokenised rows in flat arrays, and their padding into batches."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np
import torch
from torch import Tensor

from bench.core.environment import cache_folder
from bench.core.protocols import Batch, Encodes

_ENCODE_ROWS = 2000


class Rows(Protocol):
    """Encoded examples of any formulation."""

    @property
    def labels(self) -> Any:
        """One label a row, (rows,)."""
        ...

    @property
    def lengths(self) -> np.ndarray[Any, Any]:
        """Cost of each row in tokens, shape (rows,): rows of similar length share a batch."""
        ...

    def __len__(self) -> int: ...

    def take(self, rows: Sequence[int]) -> Self:
        """The given rows, in that order."""
        ...

    def collate(self, rows: Sequence[int], padding: dict[str, int]) -> Batch:
        """The tensors of some rows, padded alike, ``labels`` among them; what the module's forward takes."""
        ...


@dataclass(frozen=True)
class Encoded:
    """Tokenised rows: ragged integer columns stored flat, and one label a row.

    Attributes:
        columns: name → int32 values of all rows, one after the other.
        offsets: (rows + 1,) where each row starts; the same for every column.
        labels: (rows,) int64 class indices or float32 targets.
        cut: rows that were too long and lost tokens.
        examples: the dataset the rows were made from, where the task needs it again for its scores.
    """

    columns: dict[str, np.ndarray[Any, Any]]
    offsets: np.ndarray[Any, Any]
    labels: np.ndarray[Any, Any]
    cut: int = 0
    examples: Any = None

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def lengths(self) -> np.ndarray[Any, Any]:
        """Tokens in each row, shape (rows,)."""
        return np.diff(self.offsets)

    def take(self, rows: Sequence[int]) -> Encoded:
        """The given rows, in that order."""
        pieces = [np.arange(self.offsets[row], self.offsets[row + 1]) for row in rows]
        flat = np.concatenate(pieces)
        offsets = np.concatenate([[0], np.cumsum([len(piece) for piece in pieces])])
        columns = {name: values[flat] for name, values in self.columns.items()}
        return Encoded(columns, offsets, self.labels[np.asarray(rows)])

    def collate(self, rows: Sequence[int], padding: dict[str, int]) -> Batch:
        """Pad rows to the longest of them: tensors of shape (len(rows), longest), and ``labels`` (len(rows),)."""
        longest = int(max(self.offsets[row + 1] - self.offsets[row] for row in rows))
        batch: Batch = {}
        for name, flat in self.columns.items():
            padded = np.full((len(rows), longest), padding.get(name, 0), dtype=np.int64)
            for place, row in enumerate(rows):
                start, end = self.offsets[row], self.offsets[row + 1]
                padded[place, : end - start] = flat[start:end]
            batch[name] = torch.from_numpy(padded)
        batch["labels"] = torch.from_numpy(self.labels[np.asarray(rows)])
        return batch


def encode(rows: Any, task: Encodes, tokenizer: Any, max_length: int, cache_key: str | None = None) -> Encoded:
    """Tokenise the rows of a ``datasets.Dataset``; with ``cache_key``, keep the result in the user's cache folder.

    Args:
        rows: the dataset.
        max_length: tokens a row is cut to.
        cache_key: whatever identifies data, tokenizer and length; None for no cache.
    """
    path = None
    if cache_key is not None:
        name = hashlib.sha256(f"{cache_key}|{max_length}|{len(rows)}".encode()).hexdigest()[:32]
        path = cache_folder() / "tokens" / f"{name}.safetensors"
        found = _read(path)
        if found is not None:
            return found
    parts: list[dict[str, list[Any]]] = []
    for start in range(0, len(rows), _ENCODE_ROWS):
        parts.append(task.encode(rows[start : start + _ENCODE_ROWS], tokenizer, max_length))
    encoded = _flatten(parts)
    if path is not None:
        _write(path, encoded)
    return encoded


def _flatten(parts: list[dict[str, list[Any]]]) -> Encoded:
    names = [name for name in parts[0] if name not in ("labels", "cut")]
    cut = sum(sum(part.get("cut", ())) for part in parts)
    labels = np.asarray([label for part in parts for label in part["labels"]])
    labels = labels.astype(np.float32 if labels.dtype.kind == "f" else np.int64)
    lengths = [len(ids) for part in parts for ids in part["input_ids"]]
    columns = {
        name: np.concatenate([np.asarray(ids, dtype=np.int32) for part in parts for ids in part[name]])
        for name in names
    }
    return Encoded(columns, np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64), labels, cut)


def _read(path: Path) -> Encoded | None:
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        arrays = load_file(path)
        columns = {name[7:]: array for name, array in arrays.items() if name.startswith("column.")}
        return Encoded(columns, arrays["offsets"], arrays["labels"], int(arrays["cut"][0]))
    except (OSError, SafetensorError, KeyError):
        return None  # absent or damaged: it is made again


def _write(path: Path, encoded: Encoded) -> None:
    from safetensors.numpy import save

    arrays = {f"column.{name}": array for name, array in encoded.columns.items()}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
            file.write(
                save({**arrays, "offsets": encoded.offsets, "labels": encoded.labels, "cut": np.array([encoded.cut])})
            )
        Path(file.name).replace(path)
    except OSError:
        return  # a cache that cannot be written only costs time


def to_device(batch: Batch, device: torch.device) -> Batch:
    """Move a batch's tensors; from pinned memory without blocking on CUDA."""
    if device.type != "cuda":
        return batch
    return {name: _pinned(tensor).to(device, non_blocking=True) for name, tensor in batch.items()}


def _pinned(tensor: Tensor) -> Tensor:
    return tensor.pin_memory() if tensor.device.type == "cpu" else tensor
