"""Compacter against sums of torch.kron, and its counts."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForSeq2SeqLM

from bench.methods.compacter import Compacter, CompacterBlock, KroneckerLinear
from bench.models.backbone import Backbone, count, trainable
from tests import zoo


def by_hand(linear: KroneckerLinear, x: Tensor) -> Tensor:
    """x W + b, W = Σᵢ Aᵢ ⊗ (sᵢ tᵢᵀ) one Kronecker product at a time."""
    parts = [torch.kron(a, torch.outer(s, t)) for a, s, t in zip(linear.rule, linear.s, linear.t, strict=True)]
    return x @ torch.stack(parts).sum(0) + linear.bias


def block_by_hand(block: CompacterBlock, x: Tensor) -> Tensor:
    return by_hand(block.up, F.gelu(by_hand(block.down, x)))


@pytest.mark.parametrize(("n", "size", "width"), [(4, 32, 8), (2, 10, 6), (1, 5, 3)])
def test_a_map_is_its_formula_with_its_gradients(n: int, size: int, width: int) -> None:
    torch.manual_seed(0)
    linear = KroneckerLinear(nn.Parameter(torch.randn(n, n, n)), size, width)
    nn.init.normal_(linear.bias)
    x = torch.randn(3, 7, size, requires_grad=True)
    got, expected = linear(x), by_hand(linear, x)
    assert got.shape == (3, 7, width)
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)
    probe, wanted = torch.randn_like(got), [x, *linear.parameters()]
    found = torch.autograd.grad((got * probe).sum(), wanted)
    for one, other in zip(found, torch.autograd.grad((expected * probe).sum(), wanted), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


def test_blocks_sit_where_houlsbys_do() -> None:
    """In a Llama block: after o_proj and after down_proj, before the residual."""
    backbone = zoo.backbone("llama", "causal-lm")
    plain = copy.deepcopy(backbone.model)
    module = Compacter(width=8).attach(backbone)
    with torch.no_grad():
        for value in trainable(module).values():
            value.add_(torch.randn_like(value) * 0.3)
    x = torch.randn(2, 5, 32)
    for path in ("self_attn.o_proj", "mlp.down_proj"):
        tuned = module.get_submodule(f"model.layers.1.{path}")
        frozen = plain.get_submodule(f"model.layers.1.{path}")
        inner = torch.randn(2, 5, frozen.in_features)
        h = frozen(inner)
        torch.testing.assert_close(tuned(inner), h + block_by_hand(tuned.adapter, h), rtol=1e-5, atol=1e-5)
    assert not torch.equal(plain.model.layers[1].mlp(x), module.model.layers[1].mlp(x))


def test_the_rule_is_one_parameter_of_the_whole_model() -> None:
    module = Compacter().attach(zoo.backbone("t5", "seq2seq"))
    rules = {id(child.rule) for child in module.modules() if isinstance(child, KroneckerLinear)}
    assert len(rules) == 1
    assert sum(value.shape == (4, 4, 4) for value in module.parameters()) == 1


def t5_base() -> Backbone:
    config = AutoConfig.for_model("t5", d_model=768, d_kv=64, d_ff=3072, num_layers=12, num_heads=12, vocab_size=32100)
    with torch.device("meta"):
        return Backbone(AutoModelForSeq2SeqLM.from_config(config), "seq2seq", frozenset())


def test_count_on_t5_base() -> None:
    """48 adapters of width 24: s and t 2·(768+24), biases 768+24; 62 norms of 768; A 4³."""
    expected = 48 * 3 * (768 + 24) + 62 * 768 + 64
    backbone = t5_base()
    assert Compacter().trainable_count(backbone) == expected
    assert count(list(trainable(Compacter().attach(backbone)).values())) == expected


def test_initial_values() -> None:
    torch.manual_seed(0)
    module = Compacter(width=32).attach(zoo.backbone("bert", "classification"))
    linear = next(child for child in module.modules() if isinstance(child, KroneckerLinear))
    assert 0.007 < linear.rule.std().item() < 0.013
    bound = (6 / (8 + 1)) ** 0.5
    assert 0.8 * bound < linear.s.abs().max().item() <= bound
    assert torch.count_nonzero(linear.bias) == 0


@pytest.mark.parametrize(
    ("method", "message"),
    [
        (Compacter(n=5), "compacter: n 5 does not divide the hidden size 32; set compacter.n to a divisor"),
        (Compacter(width=6), "compacter: n 4 does not divide the width 6; use a multiple such as 8"),
    ],
)
def test_refusals_leave_the_model_as_it_was(method: Compacter, message: str) -> None:
    backbone = zoo.backbone("bert", "classification")
    before = [value.requires_grad for value in backbone.model.parameters()]
    with pytest.raises(ValueError, match=f"^{message}$"):
        method.attach(backbone)
    assert [value.requires_grad for value in backbone.model.parameters()] == before


@pytest.mark.filterwarnings("ignore:.gradient_checkpointing_enable. is deprecated:FutureWarning")
def test_gradient_checkpointing_gives_the_same_gradients() -> None:
    found = []
    for checkpointing in (False, True):
        torch.manual_seed(1)
        module = Compacter(width=8).attach(zoo.lively(zoo.backbone("t5", "seq2seq")))
        if checkpointing:
            module.gradient_checkpointing_enable({"use_reentrant": False})
        module.train()
        module(**zoo.batch("t5", "seq2seq")).loss.backward()
        found.append([value.grad for value in trainable(module).values()])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


def test_autocast_trains_in_bf16_with_fp32_gradients() -> None:
    module = Compacter().attach(zoo.backbone("llama", "causal-lm"))
    seen: list[torch.dtype] = []
    for child in module.modules():
        if isinstance(child, CompacterBlock):
            child.register_forward_hook(lambda _, __, out: seen.append(out.dtype))
    with torch.autocast("cpu", torch.bfloat16):
        loss = module(**zoo.batch("llama", "causal-lm")).loss
    loss.backward()
    assert torch.isfinite(loss)
    assert set(seen) == {torch.bfloat16}
    assert {value.grad.dtype for value in trainable(module).values() if value.grad is not None} == {torch.float32}
