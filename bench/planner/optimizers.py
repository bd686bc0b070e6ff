"""The optimizers that a plan can assume, on a trainer's parameter groups."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

Groups = list[dict[str, Any]]

# bitsandbytes keeps smaller tensors in fp32, and one fp32 scale per block of the others (Optimizer2State:
# min_8bit_size, blockwise quantisation).
_SMALLEST = 4096
_BLOCKWISE = 256


class Adam8bit(torch.optim.Optimizer):
    """An estimate of 8-bit Adam's memory (Dettmers et al., arXiv 2110.02861): two states of one byte a value, an fp32
    scale per 256 of them, no temporaries. It changes no weights and is only for plans."""

    def __init__(self, groups: Groups) -> None:
        super().__init__(groups, {"lr": 0.0})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Create the states of parameters that have a gradient."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None and not self.state[parameter]:
                    self.state[parameter] = _states(parameter)


class Sgd(torch.optim.Optimizer):
    """Plain SGD's memory: no states, and no temporaries (torch's fused kernel). It changes no weights and is only for
    plans, since that kernel does not support fake tensors."""

    def __init__(self, groups: Groups) -> None:
        super().__init__(groups, {"lr": 0.0})

    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Do nothing."""


def _states(parameter: Tensor) -> dict[str, Tensor]:
    small = parameter.numel() < _SMALLEST
    kind = torch.float32 if small else torch.uint8
    states = {name: torch.zeros(parameter.shape, dtype=kind, device=parameter.device) for name in ("state1", "state2")}
    if not small:
        scales = -(-parameter.numel() // _BLOCKWISE)
        states |= {f"absmax{i}": torch.zeros(scales, dtype=torch.float32, device=parameter.device) for i in (1, 2)}
    return states


def _plain(groups: Groups) -> Groups:
    """Groups with only the options that every optimizer has."""
    return [{name: group[name] for name in ("params", "lr", "weight_decay")} for group in groups]


OPTIMIZERS: dict[str, Callable[[Groups], torch.optim.Optimizer]] = {
    "adamw": lambda groups: torch.optim.AdamW(_plain(groups), fused=True),
    "adamw-foreach": lambda groups: torch.optim.AdamW(_plain(groups), foreach=True),
    "sgd": lambda groups: Sgd(_plain(groups)),
    "adamw8bit": lambda groups: Adam8bit(_plain(groups)),
}
