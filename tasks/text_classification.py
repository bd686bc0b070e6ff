"""Text classification and regression on one or two text columns: load, check, encode, score."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from bench.core.errors import RequestError, faults, unknown
from bench.core.protocols import DataSource, Splits, option
from bench.tasks.metrics.compute import METRICS, compute

if TYPE_CHECKING:
    import datasets
    import pyarrow as pa

    from bench.data.hub_datasets import Loaded

KINDS = ("classification", "regression")
_MODEL_INPUTS = ("input_ids", "attention_mask", "token_type_ids")


@dataclasses.dataclass(frozen=True)
class TextTask:
    """Texts, or pairs of texts, with a class or a number each; satisfies ``bench.core.protocols.Task``.

    Args:
        name: what ``--task`` takes.
        dataset, config, revision: the data set on the Hub, its configuration and the commit its data is pinned to.
        text: the one or two text columns, in the order they are given to the tokenizer.
        label: the column of class indices (classification) or numbers (regression).
        kind: one of KINDS.
        labels: class names in the order of their indices; empty for regression.
        metrics: names of ``bench.tasks.metrics.compute.METRICS``; ``main_score`` is the one of them to rank by.
        train_split, validation_split: the split to learn from, and the official one for the final score.
        other_splits: (suffix, split) of further splits that are scored at the end.
        group: column whose equal rows belong together; they are never torn apart.
        whole: the same for a wider bond that matters only when dev rows are held out (a passage's questions).
    """

    name: str
    dataset: str
    text: tuple[str, ...]
    metrics: tuple[str, ...]
    main_score: str
    help: str
    config: str | None = None
    revision: str | None = None
    label: str = "label"
    kind: str = "classification"
    labels: tuple[str, ...] = ()
    higher_is_better: bool = True
    train_split: str = "train"
    validation_split: str = "validation"
    other_splits: tuple[tuple[str, str], ...] = ()
    group: str | None = None
    whole: str | None = None
    form: str = option(
        "auto",
        "how a model answers: head: a classification head; words: a decoder's likelihood of label words; text: an "
        "encoder-decoder's; auto: head on encoders and decoders, text on encoder-decoders (numbers: head)",
        choices=("auto", "head", "words", "text"),
    )
    template: str | None = option(
        None, "words, text: the prompt, with {column} for a row's text and \\n for a new line; none: a line a column"
    )
    words: tuple[str, ...] = option((), "words, text: a text for each label, in the labels' order; none: their names")

    def __post_init__(self) -> None:
        """Raise ValueError for a definition that contradicts itself."""
        if self.kind not in KINDS:
            raise ValueError(f"task '{self.name}': {unknown('kind', self.kind, KINDS)}")
        if len(self.text) not in (1, 2):
            raise ValueError(f"task '{self.name}' has {len(self.text)} text columns; it takes one or two")
        for metric in self.metrics:
            if metric not in METRICS:
                raise ValueError(f"task '{self.name}': {unknown('metric', metric, METRICS)}")
        if self.main_score not in self.metrics:
            raise ValueError(f"task '{self.name}': main score: {unknown('metric', self.main_score, self.metrics)}")
        if (self.kind == "classification") != (len(self.labels) >= 2):
            raise ValueError(f"task '{self.name}' is a {self.kind} with {len(self.labels)} labels")

    def read(self, source: DataSource, split: str) -> Loaded:
        """Load one split, unchecked; a task with rows from elsewhere overrides this."""
        from bench.data.hub_datasets import load_split

        return load_split(source, self.dataset, self.config, split, self.revision)

    def load(self, source: DataSource) -> Splits:
        """Fetch the splits and check them; the columns of the data set are kept as they are.

        Raises:
            RequestError: when a split is not available, or with one message for everything that is wrong in it.
        """
        others = dict(self.other_splits)
        parts = {
            split: self.read(source, split) for split in (self.train_split, self.validation_split, *others.values())
        }
        wrong = [
            f"{part.source}, split '{split}': {problem}."
            for split, part in parts.items()
            for problem in self._problems(part.dataset)
        ]
        if wrong:
            raise RequestError(
                faults([f"Task '{self.name}' cannot use {message}" for message in wrong], "invalid-data")
            )
        prints = "\n".join(part.fingerprint for part in parts.values())
        return Splits(
            parts[self.train_split].dataset,
            parts[self.validation_split].dataset,
            fingerprint=hashlib.sha256(prints.encode()).hexdigest(),
            source=" + ".join(dict.fromkeys(part.source for part in parts.values())),
            group=self.whole or self.group,
            others={suffix: parts[split].dataset for suffix, split in others.items()},
        )

    def encode(self, rows: Mapping[str, Sequence[Any]], tokenizer: Any, max_length: int) -> dict[str, list[Any]]:
        """Tokenise a batch of rows, unpadded and at most ``max_length`` tokens each; pairs lose from the longer.

        What a row spells like a special token (``</s>``, ``[SEP]``) is text like any other: the model's own are added
        around it, and heads that look for them find no more than those.

        Returns:
            input_ids and attention_mask, token_type_ids where the tokenizer has them, each a list per row; labels,
            an int (class index) or a float (regression) per row; cut, whether the row lost tokens.
        """
        texts = [list(rows[column]) for column in self.text]
        encoded = tokenizer(
            *texts,
            truncation="longest_first",
            max_length=max_length,
            split_special_tokens=True,
            padding=False,
            return_attention_mask=True,
        )
        inputs: dict[str, list[Any]] = {name: encoded[name] for name in _MODEL_INPUTS if name in encoded}
        number = float if self.kind == "regression" else int
        inputs["labels"] = [number(value) for value in rows[self.label]]
        inputs["cut"] = _lost(encoded, max_length)
        return inputs

    def score(self, predictions: Sequence[Any], references: Sequence[Any]) -> dict[str, float]:
        """Score class indices or numbers against references of the same length, by the task's metrics."""
        return compute(self.metrics, predictions, references)

    def _problems(self, dataset: datasets.Dataset) -> list[str]:
        there = dataset.column_names
        needed = (*self.text, self.label, *filter(None, (self.group, self.whole)))
        missing = [column for column in needed if column not in there]
        if missing:
            return [f"no column {_quoted(missing)} (there: {', '.join(there)})"]
        if len(dataset) == 0:
            return ["it is empty"]
        table = dataset.select_columns([*self.text, self.label]).with_format("arrow")[:]
        problems = [problem for column in self.text if (problem := _text_problem(column, table[column]))]
        names = getattr(dataset.features[self.label], "names", None)
        if self.kind == "regression":
            problem = _number_problem(self.label, table[self.label])
        elif names is not None and tuple(names) != self.labels:
            problem = f"its labels are {', '.join(names)}, the task's are {', '.join(self.labels)}"
        else:
            problem = _class_problem(self.label, table[self.label], self.labels)
        return [*problems, problem] if problem else problems


def _lost(encoded: Any, max_length: int) -> list[bool]:
    """The rows that were longer than ``max_length`` and truncated."""
    if encoded.encodings is None:  # a slow tokenizer does not say
        return [len(ids) >= max_length for ids in encoded["input_ids"]]
    return [bool(one.overflowing) for one in encoded.encodings]


def _quoted(names: Sequence[str]) -> str:
    return ", ".join(f"'{name}'" for name in names)


def _cells(mask: pa.ChunkedArray) -> str:
    """How many cells of a boolean column are true and where the first is: 3 rows, the first is row 7."""
    import pyarrow.compute as pc

    count = pc.sum(mask).as_py()
    first = pc.index(mask, True).as_py()
    return f"row {first}" if count == 1 else f"{count} rows, the first is row {first}"


def _text_problem(column: str, values: pa.ChunkedArray) -> str | None:
    import pyarrow as pa

    if not (pa.types.is_string(values.type) or pa.types.is_large_string(values.type)):
        return f"column '{column}' holds {values.type}, not text"
    if values.null_count:
        return f"column '{column}' has no text in {_cells(values.is_null())} (counting from 0)"
    return None


def _class_problem(column: str, values: pa.ChunkedArray, labels: Sequence[str]) -> str | None:
    import pyarrow as pa
    import pyarrow.compute as pc

    if not pa.types.is_integer(values.type):
        return f"column '{column}' holds {values.type}, not class indices 0 to {len(labels) - 1}"
    inside = pc.fill_null(pc.and_(pc.greater_equal(values, 0), pc.less(values, len(labels))), False)
    outside = pc.invert(inside)
    if not pc.any(outside).as_py():
        return None
    found = sorted(pc.unique(values.filter(outside)).to_pylist(), key=lambda value: (value is None, value))
    shown = ", ".join("null" if value is None else str(value) for value in found[:5])
    if found == [-1]:
        return f"column '{column}' is -1 (a hidden label, as test splits have) in {_cells(outside)} (counting from 0)"
    known = ", ".join(f"{index} {name}" for index, name in enumerate(labels))
    where = _cells(outside)
    return f"column '{column}' has the unknown label {shown} in {where} (counting from 0); the labels are {known}"


def _number_problem(column: str, values: pa.ChunkedArray) -> str | None:
    import pyarrow as pa
    import pyarrow.compute as pc

    if not (pa.types.is_floating(values.type) or pa.types.is_integer(values.type)):
        return f"column '{column}' holds {values.type}, not numbers"
    unusable = pc.invert(pc.fill_null(pc.is_finite(values), False))
    if pc.any(unusable).as_py():
        return f"column '{column}' has no finite number in {_cells(unusable)} (counting from 0)"
    return None
