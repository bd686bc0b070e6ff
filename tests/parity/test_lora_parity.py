"""LoRA, rsLoRA, DoRA, PiSSA and LoRA+ against peft: outputs, gradients, a step, merged weights, memory."""

from __future__ import annotations

from typing import Any

import peft
import pytest
import torch
from peft import LoraConfig
from peft.optimizers import create_loraplus_optimizer
from torch import nn

from bench.methods.lora import Lora, LoraLinear
from bench.models.backbone import trainable
from bench.training.memory import Loop, measure_training
from tests import zoo
from tests.parity import peft_twin
from tests.parity.peft_twin import FAMILIES, TARGETS, Twins

torch.set_num_threads(1)

# peft asks transformers for a property that it renames.
pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")

NAMES = {
    "lora_a": "lora_A.default.weight",
    "lora_b": "lora_B.default.weight",
    "magnitude": "lora_magnitude_vector.default.weight",
}
VARIANTS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "lora": ({}, {}),
    "rslora": ({"rslora": True}, {"use_rslora": True}),
    "dora": ({"dora": True}, {"use_dora": True}),
    "pissa": ({"pissa": True}, {"init_lora_weights": "pissa"}),
    "dora and rslora": ({"dora": True, "rslora": True}, {"use_dora": True, "use_rslora": True}),
}


def lora_twins(name: str, family: str, kind: str) -> Twins:
    ours, theirs = VARIANTS[name]
    config = LoraConfig(r=4, lora_alpha=12, target_modules=TARGETS[family], fan_in_fan_out=family == "gpt2", **theirs)
    return peft_twin.twins(Lora(rank=4, alpha=12.0, **ours), config, family, kind, NAMES)


@pytest.mark.parametrize(("family", "kind"), FAMILIES)
@pytest.mark.parametrize("name", VARIANTS)
def test_training(name: str, family: str, kind: str) -> None:
    pair = lora_twins(name, family, kind)
    peft_twin.disturb_both(pair)
    peft_twin.check(pair)


@pytest.mark.parametrize(("family", "kind"), FAMILIES)
@pytest.mark.parametrize("name", VARIANTS)
def test_merged_weights(name: str, family: str, kind: str) -> None:
    pair = lora_twins(name, family, kind)
    peft_twin.disturb_both(pair)
    ours = Lora(dora=True).merge(pair.ours).state_dict()
    theirs = pair.theirs.merge_and_unload().state_dict()  # type: ignore[operator]
    assert list(ours) == list(theirs)
    for key, value in ours.items():
        torch.testing.assert_close(value, theirs[key], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("family", "kind"), FAMILIES)
def test_the_start_of_pissa_and_of_dora(family: str, kind: str) -> None:
    pair = lora_twins("pissa", family, kind)
    for mine, other in pair.pairs().values():
        torch.testing.assert_close(mine, other, rtol=1e-5, atol=1e-6)
    there = dict(pair.theirs.named_parameters())
    for path, child in pair.ours.named_modules():
        if isinstance(child, LoraLinear):
            residual = there[f"base_model.model.{path}.base_layer.weight"]
            torch.testing.assert_close(child.weight, residual, rtol=1e-5, atol=1e-6)
    pair = lora_twins("dora", family, kind)
    for name, (mine, other) in pair.pairs().items():
        if name.endswith("magnitude"):
            torch.testing.assert_close(mine, other, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("mode", ["all", "lora_only"])
def test_bias_modes_train_the_same_biases(mode: str) -> None:
    config = LoraConfig(r=4, target_modules=TARGETS["bert"], bias=mode)  # type: ignore[arg-type]
    theirs = peft.get_peft_model(zoo.backbone("bert", "classification").model, config)
    ours = Lora(rank=4, bias=mode).attach(zoo.backbone("bert", "classification"))

    def biases(module: nn.Module) -> set[str]:
        names = {name.removeprefix("base_model.model.").replace(".base_layer", ".base") for name in trainable(module)}
        return {name for name in names if name.endswith(".bias") and not name.startswith("classifier")}

    assert biases(ours) == biases(theirs)


def test_rank_and_alpha_patterns() -> None:
    config = LoraConfig(
        r=4, lora_alpha=12, target_modules=TARGETS["bert"], rank_pattern={"query": 8}, alpha_pattern={"value": 6}
    )
    method = Lora(rank=4, alpha=12.0, rank_pattern=("query=8",), alpha_pattern=("value=6",))
    pair = peft_twin.twins(method, config, "bert", "classification", NAMES)
    peft_twin.disturb_both(pair)
    peft_twin.check(pair)


def test_lora_plus_has_the_rates_of_peft() -> None:
    method = Lora(rank=4, plus=True, plus_ratio=16.0, lr=1e-3)
    pair = peft_twin.twins(method, LoraConfig(r=4, target_modules=TARGETS["llama"]), "llama", "causal-lm", NAMES)
    theirs = create_loraplus_optimizer(pair.theirs, torch.optim.AdamW, lr=1e-3, loraplus_lr_ratio=16.0)
    rate = {id(p): group["lr"] for group in theirs.param_groups for p in group["params"]}
    ours = {
        id(p): 1e-3 * group.get("lr_scale", 1) for group in method.parameter_groups(pair.ours) for p in group["params"]
    }
    assert {name: ours[id(mine)] for name, (mine, _) in pair.pairs().items()} == {
        name: rate[id(other)] for name, (_, other) in pair.pairs().items()
    }


def peak(module: nn.Module, batch: dict[str, torch.Tensor]) -> int:
    optimizer = torch.optim.AdamW(trainable(module).values(), foreach=False)

    def step() -> None:
        optimizer.step()
        optimizer.zero_grad()

    loop = Loop(lambda inputs: module(**inputs).loss, lambda loss: loss.backward(), step)
    report = measure_training(module, optimizer, [batch], loop)
    return max(peak.split["activations"] for peak in report.phases.values())


@pytest.mark.parametrize(("family", "kind"), FAMILIES)
@pytest.mark.parametrize("name", ["lora", "dora"])
def test_memory_is_not_above_peft(name: str, family: str, kind: str) -> None:
    pair = lora_twins(name, family, kind)
    batch = zoo.batch(family, kind, rows=16)
    assert peak(pair.ours, batch) <= peak(pair.theirs, batch)
