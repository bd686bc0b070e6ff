"""Bernoulli numbers on the CPU several times faster than torch's own: what dropout spends its time on there.

torch draws one number from its generator for each element; here one draw of 64 bits decides four elements, each by a
comparison of 16 bits. A LoRA step of MiniLM draws twenty times: a tenth of it is saved (``tests/speed/dropout.py``).
"""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor

_WORD = 1 << 16
_EXACT = 1e-3  # largest error of a probability, as a share of it and of its complement, before finer numbers are drawn
_installed: list[Any] = []


def install() -> None:
    """Use ``draw`` for ``Tensor.bernoulli_(p)`` on the CPU in this process, and so for every dropout there.

    The numbers differ from torch's for the same seed; the same seed still gives the same numbers.
    """
    if _installed:
        return
    library = torch.library.Library("aten", "IMPL")  # type: ignore[no-untyped-call]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "(?s).*Overriding a previously registered kernel")
        library.impl("bernoulli_.float", draw, "CPU")  # type: ignore[no-untyped-call]
    _installed.append(library)  # the kernel goes when the library does


def draw(values: Tensor, p: float = 0.5, generator: torch.Generator | None = None) -> Tensor:
    """Fill ``values`` (any shape) with ones of probability ``p`` and zeros, in place, and return it.

    The probability is ``p`` rounded to 1/65536 where that is within a thousandth, else exact.

    Raises:
        RuntimeError: for a probability outside 0 … 1, as torch does.
    """
    if not 0 <= p <= 1:
        raise RuntimeError(f"bernoulli_ expects p to be in [0, 1], but got p={p}")
    threshold = round(p * _WORD)
    if abs(threshold / _WORD - p) > _EXACT * min(p, 1 - p):
        return values.copy_(torch.rand(values.shape, generator=generator, dtype=torch.float64) < p)
    words = torch.empty((values.numel() + 3) // 4, dtype=torch.int64).random_(-(2**63), None, generator=generator)
    bits = words.view(torch.int16)[: values.numel()].view(values.shape)
    if threshold == _WORD:  # beyond the largest 16-bit number
        return values.fill_(1)
    below = threshold - _WORD // 2
    return torch.lt(bits, below, out=values) if values.is_contiguous() else values.copy_(bits < below)
