"""Generation from prompts: trained with the loss on the answer only, scored by the generated text."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from torch import nn

from bench.tasks.formulations import decoding, learning_checks, likelihood
from bench.tasks.formulations.base import EvalResult, FormulationContext
from bench.tasks.formulations.prompt_batches import Array, Pairs, Ragged
from bench.tasks.formulations.prompt_template import Template, Words
from bench.tasks.metrics import compute

_ENCODE_ROWS = 2000
LOSS = "loss"


@dataclass(frozen=True)
class Answer:
    """Greedy generation until the end-of-text token or ``new_tokens``; the dev score is the loss."""

    task: Any
    context: FormulationContext
    words: Words
    template: Template
    new_tokens: int
    reads_untrained: ClassVar[bool] = True

    @property
    def dev(self) -> tuple[str, bool]:
        return LOSS, False

    def encode(self, rows: Any, cache_key: str) -> Pairs:
        prompts: list[list[int]] = []
        answers: list[list[int]] = []
        references: list[Any] = []
        cut = 0
        for start in range(0, len(rows), _ENCODE_ROWS):
            part = rows[start : start + _ENCODE_ROWS]
            found, shortened = self.words.prompt(self.template, part, self.context.settings.max_length)
            ends, clipped = self.words.answer(self.task.targets(part), self.new_tokens)
            prompts, answers = prompts + found, answers + ends
            cut += sum(one or other for one, other in zip(shortened, clipped, strict=True))  # rows, each once
            references += self.task.references(part)
        numbers = np.arange(len(prompts))
        return Pairs(Ragged.of(prompts), Ragged.of(answers), numbers, self.words.start, tuple(references), cut)

    def outputs(self, module: nn.Module, rows: Any) -> Array:
        return likelihood.every_token(self.context.engine, module, rows, self._size)

    @property
    def _size(self) -> int:
        return self.context.settings.eval_batch_size

    def dev_score(self, module: nn.Module, rows: Any) -> float:
        return likelihood.mean_loss(*likelihood.losses(self.context.engine, module, rows, self._size)[:2])

    def _write(self, module: nn.Module, rows: Any) -> tuple[list[str], float]:
        setting = decoding.config(module, self.context.tokenizer, self.new_tokens)
        return decoding.texts(self.context.engine, module, rows, self.context.tokenizer, setting, self._size)

    def evaluate(self, module: nn.Module, rows: Any) -> EvalResult:
        sums, counts, _ = likelihood.losses(self.context.engine, module, rows, self._size)
        if not np.isfinite(sums).all():
            return EvalResult(finite=False)
        predictions, seconds = self._write(module, rows)
        references = list(rows.references)
        scores = {**self.task.score(predictions, references), LOSS: likelihood.mean_loss(sums, counts)}
        each = self._each(predictions, references, sums / np.maximum(counts, 1))
        stderr = self._stderr(predictions, references, each, likelihood.loss_stderr(sums, counts))
        columns = {
            "prediction": predictions,
            "reference": references,
            LOSS: sums / np.maximum(counts, 1),
            "tokens": counts,
            **({"score": each} if each is not None else {}),
        }
        return EvalResult(scores, stderr, columns, len(predictions), seconds)

    def _each(self, predictions: list[str], references: list[Any], losses: Array) -> Array | None:
        """The main score of each example; None where the score is defined only over all examples."""
        if self.task.main_score == LOSS:
            return losses
        found = self.task.each(predictions, references)
        return None if found is None else np.asarray(found, dtype=np.float64)

    def _stderr(
        self, predictions: list[str], references: list[Any], each: Array | None, of_loss: float | None
    ) -> float | None:
        if self.task.main_score == LOSS:
            return of_loss
        if each is not None:  # the score is the mean of the examples' own
            return float(np.std(each, ddof=1) / math.sqrt(len(each))) if len(each) > 1 else None
        if self.task.main_score in compute.METRICS:
            return compute.standard_error(self.task.main_score, predictions, references)
        return None

    def time_inference(self, module: nn.Module, rows: Any) -> float:
        return self._write(module, rows)[1]

    def check_learned(self, before: Array | None, after: Array, outcome: EvalResult) -> tuple[str, str]:
        return "beats untrained", learning_checks.beats_untrained(before, after)
