"""The same tiny model twice, once with our method and once with peft's, and claims that both are the same."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import peft
import torch
from torch import Tensor, nn

from bench.models.backbone import trainable
from tests import zoo

FAMILIES = [("bert", "classification"), ("llama", "causal-lm"), ("gpt2", "causal-lm"), ("t5", "seq2seq")]
TARGETS = {"bert": ["query", "value"], "llama": ["q_proj", "v_proj"], "gpt2": ["c_attn"], "t5": ["q", "v"]}

# Our name of a parameter beside a map → peft's.
Names = Mapping[str, str]


@dataclass
class Twins:
    """Our module and peft's, on equal models, and how the parameters of one are called in the other."""

    ours: nn.Module
    theirs: nn.Module
    names: Names
    batch: dict[str, Tensor]

    def run(self) -> list[Any]:
        """The outputs of both for the batch."""
        # peft's outermost model passes the tuner's own forward by, and with it AdaLoRA's penalty.
        return [self.ours(**self.batch), self.theirs.base_model(**self.batch)]  # type: ignore[operator]

    def pairs(self) -> dict[str, tuple[nn.Parameter, nn.Parameter]]:
        """Every trainable parameter of ours with peft's."""
        there = dict(self.theirs.named_parameters())
        found = {}
        for name, parameter in trainable(self.ours).items():
            above, _, leaf = name.rpartition(".")
            path = f"{above}.{self.names[leaf]}" if leaf in self.names else name
            found[name] = (parameter, there[f"base_model.model.{path}"])
        return found


def twins(method: Any, config: Any, family: str, kind: str, names: Names) -> Twins:
    """Attach ``method`` and peft's ``config`` to equal models; peft's model trains the head too, as ours does."""
    ours = method.attach(zoo.backbone(family, kind)).train()
    backbone = zoo.backbone(family, kind)
    theirs = peft.get_peft_model(backbone.model, config).train()
    for parameter in backbone.head_parameters:
        parameter.requires_grad_(True)
    pair = Twins(ours, theirs, names, zoo.batch(family, kind))
    assert len(pair.pairs()) == len(trainable(theirs))
    return pair


def disturb_both(pair: Twins, size: float = 0.05) -> None:
    """Give both the same parameters, none of them zero."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for mine, other in pair.pairs().values():
            mine.add_(size * torch.randn(mine.shape, generator=generator))
            other.copy_(mine.view(other.shape))


def check(pair: Twins) -> None:
    """Outputs, losses, every gradient, and every parameter after a step of AdamW are the same."""
    frozen = {name: value.clone() for name, value in pair.ours.named_parameters() if not value.requires_grad}
    outputs = pair.run()
    torch.testing.assert_close(outputs[0].logits, outputs[1].logits, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(outputs[0].loss, outputs[1].loss, rtol=1e-5, atol=1e-5)
    for out in outputs:
        out.loss.backward()
    for name, (mine, other) in pair.pairs().items():
        assert mine.grad is not None and other.grad is not None and float(other.grad.abs().max()) > 0, name
        torch.testing.assert_close(
            mine.grad, other.grad.view(mine.shape), rtol=1e-4, atol=1e-6, msg=lambda m, n=name: f"{n}: {m}"
        )
    for side in (0, 1):
        # A large epsilon: at a gradient of rounding errors alone, Adam's step would be their sign.
        torch.optim.AdamW([both[side] for both in pair.pairs().values()], lr=1e-2, eps=1e-4).step()
    for mine, other in pair.pairs().values():
        torch.testing.assert_close(mine, other.view(mine.shape), rtol=1e-5, atol=1e-5)
    after = dict(pair.ours.named_parameters())
    assert all(torch.equal(after[name], value) for name, value in frozen.items())
    with torch.no_grad():
        outputs = pair.run()
    torch.testing.assert_close(outputs[0].logits, outputs[1].logits, rtol=1e-5, atol=1e-4)
