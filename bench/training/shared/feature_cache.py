"""Keeps a frozen backbone's features between epochs: computed once before training, then read from disk."""

from __future__ import annotations

import contextlib
import hashlib
import inspect
import json
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from bench.core import formatting
from bench.core.environment import cache_folder, versions
from bench.core.errors import RequestError
from bench.core.protocols import Batch
from bench.core.train_config import TrainSettings
from bench.data.encoding import Rows
from bench.data.sampling import evaluation_batches
from bench.models.frozen_backbone import Reading, Reads, Recalls, cannot_recall, readers
from bench.models.inference import Engine
from bench.tasks.formulations import select
from bench.training.memory import measure_call
from bench.training.shared.feature_store import FORMAT, KEY_BYTES, Array, Column, FeatureStore, Shape, prune


@dataclass(frozen=True)
class Need:
    """The features that a run keeps.

    Attributes:
        parts: the rows that it reads more than once, as numbers in their split.
        engine: device, precision and padding.
        batch_size: rows of a pass that computes features.
        limit: bytes that features may take, those of earlier runs included.
        tell: takes a sentence for the user, and whether it is news rather than progress.
    """

    parts: list[tuple[Rows, list[int]]]
    engine: Engine
    batch_size: int
    limit: int
    tell: Callable[[str, bool], None]


@dataclass(frozen=True)
class _Example:
    """The place of an example, and its number of tokens."""

    part: int
    row: int
    length: int


@dataclass(frozen=True)
class _Known:
    """The examples of a batch of the backbone: a key and a number of tokens each, and the padded length.

    The length is 0 where the inputs do not show it (images).
    """

    keys: list[bytes]
    lengths: Array
    longest: int


class FeatureCache:
    """A feed that answers from memory-mapped files; a batch with a missing example goes to the backbone.

    Attributes:
        answered, missed: batches that were answered from files, and by the backbone.
    """

    def __init__(self, columns: Mapping[str, Column]) -> None:
        self.columns = columns
        self.answered = self.missed = 0

    def __call__(self, reader: Reads, inputs: Mapping[str, Any]) -> Reading:
        known = _identify(inputs)
        stored = None if known is None else self._stored(known, _device(inputs))
        if stored is None or not isinstance(reader, Recalls) or not reader.stores.keys() <= stored.keys():
            self.missed += 1  # where nothing is kept (a segment was damaged), nothing is stored
            return reader.read(inputs)
        self.answered += 1
        return reader.recall(inputs, stored)

    def _stored(self, known: _Known, device: torch.device) -> dict[str, Tensor] | None:
        found: dict[str, Tensor] = {}
        places: dict[tuple[int, ...], Array] = {}  # features of the same segments have the same rows
        for name, column in self.columns.items():
            try:
                starts = np.fromiter((column.starts[key] for key in known.keys), np.int64, len(known.keys))
            except KeyError:
                return None
            rows = starts
            if column.shape.tokens:
                way = tuple(starts.tolist())
                if way not in places:
                    lengths = np.fromiter((column.lengths[key] for key in known.keys), np.int64, len(known.keys))
                    there = np.arange(known.longest or lengths.max())
                    places[way] = np.where(there < lengths[:, None], starts[:, None] + there, 0)
                rows = places[way]
            values = column.gather(rows.reshape(-1)).to(device, non_blocking=True)
            found[name] = values.view(*rows.shape, -1)
        return found


class _Seen(Exception):
    """Carries the backbone's inputs out of a forward pass that is cut short there."""

    def __init__(self, inputs: Mapping[str, Any]) -> None:
        self.inputs = inputs


def _stop(reader: Reads, inputs: Mapping[str, Any]) -> Reading:
    raise _Seen(inputs)


def only_reader(module: nn.Module, name: str) -> tuple[str, Recalls]:
    """The reader of a method's module, with its path.

    Raises:
        ValueError: where nothing can be kept for this method; says why.
    """
    why = cannot_recall(name, module)
    if why is not None:
        raise ValueError(why)
    ((path, reader),) = readers(module).items()
    if not isinstance(reader, Recalls):
        raise TypeError(path)  # told above
    return path, reader


@contextlib.contextmanager
def fed(module: nn.Module, cache: FeatureCache | None) -> Iterator[None]:
    """Let the readers of a module ask a cache while this is open."""
    found = list(readers(module).values()) if cache is not None else []
    for reader in found:
        reader.feed = cache
    try:
        yield
    finally:
        for reader in found:
            reader.feed = None


def parts(
    train: Rows, dev: Rows | None, batches: Iterator[list[int]], settings: TrainSettings, plan: Mapping[str, Any]
) -> list[tuple[Rows, list[int]]]:
    """What a run goes over more than once: the training rows of its steps, and the dev rows if features help there.

    Args:
        batches: the row numbers of its training batches, in order.
        plan: the form's.
    """
    chosen: dict[int, None] = {}
    passes = (settings.steps or 1) * settings.grad_accum
    for batch in islice(batches, passes):
        chosen.update(dict.fromkeys(batch))
        if len(chosen) == len(train):
            break
    found = [(train, sorted(chosen))]
    if dev is not None and select.scored_as_trained(plan):
        found.append((dev, list(range(len(dev)))))
    return found


def refuse(size: int, limit: int, what: str) -> None:
    """Raise RequestError where features are more than the limit."""
    if size > limit:
        raise RequestError(
            f"--cache-trunk: the features of {what} take {formatting.size(size)}, more than the limit of "
            f"{formatting.size(limit)}. Allow it with --cache-limit {-(-size // 10**6)}MB, take fewer rows "
            "(--train-size) or a smaller --max-length, or leave --cache-trunk out.",
            code="too-large",
        )


def keep(module: nn.Module, name: str, weights: Mapping[str, str], need: Need) -> tuple[FeatureCache, dict[str, Any]]:
    """Fill what is missing of the features a run needs.

    Args:
        module: with the method attached.
        name: of the method, for messages.
        weights: digests of the module's frozen tensors by name, which identify the backbone.

    Returns:
        the cache, and the record's ``trunk_cache``.

    Raises:
        RequestError: when it would be larger than the limit, or than the disk has room for; nothing is written then.
    """
    path, reader = only_reader(module, name)
    store = FeatureStore(cache_folder() / "trunks" / _identity(path, reader, weights, need.engine))
    begun = time.perf_counter()
    peak = None
    names = list(reader.stores)
    with store.locked(lambda: need.tell("waiting for another run that stores features of this backbone", True)):
        filler = _Filler(module, reader, need)
        wanted = filler.examples()
        columns = store.columns(names, wanted)
        there = [columns[name].starts if name in columns else {} for name in names]
        missing = {key: example for key, example in wanted.items() if any(key not in starts for starts in there)}
        shapes = filler.shapes(missing) if missing else {name: columns[name].shape for name in names}
        size, new = (sum(_size(shapes, example) for example in part.values()) for part in (wanted, missing))
        refuse(size, need.limit, f"{len(wanted):,} examples")
        if missing:
            prune(store.folder.parent, need.limit - new, store, wanted)
            room(store.folder, new)
            need.tell(f"storing the backbone's features of {len(missing):,} examples, {formatting.size(new)}", True)
            peak = filler.fill(store, shapes, missing)
            columns = store.columns(names, wanted)
    record = {
        "bytes": size,
        "examples": len(wanted),
        "fill_seconds": time.perf_counter() - begun,
        "fill_peak_bytes": peak,
        "reused": not missing,
    }
    return FeatureCache(columns), record


def _size(shapes: Mapping[str, Shape], example: _Example) -> int:
    return sum(shape.size(example.length) for shape in shapes.values())


def room(folder: Path, size: int) -> None:
    """Raise RequestError where a folder's disk has less than ``size`` bytes left."""
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if size > free:
        raise RequestError(
            f"--cache-trunk: the features take {formatting.size(size)}, and the disk of {folder} "
            f"has {formatting.size(free)} left. Make room, or choose another disk with the variable XDG_CACHE_HOME.",
            code="too-large",
        )


class _Filler:
    """One pass over the examples that are missing, longest first, so that what does not fit shows at once."""

    def __init__(self, module: nn.Module, reader: Recalls, need: Need) -> None:
        self.module, self.reader, self.need = module, reader, need

    def examples(self) -> dict[bytes, _Example]:
        """What the run goes over: a place for each key. Equal examples are one."""
        found: dict[bytes, _Example] = {}
        for number, (data, chosen) in enumerate(self.need.parts):
            for batch in _batches(data, chosen, self.need.batch_size):
                known = self._known(self._inputs(number, batch))
                lengths = known.lengths if known.longest else data.lengths[np.asarray(batch)]
                for key, row, length in zip(known.keys, batch, lengths.tolist(), strict=True):
                    found.setdefault(key, _Example(number, row, length))
        return found

    def _inputs(self, part: int, rows: list[int]) -> Mapping[str, Any]:
        """The backbone's inputs for some rows."""
        engine, data = self.need.engine, self.need.parts[part][0]
        batch: Batch = engine.batch(data, rows)
        self.reader.feed = _stop
        self.module.train()  # as in training; a frozen backbone stays in eval mode
        try:
            with torch.no_grad(), engine.autocast():
                self.module(**batch)
        except _Seen as seen:
            return seen.inputs
        finally:
            self.reader.feed = None
        raise RuntimeError("the module's forward did not call its backbone")

    def _known(self, inputs: Mapping[str, Any]) -> _Known:
        known = _identify(inputs)
        if known is None:
            raise ValueError("--cache-trunk: these inputs are padded on the left, or not one row an example")
        return known

    def _stored(self, inputs: Mapping[str, Any]) -> dict[str, Tensor]:
        with torch.no_grad(), self.need.engine.autocast():
            return self.reader.store(self.reader.read(inputs))

    def shapes(self, missing: Mapping[bytes, _Example]) -> dict[str, Shape]:
        """The shape of each feature, from the shortest example that is missing."""
        one = min(missing.values(), key=lambda example: example.length)
        values = self._stored(self._inputs(one.part, [one.row]))
        return {name: Shape.of(values[name], stored.tokens) for name, stored in self.reader.stores.items()}

    def fill(self, store: FeatureStore, shapes: Mapping[str, Shape], missing: Mapping[bytes, _Example]) -> int:
        """Write a segment with the missing examples; returns the bytes that its largest pass takes in memory."""
        peak, done = None, 0
        with store.writer(shapes) as writer:
            for part, (data, _) in enumerate(self.need.parts):
                rows = [example.row for example in missing.values() if example.part == part]
                for batch in _batches(data, rows, self.need.batch_size):
                    inputs = self._inputs(part, batch)
                    peak = peak or measure_call(self.module, "filling", partial(self._stored, inputs))
                    values = self._stored(inputs)
                    known = _with_lengths(self._known(inputs), values, shapes)
                    writer.add(known.keys, known.lengths, _flat(values, shapes, known))
                    done += len(batch)
                    self.need.tell(f"storing features, {done:,} of {len(missing):,} examples", False)
        return 0 if peak is None else peak.total_bytes


def _with_lengths(known: _Known, values: Mapping[str, Tensor], shapes: Mapping[str, Shape]) -> _Known:
    """The same with the number of states that an image became."""
    if known.longest:
        return known
    longest = max((values[name].shape[1] for name, shape in shapes.items() if shape.tokens), default=1)
    return _Known(known.keys, np.full(len(known.keys), longest), longest)


def _flat(values: Mapping[str, Tensor], shapes: Mapping[str, Shape], known: _Known) -> dict[str, Tensor]:
    """The values of real tokens one after the other, (tokens, width); of an example as they are."""
    there = torch.from_numpy(np.arange(known.longest) < known.lengths[:, None])
    found = {}
    for name, shape in shapes.items():
        value = values[name]
        if shape.tokens and value.shape[1] != known.longest:
            raise ValueError(f"--cache-trunk: the backbone gives {value.shape[1]} states for {known.longest} tokens")
        found[name] = value[there.to(value.device)] if shape.tokens else value
    return found


def _batches(data: Rows, chosen: Sequence[int], batch_size: int) -> list[list[int]]:
    """Batches of the chosen row numbers, longest first."""
    rows = np.asarray(chosen, dtype=np.int64)
    if not len(rows):
        return []
    return [rows[batch].tolist() for batch in evaluation_batches(data.lengths[rows], batch_size)]


def _identify(inputs: Mapping[str, Any]) -> _Known | None:
    """A key for each row from everything but padding; None where rows cannot be distinguished.

    Two examples have one key when their tokens (and types, or pixels) are equal.
    """
    tensors = {name: value for name, value in sorted(inputs.items()) if isinstance(value, Tensor)}
    mask = tensors.pop("attention_mask", None)
    rows = {len(value) if value.ndim else -1 for value in tensors.values()}
    if len(rows) != 1 or (mask is not None and (mask.ndim != 2 or len(mask) not in rows)):
        return None
    arrays = {name: np.ascontiguousarray(value.detach().cpu().numpy()) for name, value in tensors.items()}
    count = rows.pop()
    if mask is None:
        sequences = [array.shape[1] for array in arrays.values() if array.ndim == 2]
        longest = sequences[0] if sequences else 0
        lengths = np.full(count, longest)
    else:
        there = mask.cpu().numpy() != 0
        longest, lengths = there.shape[1], there.sum(1)
        if (there != (np.arange(longest) < lengths[:, None])).any():
            return None
    keys = []
    for row, length in enumerate(lengths.tolist()):
        digest = hashlib.blake2b(digest_size=KEY_BYTES)
        for name, array in arrays.items():
            padded = mask is not None and array.shape[1:2] == (longest,)
            digest.update(f"{name}:{array.dtype}:{length}:".encode())
            digest.update(memoryview(array[row, :length] if padded else array[row]))  # type: ignore[arg-type]
        keys.append(digest.digest())
    return _Known(keys, lengths, longest)


def _device(inputs: Mapping[str, Any]) -> torch.device:
    return next(value.device for value in inputs.values() if isinstance(value, Tensor))


def _identity(path: str, reader: Recalls, weights: Mapping[str, str], engine: Engine) -> str:
    """Everything that features depend on beside the example: 32 hex digits."""
    backbone = reader.backbone
    below = f"{path}.backbone." if path else "backbone."
    config: Any = getattr(backbone, "config", None)
    facts = {
        "format": FORMAT,
        "weights": {name.removeprefix(below): value for name, value in weights.items() if name.startswith(below)},
        "trunk": [type(backbone).__name__, config.to_json_string() if config is not None else ""],
        "reader": hashlib.sha256(Path(inspect.getfile(type(reader))).read_bytes()).hexdigest(),
        "where": [engine.device.type, engine.precision],
        "versions": {name: versions()[name] for name in ("tunebench", "torch", "transformers")},
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:32]
