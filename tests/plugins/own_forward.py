"""A method that returns a module of its own: the frozen model's logits plus those of a small network on its words."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch.nn.functional as F
from torch import Tensor, nn
from transformers.modeling_outputs import SequenceClassifierOutput

from bench import option, register_method


class Beside(nn.Module):
    """Logits of a frozen model and of a bag of words, added; input_ids: (batch, seq) → logits: (batch, labels)."""

    def __init__(self, model: nn.Module, words: int, labels: int) -> None:
        super().__init__()
        self.model = model
        self.bag = nn.EmbeddingBag(words, labels, mode="mean", device=next(model.parameters()).device)

    def forward(self, input_ids: Tensor, labels: Tensor | None = None, **inputs: Any) -> SequenceClassifierOutput:
        logits = self.model(input_ids=input_ids, **inputs).logits + self.bag(input_ids)
        loss = None if labels is None else F.cross_entropy(logits, labels)
        return SequenceClassifierOutput(loss=loss, logits=logits)


@register_method
@dataclass(frozen=True)
class BagBeside:
    """A bag of words beside the frozen classifier.

    Formula: y = f(x) + mean of E[x], E the only trained table; f keeps its random head.
    Source: none, an example of a module with a forward of its own.
    """

    name: ClassVar[str] = "bag-beside"
    swept: ClassVar[str | None] = None

    lr: float = option(1e-1, "peak learning rate", low=0.0)

    def attach(self, backbone: Any) -> nn.Module:
        if backbone.kind != "classification":
            raise ValueError(f"bag-beside: it classifies, and this task's kind is {backbone.kind}; use lora instead")
        backbone.model.requires_grad_(False)
        return Beside(backbone.model, backbone.config.vocab_size, backbone.config.num_labels)

    def trainable_count(self, backbone: Any) -> int:
        return int(backbone.config.vocab_size * backbone.config.num_labels)
