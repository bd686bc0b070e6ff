"""Floating-point operations, counted by torch's FlopCounterMode: matrix products, convolutions and attention.

What a count leaves out is what torch leaves out: everything elementwise, norms, softmax, the optimizer's update. A
multiplication and an addition are two operations. Few rows are enough: a batch's count is affine in its rows (what a
method computes once per batch, from weights alone, is the constant), so two counts give all others exactly.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from bench.core.protocols import Batch
from bench.training.memory import undone

aten = torch.ops.aten


def count(call: Callable[[], object]) -> int:
    """The operations of a call."""
    with FlopCounterMode(display=False, custom_mapping=_CPU_ATTENTION) as counter:
        call()
    return int(counter.get_total_flops())


def of_inference(module: nn.Module, batch: Batch) -> int:
    """The operations of one forward in eval mode without labels; random state and training flags stay as they were."""
    inputs = {name: tensor for name, tensor in batch.items() if name != "labels"}
    with _evaluating(module), torch.no_grad():
        return count(lambda: module(**inputs))


def of_training(
    module: nn.Module, passing: Callable[[Batch], object], make: Callable[[Sequence[int]], Batch], rows: Sequence[int]
) -> int:
    """The operations of one forward and backward pass; what they do to the module is undone.

    Args:
        passing: the forward and backward of a batch.
        make: the batch of some rows.
        rows: of the pass; the longest two are computed and the rest follows from them.
    """
    with undone(module):
        module.train()
        one = count(lambda: passing(make(rows[:1])))
        if len(rows) == 1:
            return one
        two = count(lambda: passing(make(rows[:2])))
    return one + (len(rows) - 1) * (two - one)


@contextlib.contextmanager
def _evaluating(module: nn.Module) -> Iterator[None]:
    flags = [(part, part.training) for part in module.modules()]
    devices = {parameter.device for parameter in module.parameters() if parameter.device.type == "cuda"}
    with torch.random.fork_rng(devices=list(devices)):
        module.eval()
        try:
            yield
        finally:
            for part, flag in flags:
                part.training = flag


def _attention(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    """Two products per head: (s_q, d)·(d, s_k) and (s_q, s_k)·(s_k, d_v), for shapes (batch, heads, length, width)."""
    batch, heads, length, width = query
    return int(2 * batch * heads * length * key[2] * (width + value[3]))


def _attention_backward(_: Any, query: Any, key: Any, value: Any, *__: Any, **___: Any) -> int:
    """Five products: the scores again, the gradients of values and of scores, and of queries and keys."""
    batch, heads, length, width = query
    return int(2 * batch * heads * length * key[2] * (3 * width + 2 * value[3]))


# torch's registry has the fused kernels of CUDA alone (2.13); these are the ones that a CPU runs.
_CPU_ATTENTION = {
    aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
}
