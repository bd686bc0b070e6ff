"""Frozen linear maps by oneDNN: equal to torch's, and left to torch wherever it must be."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from bench.training import onednn

ROWS, INPUTS, OUTPUTS = 64, 512, 1024  # 2^25 multiply-adds


@pytest.fixture(autouse=True)
def calls(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """What oneDNN was asked for; torch's own function is put back after."""
    monkeypatch.setattr(torch.nn.functional, "linear", torch.nn.functional.linear)
    if not onednn.install():
        pytest.skip("no oneDNN, or not an x86 CPU")
    found: list[int] = []
    product = onednn._product

    def counted(input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        found.append(weight.shape[0])
        return product(input, weight, bias)

    monkeypatch.setattr(onednn, "_product", counted)
    yield found


class Own(Tensor):
    """A tensor class of its own, as quantised weights have."""


def inputs(*shape: int, grad: bool = True) -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(0)
    return torch.randn(*shape, INPUTS).requires_grad_(grad), torch.randn(OUTPUTS, INPUTS), torch.randn(OUTPUTS)


@pytest.mark.parametrize("shape", [(ROWS,), (4, ROWS // 4), (2, 2, ROWS // 4)])
@pytest.mark.parametrize("with_bias", [True, False])
def test_values_and_gradients_are_torchs(shape: tuple[int, ...], with_bias: bool, calls: list[int]) -> None:
    x, weight, bias = inputs(*shape)
    offset = bias if with_bias else None
    other = x.detach().clone().requires_grad_()
    mine = torch.nn.functional.linear(x, weight, offset)
    theirs = onednn._torchs_own(other, weight, offset)
    torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-4)
    mine.sum().backward()  # an expanded gradient
    theirs.sum().backward()
    torch.testing.assert_close(x.grad, other.grad, rtol=1e-5, atol=1e-4)
    assert calls == [OUTPUTS, INPUTS]


def test_its_result_may_be_changed_in_place(calls: list[int]) -> None:
    x, weight, _ = inputs(ROWS)
    torch.nn.functional.linear(x, weight).mul_(2).add_(1).sum().backward()
    torch.testing.assert_close(x.grad, 2 * weight.sum(0).expand(ROWS, -1), rtol=1e-4, atol=1e-3)
    assert len(calls) == 2


def test_without_gradient_it_is_one_call(calls: list[int]) -> None:
    x, weight, bias = inputs(ROWS, grad=False)
    assert not torch.nn.functional.linear(x, weight, bias).requires_grad
    with torch.inference_mode():
        torch.nn.functional.linear(x, weight, bias)
    assert calls == [OUTPUTS, OUTPUTS]


def test_what_is_left_to_torch(calls: list[int]) -> None:
    x, weight, bias = inputs(ROWS)
    linear = torch.nn.functional.linear
    trained, offset = weight.clone().requires_grad_(), bias.clone().requires_grad_()
    linear(x, trained).sum().backward()
    linear(x, weight, offset).sum().backward()
    assert trained.grad is not None and offset.grad is not None
    linear(x[:-1], weight)  # small
    linear(x.double(), weight.double())
    linear(x.detach().t().contiguous().t(), weight)
    assert type(linear(x, weight.as_subclass(Own))) is Own
    with torch.autocast("cpu", torch.bfloat16):
        assert linear(x, weight).dtype is torch.bfloat16
    with FlopCounterMode(display=False) as counter:
        linear(x, weight, bias).sum().backward()
    assert counter.get_total_flops() == 2 * 2 * ROWS * INPUTS * OUTPUTS
    assert calls == []
