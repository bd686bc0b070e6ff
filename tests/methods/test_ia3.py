"""IA³: formulas, fused maps, merging, counts."""

import copy

import pytest
import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.pytorch_utils import Conv1D

from bench.methods.ia3 import Ia3, ScaledInput, ScaledKeyValue, ScaledOutput
from bench.models.backbone import Backbone, count, trainable
from tests import zoo

FAMILIES = [(family, kind) for family, kinds in zoo.KINDS.items() for kind in kinds]
SCALED = (ScaledInput, ScaledKeyValue, ScaledOutput)


def stirred(family: str, kind: str) -> nn.Module:
    module = Ia3().attach(zoo.lively(zoo.backbone(family, kind)))
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for child in module.modules():
            if isinstance(child, SCALED):
                child.scale.copy_(0.5 + torch.rand(child.scale.shape, generator=generator))
    return module


def linear(kind: type[nn.Module], inputs: int, outputs: int) -> nn.Module:
    torch.manual_seed(0)
    made = Conv1D(outputs, inputs) if kind is Conv1D else nn.Linear(inputs, outputs)
    nn.init.normal_(made.weight)
    nn.init.normal_(made.bias)
    return made


@pytest.mark.parametrize("kind", [nn.Linear, Conv1D])
@pytest.mark.parametrize("scaled", [ScaledOutput, ScaledInput])
def test_formula_and_merge_of_a_map(kind: type[nn.Module], scaled: type[ScaledOutput] | type[ScaledInput]) -> None:
    base = linear(kind, 5, 3)
    layer = scaled(copy.deepcopy(base))
    assert torch.equal(layer.scale, torch.ones(5 if scaled is ScaledInput else 3))
    nn.init.normal_(layer.scale)
    x = torch.randn(2, 4, 5)
    expected = base(x * layer.scale) if scaled is ScaledInput else base(x) * layer.scale
    torch.testing.assert_close(layer(x), expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(layer.merge()(x), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("groups", [1, 3])
def test_fused_map_scales_keys_and_values_alone(groups: int) -> None:
    """Output read as the model reads it: GPT-2 splits in three, GPT-NeoX views (heads, 3·head size)."""
    base = linear(nn.Linear, 5, 36)
    layer = ScaledKeyValue(copy.deepcopy(base), groups)
    nn.init.normal_(layer.scale)
    x = torch.randn(2, 4, 5)
    before = base(x).view(2, 4, groups, 36 // groups).chunk(3, dim=-1)
    after = layer(x).view(2, 4, groups, 36 // groups).chunk(3, dim=-1)
    keys, values = layer.scale.view(2, groups, 12 // groups)
    for got, old, factor in zip(after, before, (torch.tensor(1.0), keys, values), strict=True):
        torch.testing.assert_close(got, old * factor, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("family", ["gpt2", "gpt_neox"])
def test_fused_scale_equals_scaling_what_attention_reads(family: str) -> None:
    """With keys' l = 2 and values' l = 0 in the last block its attention gives its output map's bias alone."""
    module = Ia3().attach(zoo.backbone(family, "causal-lm"))
    tower = "transformer.h.1.attn" if family == "gpt2" else "gpt_neox.layers.1.attention"
    attention = module.get_submodule(tower)
    fused = attention.c_attn if family == "gpt2" else attention.query_key_value
    output = attention.c_proj if family == "gpt2" else attention.dense
    seen = []
    output.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    with torch.no_grad():
        fused.scale[0].fill_(2.0)
        fused.scale[1].zero_()
        module(**zoo.batch(family, "causal-lm"))
    assert torch.count_nonzero(seen[0]) == 0
    with torch.no_grad():
        fused.scale[1].fill_(1.0)
        module(**zoo.batch(family, "causal-lm"))
    assert torch.count_nonzero(seen[1]) > 0


@pytest.mark.parametrize(("family", "kind"), FAMILIES)
def test_starts_at_the_base_model_and_merges(family: str, kind: str) -> None:
    batch = zoo.batch(family, kind)
    backbone = zoo.lively(zoo.backbone(family, kind))
    names = set(backbone.model.state_dict())
    with torch.no_grad():
        base = backbone.model.eval()(**batch).logits
        assert torch.equal(Ia3().attach(backbone)(**batch).logits, base)
        module = stirred(family, kind).eval()
        tuned = module(**batch).logits
        merged = Ia3().merge(module)
        assert set(merged.state_dict()) == names
        torch.testing.assert_close(merged(**batch).logits, tuned, rtol=1e-4, atol=1e-4)
    assert (tuned - base).abs().max() > 1e-2


def test_count_on_llama_3_2_3b() -> None:
    """28·(1024 + 1024 + 8192)."""
    config = AutoConfig.for_model(
        "llama", hidden_size=3072, intermediate_size=8192, num_hidden_layers=28, num_attention_heads=24,
        num_key_value_heads=8, head_dim=128, vocab_size=128256, tie_word_embeddings=True,
    )  # fmt: skip
    with torch.device("meta"):
        backbone = Backbone(AutoModelForCausalLM.from_config(config), "causal-lm", frozenset())
    assert Ia3().trainable_count(backbone) == 286_720
    module = Ia3().attach(backbone)
    assert count(list(trainable(module).values())) == 286_720
    assert {value.device.type for value in module.parameters()} == {"meta"}


def test_cross_attention_is_scaled_too() -> None:
    """T5's decoder: keys and values of both attentions (section 3.3 of the paper)."""
    module = Ia3().attach(zoo.backbone("t5", "seq2seq"))
    block = module.decoder.block[0]
    assert isinstance(block.layer[1].EncDecAttention.k, ScaledOutput)
    assert isinstance(block.layer[1].EncDecAttention.v, ScaledOutput)
    assert isinstance(block.layer[2].DenseReluDense.wo, ScaledInput)
    assert not isinstance(block.layer[0].SelfAttention.q, SCALED)


def test_autocast_keeps_the_models_precision_and_small_changes() -> None:
    """l = 1.003 is 1 in bf16: the product must still know it, and must come out as bf16."""
    layer = ScaledOutput(linear(nn.Linear, 8, 6))
    x = torch.randn(64, 8)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        before = layer(x)
        layer.scale.fill_(1.003)
        after = layer(x)
    assert after.dtype == torch.bfloat16
    assert not torch.equal(before, after)


@pytest.mark.filterwarnings("ignore:.gradient_checkpointing_enable. is deprecated:FutureWarning")
@pytest.mark.parametrize(("family", "kind"), [("gpt2", "causal-lm"), ("llama", "causal-lm"), ("t5", "seq2seq")])
def test_gradient_checkpointing_gives_the_same_gradients(family: str, kind: str) -> None:
    found = []
    for checkpointing in (False, True):
        module = stirred(family, kind)
        if checkpointing:
            module.gradient_checkpointing_enable({"use_reentrant": False})
        module.train()
        module(**zoo.batch(family, kind)).loss.backward()
        found.append([value.grad for value in trainable(module).values()])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


def test_new_parameters_are_fp32_beside_a_bf16_model() -> None:
    backbone = zoo.backbone("gpt2", "causal-lm")
    backbone.model.to(torch.bfloat16)
    assert {value.dtype for value in trainable(Ia3().attach(backbone)).values()} == {torch.float32}
