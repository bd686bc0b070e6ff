"""Custom data as a task, without code: ``--task data.csv``, ``hub:owner/name:config``, or a TOML file.

Columns, labels and splits are found (``resolve``), shown, and overridden with ``--set task.text=review``.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.core.errors import RequestError, faults, unknown
from bench.core.protocols import DataSource, Splits, Task, option
from bench.core.registry import register_opener
from bench.data import column_inference, custom_labels, custom_splits, validation_split
from bench.data.file_reader import SUFFIXES
from bench.tasks.metrics import compute
from bench.tasks.text_classification import TextTask

if TYPE_CHECKING:
    import datasets

    from bench.data.custom_splits import Part, Parts

AUTO = "auto"
_LEAST = 10  # rows that can be split at all
_SHOWN = 10  # labels that a note names
_SHEETS = (".xlsx", ".xls", ".ods", ".numbers")
_PACKED = (".gz", ".zip", ".bz2", ".xz", ".zst")
_LOSS = "loss"  # of a token, by the model's likelihoods: no metric computes it
_FITTING = {
    "classification": compute.OF_CLASSES,
    "regression": compute.OF_NUMBERS,
    "generation": (*compute.OF_TEXTS, _LOSS),
    "language-modelling": ("perplexity", _LOSS),
}
_SCORES = tuple(dict.fromkeys(itertools.chain(*_FITTING.values())))
_DEFAULT = {
    "classification": ("accuracy", "f1_macro"),
    "regression": ("pearson", "spearmanr"),
    "generation": ("rougeL", "exact_match"),
    "language-modelling": ("perplexity",),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class CustomTask(TextTask):
    """A task of any kind on custom rows of text, from the file or Hub data set ``dataset``.

    As opened, nothing is known but what the person said; ``resolve`` gives the task with everything found out.
    """

    kind: str = option(AUTO, "what is learned; auto: by the columns' names and values", choices=(AUTO, *_FITTING))
    text: tuple[str, ...] = option((), "the column of text, or two for pairs; empty: by name and type")
    label: str = option("", "the column of labels, numbers, or answers to write; empty: by name and type")
    group: str | None = option(None, "column whose equal rows stay together when rows are held out")
    rank_by: str = option(AUTO, "score to rank by", choices=(AUTO, *_SCORES))
    scored: str = option(
        AUTO,
        "split that is scored; auto: validation, else test, else rows held out",
        choices=(AUTO, "validation", "test"),
    )
    holdout: float = option(0.2, "share of the rows held out where no split can be scored", low=0.01, high=0.9)
    split_seed: int = option(0, "seed of that choice of rows", low=0)
    max_new_tokens: int = option(64, "generation: tokens of an answer; learned ones are cut to it", low=1)
    skip_empty: bool = option(False, "leave out rows without text or label")
    metrics: tuple[str, ...] = ()
    main_score: str = ""
    notes: tuple[str, ...] = dataclasses.field(default=(), compare=False)

    def __post_init__(self) -> None:
        """Check what is known before ``resolve``."""
        if self.metrics and self.kind not in column_inference.PROSE:
            super().__post_init__()

    # -- finding out ----------------------------------------------------------------------------------------

    def resolve(self, source: DataSource) -> Task:
        """The task with columns, kind, labels and score inferred, and notes on the choices.

        Raises:
            RequestError: when the data cannot be read, or a guess would be a gamble.
        """
        parts = custom_splits.find(self.dataset, source)
        train = parts.splits["train"]
        aside = (*parts.aside, *filter(None, (self.group,)))
        if self.group is not None and self.group not in train.table.column_names:
            raise RequestError([unknown(f"column of {self.name}", self.group, train.table.column_names)])
        kind = None if self.kind == AUTO else self.kind
        found = column_inference.choose(train.table, self.name, kind, self.text, self.label or None, aside)
        labels = custom_labels.class_names(self.name, train, found.label) if found.kind == "classification" else ()
        main = _score(self.rank_by, found.kind)
        return dataclasses.replace(
            self, kind=found.kind, text=found.text, label=found.label, labels=labels, rank_by=main, main_score=main,
            higher_is_better=main not in (_LOSS, *compute.LOWER_IS_BETTER),
            metrics=tuple(name for name in dict.fromkeys((main, *_DEFAULT[found.kind])) if name != _LOSS),
            notes=(*_notes(found, labels), *parts.notes),
        )  # fmt: skip

    # -- rows -----------------------------------------------------------------------------------------------

    def load(self, source: DataSource) -> Splits:
        """The training and evaluation rows, labels as class indices or numbers.

        Raises:
            RequestError: with every fault of the rows.
        """
        parts = custom_splits.find(self.dataset, source)
        scored = self._scored(parts)
        used = {"train": parts.splits["train"]} | ({} if scored is None else {scored: parts.splits[scored]})
        wrong: list[str] = []
        clean = {split: self._clean(split, part, wrong) for split, part in used.items()}
        if wrong:
            raise RequestError(faults([f"{self.name}, {problem}" for problem in wrong], "invalid-data"))
        train = clean["train"]
        if scored is None:
            train, validation = self._held_out(train)
        else:
            validation = clean[scored]
        return Splits(_rows(train), _rows(validation), parts.fingerprint, parts.source, self._together(train))

    def _scored(self, parts: Parts) -> str | None:
        """The evaluation split; None where rows are held out of train."""
        there = [split for split in ("validation", "test") if split in parts.splits]
        if self.scored == AUTO:
            return there[0] if there else None
        if self.scored not in there:
            have = " and ".join(parts.splits)
            raise RequestError(
                f"task.scored={self.scored}: {self.name} has no such split; it has {have}.", code="invalid-value"
            )
        return self.scored

    def _clean(self, split: str, part: Part, wrong: list[str]) -> Part:
        """A split with its label column as indices or numbers; says what is wrong with its rows."""
        needed = (self.text[0], *filter(None, (self.label,))) if self._prose else (*self.text, self.label)
        empty = custom_labels.empty_rows(part, needed, self.skip_empty, wrong, f"split '{split}'")
        if self._prose:
            return self._filled(split, part, empty, wrong)
        values = part.table[self.label]
        if self.kind == "regression":
            codes, fault = custom_labels.numbers(values), "is not a number"
            bad = np.isnan(codes) & ~empty
        else:
            more = ", …" if len(self.labels) > _SHOWN else ""
            known = f"{', '.join(self.labels[:_SHOWN])}{more}"
            codes, fault = custom_labels.class_indices(part, self.label, self.labels), f"is none of train's ({known})"
            bad = (codes < 0) & ~empty
        rows = np.arange(len(values)) if part.rows is None else part.rows
        if bad[rows].any():
            first = int(rows[bad[rows]][0])
            wrong.append(
                f"split '{split}': the label {values[first].as_py()!r} of row {first + 1} {fault} "
                f"(column '{self.label}'{_besides(int(bad[rows].sum()) - 1)})."
            )
        kept = rows[~empty[rows]]
        if len(kept) == 0:
            wrong.append(f"split '{split}': no row is left.")
        return dataclasses.replace(part, dataset=self._with_labels(part.dataset, codes), rows=kept)

    @property
    def _prose(self) -> bool:
        """Whether it is generation or language modelling, which have no labels."""
        return self.kind in column_inference.PROSE

    def _filled(self, split: str, part: Part, empty: np.ndarray[Any, Any], wrong: list[str]) -> Part:
        rows = np.arange(part.table.num_rows) if part.rows is None else part.rows
        kept = rows[~empty[rows]]
        if len(kept) == 0:
            wrong.append(f"split '{split}': no row is left.")
        return dataclasses.replace(part, rows=kept)

    def _with_labels(self, dataset: datasets.Dataset, codes: np.ndarray[Any, Any]) -> datasets.Dataset:
        import datasets
        import pyarrow as pa
        from datasets.table import InMemoryTable

        feature = datasets.ClassLabel(names=list(self.labels)) if self.labels else datasets.Value("float64")
        features = datasets.Features({**dataset.features, self.label: feature})
        table = dataset.data.table
        place = table.column_names.index(self.label)
        table = table.set_column(place, pa.field(self.label, feature.pa_type), pa.array(codes, feature.pa_type))
        return datasets.Dataset(
            InMemoryTable(table.replace_schema_metadata(None)),
            info=datasets.DatasetInfo(features=features),
            fingerprint=f"{dataset._fingerprint}-{self.label}",  # else datasets hashes the whole table
        )

    # -- texts that are written or modelled -----------------------------------------------------------------

    def targets(self, rows: Mapping[str, Sequence[Any]]) -> list[str]:
        """The target text of each row."""
        return [str(value) for value in rows[self.label]]

    def references(self, rows: Mapping[str, Sequence[Any]]) -> list[Any]:
        """The references of each row."""
        return self.targets(rows)

    def each(self, predictions: Sequence[str], references: Sequence[Any]) -> list[float] | None:
        """The main score of each example by itself, where the whole score is their mean."""
        return None if self.main_score == _LOSS else compute.each(self.main_score, predictions, references)

    def texts(self, rows: Mapping[str, Sequence[Any]]) -> list[str]:
        """The texts to model."""
        return [str(value) for value in rows[self.text[0]]]

    def _together(self, train: Part) -> str | tuple[str, ...] | None:
        """The columns whose equal rows stay together when dev rows are held out: the group, else texts that repeat."""
        if self.group is not None:
            return self.group
        rows = slice(None) if train.rows is None else train.rows
        texts = validation_split.repeats([train.table[name] for name in self.text])[rows]
        return self.text if len(np.unique(texts)) < len(texts) else None

    def _held_out(self, part: Part) -> tuple[Part, Part]:
        """Training and evaluation rows of one split; equal texts and groups stay together."""
        rows = part.rows if part.rows is not None else np.arange(part.table.num_rows)
        if len(rows) < _LEAST:
            raise RequestError(
                f"{self.name} has {len(rows)} rows, too few to hold some out; {_LEAST} are the least.",
                code="invalid-data",
            )
        named = (self.group,) if self.group else self.text
        groups = validation_split.repeats([part.table[name] for name in named])[
            rows
        ]  # a column of the rows alone is a copy
        classes = part.column(self.label).to_numpy() if self.labels else None
        train, validation = validation_split.make(classes, groups, self.holdout, self.split_seed)
        if len(validation) == 0 or len(train) == 0:
            raise RequestError(
                f"{self.name}: a share of {self.holdout:g} leaves nothing to score. Give more rows, another "
                "--set task.holdout, or a file of its own for validation.",
                code="invalid-data",
            )
        return dataclasses.replace(part, rows=rows[train]), dataclasses.replace(part, rows=rows[validation])


def _rows(part: Part) -> datasets.Dataset:
    return part.dataset if part.rows is None else part.dataset.select(part.rows)


def _besides(count: int) -> str:
    return f"; {count:,} more such {'row' if count == 1 else 'rows'}" if count else ""


def _score(wanted: str, kind: str) -> str:
    fitting = _FITTING[kind]
    if wanted == AUTO:
        return _DEFAULT[kind][0]
    if wanted not in fitting:
        raise RequestError([unknown(f"score of a {kind}", wanted, fitting).within("task.rank_by: ")])
    return wanted


def _notes(found: column_inference.Columns, labels: tuple[str, ...]) -> tuple[str, ...]:
    """The choices, as notes for the user."""
    text = " and ".join(f"'{name}'" for name in found.text)
    more = f", … ({len(labels)} in all)" if len(labels) > _SHOWN else ""
    of = f": {', '.join(labels[:_SHOWN])}{more}" if labels else ""
    unused = f"not used: {', '.join(found.others)}" if found.others else ""
    if found.kind == "generation":
        return tuple(filter(None, (f"prompt from {text}, answer from '{found.label}' (generation)", unused)))
    if found.kind == "language-modelling":
        return tuple(filter(None, (f"text from {text} (language modelling)", unused)))
    notes = (f"text from {text}, label from '{found.label}' ({found.kind}{of})", unused)
    return tuple(note for note in notes if note)


def open_task(name: str) -> Task | None:
    """The task of a data file or a Hub data set (``hub:…``); None for other names."""
    if name.startswith(custom_splits.HUB) or name.lower().endswith(SUFFIXES):
        return CustomTask(name=name, dataset=name, help=f"your own data, {name}")
    path = Path(name).expanduser()
    if path.is_file() and path.suffix.lower() != ".toml":
        raise RequestError(_unreadable(name, path.suffix.lower()), code="damaged")
    if name.endswith("/") and not path.exists():
        raise RequestError(f"There is no folder {name} with images.", code="not-found")
    return None


def _unreadable(name: str, suffix: str) -> str:
    """The message for a file of another kind: how to convert it."""
    known = f"Files of rows end in {', '.join(SUFFIXES)}"
    if suffix in _SHEETS:
        return f"{name} is a spreadsheet: save its sheet as CSV (UTF-8). {known}."
    if suffix in _PACKED:
        return f"{name} is compressed: unpack it first. {known}."
    if suffix == ".txt":
        return f"{name}: give the texts as a .csv or .jsonl file with a column 'text'. {known}; a task file in .toml."
    return f"{name}: files of this kind are not read. {known}; a task file in .toml; images lie in a folder."


register_opener(open_task)
