"""Linear maps of frozen fp32 weights by oneDNN on x86 CPUs, where torch takes MKL.

On the AMD CPU that it was measured on, MiniLM's steps take 5 to 9 percent less time (``tests/speed/linear.py``).
torch has no setting for it, so this calls the operator behind torch.compile's linear maps; where that is missing,
nothing changes.
"""

from __future__ import annotations

import platform
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.utils._python_dispatch import _get_current_dispatch_mode

_FEWEST = 1 << 25  # multiply-adds of a map that is worth the call
_PLAIN = {Tensor, torch.nn.Parameter, type(None)}  # a quantised weight is a class of its own
_torchs_own = torch.nn.functional.linear


def install() -> bool:
    """Use ``linear`` for ``torch.nn.functional.linear`` in this process, and say whether this machine can."""
    if platform.machine() not in ("x86_64", "AMD64") or not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    if not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        return False
    torch.nn.functional.linear = linear
    return True


def linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``torch.nn.functional.linear``: (…, in), (out, in), (out) → (…, out), equal up to rounding.

    What has a weight or bias to train, is small, of another type or device, or is traced or counted by a mode of torch
    goes torch's own way.
    """
    if torch.compiler.is_compiling():  # first: torch 2.7 cannot compile what follows, and would compile its pieces
        return _torchs_own(input, weight, bias)
    if (
        input.dtype is not torch.float32
        or weight.dtype is not torch.float32
        or weight.requires_grad
        or (bias is not None and (bias.requires_grad or bias.dtype is not torch.float32))
        or input.numel() * weight.shape[0] < _FEWEST
        or not {type(input), type(weight), type(bias)} <= _PLAIN
        or weight.dim() != 2
        or not input.is_cpu
        or not input.is_contiguous()
        or torch.is_autocast_enabled("cpu")
        or _get_current_dispatch_mode() is not None
    ):
        return _torchs_own(input, weight, bias)
    if torch.is_grad_enabled() and input.requires_grad:
        mapped: Tensor = _Linear.apply(input, weight, bias)  # type: ignore[no-untyped-call]
        return mapped
    return _product(input, weight, bias)


def _product(input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    product: Tensor = torch.ops.mkldnn._linear_pointwise(input, weight, bias, "none", [], "")
    return product


class _Linear(torch.autograd.Function):
    """The map, and its gradient with respect to the input."""

    @staticmethod
    def forward(ctx: Any, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(weight)
        return _product(input, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (weight,) = ctx.saved_tensors
        return _product(gradient.contiguous(), weight.t(), None), None, None
