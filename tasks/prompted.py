"""Generation and language modelling on any data set: prompts from columns, answers, references and scores."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from bench.core.errors import RequestError, faults, unknown
from bench.core.protocols import DataSource, Splits, option
from bench.tasks.metrics.compute import METRICS, compute, each

if TYPE_CHECKING:
    import datasets

    from bench.data.hub_datasets import Loaded

LOSS = "loss"  # computed from the model's likelihoods by the form, not from texts
_OF_LIKELIHOOD = (LOSS, "perplexity")


@dataclasses.dataclass(frozen=True)
class Source:
    """A data set on the Hub, its configuration, and its training and evaluation splits.

    ``held_out``: rows of the train split that are scored where the data set has no other split.
    """

    dataset: str
    config: str | None = None
    revision: str | None = None
    train_split: str = "train"
    scored_split: str | None = "validation"
    held_out: int = 1000


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rows:
    """What generation and language modelling tasks share: the source of rows, and how they are loaded and checked."""

    name: str
    source: Source
    help: str
    main_score: str
    labels: tuple[str, ...] = ()
    train_split: str = option("", "the split to learn from; empty: the data set's own training split")
    scored_split: str = option("", "the split to score; empty: the official one")

    def read(self, source: DataSource, split: str) -> Loaded:
        """Load one split; a task with rows from elsewhere overrides this."""
        from bench.data.hub_datasets import load_split

        return load_split(source, self.source.dataset, self.source.config, split, self.source.revision)

    def prepare(self, rows: datasets.Dataset, split: str) -> datasets.Dataset:
        """The rows in the task's columns; ``split`` is ``train`` or ``scored``."""
        return rows

    def needed(self) -> tuple[str, ...]:
        """Columns that must be there."""
        return ()

    def load(self, source: DataSource) -> Splits:
        """Load and check both splits; without an evaluation split, seeded rows are held out of train.

        Raises:
            RequestError: when a split is not available or lacks a column.
        """
        scored = self.scored_split or self.source.scored_split
        train = self._train(source)
        if scored is None:
            rest, held = held_out(len(train.dataset), self.source.held_out)
            parts = {"train": train.dataset.select(rest), "scored": train.dataset.select(held)}
            prints, sources = [train.fingerprint], [train.source]
        else:
            other = self.read(source, scored)
            parts = {"train": train.dataset, "scored": other.dataset}
            prints, sources = [train.fingerprint, other.fingerprint], [train.source, other.source]
        ready = {split: self.prepare(rows, split) for split, rows in parts.items()}
        wrong = [problem for split, rows in ready.items() for problem in self._problems(rows, split)]
        if wrong:
            raise RequestError(
                faults(
                    [f"Task '{self.name}' cannot use {train.source}: {problem}." for problem in wrong], "invalid-data"
                )
            )
        return Splits(
            ready["train"],
            ready["scored"],
            fingerprint=hashlib.sha256("\n".join(prints).encode()).hexdigest(),
            source=" + ".join(dict.fromkeys(sources)),
        )

    def _train(self, source: DataSource) -> Loaded:
        """The training split; where it is not available, the message says how to choose another."""
        try:
            return self.read(source, self.train_split or self.source.train_split)
        except RequestError as error:
            hint = "To learn from another split: --set task.train_split=NAME (and --set task.scored_split=OTHER)."
            raise RequestError([message.within(after=f" {hint}") for message in error.messages]) from error

    def _problems(self, rows: datasets.Dataset, split: str) -> list[str]:
        missing = [name for name in self.needed() if name not in rows.column_names]
        if missing:
            return [f"split '{split}': {unknown('column', missing[0], rows.column_names)}"]
        return [] if len(rows) else [f"split '{split}' has no rows"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class PromptTask(Rows):
    """Prompts with target texts; satisfies ``bench.core.protocols.Generates``.

    Args:
        answer: the column of answers: a text, or a list of texts that are all right (the first is learned).
        metrics: of ``bench.tasks.metrics.compute``, over texts; ``loss`` is added by itself and may be the main score.
    """

    kind: str = "generation"
    answer: str = "answer"
    metrics: tuple[str, ...] = ()
    template: str = option("", "the prompt, with {column} for a row's text and \\n for a new line")
    max_new_tokens: int = option(128, "tokens of an answer: learned ones are cut to it, generation ends there", low=1)

    def __post_init__(self) -> None:
        """Raise ValueError for a definition that contradicts itself."""
        for metric in self.metrics:
            if metric not in METRICS:
                raise ValueError(f"task '{self.name}': {unknown('metric', metric, METRICS)}")
        if self.main_score not in (*self.metrics, LOSS):
            raise ValueError(f"task '{self.name}': {unknown('main score', self.main_score, (*self.metrics, LOSS))}")

    @property
    def higher_is_better(self) -> bool:
        """True except for the loss."""
        return self.main_score != LOSS

    def needed(self) -> tuple[str, ...]:
        return (self.answer,)

    def targets(self, rows: Mapping[str, Sequence[Any]]) -> list[str]:
        """The target text of each row."""
        return [_first(value) for value in rows[self.answer]]

    def references(self, rows: Mapping[str, Sequence[Any]]) -> list[Any]:
        """The text, or all right texts, of each row."""
        return [value if isinstance(value, str) else list(value) for value in rows[self.answer]]

    def said(self, text: str) -> str:
        """The scored part of a generated text or a reference."""
        return text

    def score(self, predictions: Sequence[Any], references: Sequence[Any]) -> dict[str, float]:
        """Score generated texts against references with the task's metrics."""
        return compute(self.metrics, *self._said(predictions, references)) if self.metrics else {}

    def each(self, predictions: Sequence[str], references: Sequence[Any]) -> list[float] | None:
        """The main score of each example by itself; None where it is of all of them together (BLEU)."""
        if self.main_score in _OF_LIKELIHOOD:
            return None
        return each(self.main_score, *self._said(predictions, references))

    def _said(self, predictions: Sequence[str], references: Sequence[Any]) -> tuple[list[str], list[Any]]:
        wanted = [self.said(text) if isinstance(text, str) else [self.said(one) for one in text] for text in references]
        return [self.said(text) for text in predictions], wanted


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModellingTask(Rows):
    """Texts for language modelling, scored by perplexity per token.

    Args:
        text: the column of texts.
    """

    kind: str = "language-modelling"
    main_score: str = "perplexity"
    higher_is_better: bool = False
    text: str = "text"

    def needed(self) -> tuple[str, ...]:
        return (self.text,)

    def texts(self, rows: Mapping[str, Sequence[Any]]) -> list[str]:
        """The texts of a batch of rows."""
        return [str(value) for value in rows[self.text]]

    def score(self, predictions: Sequence[Any], references: Sequence[Any]) -> dict[str, float]:
        """Perplexity from summed negative log-likelihoods (nats) and numbers of tokens."""
        return compute(("perplexity",), predictions, references)


def held_out(rows: int, size: int, seed: int = 0) -> tuple[list[int], list[int]]:
    """Training and evaluation rows, seeded: at most ``size`` and a fifth of the rows are for evaluation."""
    import numpy as np

    order = np.random.default_rng([seed, 2]).permutation(rows)
    count = min(size, rows // 5)
    return sorted(order[count:].tolist()), sorted(order[:count].tolist())


def _first(value: Any) -> str:
    if isinstance(value, str):
        return value
    return str(value[0]) if isinstance(value, list | tuple) and value else ""
