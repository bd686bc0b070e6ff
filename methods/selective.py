"""Methods that train a part of the backbone's own parameters: everything, or nothing but the head."""

from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from bench.api import option
from bench.backbone import Backbone, count
from bench.registry import register_method


@register_method
@dataclass(frozen=True)
class Full:
    """Full fine-tuning: every parameter of the model is trained.

    Formula: W ← W − η·∇L for all W.
    Source: the baseline that every method is compared with (BERT, arXiv 1810.04805, section 4).
    """

    name: ClassVar[str] = "full"
    swept: ClassVar[str | None] = None

    lr: float = option(5e-5, "peak learning rate", low=0.0)

    def attach(self, backbone: Backbone) -> nn.Module:
        backbone.model.requires_grad_(True)
        return backbone.model  # type: ignore[no-any-return]

    def trainable_count(self, backbone: Backbone) -> int:
        return count(list(backbone.model.parameters()))


@register_method
@dataclass(frozen=True)
class Head:
    """Linear probe: the backbone is frozen, only the fresh task head is trained.

    Formula: y = W_head·h + b_head, h from the frozen backbone.
    Source: the lower baseline of any comparison (e.g. arXiv 1902.00751, section 3.6).
    """

    name: ClassVar[str] = "head"
    swept: ClassVar[str | None] = None

    lr: float = option(5e-3, "peak learning rate", low=0.0)

    def attach(self, backbone: Backbone) -> nn.Module:
        if not backbone.head_parameters:
            raise ValueError("head: this model has no fresh head to train")
        backbone.freeze()
        return backbone.model  # type: ignore[no-any-return]

    def trainable_count(self, backbone: Backbone) -> int:
        return backbone.head_count
