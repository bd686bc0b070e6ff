"""AdaLoRA on every family, its penalty, and its rank budget step by step."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers.pytorch_utils import Conv1D

from bench.core import options
from bench.core.errors import RequestError
from bench.core.train_config import TrainSettings
from bench.methods.adalora import AdaLora, AdaLoraLinear
from bench.models.backbone import trainable
from bench.models.inference import Engine
from bench.training.memory import Loop, measure_training
from bench.training.trainer import Trainer
from tests import zoo
from tests.methods import low_rank
from tests.methods.low_rank import CELLS, FEW

torch.set_num_threads(1)


def maps(module: nn.Module) -> list[AdaLoraLinear]:
    return [child for child in module.modules() if isinstance(child, AdaLoraLinear)]


@pytest.mark.parametrize(("family", "kind"), CELLS)
def test_every_family_and_head(family: str, kind: str) -> None:
    low_rank.check_cell(AdaLora(), family, kind)


@pytest.mark.filterwarnings("ignore:.gradient_checkpointing_enable. is deprecated:FutureWarning")
@pytest.mark.parametrize(("family", "kind"), FEW)
def test_in_depth(family: str, kind: str, tmp_path: Path) -> None:
    method = AdaLora(targets=("query", "value"), rank=4)
    low_rank.check_cell(method, family, kind)
    low_rank.check_saved(method, family, kind, tmp_path)
    low_rank.check_meta(method, family, kind)
    low_rank.check_checkpointing(method, family, kind)
    low_rank.check_autocast(method, family, kind)


@pytest.mark.parametrize("base", [nn.Linear(8, 6), nn.Linear(8, 6, bias=False), Conv1D(6, 8)])
def test_the_formula(base: nn.Module) -> None:
    base.requires_grad_(False)
    layer = AdaLoraLinear(base, 3, 1.5, 0.0)
    assert torch.equal(layer.adalora_l, torch.zeros(3))
    low_rank.disturb(layer, size=1.0)
    x = torch.randn(2, 5, 8)
    weight = layer.matrix + 1.5 * layer.adalora_p @ torch.diag(layer.adalora_l) @ layer.adalora_q
    expected = x @ weight.t() + (0 if layer.bias is None else layer.bias)
    torch.testing.assert_close(layer(x), expected, rtol=1e-5, atol=1e-5)


# -- the penalty -------------------------------------------------------------------------------------------------


def test_the_penalty_is_in_the_loss_until_merged() -> None:
    method, batch = AdaLora(orthogonality=0.5), zoo.batch("bert", "classification")
    module = low_rank.attached(method, "bert", "classification")
    low_rank.disturb(module)
    norms = []
    for layer in maps(module):
        eye = torch.eye(12)
        norms += [
            (layer.adalora_p.t() @ layer.adalora_p - eye).norm(),
            (layer.adalora_q @ layer.adalora_q.t() - eye).norm(),
        ]
    assert len(norms) == 2 * 12
    out = module(**batch)
    task = nn.functional.cross_entropy(out.logits, batch["labels"])
    torch.testing.assert_close(out.loss, task + 0.5 * torch.stack(norms).mean())

    without = {name: value for name, value in batch.items() if name != "labels"}
    assert module(**without).loss is None
    merged = method.merge(module)(**batch)
    torch.testing.assert_close(merged.loss, task)


def test_the_penalty_is_in_fp32_under_autocast() -> None:
    def penalty(weight: float) -> Tensor:
        module = low_rank.attached(AdaLora(orthogonality=weight), "bert", "classification")
        low_rank.disturb(module, size=0.5)
        with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
            return module(**zoo.batch("bert", "classification")).loss  # type: ignore[no-any-return]

    module = low_rank.attached(AdaLora(), "bert", "classification")
    low_rank.disturb(module, size=0.5)
    apart = [gram - torch.eye(12) for layer in maps(module) for gram in layer.grams()]
    expected = torch.stack([gram.norm() for gram in apart]).mean()
    torch.testing.assert_close(penalty(1.0) - penalty(0.0), expected.detach(), rtol=1e-5, atol=1e-4)


# -- the budget --------------------------------------------------------------------------------------------------


def test_the_schedule() -> None:
    method = AdaLora(rank=4, init_rank=8, warmup=0.1, final=0.4)
    # 20 steps: whole until 2, a cubic fall until 12, final after. In between 4 + 4·(1 − (t − 2)/10)³ ranks a map.
    assert [method.budget(step, 20, 1) for step in (1, 2, 3, 7, 11, 12, 20)] == [8, 8, 6, 4, 4, 4, 4]
    assert [method.budget(step, 20, 10) for step in (1, 2, 3, 7, 11, 12, 20)] == [80, 80, 69, 45, 40, 40, 40]


def test_a_run_of_two_steps_prunes_by_what_the_first_showed() -> None:
    method = AdaLora(rank=2, init_rank=4, targets=("query", "value"))
    module = low_rank.attached(method, "bert", "classification")
    low_rank.disturb(module)
    run = trainer(method, module, 2)
    for step in (1, 2):
        run.backward(run.forward(zoo.batch("bert", "classification")))
        run.step(step)
    scores, kept = (
        torch.stack(rows).flatten() for rows in zip(*((m.importance(), m.kept) for m in maps(module)), strict=True)
    )
    assert int(kept.sum()) == 8 and scores[kept].min() > scores[~kept].max() > 0


def test_the_default_start_is_half_as_much_again() -> None:
    assert AdaLora().start_rank == 12 and AdaLora(rank=16).start_rank == 24 and AdaLora(init_rank=9).start_rank == 9


def test_importance_is_smoothed_sensitivity_times_uncertainty() -> None:
    torch.manual_seed(0)
    layer = AdaLoraLinear(nn.Linear(5, 4), 3, 1.0, 0.0)
    low_rank.disturb(layer)
    factors = {"p": layer.adalora_p, "l": layer.adalora_l, "q": layer.adalora_q}
    mean = {name: torch.zeros_like(value) for name, value in factors.items()}
    spread = {name: torch.zeros_like(value) for name, value in factors.items()}
    for _ in range(3):
        for name, value in factors.items():
            value.grad = torch.randn_like(value)
            now = (value * value.grad).abs().detach()
            mean[name] = 0.8 * mean[name] + 0.2 * now
            spread[name] = 0.9 * spread[name] + 0.1 * (now - mean[name]).abs()
        with torch.no_grad():
            layer.observe(0.8, 0.9)
    score = {name: mean[name] * spread[name] for name in factors}
    expected = torch.stack([
        score["l"][k] + score["p"][:, k].sum() / 4 + score["q"][k].sum() / 5 for k in range(3)
    ])  # fmt: skip
    torch.testing.assert_close(layer.importance(), expected)

    layer.adalora_l.grad = torch.tensor([float("inf"), float("nan"), 0.0])
    with torch.no_grad():
        layer.observe(0.8, 0.9)
    assert torch.isfinite(layer.importance()).all()


def trainer(method: AdaLora, module: nn.Module, steps: int) -> Trainer:
    settings = TrainSettings(steps=steps, schedule="constant", warmup=0.0)
    return Trainer(module, method, settings, Engine(torch.device("cpu"), "fp32", {}))


def test_training_prunes_to_the_budget_and_keeps_the_important() -> None:
    method = AdaLora(rank=2, init_rank=4, targets=("query", "value"), warmup=0.2, final=0.3, lr=1e-2)
    module = low_rank.attached(method, "bert", "classification")
    run, batch = trainer(method, module, 10), zoo.batch("bert", "classification")
    ranks, best = [], None
    for step in range(1, 11):
        run.backward(run.forward(batch))
        run.step(step)
        ranks.append(sum(int((layer.adalora_l != 0).sum()) for layer in maps(module)))
        scores = torch.stack([layer.importance() for layer in maps(module)]).flatten()
        kept = torch.stack([layer.kept for layer in maps(module)]).flatten()
        assert scores[kept].min() >= scores[~kept].max() if not kept.all() else step <= 2
        if step == 7:
            best = kept.clone()
    # 4 maps: 16 until step 2; 8 + 8·(1 − (t − 2)/5)³, cut to whole ranks, until step 7; then 8.
    assert ranks == [16, 16, 12, 9, 8, 8, 8, 8, 8, 8]
    assert best is not None and torch.equal(torch.stack([layer.kept for layer in maps(module)]).flatten(), best)


def test_between_allocations_a_pruned_triplet_can_come_back() -> None:
    method = AdaLora(rank=2, init_rank=4, targets=("query",), warmup=0.0, final=0.2, interval=0.4, lr=1e-2)
    module = low_rank.attached(method, "bert", "classification")
    run, batch = trainer(method, module, 10), zoo.batch("bert", "classification")
    ranks = []
    for step in range(1, 11):
        run.backward(run.forward(batch))
        run.step(step)
        ranks.append(sum(int((layer.adalora_l != 0).sum()) for layer in maps(module)))
    assert ranks == [8, 8, 8, 4, 8, 8, 8, 4, 4, 4]


def test_the_memory_probe_puts_averages_and_masks_back() -> None:
    method = AdaLora(rank=2, init_rank=4, targets=("query",), warmup=0.0, final=0.0)
    module = low_rank.attached(method, "bert", "classification")
    before = {name: value.clone() for name, value in module.state_dict().items()}
    assert {"sensitivity_p", "uncertainty_q", "kept"} <= {name.rpartition(".")[2] for name in before}
    run = trainer(method, module, 1)
    seen: list[bool] = []

    def step() -> None:
        run.step()
        now = module.state_dict()
        seen.append(any(not torch.equal(now[name], before[name]) for name, _ in module.named_buffers() if name in now))

    measure_training(
        module, run.optimizer, [zoo.batch("bert", "classification")], Loop(run.forward, run.backward, step)
    )
    assert seen == [True, True]
    after = module.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())


def test_a_step_can_be_planned_without_values() -> None:
    method = AdaLora(rank=2, init_rank=4, warmup=0.0)
    with FakeTensorMode(allow_non_fake_inputs=True):
        module = low_rank.attached(method, "bert", "classification")
        run = trainer(method, module, 2)
        batch = {name: torch.empty_like(value) for name, value in zoo.batch("bert", "classification").items()}
        for step in (1, 2):
            run.backward(run.forward(batch))
            run.step(step)


def test_errors() -> None:
    with pytest.raises(ValueError, match=r"^adalora: Unknown target 'qurey'\. Did you mean 'query'\?"):
        AdaLora(targets=("qurey",)).attach(zoo.backbone("bert", "classification"))
    with pytest.raises(ValueError, match=r"^adalora: rank 48 is beyond bert\.encoder\.layer\.0\..*, a 32×32 map"):
        AdaLora(rank=32).attach(zoo.backbone("bert", "classification"))
    with pytest.raises(RequestError, match="init_rank 4 is below rank 8"):
        options.build(AdaLora, {"init_rank": "4"}, "adalora")
    with pytest.raises(RequestError, match="leave no step for the budget to fall in"):
        options.build(AdaLora, {"warmup": "0.5"}, "adalora")


def test_only_adapters_and_head_are_trained() -> None:
    module = low_rank.attached(AdaLora(), "bert", "classification")
    leaves = {name.rpartition(".")[2] for name in trainable(module) if not name.startswith("classifier.")}
    assert leaves == {"adalora_p", "adalora_l", "adalora_q"}
