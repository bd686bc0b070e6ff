"""The protocols of methods and tasks, and how their options are declared: structural, without base classes.

This module imports neither torch nor transformers, so that a plugin's options can be read cheaply.
"""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, runtime_checkable

if TYPE_CHECKING:
    import torch
    from datasets import Dataset
    from torch import nn

# Heads that a backbone can have and methods are tested on.
KINDS = ("classification", "regression", "causal-lm", "seq2seq", "image-classification")
# Kinds of task; ``bench.tasks.formulations.select`` chooses the head for one in a family of models.
TASK_KINDS = ("classification", "regression", "generation", "language-modelling", "image-classification")

Batch = dict[str, "torch.Tensor"]


@dataclasses.dataclass(frozen=True)
class Limits:
    """What an option accepts: inclusive bounds for numbers, or a closed set of words."""

    help: str
    low: float | None = None
    high: float | None = None
    choices: tuple[str, ...] = ()


def option(
    default: Any, help: str, *, low: float | None = None, high: float | None = None, choices: Sequence[str] = ()
) -> Any:
    """Declare a documented dataclass field: its default, one line of help, and what it accepts.

    Args:
        default: the value when nobody sets it; its type comes from the field's annotation.
        help: one line, shown by ``bench show`` and in the report.
        low, high: inclusive bounds of a number.
        choices: the words a string option accepts.
    """
    limits = Limits(help, low, high, tuple(choices))
    return dataclasses.field(default=default, metadata={"limits": limits})


@runtime_checkable
class Method(Protocol):
    """A fine-tuning method: a frozen dataclass that is both the method and its hyper-parameters.

    Class attributes: ``name`` (what ``--methods`` takes) and ``swept`` (the field ``--ranks`` sets, or None).
    Every method has a field ``lr``, its default peak learning rate.
    """

    name: ClassVar[str]
    swept: ClassVar[str | None]

    @property
    def lr(self) -> float:
        """Peak learning rate."""
        ...

    def attach(self, backbone: Any) -> nn.Module:
        """Change ``backbone`` into the tuned module and return it.

        The module's forward takes a batch's tensors by keyword and gives an output with ``.loss`` and
        ``.logits``. What is trainable is what has ``requires_grad``.

        Raises:
            ValueError: when the method cannot apply to this model; the message says why.
        """
        ...


@runtime_checkable
class CountsParameters(Protocol):
    """A method that computes its number of trainable parameters from shapes, as its paper does."""

    def trainable_count(self, backbone: Any) -> int:
        """Trainable parameters, head included, computed from an untouched backbone by formula."""
        ...


class Mergeable(abc.ABC):
    """A method whose result can be folded into the base weights, so that inference costs nothing extra.

    Structural like the protocols here, but ``merge`` must be a method: an option may have that name too (LST's).
    """

    @classmethod
    def __subclasshook__(cls, other: type) -> bool:
        return callable(getattr(other, "merge", None))

    @abc.abstractmethod
    def merge(self, module: nn.Module) -> nn.Module:
        """Fold the tuned weights into the base weights, in place, and return the module."""
        ...


@runtime_checkable
class GroupsParameters(Protocol):
    """A method with its own optimizer groups (LoRA+: a higher rate for B)."""

    def parameter_groups(self, module: nn.Module) -> list[dict[str, Any]]:
        """Groups as torch.optim takes them; ``lr_scale`` multiplies the run's learning rate (default 1)."""
        ...


@runtime_checkable
class DataInitialized(Protocol):
    """A method that is initialised on training batches before the first step (LST's Fisher pruning)."""

    def initialize(self, module: nn.Module, batches: Iterable[Batch]) -> None:
        """Set initial values from training batches (on the module's device); changes parameters in place."""
        ...


@runtime_checkable
class FollowsSteps(Protocol):
    """A method that acts after every optimizer step (AdaLoRA's rank budget)."""

    def after_step(self, module: nn.Module, step: int, steps: int) -> None:
        """Called after optimizer step ``step`` of ``steps`` (1-based), gradients still in place."""
        ...


@runtime_checkable
class AlreadyTrained(Protocol):
    """A method whose module is already trained: a run scores it, measures inference and trains nothing."""

    already_trained: ClassVar[bool]


@runtime_checkable
class SharesBackbone(Protocol):
    """A method whose module reads a frozen backbone (``frozen_backbone.Reads``); runs may share one pass of it."""

    @property
    def shares_trunk(self) -> bool:
        """Whether with these options the backbone's features depend only on the input."""
        ...


@runtime_checkable
class ExportsToPeft(Protocol):
    """A method that peft has too, so that a tuned module can be written in peft's file format."""

    def to_peft(
        self, module: nn.Module, original: Mapping[str, torch.Tensor]
    ) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
        """What ``adapter_config.json`` and ``adapter_model.safetensors`` hold for this module.

        Task, base model, head and other weights of the base model that were trained are added by the caller.

        Args:
            module: the tuned module.
            original: the base model's tensors before the method was attached, by name.

        Raises:
            ValueError: when peft has no equivalent of these settings; says what to do instead.
        """
        ...


@dataclasses.dataclass(frozen=True)
class DataSource:
    """Where data sets come from: a mirror in the Hub's layout (``BENCH_DATA``, ``--data-dir``), then the Hub.

    With ``fill``, what the mirror lacks is copied into it from the Hub first (``bench fetch``).
    """

    mirror: Path | None = None
    fill: bool = False


@dataclasses.dataclass(frozen=True)
class Splits:
    """A task's rows: ``train`` for training and ``validation`` for the final score, with their fingerprint.

    Attributes:
        group: column of train, or several; rows with equal values stay together when dev rows are held out.
        others: further rows that are scored at the end, by the suffix of their scores ("mismatched").
    """

    train: Dataset
    validation: Dataset
    fingerprint: str
    source: str
    group: str | tuple[str, ...] | None = None
    others: Mapping[str, Dataset] = dataclasses.field(default_factory=dict)


@runtime_checkable
class Task(Protocol):
    """A data set with a score: loads its splits and scores predictions; further members depend on its kind."""

    @property
    def name(self) -> str:
        """What ``--task`` takes, such as ``glue/sst2``."""
        ...

    @property
    def kind(self) -> str:
        """One of TASK_KINDS."""
        ...

    @property
    def labels(self) -> tuple[str, ...]:
        """Class names in label order; empty where there are no classes."""
        ...

    @property
    def main_score(self) -> str:
        """The score to rank by."""
        ...

    @property
    def higher_is_better(self) -> bool:
        """The main score's direction."""
        ...

    @property
    def help(self) -> str:
        """One line for ``bench list tasks``."""
        ...

    def load(self, source: DataSource) -> Splits:
        """Load and check the splits.

        Raises:
            RequestError: when the data is not available or is not what the task expects.
        """
        ...

    def score(self, predictions: Sequence[Any], references: Sequence[Any]) -> dict[str, float]:
        """Score predictions (class indices or numbers) against references; each score by its standard name."""
        ...


@runtime_checkable
class Encodes(Protocol):
    """What a classification or regression task has besides: inputs for a model with a head."""

    def encode(self, rows: Mapping[str, Sequence[Any]], tokenizer: Any, max_length: int) -> dict[str, list[Any]]:
        """Encode a batch of rows (columns of equal length) into model inputs and ``labels``, unpadded."""
        ...


@runtime_checkable
class Generates(Protocol):
    """What a task of the kind ``generation`` has besides: prompts and target texts."""

    @property
    def template(self) -> str:
        """The prompt, with ``{column}`` where a row's text goes."""
        ...

    @property
    def max_new_tokens(self) -> int:
        """Most tokens of an answer: training answers are truncated to it and generation stops there."""
        ...

    def targets(self, rows: Mapping[str, Sequence[Any]]) -> list[str]:
        """The target text of each row."""
        ...

    def references(self, rows: Mapping[str, Sequence[Any]]) -> list[Any]:
        """What a generated text is scored against: per row one text, or a list of accepted ones."""
        ...

    def each(self, predictions: Sequence[str], references: Sequence[Any]) -> list[float] | None:
        """The main score of each example where the whole score is their mean, else None."""
        ...


@runtime_checkable
class GroupedPrediction(Protocol):
    """A classification task in which several rows are one example: the candidates of one question.

    Rows of one ``group`` count as one example in the score, its standard error and the table of predictions. They are
    never split up; each is a training row of its own.
    """

    @property
    def group(self) -> str | None:
        """The column that rows of one example share."""
        ...

    def settle(self, logits: Any, rows: Dataset) -> tuple[list[Any], list[Any]]:
        """Predictions and references of the examples, one each, as ``score`` takes them.

        Args:
            logits: (rows, classes) of the encoded rows, in their order.
            rows: the same rows; those of an example may be in any order.
        """
        ...


@runtime_checkable
class Resolves(Protocol):
    """A task that infers from its data what was not given (columns, labels), before its other members are used."""

    def resolve(self, source: DataSource) -> Task:
        """The task with everything inferred; the same data and options give an equal one in every process.

        Raises:
            RequestError: when the data is not available or not sufficient.
        """
        ...
