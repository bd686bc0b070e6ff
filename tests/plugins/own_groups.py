"""A method with optimizer groups of its own: the head learns faster than the biases it is trained with."""

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import nn

from bench import option, register_method


@register_method
@dataclass(frozen=True)
class TwoSpeeds:
    """The head at one learning rate, the biases of the backbone at another.

    Formula: W ← W − η·s·∇L for the head, b ← b − η·∇L for biases.
    Source: none, an example of ``parameter_groups``.
    """

    name: ClassVar[str] = "two-speeds"
    swept: ClassVar[str | None] = None

    head_scale: float = option(4.0, "the head's learning rate over the biases'", low=0.0)
    lr: float = option(1e-2, "peak learning rate of the biases", low=0.0)

    def attach(self, backbone: Any) -> nn.Module:
        backbone.freeze()
        for site in backbone.sites(("all",)):
            if site.module.bias is not None:
                site.module.bias.requires_grad_(True)
        return backbone.model

    def parameter_groups(self, module: Any) -> list[dict[str, Any]]:
        below = f"{module.base_model_prefix}."
        chosen = [(name, value) for name, value in module.named_parameters() if value.requires_grad]
        return [
            {"params": [value for name, value in chosen if name.startswith(below)]},
            {"params": [value for name, value in chosen if not name.startswith(below)], "lr_scale": self.head_scale},
        ]

    def trainable_count(self, backbone: Any) -> int:
        maps = [site.module for site in backbone.sites(("all",))]
        return backbone.head_count + sum(linear.bias.numel() for linear in maps if linear.bias is not None)
