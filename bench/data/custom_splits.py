"""The splits of custom data: a file with its siblings, a split column, or every split of a Hub data set."""

from __future__ import annotations

import dataclasses
import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.core.errors import RequestError
from bench.core.protocols import DataSource
from bench.data import column_inference, file_reader

if TYPE_CHECKING:
    import datasets
    import pyarrow as pa

HUB = "hub:"
_TRAIN = re.compile(r"(?<![a-z])train(ing)?(?![a-z])", re.IGNORECASE)
_NAMES = {"validation": ("validation", "valid", "val", "dev"), "test": ("test",)}
_SHARD = re.compile(r"-\d{5}-of-(\d{5})$")


@dataclass(frozen=True)
class Part:
    """The rows of one split: a data set, and which of its rows (all of them: None)."""

    dataset: datasets.Dataset
    rows: np.ndarray[Any, Any] | None = None

    @property
    def table(self) -> pa.Table:
        """Every row of the data set, on disk."""
        return self.dataset.data.table

    def column(self, name: str) -> pa.ChunkedArray:
        """The cells of this split's rows."""
        whole = self.table[name]
        return whole if self.rows is None else whole.take(self.rows)


@dataclass(frozen=True)
class Parts:
    """Rows by split; with only ``train``, a validation split must be held out.

    Attributes:
        splits: name → rows; all have the first one's columns.
        fingerprint: 64 hex digits over the content of all.
        source: where they came from, free of machine paths.
        aside: the column with each row's split, where there is one.
        notes: what a person should know of how they were found.
    """

    splits: dict[str, Part]
    fingerprint: str
    source: str
    aside: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def find(where: str, source: DataSource) -> Parts:
    """Find the parts of ``data.csv`` or ``hub:owner/name:config`` (RequestError)."""
    return _hub(where, source) if where.startswith(HUB) else _files(where)


def _hub(where: str, source: DataSource) -> Parts:
    from bench.data.hub_datasets import load_splits

    dataset, _, config = where.removeprefix(HUB).partition(":")
    if not dataset:
        raise RequestError(
            f"'{where}' names no data set: write hub:owner/name, or hub:owner/name:configuration.", code="invalid-value"
        )
    found = load_splits(source, dataset, config or None, None)
    splits: dict[str, Part] = {}
    for split, part in found.items():
        splits.setdefault(column_inference.split_of(split) or split, Part(part.dataset))
    if "train" not in splits:
        raise RequestError(
            f"{where} has no train split (it has: {', '.join(found)}): there is nothing to learn from.",
            code="invalid-data",
        )
    prints = "\n".join(f"{split} {part.fingerprint}" for split, part in sorted(found.items()))
    sources = " + ".join(dict.fromkeys(part.source for part in found.values()))
    return Parts(splits, hashlib.sha256(prints.encode()).hexdigest(), sources)


def _files(where: str) -> Parts:
    path = Path(where).expanduser()
    shards = _SHARD.search(path.stem)
    if shards and int(shards[1]) > 1:
        raise RequestError(
            f"{where} is one of {int(shards[1])} shards. Lay them out as <folder>/<data set>/<config>/"
            "<split>-*.parquet and run with --data-dir <folder> --task hub:<data set>:<config>.",
            code="ambiguous",
        )
    files = {"train": path, **_siblings(path)}
    read = {split: file_reader.read(file) for split, file in files.items()}
    first = read["train"].rows.column_names
    for split, table in read.items():
        names = table.rows.column_names
        if set(names) != set(first):
            raise RequestError(
                f"{files[split]} has the columns {', '.join(names)}; {path} has {', '.join(first)}. By its name it is "
                f"the {split} split of {path.name}: where it is not (a test without labels), move it or rename it.",
                code="invalid-data",
            )
    notes = tuple(dict.fromkeys(note for table in read.values() for note in table.notes))
    if len(read) == 1:
        return _by_column(read["train"], where, Parts({}, read["train"].fingerprint, f"file:{path.name}", (), notes))
    prints = "\n".join(f"{split} {table.fingerprint}" for split, table in sorted(read.items()))
    beside = ", ".join(f"{split} from {file.name} beside it" for split, file in files.items() if split != "train")
    return Parts(
        {split: Part(_dataset(table)) for split, table in read.items()},
        hashlib.sha256(prints.encode()).hexdigest(),
        f"file:{path.name}",
        notes=(*notes, beside),
    )


def _siblings(path: Path) -> dict[str, Path]:
    """The validation and test files beside a file with ``train`` in its name."""
    found: dict[str, Path] = {}
    for split, words in _NAMES.items():
        there = [path.with_name(_TRAIN.sub(word, path.stem) + path.suffix) for word in words]
        there = [file for file in there if file != path and file.is_file()]
        if there:
            found[split] = there[0]
    return found


def _dataset(table: file_reader.Table) -> datasets.Dataset:
    """The memory-mapped rows as a Dataset; class names come from the description that parquet files of the Hub have."""
    import datasets
    from datasets.table import InMemoryTable

    return datasets.Dataset(InMemoryTable(table.rows), fingerprint=table.fingerprint[:16])


def _by_column(table: file_reader.Table, where: str, found: Parts) -> Parts:
    """Split rows by their split column, where they have one."""
    import pyarrow.compute as pc

    dataset, column = _dataset(table), column_inference.split_column(table.rows)
    if column is None:
        return dataclasses.replace(found, splits={"train": Part(dataset)})
    words = pc.unique(table.rows[column])
    split_of = [column_inference.split_of(word) or "" for word in words.to_pylist()]
    if "train" not in split_of:
        raise RequestError(
            f"{where}: no row of its column '{column}' says train (they say {', '.join(words.to_pylist())}).",
            code="invalid-data",
        )
    named = np.asarray(split_of)[pc.index_in(table.rows[column], value_set=words).to_numpy()]
    splits = {split: Part(dataset, np.flatnonzero(named == split)) for split in sorted(set(split_of))}
    notes = (*found.notes, f"splits from its column '{column}'")
    return dataclasses.replace(found, splits=splits, aside=(column,), notes=notes)
