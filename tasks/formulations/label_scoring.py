"""Classification with a language model: each class has a label text, and the most likely one is predicted."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
from torch import nn

from bench.core.protocols import Task
from bench.data.encoding import Rows
from bench.tasks.formulations.base import EvalResult, FormulationContext
from bench.tasks.formulations.classifier_head import beats_majority, judged, kept, settled
from bench.tasks.formulations.likelihood import word_scores
from bench.tasks.formulations.prompt_batches import Array, Pairs, Ragged
from bench.tasks.formulations.prompt_template import Template, Words

_ENCODE_ROWS = 2000


@dataclass(frozen=True)
class LabelWords:
    """Label texts for decoders (``words``) and encoder-decoders (``text``), with the loss only on them.

    Trained as any answer is; predicted by the likelihood of each label's text, so that an answer is always one of the
    classes and has a number for each, as with a head. The end-of-text token is left out of the likelihood unless one
    label's tokens begin another's (a shorter text is never less likely than a longer one that it begins).
    """

    task: Any
    context: FormulationContext
    words: Words
    template: Template
    labels: tuple[str, ...]
    answers: tuple[tuple[int, ...], ...] = field(init=False)
    scored: tuple[tuple[int, ...], ...] = field(init=False)
    reads_untrained: ClassVar[bool] = False

    def __post_init__(self) -> None:
        whole = [tuple(ids) for ids in self.words.answer(self.labels, 1 << 30)[0]]
        bare = [ids[:-1] if ids[-1:] == (self.words.end,) else ids for ids in whole]
        alike = next((one for index, one in enumerate(bare) if one in bare[:index]), None)
        if alike is not None:
            same = [text for text, ids in zip(self.labels, bare, strict=True) if ids == alike]
            raise ValueError(
                f"this model's tokenizer writes the labels {' and '.join(map(repr, same))} alike, so that it cannot "
                "tell them apart: give other texts with --set task.words=…, or take another model"
            )
        object.__setattr__(self, "answers", tuple(whole))
        object.__setattr__(self, "scored", tuple(whole if _one_begins_another(bare) else bare))

    @property
    def dev(self) -> tuple[str, bool]:
        return self.task.main_score, self.task.higher_is_better

    def encode(self, rows: Any, cache_key: str) -> Pairs:
        prompts: list[list[int]] = []
        labels: list[int] = []
        cut = 0
        for start in range(0, len(rows), _ENCODE_ROWS):
            part = rows[start : start + _ENCODE_ROWS]
            found, shortened = self.words.prompt(self.template, part, self.context.settings.max_length)
            prompts += found
            labels += [int(label) for label in part[self.task.label]]
            cut += sum(shortened)
        answer = Ragged.of([self.answers[label] for label in labels])
        return Pairs(
            Ragged.of(prompts), answer, np.asarray(labels), self.words.start, cut=cut, examples=kept(self.task, rows)
        )

    def outputs(self, module: nn.Module, rows: Rows) -> Array:
        return self._scores(module, rows)[0]

    def _scores(self, module: nn.Module, rows: Any) -> tuple[Array, float]:
        size = self.context.settings.eval_batch_size
        return word_scores(self.context.engine, module, rows, self.scored, size)

    def dev_score(self, module: nn.Module, rows: Rows) -> float:
        return float(self.task.score(*settled(self.task, rows, self.outputs(module, rows)))[self.task.main_score])

    def evaluate(self, module: nn.Module, rows: Rows) -> EvalResult:
        return judged(self.task, rows, *self._scores(module, rows))

    def time_inference(self, module: nn.Module, rows: Rows) -> float:
        return self._scores(module, rows)[1]

    def check_learned(self, before: Array | None, after: Array, outcome: EvalResult) -> tuple[str, str]:
        return beats_majority(self.task, outcome)


def _one_begins_another(words: list[tuple[int, ...]]) -> bool:
    return any(a == b[: len(a)] for i, a in enumerate(words) for j, b in enumerate(words) if i != j)


def label_texts(task: Task, given: tuple[str, ...]) -> tuple[str, ...]:
    """The label texts of a task in label order: those given, else the labels with blanks for ``_``.

    Raises:
        ValueError: for another number of texts than classes, or two alike.
    """
    found = given or tuple(label.replace("_", " ") for label in task.labels)
    if len(found) != len(task.labels):
        names = ", ".join(task.labels)
        raise ValueError(f"words has {len(found)} texts for the {len(task.labels)} labels {names}: give one for each")
    twice = sorted({text for text in found if found.count(text) > 1})
    if twice:
        raise ValueError(f"words has '{twice[0]}' for two labels; each needs a text of its own")
    return found
