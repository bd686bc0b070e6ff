"""A method that looks at training batches before the first step: it starts from the mean of what the head reads."""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from bench import option, register_method


class Centred(nn.Module):
    """A trained head on centred features: x (batch, hidden) → head(x − mean), mean trained too."""

    def __init__(self, head: nn.Module, width: int) -> None:
        super().__init__()
        self.head = head
        self.mean = nn.Parameter(torch.zeros(width, device=next(head.parameters()).device))

    def forward(self, features: Tensor) -> Tensor:
        return self.head(features - self.mean)


@register_method
@dataclass(frozen=True)
class CentredHead:
    """A linear probe on features centred by their mean over some training rows.

    Formula: y = W (h − m) + b; m starts as the mean of h over ``rows`` training batches.
    Source: none, an example of ``initialize``.
    """

    name: ClassVar[str] = "centred-head"
    swept: ClassVar[str | None] = None

    rows: int = option(16, "batches the mean is taken over", low=1)
    lr: float = option(3e-2, "peak learning rate", low=0.0)

    def attach(self, backbone: Any) -> nn.Module:
        if getattr(backbone.model, "classifier", None) is None:
            raise ValueError("centred-head: this model has no classifier on pooled features; use head instead")
        backbone.freeze()
        backbone.model.classifier = Centred(backbone.model.classifier, backbone.width)
        return backbone.model

    def initialize(self, module: Any, batches: Iterable[dict[str, Tensor]]) -> None:
        """Set the mean from batches on the module's device."""
        seen: list[Tensor] = []
        handle = module.classifier.register_forward_pre_hook(lambda _, args: seen.append(args[0].mean(dim=0)))
        with torch.no_grad():
            for batch in islice(batches, self.rows):
                module(**batch)
            module.classifier.mean.copy_(torch.stack(seen).mean(dim=0))
        handle.remove()

    def trainable_count(self, backbone: Any) -> int:
        return int(backbone.head_count + backbone.width)
