"""A fixed piece of training-like work, timed between a run's own steps: what the machine could do at that moment.

A step's time divided by the reference's measures a method on any machine and under any load: both
are timed in one process, with the same threads, moments apart. The work is a forward and a backward pass of two small
transformer blocks in plain torch operations, so that it has a tiny run's mixture of matrix products and of the cost
of starting many small kernels. Never change it: ratios measured before would mean something else.
"""

from __future__ import annotations

import math
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

TIMES = 48  # how often a run times the reference, if it has as many steps as there are moments
_MOMENTS = 24  # between steps, spread evenly over the run
_MOST = 4  # at one moment: a run of few steps has little of its own to compare
_ROWS, _TOKENS, _WIDTH, _HEADS, _BLOCKS = 16, 32, 64, 4, 2
_SHAPES = ((_WIDTH, 3 * _WIDTH), (_WIDTH, _WIDTH), (_WIDTH, 4 * _WIDTH), (4 * _WIDTH, _WIDTH))


class Clock(Protocol):
    """What times a piece of work on a device."""

    def start(self) -> None: ...

    def stop(self) -> None: ...

    def seconds(self) -> list[float]: ...


class Reference:
    """The reference work on a device, always in fp32; uses no random state but its own and changes nothing.

    Args:
        device: where the run trains.
        clock: times each piece of work.
        steps: optimizer steps of the run.
    """

    def __init__(self, device: torch.device, clock: Clock, steps: int) -> None:
        generator = torch.Generator().manual_seed(0)

        def drawn(*shape: int) -> Tensor:
            return torch.randn(shape, generator=generator).to(device)

        self.clock = clock
        self.moments = {max(1, round(steps * (index + 1) / _MOMENTS)) for index in range(_MOMENTS)}
        self.times = min(_MOST, round(TIMES / len(self.moments)))
        self.inputs = drawn(_ROWS, _TOKENS, _WIDTH)
        self.weights = [
            (drawn(*shape) / math.sqrt(shape[0])).requires_grad_() for _ in range(_BLOCKS) for shape in _SHAPES
        ]
        self.work()  # what a first call sets up is not timed

    def at(self, step: int) -> None:
        """Time the work when ``step`` (1-based) is one of the moments for it."""
        if step in self.moments:
            for _ in range(self.times):
                self.clock.start()
                self.work()
                self.clock.stop()

    def work(self) -> None:
        """One forward and backward pass; autocast does not reach it."""
        with torch.autocast(self.inputs.device.type, enabled=False), torch.enable_grad():
            x = self.inputs
            for index in range(0, len(self.weights), len(_SHAPES)):
                x = _block(x, self.weights[index : index + len(_SHAPES)])
            torch.autograd.grad(x.square().mean(), self.weights)


def _block(x: Tensor, weights: list[Tensor]) -> Tensor:
    """A pre-norm transformer block without biases; x: (rows, tokens, width)."""
    qkv, out, up, down = weights
    q, k, v = (F.layer_norm(x, (_WIDTH,)) @ qkv).view(_ROWS, _TOKENS, 3, _HEADS, -1).permute(2, 0, 3, 1, 4)
    scores = (q @ k.transpose(-1, -2) / math.sqrt(_WIDTH / _HEADS)).softmax(-1)
    x = x + (scores @ v).transpose(1, 2).reshape(_ROWS, _TOKENS, _WIDTH) @ out
    return x + F.gelu(F.layer_norm(x, (_WIDTH,)) @ up) @ down
