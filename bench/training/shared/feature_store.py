"""Frozen features on disk: memory-mapped segments of examples, found by a digest of each example.

A folder holds segments, each written once and never changed: ``index.safetensors`` (keys, starts and lengths of its
examples, and in its metadata what features there are) and a raw file a feature, whose first row is zeros (padding is
read from there). A segment is written under a hidden name and renamed when it is whole; sizes and checksums are
compared before anything of it is used.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import uuid
import zlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

from bench.core.files import lock, why_no_locks

FORMAT = "1"
KEY_BYTES = 16
_INDEX = "index.safetensors"
_CHUNK = 1 << 24  # bytes of a file that are summed at once

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Shape:
    """One feature of an example: ``row_bytes`` of ``dtype`` values a token, or once where not ``tokens``."""

    dtype: str
    row_bytes: int
    tokens: bool

    @classmethod
    def of(cls, values: Tensor, tokens: bool) -> Shape:
        """The shape of (…, width) values."""
        return cls(str(values.dtype).removeprefix("torch."), values.shape[-1] * values.element_size(), tokens)

    def size(self, length: int) -> int:
        """Bytes of an example of ``length`` tokens."""
        return self.row_bytes * (length if self.tokens else 1)


@dataclass
class Column:
    """One feature of all examples, over the segments that hold it; rows are numbered through all of them.

    Attributes:
        parts: (rows, row_bytes) maps, each with a row of zeros first.
        bases: number of each part's first row.
        starts: key → number of an example's first row.
        lengths: key → rows of an example.
    """

    shape: Shape
    parts: list[Array]
    bases: list[int]
    starts: dict[bytes, int]
    lengths: dict[bytes, int]

    def gather(self, rows: Array) -> Tensor:
        """The numbered rows as a tensor (len(rows), width) in its own memory; row 0 is zeros."""
        found = torch.empty((len(rows), self.shape.row_bytes), dtype=torch.uint8)
        if len(self.parts) == 1:
            np.take(self.parts[0], rows, axis=0, out=found.numpy(), mode="clip")  # other modes copy once more
        else:
            home = np.searchsorted(self.bases, rows, side="right") - 1
            for place in np.unique(home):
                mine = home == place
                found.numpy()[mine] = self.parts[place][rows[mine] - self.bases[place]]
        return found.view(getattr(torch, self.shape.dtype))

    def _add(self, part: Array, keys: Sequence[bytes], starts: Array, lengths: Array) -> None:
        base = self.bases[-1] + len(self.parts[-1]) if self.parts else 0
        self.bases.append(base)
        self.parts.append(part)
        self.lengths.update(zip(keys, lengths.tolist(), strict=True))
        for key, start in zip(keys, (base + starts).tolist(), strict=True):
            self.starts.setdefault(key, start)


class FeatureStore:
    """The segments of one backbone.

    Args:
        folder: made when something is written.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @contextlib.contextmanager
    def left_alone(self) -> Iterator[bool]:
        """Whether this process got the lock, which it holds in the block. True where the disk has no locks."""
        descriptor = os.open(self.folder / ".lock", os.O_RDWR | os.O_CREAT, 0o666)
        try:
            yield lock(descriptor)
        finally:
            os.close(descriptor)

    @contextlib.contextmanager
    def locked(self, waiting: Callable[[], None]) -> Iterator[None]:
        """Hold the lock in the block; calls ``waiting`` and waits while another process holds it.

        Where the disk has no locks, two processes may write the same examples, each into its own segment.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self.folder / ".lock", os.O_RDWR | os.O_CREAT, 0o666)
        try:
            if not lock(descriptor):
                waiting()
                lock(descriptor, wait=True)
            if why_no_locks(self.folder / ".lock") is None:
                for left in self.folder.glob(".*.partial"):  # of a process that died: a live one would hold the lock
                    shutil.rmtree(left, ignore_errors=True)
            yield
        finally:
            os.close(descriptor)

    def columns(self, names: Sequence[str], wanted: Collection[bytes]) -> dict[str, Column]:
        """The stored examples of some features; damaged segments are removed.

        Segments that hold a ``wanted`` example count as used now.
        """
        found: dict[str, Column] = {}
        for folder in sorted(self.folder.glob("[!.]*")):
            if not folder.is_dir():
                continue
            try:
                texts = self._read(folder, names, found)
                if not set(wanted).isdisjoint(texts):
                    os.utime(folder / _INDEX)
            except (OSError, ValueError, KeyError):  # damaged: it is made again
                shutil.rmtree(folder, ignore_errors=True)
        return found

    def _read(self, folder: Path, names: Sequence[str], found: dict[str, Column]) -> list[bytes]:
        texts, starts, lengths, features = _index(folder)
        mine = [name for name in names if name in features]
        maps = {name: _map(folder / f"{name}.bin", features[name]) for name in mine}
        order = np.arange(1, len(texts) + 1)
        for name, part in maps.items():
            shape = Shape(**features[name]["shape"])
            column = found.setdefault(name, Column(shape, [], [], {}, {}))
            if column.shape == shape:
                column._add(part, texts, starts if shape.tokens else order, lengths)
        return texts

    @contextlib.contextmanager
    def writer(self, shapes: Mapping[str, Shape]) -> Iterator[Writer]:
        """Write a segment, which exists only if the block ends without an exception."""
        name = uuid.uuid4().hex
        partial = self.folder / f".{name}.partial"
        partial.mkdir(parents=True)
        try:
            with contextlib.ExitStack() as files:
                writer = Writer(partial, shapes, files)
                yield writer
                writer.finish()
            partial.rename(self.folder / name)
        finally:
            shutil.rmtree(partial, ignore_errors=True)


def prune(root: Path, most: int, needed: FeatureStore, wanted: Collection[bytes]) -> None:
    """Remove segments, those used longest ago first, until all features together take at most ``most`` bytes.

    A process that reads one has it mapped and keeps it until it ends. What another process holds the lock of stays: it
    may be about to map it.

    Args:
        root: the folder of all stores.
        needed: the store, locked by the caller, whose segments stay where they hold a ``wanted`` example.
    """
    found = []
    for folder in root.glob("*/[!.]*"):
        with contextlib.suppress(OSError):  # another process removes it
            size = sum(file.stat().st_size for file in folder.iterdir())
            found.append(((folder / _INDEX).stat().st_mtime, size, folder))
    total = sum(size for _, size, _ in found)
    for _, size, folder in sorted(found):
        if total <= most:
            return
        if folder.parent == needed.folder:
            mine = set(wanted).isdisjoint(_index(folder)[0])
            free: contextlib.AbstractContextManager[bool] = contextlib.nullcontext(mine)
        else:
            free = FeatureStore(folder.parent).left_alone()
        with free as removable:
            if removable:
                shutil.rmtree(folder, ignore_errors=True)
                total -= size


class Writer:
    """Appends examples to a segment that is being made."""

    def __init__(self, folder: Path, shapes: Mapping[str, Shape], files: contextlib.ExitStack) -> None:
        self.folder, self.shapes = folder, shapes
        self.keys: list[bytes] = []
        self.starts: list[int] = []
        self.lengths: list[int] = []
        self.at = 1  # row 0 is zeros
        self._files: dict[str, BinaryIO] = {}
        self._sums: dict[str, int] = {}
        for name, shape in shapes.items():
            self._files[name] = files.enter_context((folder / f"{name}.bin").open("wb"))
            self._sums[name] = 0
            self._append(name, np.zeros(shape.row_bytes, dtype=np.uint8))

    def add(self, keys: Sequence[bytes], lengths: Array, values: Mapping[str, Tensor]) -> None:
        """Add examples.

        Args:
            lengths: (examples,) tokens of each.
            values: for each feature (all tokens, width), one example after the other, or (examples, width).
        """
        for name, tensor in values.items():
            self._append(name, tensor.detach().contiguous().view(torch.uint8).cpu().numpy())
        self.keys += keys
        self.starts += (self.at + np.cumsum(lengths) - lengths).tolist()
        self.lengths += lengths.tolist()
        self.at += int(lengths.sum())

    def _append(self, name: str, data: Array) -> None:
        view = memoryview(data.reshape(-1))  # type: ignore[arg-type]
        self._files[name].write(view)
        self._sums[name] = zlib.crc32(view, self._sums[name])

    def finish(self) -> None:
        """Write the index, and flush everything to the disk before the segment gets its name."""
        from safetensors.numpy import save_file

        for file in self._files.values():
            file.flush()
            os.fsync(file.fileno())
        features = {
            name: {
                "shape": vars(shape),
                "rows": self.at if shape.tokens else len(self.keys) + 1,
                "crc32": self._sums[name],
            }
            for name, shape in self.shapes.items()
        }
        arrays: dict[str, Array] = {
            "keys": np.frombuffer(b"".join(self.keys), dtype=np.uint8).reshape(-1, KEY_BYTES),
            "starts": np.asarray(self.starts, dtype=np.int64),
            "lengths": np.asarray(self.lengths, dtype=np.int64),
        }
        save_file(arrays, self.folder / _INDEX, {"format": FORMAT, "features": json.dumps(features)})


def _index(folder: Path) -> tuple[list[bytes], Array, Array, dict[str, Any]]:
    """Keys, starts and lengths of a segment's examples, and its features; ValueError where it is not an index."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(folder / _INDEX, "numpy") as file:
            meta = file.metadata() or {}
            keys, starts, lengths = (file.get_tensor(name) for name in ("keys", "starts", "lengths"))
    except SafetensorError as error:
        raise ValueError(str(error)) from error
    if meta.get("format") != FORMAT:
        raise ValueError("another format")
    return [row.tobytes() for row in keys], starts, lengths, json.loads(meta["features"])


def _map(path: Path, feature: Mapping[str, Any]) -> Array:
    """A feature's file as (rows, row_bytes); ValueError where it is not what was written."""
    shape = (int(feature["rows"]), int(feature["shape"]["row_bytes"]))
    if path.stat().st_size != shape[0] * shape[1]:
        raise ValueError(f"{path.name} has another size")
    mapped = np.memmap(path, dtype=np.uint8, mode="r", shape=shape)
    flat, total = mapped.reshape(-1), 0
    for start in range(0, len(flat), _CHUNK):
        total = zlib.crc32(memoryview(flat[start : start + _CHUNK]), total)  # type: ignore[arg-type]
    if total != feature["crc32"]:
        raise ValueError(f"{path.name} has another checksum")
    return mapped
