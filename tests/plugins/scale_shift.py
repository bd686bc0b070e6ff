"""A whole method in one file: a learned scale and shift after every block (Lian et al., arXiv 2210.08823, SSF)."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from bench import option, register_method


class ScaleShift(nn.Module):
    """A frozen block, then h → scale ⊙ h + shift; h: (batch, seq, hidden)."""

    def __init__(self, block: nn.Module, width: int, where: torch.device) -> None:
        super().__init__()
        self.block = block
        self.scale = nn.Parameter(torch.ones(width, device=where))
        self.shift = nn.Parameter(torch.zeros(width, device=where))

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        out = self.block(*args, **kwargs)
        if isinstance(out, tuple):
            return (self._change(out[0]), *out[1:])
        return self._change(out)

    def _change(self, hidden: Tensor) -> Tensor:
        return torch.addcmul(self.shift, hidden, self.scale)


@register_method
@dataclass(frozen=True)
class ScaleAndShift:
    """Scale and shift: two trained vectors after every block, everything else frozen.

    Formula: h ← γ ⊙ h + β, γ = 1 and β = 0 at the start, so training starts at the base model.
    Source: arXiv 2210.08823, section 3.2 (there after every operation, here after every block).
    """

    name: ClassVar[str] = "scale-shift"
    swept: ClassVar[str | None] = None

    shift: bool = option(True, "train the shift as well as the scale")
    lr: float = option(3e-2, "peak learning rate", low=0.0)

    def attach(self, backbone: Any) -> nn.Module:
        backbone.freeze()
        for tower in backbone.towers():
            for index, block in enumerate(tower.layers):
                changed = ScaleShift(block, backbone.width, next(block.parameters()).device)
                changed.shift.requires_grad_(self.shift)
                tower.layers[index] = changed
        return backbone.model

    def trainable_count(self, backbone: Any) -> int:
        blocks = sum(len(tower.layers) for tower in backbone.towers())
        return backbone.head_count + blocks * backbone.width * (1 + self.shift)
