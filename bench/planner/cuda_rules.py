"""CUDA's behaviour where the CPU differs, for fake tensors on the CPU: torch without CUDA cannot make fake CUDA tensors
for autograd, so the differences are applied where Python calls torch.

Modelled, for a GPU of compute capability 8.0 or later (Ampere, Ada; newer ones choose between kernels that keep the
same tensors): which kernel ``scaled_dot_product_attention`` takes and what it keeps (sdp_utils.cpp, attention.cpp);
dropout masks of one byte (``native_dropout``); the operations that CUDA's autocast computes in fp32
(autocast_mode.h); the scratch memory of attention's backward kernels; two cuBLAS workspaces.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map

from bench.core.environment import nvidia

aten = torch.ops.aten

# Of one thread: :4096:2:16:8 KiB, and 32 MiB on Hopper (CublasHandlePool.cpp, parseChosenWorkspaceSize).
CUBLAS_WORKSPACE_BYTES = {"other": (2 * 4096 + 8 * 16) * 1024, "hopper": 8 * 4096 * 1024}

# AT_FORALL_FP32 in aten/src/ATen/autocast_mode.h, by their names in Python, without what networks never call.
_FP32 = frozenset(
    "acos asin cosh erfinv exp expm1 log log10 log2 log1p reciprocal rsqrt sinh tan pow __pow__ __rpow__ softplus "
    "layer_norm group_norm cosine_similarity nll_loss kl_div l1_loss smooth_l1_loss huber_loss mse_loss "
    "binary_cross_entropy_with_logits cross_entropy dist cdist renorm logsumexp".split()
)
# AT_FORALL_FP32_SET_OPT_DTYPE: the result is fp32 unless the call asks for another type.
_FP32_RESULT = frozenset("softmax log_softmax cumsum cumprod prod sum norm vector_norm".split())
_LOW = (torch.bfloat16, torch.float16)


def gpu(chosen: str) -> str:
    """``hopper`` or ``other``; for ``auto`` that of the GPU here, and ``other`` without one.

    Newer torch releases may use Hopper's sizes on Blackwell too; there the user must choose.
    """
    if chosen != "auto":
        return chosen
    return "hopper" if (nvidia("compute_cap") or "").startswith("9.") else "other"


def workspace_bytes(chosen: str) -> int:
    """Bytes of the forward and the backward thread's cuBLAS workspaces; ``chosen`` as for ``gpu``."""
    return 2 * CUBLAS_WORKSPACE_BYTES[gpu(chosen)]


class CudaRules(TorchFunctionMode):
    """While active, torch functions called from Python behave on fake CPU tensors as on CUDA."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        special = _SPECIAL.get(func)
        if special is not None:
            return special(*args, **kwargs)
        if torch.is_autocast_enabled("cpu"):
            return _autocast(func, args, kwargs)
        return func(*args, **kwargs)


def _autocast(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    name = getattr(func, "__name__", "")
    if name in _FP32:
        args, kwargs = tree_map(_widened, (args, kwargs))
    elif name in _FP32_RESULT and kwargs.get("dtype") is None and args and _is_low(args[0]):
        args = (_widened(args[0]), *args[1:])
    return func(*args, **kwargs)


def _is_low(value: Any) -> bool:
    return isinstance(value, Tensor) and value.dtype in _LOW


def _widened(value: Any) -> Any:
    return value.float() if _is_low(value) else value


def _dropout(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    """at::dropout: the fused kernel keeps a mask of one byte a value (is_fused_kernel_acceptable in Dropout.cpp)."""
    if not training or not 0 < p < 1:
        return F.dropout(input, p, training, inplace)
    out: Tensor = aten.native_dropout(input, p, True)[0]
    return input.copy_(out) if inplace else out


def _dropout_call(input: Tensor, p: float, train: bool) -> Tensor:
    return _dropout(input, p, train)


def _attention(  # noqa: PLR0913 - the arguments of torch's own function
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """scaled_dot_product_attention (attention.cpp) with the kernel that CUDA would choose.

    query: (batch, heads, queries, width); key, value: (batch, key heads, keys, width).
    """
    if torch.is_autocast_enabled("cpu"):
        low = torch.get_autocast_dtype("cpu")
        query, key, value = query.to(low), key.to(low), value.to(low)
        if attn_mask is not None and attn_mask.is_floating_point():
            attn_mask = attn_mask.to(low)
    width = query.shape[-1]
    if _fits_flash(query, key, value, attn_mask, is_causal):
        padded = [F.pad(part, (0, -width % 8)) if width % 8 else part for part in (query, key, value)]
        chosen = scale if scale is not None else 1 / math.sqrt(width)
        out: Tensor = aten._scaled_dot_product_flash_attention(*padded, dropout_p, is_causal, False, scale=chosen)[0]
        return out[..., :width] if width % 8 else out
    efficient = _fits_efficient(query, key, value, attn_mask)
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        # convert_boolean_attn_mask: an additive mask of its own for each call.
        attn_mask = torch.zeros_like(attn_mask, dtype=query.dtype).masked_fill_(attn_mask.logical_not(), -math.inf)
    if efficient:
        bias = _aligned(attn_mask, query, key) if attn_mask is not None else None
        keep = query.requires_grad or key.requires_grad or value.requires_grad
        taken = aten._scaled_dot_product_efficient_attention(
            query, key, value, bias, keep, dropout_p, is_causal, scale=scale
        )
        return taken[0]  # type: ignore[no-any-return]
    with torch.autocast("cpu", enabled=False):  # CUDA's autocast wraps the whole function, not its parts
        return _plain(query, key, value, (attn_mask, is_causal), (dropout_p, scale, enable_gqa))


def _fits_flash(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, causal: bool) -> bool:
    """The conditions of use_flash_attention: half precision, no mask, heads of at most 256."""
    same = query.shape[-1] == key.shape[-1] == value.shape[-1] <= 256
    square = not causal or query.shape[-2] == key.shape[-2]
    return query.dtype in _LOW and mask is None and same and square


def _fits_efficient(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> bool:
    """The conditions of use_mem_efficient_attention: aligned widths, as many key heads as query heads, whole rows.

    T5's relative bias is laid out with the heads innermost, and a mask made from it is as well: the plain kernel then.
    """
    alignment = 16 // query.element_size()
    aligned = query.shape[-1] % alignment == 0 and value.shape[-1] % alignment == 0
    whole = all(part.shape[-1] == 1 or part.stride(-1) == 1 for part in (query, key, value))
    whole = whole and (mask is None or mask.stride(-1) == 1)
    return aligned and whole and query.shape[1] == key.shape[1]


def _aligned(mask: Tensor, query: Tensor, key: Tensor) -> Tensor:
    """preprocess_mask: rows padded to 16 bytes, then expanded to (batch, heads, queries, keys) without a copy."""
    shape = (query.shape[0], query.shape[1], query.shape[2], key.shape[2])
    alignment = 16 // mask.element_size()
    over = -mask.shape[-1] % alignment
    if over:
        mask = F.pad(mask, (0, over))[..., : mask.shape[-1]]
    return mask.expand(shape)


def _plain(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: tuple[Tensor | None, bool],
    rest: tuple[float, float | None, bool],
) -> Tensor:
    """_scaled_dot_product_attention_math: half precision is computed in fp32; the weights are kept."""
    (attn_mask, causal), (dropout_p, scale, gqa) = mask, rest
    dtype = query.dtype
    query, key, value = _widened(query), _widened(key), _widened(value)
    if gqa:
        groups = query.shape[1] // key.shape[1]
        key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    root = math.sqrt(scale if scale is not None else 1 / math.sqrt(query.shape[-1]))
    weights = (query * root) @ (key * root).transpose(-2, -1)
    if causal:
        seen = torch.ones(weights.shape[-2:], dtype=torch.bool, device=weights.device).tril()
        weights = weights + torch.zeros_like(seen, dtype=weights.dtype).masked_fill_(~seen, -math.inf)
    if attn_mask is not None:
        weights = weights + attn_mask
    return (_dropout(weights.softmax(-1), dropout_p) @ value).to(dtype)


_SPECIAL: dict[Any, Callable[..., Tensor]] = {
    F.dropout: _dropout,
    torch.dropout: _dropout_call,
    F.scaled_dot_product_attention: _attention,
}


def scratch(func: Any, args: tuple[Any, ...]) -> int:
    """Scratch bytes of attention's backward kernels while they run."""
    if func is aten._scaled_dot_product_flash_attention_backward.default:
        return _flash_scratch(args[1], args[2])
    if func is aten._scaled_dot_product_efficient_attention_backward.default:
        # Queries' gradients are summed in fp32 where they are kept in half precision (kernel_backward.h).
        query = args[1]
        return query.numel() * 4 if query.dtype in _LOW else 0
    return 0


def _flash_scratch(query: Tensor, key: Tensor) -> int:
    """mha_bwd in flash_api.cpp: fp32 sums of the queries' gradient, softmax_d, grouped heads' whole gradients."""
    batch, heads, queries, width = query.shape
    rows, columns = -(-queries // 128) * 128, -(-width // 32) * 32
    total = batch * heads * rows * (columns + 1) * 4
    if key.shape[1] != heads:
        total += 2 * batch * heads * key.shape[2] * width * query.element_size()
    return total
