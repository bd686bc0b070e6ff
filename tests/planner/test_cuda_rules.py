"""CUDA's rules on fake tensors, on cases counted by hand: what is kept for the backward pass, and in which type."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from bench.planner.cuda_rules import CudaRules, scratch
from bench.planner.optimizers import OPTIMIZERS
from bench.training.storage_tracker import StorageTracker

BATCH, HEADS, LENGTH, WIDTH = 2, 4, 32, 16
VALUES = BATCH * HEADS * LENGTH * WIDTH


@contextlib.contextmanager
def tracked() -> Iterator[StorageTracker]:
    with FakeTensorMode(), CudaRules(), StorageTracker(scratch=scratch) as tracker:
        tracker.mark("forward")
        yield tracker


def heads(dtype: torch.dtype, count: int = HEADS) -> Tensor:
    return torch.empty(BATCH, count, LENGTH, WIDTH, dtype=dtype, requires_grad=True)


def test_dropout_keeps_one_byte_a_value() -> None:
    with tracked() as tracker:
        x = torch.empty(1000, requires_grad=True)
        before = tracker.held_bytes
        y = nn.Dropout(0.1)(x)
        assert tracker.held_bytes - before == 4000 + 1000
        assert F.dropout(y, 0.1, training=False) is y
        assert F.dropout(y, 0.0) is not None
        before = tracker.held_bytes
        torch.dropout(x, 0.5, True)
        assert tracker.held_bytes == before


@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_flash_attention_keeps_its_result_and_a_number_a_row(dropout: float) -> None:
    with tracked() as tracker:
        query = heads(torch.bfloat16)
        before = tracker.held_bytes
        out = F.scaled_dot_product_attention(query, query, query, dropout_p=dropout, is_causal=True)
        assert type(out.grad_fn).__name__ == "ScaledDotProductFlashAttentionBackward0"
        # The result, the fp32 sums of each row of each head, and three 8-byte numbers of the generator.
        assert tracker.held_bytes - before == 2 * VALUES + 4 * BATCH * HEADS * LENGTH + 24
        tracker.mark("backward")
        before = tracker.held_bytes
        out.backward(torch.empty_like(out))
    # Queries' gradients in fp32, 128 rows and 32 wide at least, and a sum a row; the same for grouped heads below.
    assert tracker.peaks()["backward"].total_bytes >= before + BATCH * HEADS * 128 * (32 + 1) * 4


def test_grouped_heads_stay_grouped_in_flash_attention() -> None:
    with tracked() as tracker:
        query, key = heads(torch.bfloat16), heads(torch.bfloat16, 2)
        before = tracker.held_bytes
        F.scaled_dot_product_attention(query, key, key, enable_gqa=True).sum().backward()
        assert key.grad is not None and key.grad.shape == key.shape
        assert tracker.peak().total_bytes > before


def test_a_mask_or_fp32_takes_the_efficient_kernel_and_a_boolean_mask_is_made_additive() -> None:
    with tracked() as tracker:
        query, mask = heads(torch.bfloat16), torch.ones(BATCH, 1, LENGTH, LENGTH, dtype=torch.bool)
        before = tracker.held_bytes
        out = F.scaled_dot_product_attention(query, query, query, mask)
        assert type(out.grad_fn).__name__ == "ScaledDotProductEfficientAttentionBackward0"
        kept = 2 * VALUES + 4 * BATCH * HEADS * LENGTH + 16
        assert tracker.held_bytes - before == kept + 2 * BATCH * LENGTH * LENGTH
        full = heads(torch.float32)
        wide = F.scaled_dot_product_attention(full, full, full)
        assert type(wide.grad_fn).__name__ == "ScaledDotProductEfficientAttentionBackward0"


def test_what_no_fused_kernel_takes_keeps_the_weights() -> None:
    with tracked() as tracker:
        query, key = heads(torch.float32), heads(torch.float32, 2)  # grouped heads in fp32
        before = tracker.held_bytes
        out = F.scaled_dot_product_attention(query, key, key, enable_gqa=True)
        assert out.shape == query.shape
        assert tracker.held_bytes - before > 4 * BATCH * HEADS * LENGTH * LENGTH


def test_a_mask_with_its_heads_innermost_keeps_the_weights() -> None:
    """As T5's: its relative bias is looked up as (queries, keys, heads), and turned."""
    scores = BATCH * HEADS * LENGTH * LENGTH
    with tracked() as tracker:
        query, seen = heads(torch.float32), torch.ones(BATCH, 1, LENGTH, LENGTH, dtype=torch.bool)
        bias = torch.empty(LENGTH, LENGTH, HEADS).permute(2, 0, 1)[None]
        mask = torch.where(seen, bias, -1e9)
        fused = F.scaled_dot_product_attention(query, query, query, mask.contiguous())
        assert type(fused.grad_fn).__name__ == "ScaledDotProductEfficientAttentionBackward0"
        before = tracker.held_bytes
        plain = F.scaled_dot_product_attention(query, query, query, mask)
        assert type(plain.grad_fn).__name__ != "ScaledDotProductEfficientAttentionBackward0"
        assert tracker.held_bytes - before >= 4 * scores


def test_the_plain_kernel_works_in_fp32_under_autocast() -> None:
    kept: list[Tensor] = []

    def keep(tensor: Tensor) -> Tensor:
        kept.append(tensor)
        return tensor

    with tracked(), torch.autocast("cpu", dtype=torch.bfloat16):
        query, key = heads(torch.float32), heads(torch.float32, 2)
        mask = torch.zeros(1, 1, LENGTH, LENGTH)
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            out = F.scaled_dot_product_attention(query, key, key, mask, enable_gqa=True)
        assert out.dtype == torch.bfloat16
        weights = [tensor.dtype for tensor in kept if tensor.shape[-2:] == (LENGTH, LENGTH)]
        assert weights and set(weights) == {torch.float32}


def test_autocast_computes_in_the_types_of_cuda() -> None:
    with FakeTensorMode(), CudaRules():
        x, weight = torch.empty(4, 8, dtype=torch.bfloat16), torch.ones(8)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert F.layer_norm(x, (8,), weight).dtype == torch.float32
            assert (x**2).dtype == x.pow(2).dtype == torch.float32
            assert x.softmax(-1).dtype == F.softmax(x, -1).dtype == torch.float32
            assert F.gelu(x).dtype == torch.bfloat16
            query = torch.empty(1, 2, 4, 8)
            assert F.scaled_dot_product_attention(query, query, query).dtype == torch.bfloat16
        assert (x**2).dtype == torch.bfloat16


@pytest.mark.parametrize(("name", "state", "temporary"), [
    ("adamw", 8 * 10_000 + 4, 0),
    # exp_avg_sq.sqrt() of every parameter at once; the step counter is 4 bytes, of which CUDA's stays on the host.
    ("adamw-foreach", 8 * 10_000 + 4, 4 * 10_000),
    ("sgd", 0, 0),
    # One byte a value twice, and two fp32 scales for every 256.
    ("adamw8bit", 2 * 10_000 + 2 * 4 * 40, 0),
])  # fmt: skip
def test_optimizers(name: str, state: int, temporary: int) -> None:
    with FakeTensorMode(), StorageTracker() as tracker:
        parameter = nn.Parameter(torch.empty(100, 100))
        optimizer = OPTIMIZERS[name]([{"params": [parameter], "lr": 0.1, "weight_decay": 0.01}])
        parameter.grad = torch.empty(100, 100)
        tracker.mark("first")
        before = tracker.held_bytes
        optimizer.step()
        assert tracker.held_bytes - before == state
        tracker.mark("step")
        optimizer.step()
    assert tracker.peaks()["step"].total_bytes - before - state == pytest.approx(temporary, abs=16)
