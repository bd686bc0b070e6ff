"""The trainer against small hand-made modules."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

from bench.core.train_config import TrainSettings
from bench.models.inference import Engine
from bench.training.trainer import Trainer, shares

ENGINE = Engine(torch.device("cpu"), "fp32", {})
SETTINGS = TrainSettings(steps=10, clip=0.0, warmup=0.0, weight_decay=0.0)


class Line(nn.Module):
    """loss = mean (w·x + b − y)²."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.inner = nn.Linear(3, 1)

    def forward(self, x: Tensor, labels: Tensor) -> Any:
        out = self.inner(x).squeeze(-1)
        return SimpleNamespace(loss=((out - labels) ** 2).mean(), logits=out)


@dataclass(frozen=True)
class Plain:
    name: ClassVar[str] = "plain"
    swept: ClassVar[str | None] = None
    lr: float = 0.1

    def attach(self, backbone: Any) -> nn.Module:
        raise NotImplementedError


def batches(size: int = 8) -> Iterator[tuple[dict[str, Tensor], int]]:
    generator = torch.Generator().manual_seed(5)
    while True:
        x = torch.randn(size, 3, generator=generator)
        yield {"x": x, "labels": x @ torch.tensor([1.0, -2.0, 0.5]) + 3}, size * 3


def run(settings: TrainSettings, method: Any = None, evaluate: Any = None, size: int = 8) -> tuple[Line, Any]:
    module = Line()
    trainer = Trainer(module, method or Plain(), settings, ENGINE)
    return module, trainer.fit(batches(size), evaluate, True, lambda point: None)


def test_it_is_adamw_with_linear_decay() -> None:
    """The same steps by hand with torch's own AdamW."""
    module, fit = run(replace(SETTINGS, weight_decay=0.1))
    expected, source = Line(), batches()
    optimizer = torch.optim.AdamW(
        [{"params": [expected.inner.weight]}, {"params": [expected.inner.bias], "weight_decay": 0.0}],
        lr=0.1, weight_decay=0.1,
    )  # fmt: skip
    for step in range(10):
        for group in optimizer.param_groups:
            group["lr"] = 0.1 * (10 - step) / 10
        optimizer.zero_grad()
        expected(**next(source)[0]).loss.backward()
        optimizer.step()
    torch.testing.assert_close(module.inner.weight, expected.inner.weight)
    torch.testing.assert_close(module.inner.bias, expected.inner.bias)
    assert [point["lr"] for point in fit.curve] == pytest.approx([0.1 * (10 - step) / 10 for step in range(10)])


def test_warmup_rises_then_falls() -> None:
    _, fit = run(replace(SETTINGS, steps=20, warmup=0.25))
    rates = [point["lr"] for point in fit.curve]
    assert rates[:6] == pytest.approx([0.1 * (i + 1) / 6 for i in range(5)] + [0.1])
    assert rates[6:] == sorted(rates[6:], reverse=True) and 0 < rates[-1] < 0.01
    _, constant = run(replace(SETTINGS, schedule="constant"))
    assert {point["lr"] for point in constant.curve} == {0.1}


def test_accumulated_passes_equal_one_large_batch() -> None:
    """Four passes of 4 rows are the 16 rows of one pass: the generator gives the same rows in a row."""
    many, fit = run(replace(SETTINGS, grad_accum=4), size=4)
    module = Line()
    source = batches(4)

    def joined() -> Iterator[tuple[dict[str, Tensor], int]]:
        while True:
            parts = [next(source)[0] for _ in range(4)]
            yield {name: torch.cat([part[name] for part in parts]) for name in parts[0]}, 48

    Trainer(module, Plain(), SETTINGS, ENGINE).fit(joined(), None, True, lambda point: None)
    torch.testing.assert_close(many.inner.weight, module.inner.weight)
    assert fit.samples == [16] * 10 and fit.tokens == [48] * 10


def test_ragged_passes_weigh_by_rows_and_texts_by_tokens() -> None:
    rows = [torch.zeros(32), torch.zeros(1)]
    assert shares([{"labels": labels} for labels in rows]) == pytest.approx([32 / 33, 1 / 33])
    long, short = torch.full((2, 6), 5), torch.full((2, 3), 5)
    short[0, 1:] = -100
    decoder = shares([{"labels": long}, {"labels": short}])  # 2 × 5 and 2 tokens have one before them
    assert [float(share) for share in decoder] == pytest.approx([10 / 12, 2 / 12])
    written = shares([{"labels": labels, "decoder_input_ids": labels} for labels in (long, short)])
    assert [float(share) for share in written] == pytest.approx([12 / 16, 4 / 16])
    assert shares([{"labels": long}]) == [1.0]

    whole = {"x": torch.randn(33, 3), "labels": torch.randn(33)}
    parts = [{name: value[:32] for name, value in whole.items()}, {name: value[32:] for name, value in whole.items()}]
    gradients = []
    for batches_of_one in ([whole], parts):
        module = Line()
        trainer = Trainer(module, Plain(), replace(SETTINGS, grad_accum=len(batches_of_one)), ENGINE)
        for batch, share in zip(batches_of_one, shares(batches_of_one), strict=True):
            trainer.backward(trainer.forward(batch), share)
        gradients.append(module.inner.weight.grad)
    torch.testing.assert_close(*gradients)


def test_clipping_bounds_the_gradient() -> None:
    seen: list[float] = []

    @dataclass(frozen=True)
    class Watches(Plain):
        def after_step(self, module: nn.Module, step: int, steps: int) -> None:
            grads = [parameter.grad for parameter in module.parameters() if parameter.grad is not None]
            seen.append(float(torch.linalg.vector_norm(torch.cat([grad.flatten() for grad in grads]))))

    run(replace(SETTINGS, clip=0.5), Watches())
    assert len(seen) == 10 and max(seen) <= 0.5 + 1e-6
    seen.clear()
    run(SETTINGS, Watches())
    assert max(seen) > 0.5


def test_best_checkpoint_is_put_back() -> None:
    """The dev score peaks at the second of five evaluations."""
    scores, kept = iter([0.1, 0.9, 0.3, 0.2, 0.4]), []

    def evaluate() -> float:
        kept.append(module.inner.weight.detach().clone())
        return next(scores)

    module = Line()
    fit = Trainer(module, Plain(), SETTINGS, ENGINE).fit(batches(), evaluate, True, lambda point: None)
    assert fit.scored_step == 4 and torch.equal(module.inner.weight, kept[1])
    assert [point["dev_score"] for point in fit.curve if point["dev_score"] is not None] == [0.1, 0.9, 0.3, 0.2, 0.4]
    scores, kept = iter([0.1, 0.9, 0.3, 0.2, 0.4]), []
    module = Line()
    last = replace(SETTINGS, checkpoint="last")
    fit = Trainer(module, Plain(), last, ENGINE).fit(batches(), evaluate, True, lambda point: None)
    assert fit.scored_step == 10 and torch.equal(module.inner.weight, kept[-1])


def test_a_loss_that_is_not_finite_stops_it() -> None:
    _, fit = run(SETTINGS, replace(Plain(), lr=1e30))
    assert fit.diverged is not None and fit.diverged < 10
    assert len(fit.step_seconds) == fit.diverged and fit.curve[-1]["loss"] is None


def test_groups_have_their_own_rates() -> None:
    @dataclass(frozen=True)
    class Grouped(Plain):
        def parameter_groups(self, module: Any) -> list[dict[str, Any]]:
            return [{"params": [module.inner.weight], "lr_scale": 0.0}, {"params": [module.inner.bias]}]

    module, _ = run(SETTINGS, Grouped())
    assert torch.equal(module.inner.weight, Line().inner.weight) and not torch.equal(
        module.inner.bias, Line().inner.bias
    )


def test_groups_that_leave_something_out_are_refused() -> None:
    @dataclass(frozen=True)
    class Partial(Plain):
        def parameter_groups(self, module: Any) -> list[dict[str, Any]]:
            return [{"params": [module.inner.weight]}]

    with pytest.raises(ValueError, match="parameter_groups leaves out inner.bias, which would never be trained"):
        run(SETTINGS, Partial())


def test_throughput_leaves_warmup_out() -> None:
    _, fit = run(replace(SETTINGS, steps=30))
    fit.step_seconds = [100.0] * 5 + [0.5] * 25
    assert fit.warmup_steps == 5
    assert fit.per_second(fit.samples) == pytest.approx(8 / 0.5)
    assert fit.per_second(fit.tokens) == pytest.approx(24 / 0.5)


def test_half_precision_scales_the_loss() -> None:
    module = Line()
    engine = replace(ENGINE, precision="fp16")
    trainer = Trainer(module, replace(Plain(), lr=0.5), replace(SETTINGS, precision="fp16", steps=40), engine)
    assert trainer.scaler.is_enabled()
    fit = trainer.fit(batches(), None, True, lambda point: None)
    first, last = fit.curve[0]["loss"], fit.curve[-1]["loss"]
    assert last < first / 2
