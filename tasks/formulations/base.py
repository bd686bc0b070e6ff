"""What a form is: how a task's rows reach a model, and how the model's answers are read and judged."""

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
    """Where a form works: the device and precision, the trainer's settings, and what the model reads with.

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
        """Tokens that a text under a head may have: ``max_length``, and no more than the model has positions for.

        RoBERTa's configuration counts two positions that no token has; its tokenizer knows better.
        """
        positions = getattr(self.config, "max_position_embeddings", None)
        limits = [positions, getattr(self.tokenizer, "model_max_length", None)]
        return min([self.settings.max_length, *(limit for limit in limits if isinstance(limit, int) and limit > 0)])


@dataclass
class EvalResult:
    """What scoring gave.

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
    """One way of putting a task to a model. A form belongs to one run."""

    reads_untrained: ClassVar[bool]
    """Whether ``check_learned`` reads what the model answered before training, to all of the checks' rows then."""

    @property
    def dev(self) -> tuple[str, bool]:
        """What the dev score during training is, and whether more of it is better."""
        ...

    def encode(self, rows: Any, cache_key: str) -> Rows:
        """Encode the rows of a ``datasets.Dataset``."""
        ...

    def outputs(self, module: nn.Module, rows: Rows) -> Array:
        """What the model answers to the rows, as numbers in a fixed order; every change of the model shows in them."""
        ...

    def dev_score(self, module: nn.Module, rows: Rows) -> float:
        """The dev score of the module now."""
        ...

    def evaluate(self, module: nn.Module, rows: Rows) -> EvalResult:
        """Answer and score the rows."""
        ...

    def time_inference(self, module: nn.Module, rows: Rows) -> float:
        """Seconds that answering the rows takes, as in ``evaluate`` (the merged module's speed)."""
        ...

    def check_learned(self, before: Array | None, after: Array, outcome: EvalResult) -> tuple[str, str]:
        """The check that something was learned, its name and its answer.

        Args:
            before, after: ``outputs`` of the same rows; before is None where nothing was trained, or the
                form does not read it.
        """
        ...


Plan = Mapping[str, Any]  # a form as a record's spec keeps it: its name, the model's head, and its own options
