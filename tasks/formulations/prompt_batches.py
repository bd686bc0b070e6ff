"""Token ids of prompts and answers, and their batches for training and generation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from bench.core.protocols import Batch

IGNORED = -100  # the label that transformers' losses leave out

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Ragged:
    """Lists of token ids stored flat: ``values`` (tokens,) int32 and ``offsets`` (rows + 1,)."""

    values: Array
    offsets: Array

    @classmethod
    def of(cls, lists: Sequence[Sequence[int]]) -> Ragged:
        """Store lists of ids."""
        flat = np.fromiter((token for ids in lists for token in ids), dtype=np.int32)
        return cls(flat, np.concatenate([[0], np.cumsum([len(ids) for ids in lists])]).astype(np.int64))

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, row: int) -> list[int]:
        found: list[int] = self.values[self.offsets[row] : self.offsets[row + 1]].tolist()
        return found

    @property
    def lengths(self) -> Array:
        """Tokens of each row, (rows,)."""
        return np.diff(self.offsets)


def padded(rows: Sequence[Sequence[int]], value: int, left: bool = False) -> Tensor:
    """Lists of ids as (rows, longest) int64, filled with ``value`` on the right, or on the left."""
    longest = max((len(ids) for ids in rows), default=0)
    found = np.full((len(rows), longest), value, dtype=np.int64)
    for place, ids in enumerate(rows):
        if ids:
            found[place, longest - len(ids) :] = ids if left else found[place, longest - len(ids) :]
            if not left:
                found[place, : len(ids)] = ids
    return torch.from_numpy(found)


def mask_of(rows: Sequence[Sequence[int]], left: bool = False) -> Tensor:
    """1 where a token is and 0 where ``padded`` fills, (rows, longest)."""
    return padded([[1] * len(ids) for ids in rows], 0, left)


@dataclass(frozen=True)
class Pairs:
    """Prompts and answers; the loss is on the answers alone. Language modelling is an answer without prompt.

    Attributes:
        prompts, answers: token ids by row; what an answer ends with (an end-of-text token) is part of it.
        labels: (rows,) class indices, or the rows' numbers where there are no classes; of language modelling's blocks
            the number of the text that each is of.
        start: what an encoder-decoder's decoder starts with; None for decoders, which read prompt and answer as one.
        references: what each row's prediction is scored against; empty where nobody needs it.
        cut: rows that were too long and lost tokens.
        examples: the dataset the rows were made from, where the task needs it again for its scores.
    """

    prompts: Ragged
    answers: Ragged
    labels: Array
    start: int | None
    references: tuple[Any, ...] = ()
    cut: int = 0
    examples: Any = None

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def lengths(self) -> Array:
        """Tokens of prompt and answer together, (rows,)."""
        return self.prompts.lengths + self.answers.lengths

    def take(self, rows: Sequence[int]) -> Self:
        """The given rows, in that order."""
        chosen = [int(row) for row in rows]
        references = tuple(self.references[row] for row in chosen) if self.references else ()
        return type(self)(
            Ragged.of([self.prompts[row] for row in chosen]),
            Ragged.of([self.answers[row] for row in chosen]),
            self.labels[np.asarray(chosen, dtype=np.int64)],
            self.start,
            references,
            self.cut,
        )

    def collate(self, rows: Sequence[int], padding: dict[str, int]) -> Batch:
        """A batch of prompts with their answers, see ``layout``."""
        return self.layout(rows, [self.answers[row] for row in rows], padding)

    def layout(self, rows: Sequence[int], answers: Sequence[Sequence[int]], padding: dict[str, int]) -> Batch:
        """The batch in which each row's prompt is followed by the given answer.

        Decoders: input_ids = prompt + answer and labels = −100 for the prompt + answer, padded on the right; the
        model itself compares each token with the one before it. Encoder-decoders: input_ids = prompt, labels =
        answer and decoder_input_ids = the answer one place later, behind the start token. Padding is −100 in labels
        and 0 in masks.
        """
        prompts, pad = [self.prompts[row] for row in rows], padding["input_ids"]
        if self.start is None:
            whole = [[*prompt, *answer] for prompt, answer in zip(prompts, answers, strict=True)]
            labels = [[IGNORED] * len(prompt) + list(answer) for prompt, answer in zip(prompts, answers, strict=True)]
            inputs = {"input_ids": padded(whole, pad), "attention_mask": mask_of(whole)}
            return {**inputs, "labels": padded(labels, IGNORED)}
        shifted = [[self.start, *answer[:-1]] for answer in answers]
        return {
            **self.asked(rows, padding),
            "decoder_input_ids": padded(shifted, pad),
            "labels": padded(answers, IGNORED),
        }

    def asked(self, rows: Sequence[int], padding: dict[str, int]) -> Batch:
        """A batch of prompts for generation, padded on the left for decoders."""
        prompts, left = [self.prompts[row] for row in rows], self.start is None
        return {
            "input_ids": padded(prompts, padding["input_ids"], left),
            "attention_mask": mask_of(prompts, left),
        }
