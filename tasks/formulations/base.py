"""The protocol of formulations: how a task's rows are encoded for a model, and how its outputs are scored."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

from torch import nn

from bench.core.train_config import TrainSettings
from bench.data.encoding import Rows
from bench.models.inference import Engine
from bench.tasks.formulations.prompt_batches import Array


@dataclass(frozen=True)
class FormulationContext:
    """What a formulation needs: device and precision, training settings, tokenizer and model configuration.

    Attributes:
        tokenizer: the model's own; None where it reads images.
        config: the model's configuration.
    """

    engine: Engine
    settings: TrainSettings
    tokenizer: Any
    config: Any

    @property
    def longest(self) -> int:
        """Most tokens of a text: ``max_length``, and at most the model's positions.

        RoBERTa's configuration counts two positions that no token has; its tokenizer knows better.
        """
        positions = getattr(self.config, "max_position_embeddings", None)
        limits = [positions, getattr(self.tokenizer, "model_max_length", None)]
        return min([self.settings.max_length, *(limit for limit in limits if isinstance(limit, int) and limit > 0)])


@dataclass
class EvalResult:
    """The result of an evaluation.

    Attributes:
        scores: by name, the main score among them.
        stderr: of the main score; None where nobody knows one.
        columns: of the per-example predictions: prediction and reference, and logits, or score (the example's own
            main score) and loss; equally long.
        rows, seconds: examples answered, and how long that took (generation included).
        finite: whether what the model gave are numbers.
        by_row: predicted and true class of each row, where an example may be several rows.
    """

    scores: dict[str, float] = field(default_factory=dict)
    stderr: float | None = None
    columns: dict[str, Any] = field(default_factory=dict)
    rows: int = 0
    seconds: float = 0.0
    finite: bool = True
    by_row: tuple[list[Any], list[Any]] = ([], [])


class Formulation(Protocol):
    """One formulation of a task for a model, made for one run."""

    reads_untrained: ClassVar[bool]
    """Whether ``check_learned`` reads what the model answered before training, to all of the checks' rows then."""

    @property
    def dev(self) -> tuple[str, bool]:
        """Name of the dev score, and whether higher is better."""
        ...

    def encode(self, rows: Any, cache_key: str) -> Rows:
        """Encode the rows of a ``datasets.Dataset``."""
        ...

    def outputs(self, module: nn.Module, rows: Rows) -> Array:
        """The model's outputs for the rows as numbers in a fixed order, to compare models."""
        ...

    def dev_score(self, module: nn.Module, rows: Rows) -> float:
        """The dev score of the module now."""
        ...

    def evaluate(self, module: nn.Module, rows: Rows) -> EvalResult:
        """Predict and score the rows."""
        ...

    def time_inference(self, module: nn.Module, rows: Rows) -> float:
        """Seconds of predicting the rows as in ``evaluate`` (for the speed of a merged module)."""
        ...

    def check_learned(self, before: Array | None, after: Array, outcome: EvalResult) -> tuple[str, str]:
        """The check that something was learned, its name and its answer.

        Args:
            before, after: ``outputs`` of the same rows; before is None where nothing was trained, or the
                form does not read it.
        """
        ...


Plan = Mapping[str, Any]  # a form as a record's spec keeps it: its name, the model's head, and its own options
