"""AdaLoRA against peft: outputs, loss with its penalty, gradients, a step, and which triplets the budget keeps."""

from __future__ import annotations

import pytest
import torch
from peft import AdaLoraConfig

from bench.methods.adalora import AdaLora, AdaLoraLinear
from tests.parity import peft_twin
from tests.parity.peft_twin import FAMILIES, TARGETS, Twins

torch.set_num_threads(1)

# peft asks transformers for a property that it renames.
pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")

NAMES = {"adalora_p": "lora_B.default", "adalora_l": "lora_E.default", "adalora_q": "lora_A.default"}
STEPS = 12


def adalora_twins(family: str, kind: str) -> Twins:
    method = AdaLora(
        rank=2, init_rank=4, alpha=8.0, targets=("query", "value"), warmup=2 / STEPS, final=3 / STEPS,
        interval=2 / STEPS, beta_1=0.8, beta_2=0.9,
    )  # fmt: skip
    config = AdaLoraConfig(
        target_r=2, init_r=4, lora_alpha=8, target_modules=TARGETS[family], fan_in_fan_out=family == "gpt2",
        orth_reg_weight=0.1, beta1=0.8, beta2=0.9, tinit=2, tfinal=3, deltaT=2, total_step=STEPS,
    )  # fmt: skip
    return peft_twin.twins(method, config, family, kind, NAMES)


@pytest.mark.parametrize(("family", "kind"), FAMILIES)
def test_training(family: str, kind: str) -> None:
    pair = adalora_twins(family, kind)
    peft_twin.disturb_both(pair)
    peft_twin.check(pair)


@pytest.mark.parametrize(("family", "kind"), FAMILIES)
def test_merged_weights(family: str, kind: str) -> None:
    pair = adalora_twins(family, kind)
    peft_twin.disturb_both(pair)
    ours = AdaLora().merge(pair.ours).state_dict()
    theirs = pair.theirs.merge_and_unload().state_dict()  # type: ignore[operator]
    assert list(ours) == list(theirs)
    for key, value in ours.items():
        torch.testing.assert_close(value, theirs[key], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("family", "kind"), FAMILIES)
def test_the_budget_keeps_the_same_triplets(family: str, kind: str) -> None:
    pair = adalora_twins(family, kind)
    peft_twin.disturb_both(pair)
    method = AdaLora(rank=2, init_rank=4, warmup=2 / STEPS, final=3 / STEPS, interval=2 / STEPS, beta_1=0.8, beta_2=0.9)
    optimizers = [
        torch.optim.AdamW([both[side] for both in pair.pairs().values()], lr=1e-2, eps=1e-4) for side in (0, 1)
    ]
    patterns = []
    for step in range(1, STEPS + 1):
        for out, optimizer in zip(pair.run(), optimizers, strict=True):
            out.loss.backward()
            optimizer.step()
        method.after_step(pair.ours, step, STEPS)
        pair.theirs.base_model.update_and_allocate(step)  # type: ignore[union-attr, operator]
        for optimizer in optimizers:
            optimizer.zero_grad()
        kept = [layer.adalora_l != 0 for layer in pair.ours.modules() if isinstance(layer, AdaLoraLinear)]
        there = [other[:, 0] != 0 for name, (_, other) in pair.pairs().items() if name.endswith(".adalora_l")]
        assert [mask.tolist() for mask in kept] == [mask.tolist() for mask in there], step
        patterns.append(int(torch.stack(kept).sum()))
        for mine, other in pair.pairs().values():
            torch.testing.assert_close(mine, other.view(mine.shape), rtol=1e-3, atol=1e-4)
    maps = len(kept)
    assert patterns[0] == 4 * maps and patterns[-4:] == [2 * maps] * 4
