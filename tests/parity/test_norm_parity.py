"""Norm tuning against peft's LN tuning: the same norms, outputs, gradients and one optimizer step."""

import copy
from typing import Any

import peft
import pytest
import torch
from torch import nn

from bench.methods.partial_finetuning import Norm
from bench.models.backbone import trainable
from tests import zoo

pytestmark = [
    # peft reads an attribute that transformers has renamed, and does not know the sizes of norms.
    pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:Unsupported layer type .*Norm.* encountered:UserWarning"),
]

# peft's own defaults where it knows the family; it knows no BERT.
CASES: list[tuple[str, str, dict[str, Any]]] = [
    ("bert", "classification", {"target_modules": ["LayerNorm"]}),
    ("llama", "causal-lm", {}),
    ("gpt2", "causal-lm", {}),
    ("t5", "seq2seq", {}),
]


def pair(family: str, kind: str, chosen: dict[str, Any]) -> tuple[nn.Module, nn.Module, dict[str, str]]:
    """Ours, peft's, and peft's name of each of our parameters; heads are trained in both."""
    backbone = zoo.lively(zoo.backbone(family, kind))
    config = peft.LNTuningConfig(**chosen)
    theirs = peft.get_peft_model(copy.deepcopy(backbone.model), config)
    ours = Norm().attach(backbone)
    norms = {name.removeprefix("base_model.model."): name for name in trainable(theirs)}
    names = {name.replace("ln_tuning_layers.default.", ""): whole for name, whole in norms.items()}
    for name, value in ours.named_parameters():
        if any(value is head for head in backbone.head_parameters):
            names[name] = f"base_model.model.{name}"
            theirs.get_parameter(names[name]).requires_grad_(True)
    return ours, theirs, names


@pytest.mark.parametrize(("family", "kind", "chosen"), CASES)
def test_same_parameters_gradients_and_step(family: str, kind: str, chosen: dict[str, Any]) -> None:
    ours, theirs, names = pair(family, kind, chosen)
    assert set(names) == set(trainable(ours))
    batch = zoo.batch(family, kind)
    outputs = [module(**batch) for module in (ours, theirs)]
    torch.testing.assert_close(outputs[0].logits, outputs[1].logits, rtol=1e-5, atol=1e-4)
    for output in outputs:
        output.loss.backward()
    for name, value in trainable(ours).items():
        torch.testing.assert_close(value.grad, theirs.get_parameter(names[name]).grad, rtol=1e-4, atol=1e-5)
    for module in (ours, theirs):
        torch.optim.AdamW(trainable(module).values(), lr=1e-2).step()
    after = [module(**batch).logits for module in (ours, theirs)]
    torch.testing.assert_close(after[0], after[1], rtol=1e-4, atol=1e-4)
    assert not torch.equal(after[0], outputs[0].logits)
