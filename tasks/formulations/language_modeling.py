"""Language modelling: texts, scored by perplexity."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from torch import nn

from bench.tasks.formulations import learning_checks, likelihood
from bench.tasks.formulations.base import EvalResult, FormulationContext
from bench.tasks.formulations.prompt_batches import Array, Pairs, Ragged
from bench.tasks.formulations.prompt_template import Words

_ENCODE_ROWS = 2000
LOSS = "loss"


@dataclass(frozen=True)
class LanguageModelling:
    """Texts: the loss is on every token but the first of a block, and the score is the perplexity.

    A text that is longer than ``max_length`` becomes several blocks, so that no token is left out. Standard errors are
    over texts: the blocks of one are alike.
    """

    task: Any
    context: FormulationContext
    words: Words
    reads_untrained: ClassVar[bool] = True

    @property
    def dev(self) -> tuple[str, bool]:
        return LOSS, False

    def encode(self, rows: Any, cache_key: str) -> Pairs:
        blocks: list[list[int]] = []
        counts: list[int] = []  # of each text
        for start in range(0, len(rows), _ENCODE_ROWS):
            for ids in self.words.whole(self.task.texts(rows[start : start + _ENCODE_ROWS])):
                made = split(ids, self.context.settings.max_length)
                blocks += made
                counts.append(len(made))
        texts = np.repeat(np.arange(len(counts)), counts)
        return Pairs(Ragged.of([[] for _ in blocks]), Ragged.of(blocks), texts, self.words.start)

    @property
    def _size(self) -> int:
        return self.context.settings.eval_batch_size

    def outputs(self, module: nn.Module, rows: Any) -> Array:
        return likelihood.every_token(self.context.engine, module, rows, self._size)

    def dev_score(self, module: nn.Module, rows: Any) -> float:
        return likelihood.mean_loss(*likelihood.losses(self.context.engine, module, rows, self._size)[:2])

    def evaluate(self, module: nn.Module, rows: Any) -> EvalResult:
        sums, counts, seconds = likelihood.losses(self.context.engine, module, rows, self._size)
        if not np.isfinite(sums).all():
            return EvalResult(finite=False)
        loss, error = likelihood.mean_loss(sums, counts), likelihood.loss_stderr(sums, counts, rows.labels)
        perplexity = math.exp(min(loss, 700.0))  # what is beyond is beyond a float
        stderr = error
        if self.task.main_score == "perplexity" and error is not None:
            stderr = perplexity * error  # the delta method
        each = sums / np.maximum(counts, 1)
        nothing: list[str | None] = [None] * len(each)
        columns = {
            "prediction": nothing,
            "reference": nothing,
            "score": each,
            LOSS: each,
            "tokens": counts,
            "text": rows.labels,
        }
        return EvalResult({"perplexity": perplexity, LOSS: loss}, stderr, columns, len(each), seconds)

    def time_inference(self, module: nn.Module, rows: Any) -> float:
        return likelihood.losses(self.context.engine, module, rows, self._size)[2]

    def check_learned(self, before: Array | None, after: Array, outcome: EvalResult) -> tuple[str, str]:
        return "beats untrained", learning_checks.beats_untrained(before, after)


def split(ids: list[int], length: int) -> list[list[int]]:
    """A text's tokens in blocks of at most ``length``.

    Each block but the first begins with the token that ended the one before: the first token of a block is read but
    not scored, so every token but the text's first is scored once.
    """
    if len(ids) < 2:
        return []
    return [ids[start : start + length] for start in range(0, len(ids) - 1, length - 1)]
