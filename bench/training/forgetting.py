"""Forgetting: what tuning a language model on a task does to its loss on general text, before against after."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import nn

from bench.core.errors import RequestError
from bench.core.protocols import DataSource
from bench.tasks.formulations.base import FormulationContext
from bench.tasks.formulations.language_modeling import split
from bench.tasks.formulations.likelihood import losses, mean_loss
from bench.tasks.formulations.prompt_batches import Pairs, Ragged
from bench.tasks.formulations.prompt_template import Words

TEXTS = ("wikitext", "stdlib")
_TOKENS = 16384  # enough that a difference of 0.01 nats shows, as the same tokens are compared


def check(text: str | None, plan: Mapping[str, Any], model: str) -> None:
    """Refuse the option where no language model is tuned (RequestError)."""
    if text is not None and plan["model_kind"] != "causal-lm":
        raise RequestError(
            f"train.forgetting={text} compares losses of a language model on general text, and '{model}' is tuned with "
            "another head here. Take a decoder on a generation or language-modelling task, or --set task.form=words.",
            code="unsupported",
        )


def general_text(text: str, source: DataSource) -> list[str]:
    """The general texts of a name: wikitext-2's validation articles, or the language reference that Python carries.

    Raises:
        RequestError: when the text is not available.
    """
    if text == "wikitext":
        from bench.data.hub_datasets import load_split

        rows = load_split(source, "Salesforce/wikitext", "wikitext-2-v1", "validation", None).dataset
        return ["".join(rows["text"])]
    try:
        from pydoc_data.topics import topics
    except ImportError as error:
        raise RequestError(
            "This Python comes without its language reference (pydoc_data): use wikitext.", code="unavailable"
        ) from error
    return [topics[name] for name in sorted(topics)]


@dataclass
class Forgetting:
    """The comparison of one run: blocks of general text, and the base model's loss once it is known.

    Attributes:
        text: its name.
        blocks: at most 16,384 tokens, in blocks of the run's ``max_length``.
        base_loss: nats a token.
    """

    text: str
    context: FormulationContext
    blocks: Pairs
    fingerprint: str
    base_loss: float | None = None

    @classmethod
    def on(cls, text: str, source: DataSource, context: FormulationContext) -> Forgetting:
        """Fetch a general text and make blocks of it."""
        texts = general_text(text, source)
        words, length = Words(context.tokenizer, None), context.settings.max_length
        found: list[list[int]] = []
        for one in texts:
            found += split(words.whole([one])[0][: _TOKENS + 1], length)
            if sum(len(block) - 1 for block in found) >= _TOKENS:
                break
        found = found[: max(1, _TOKENS // (length - 1))]
        digest = hashlib.sha256("\n\n".join(texts).encode()).hexdigest()
        blocks = Pairs(Ragged.of([[] for _ in found]), Ragged.of(found), np.arange(len(found)), None)
        return cls(text, context, blocks, digest)

    def loss(self, module: nn.Module) -> float:
        """Mean loss of a token now, in nats."""
        return mean_loss(*losses(self.context.engine, module, self.blocks, self.context.settings.eval_batch_size)[:2])

    def before(self, model: nn.Module) -> None:
        """Measure the base model, once; later calls do nothing."""
        if self.base_loss is None:
            self.base_loss = self.loss(model)

    def after(self, module: nn.Module) -> dict[str, Any]:
        """The record's ``forgetting``; a loss that is no number is null."""
        tuned = self.loss(module)
        return {
            "text": self.text,
            "fingerprint": self.fingerprint,
            "tokens": int((self.blocks.answers.lengths - 1).sum()),
            "base_loss": self.base_loss,
            "tuned_loss": tuned if np.isfinite(tuned) else None,
        }
