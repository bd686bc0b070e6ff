"""VeRA against peft with the same random pair: outputs, gradients, a step, merged weights."""

from __future__ import annotations

import pytest
import torch
from peft import VeraConfig

from bench.methods.vera import Vera, VeraLinear
from tests.parity import peft_twin
from tests.parity.peft_twin import FAMILIES, TARGETS, Twins

torch.set_num_threads(1)

# peft asks transformers for a property that it renames.
pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")

NAMES = {"vera_d": "vera_lambda_d.default", "vera_b": "vera_lambda_b.default"}


def vera_twins(family: str, kind: str) -> Twins:
    """Twins with equal A and B; on Llama query and value have different widths, so value reads a part of B."""
    config = VeraConfig(r=20, target_modules=TARGETS[family], fan_in_fan_out=family == "gpt2")
    pair = peft_twin.twins(Vera(rank=20), config, family, kind, NAMES)
    shared = next(child.shared for child in pair.ours.modules() if isinstance(child, VeraLinear))
    model = pair.theirs.base_model
    shared.a.copy_(model.vera_A["default"])  # type: ignore[index, union-attr]
    shared.b.copy_(model.vera_B["default"])  # type: ignore[index, union-attr]
    return pair


@pytest.mark.parametrize(("family", "kind"), FAMILIES)
def test_training(family: str, kind: str) -> None:
    pair = vera_twins(family, kind)
    for name, (mine, other) in pair.pairs().items():
        if name.endswith((".vera_d", ".vera_b")):
            assert torch.equal(mine, other)  # the start
    peft_twin.disturb_both(pair)
    peft_twin.check(pair)


@pytest.mark.parametrize(("family", "kind"), FAMILIES)
def test_merged_weights(family: str, kind: str) -> None:
    pair = vera_twins(family, kind)
    peft_twin.disturb_both(pair)
    ours = Vera().merge(pair.ours).state_dict()
    theirs = pair.theirs.merge_and_unload().state_dict()  # type: ignore[operator]
    assert list(ours) == list(theirs)
    for key, value in ours.items():
        torch.testing.assert_close(value, theirs[key], rtol=1e-5, atol=1e-6)
