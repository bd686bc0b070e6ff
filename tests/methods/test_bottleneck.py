"""Bottleneck adapters against formulas written out by hand, and the counts of their papers."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForSeq2SeqLM

from bench.core.protocols import Method
from bench.methods.bottleneck import Bottleneck, Houlsby, Parallel, Pfeiffer
from bench.models.backbone import Backbone, count, trainable
from tests import zoo

METHODS: tuple[Method, ...] = (Houlsby(width=6), Pfeiffer(width=6), Parallel(width=6))


def stir(module: nn.Module, seed: int = 3) -> None:
    """Random values for everything trainable, so that no part of a formula is zero or one."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for value in trainable(module).values():
            value.add_(torch.randn(value.shape, generator=generator) * 0.2)


def adapted(method: Method, family: str, kind: str) -> tuple[nn.Module, Backbone]:
    """The tuned module, stirred, and the untouched backbone with the same frozen weights."""
    backbone = zoo.lively(zoo.backbone(family, kind))
    plain = copy.deepcopy(backbone)
    module = method.attach(backbone)
    stir(module)
    return module, plain


def block_call(module: nn.Module, block: nn.Module, batch: dict[str, Any]) -> tuple[list[Any], dict[str, Any], Tensor]:
    """How a block of the tuned module was called in a forward (arguments, keywords) and the states it gave."""
    seen: dict[str, Any] = {}

    def before(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        seen["args"], seen["kwargs"] = list(args), kwargs

    def after(_: nn.Module, __: Any, output: Any) -> None:
        seen["output"] = output[0] if isinstance(output, tuple) else output

    handles = [block.register_forward_pre_hook(before, with_kwargs=True), block.register_forward_hook(after)]
    module(**batch)
    for handle in handles:
        handle.remove()
    return seen["args"], seen["kwargs"], seen["output"]


def relu_adapter(adapter: Bottleneck, h: Tensor, act: Callable[[Tensor], Tensor] = F.relu) -> Tensor:
    """U f(D h + b) + c from the adapter's own numbers."""
    inner = act(h @ adapter.down.weight.T + adapter.down.bias)
    return inner @ adapter.up.weight.T + adapter.up.bias


def same_values_and_gradients(got: Tensor, expected: Tensor, parameters: list[nn.Parameter]) -> None:
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)
    probe = torch.randn(got.shape, generator=torch.Generator().manual_seed(5))
    found = torch.autograd.grad((got * probe).sum(), parameters, retain_graph=True)
    wanted = torch.autograd.grad((expected * probe).sum(), parameters)
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


def test_houlsby_in_a_bert_block() -> None:
    module, plain = adapted(Houlsby(width=6), "bert", "classification")
    tuned, frozen = module.bert.encoder.layer[1], plain.model.bert.encoder.layer[1]
    (x, mask, *_), _, got = block_call(module, tuned, zoo.batch("bert", "classification"))
    norm1, norm2 = tuned.attention.output.LayerNorm, tuned.output.LayerNorm
    first, second = tuned.attention.output.dense.adapter, tuned.output.dense.adapter
    a = frozen.attention.output.dense(frozen.attention.self(x, mask)[0])
    a = F.layer_norm(x + a + relu_adapter(first, a, F.gelu), (32,), norm1.weight, norm1.bias, norm1.eps)
    f = frozen.output.dense(F.gelu(frozen.intermediate.dense(a)))
    expected = F.layer_norm(a + f + relu_adapter(second, f, F.gelu), (32,), norm2.weight, norm2.bias, norm2.eps)
    same_values_and_gradients(got, expected, [*first.parameters(), *second.parameters(), *norm1.parameters()])


def test_pfeiffer_in_a_bert_block_uses_the_frozen_norm_twice() -> None:
    module, plain = adapted(Pfeiffer(width=6), "bert", "classification")
    tuned, frozen = module.bert.encoder.layer[0], plain.model.bert.encoder.layer[0]
    (x, mask, *_), _, got = block_call(module, tuned, zoo.batch("bert", "classification"))
    a = frozen.attention(x, mask)[0]
    s = frozen.output.dense(F.gelu(frozen.intermediate.dense(a))) + a
    norm, adapter = frozen.output.LayerNorm, tuned.output.LayerNorm.adapter
    same_values_and_gradients(got, norm(s + relu_adapter(adapter, norm(s))), list(adapter.parameters()))


@pytest.mark.parametrize(
    ("family", "path"), [("llama", "model.layers.1"), ("gpt2", "transformer.h.1"), ("vit", "vit.layers.1")]
)
def test_pfeiffer_in_a_pre_norm_block_reads_the_residual_sum(family: str, path: str) -> None:
    kind = zoo.KINDS[family][-1]
    module, plain = adapted(Pfeiffer(width=6), family, kind)
    tuned = module.get_submodule(path)
    no_cache = {} if family == "vit" else {"use_cache": False}
    args, kwargs, got = block_call(module, tuned, zoo.batch(family, kind) | no_cache)
    out = plain.model.get_submodule(path)(*args, **kwargs)
    s = out[0] if isinstance(out, tuple) else out
    same_values_and_gradients(got, s + relu_adapter(tuned.adapter, s), list(tuned.adapter.parameters()))


def test_parallel_in_a_bert_block() -> None:
    module, plain = adapted(Parallel(width=6, scale=2.5), "bert", "classification")
    tuned, frozen = module.bert.encoder.layer[0], plain.model.bert.encoder.layer[0]
    (x, mask, *_), _, got = block_call(module, tuned, zoo.batch("bert", "classification"))
    a = frozen.attention(x, mask)[0]
    adapter = tuned.output.dense.adapter
    h = frozen.output.dense(F.gelu(frozen.intermediate.dense(a))) + 2.5 * relu_adapter(adapter, a)
    same_values_and_gradients(got, frozen.output.LayerNorm(h + a), list(adapter.parameters()))


@pytest.mark.parametrize(
    ("family", "changes", "inside"),
    [
        ("llama", {}, "model.layers.0.mlp"),
        ("t5", {"feed_forward_proj": "gated-gelu"}, "decoder.block.1.layer.2.DenseReluDense"),
    ],
)
def test_parallel_beside_a_gated_feed_forward(family: str, changes: dict[str, Any], inside: str) -> None:
    backbone = zoo.backbone(family, zoo.KINDS[family][-1], **changes)
    plain = copy.deepcopy(backbone.model).get_submodule(inside)
    module = Parallel(width=6).attach(backbone)
    stir(module)
    tuned = module.get_submodule(inside)
    x = torch.randn(2, 5, 32, generator=torch.Generator().manual_seed(0))
    adapter = (tuned.down_proj if family == "llama" else tuned.wo).adapter
    same_values_and_gradients(tuned(x), plain(x) + 4.0 * relu_adapter(adapter, x), list(adapter.parameters()))


def test_parallel_starts_at_the_base_model() -> None:
    backbone = zoo.backbone("llama", "causal-lm")
    batch = zoo.batch("llama", "causal-lm")
    with torch.no_grad():
        before = backbone.model(**batch).logits
        after = Parallel().attach(backbone)(**batch).logits
    assert torch.equal(before, after)


@pytest.mark.parametrize("method", [Houlsby(), Pfeiffer()], ids=lambda method: method.name)
def test_serial_adapters_start_near_the_identity(method: Method) -> None:
    backbone = zoo.backbone("llama", "causal-lm")
    batch = zoo.batch("llama", "causal-lm")
    with torch.no_grad():
        before = backbone.model(**batch).logits
        after = method.attach(backbone)(**batch).logits
    gap = (before - after).abs().max().item()
    assert 0 < gap < 0.02 * before.abs().max().item()


def test_houlsby_weights_start_within_two_deviations_of_a_thousandth() -> None:
    module = Houlsby(width=16).attach(zoo.backbone("bert", "classification"))
    weights = torch.cat(
        [m.weight.flatten() for b in module.modules() if isinstance(b, Bottleneck) for m in (b.down, b.up)]
    )
    assert weights.abs().max() <= 2e-3
    assert 0.8e-3 < weights.std().item() < 0.95e-3  # a normal cut at ±2σ has a deviation of 0.88 σ


def test_parallel_weights_start_as_lora_does() -> None:
    module = Parallel(width=64).attach(zoo.backbone("bert", "classification"))
    for bottleneck in (child for child in module.modules() if isinstance(child, Bottleneck)):
        assert torch.count_nonzero(bottleneck.up.weight) == torch.count_nonzero(bottleneck.down.bias) == 0
        bound = 1 / 32**0.5  # Kaiming-uniform with a = √5: 1/√inputs
        assert 0.95 * bound < bottleneck.down.weight.abs().max().item() <= bound


def t5_base() -> Backbone:
    config = AutoConfig.for_model("t5", d_model=768, d_kv=64, d_ff=3072, num_layers=12, num_heads=12, vocab_size=32100)
    with torch.device("meta"):
        return Backbone(AutoModelForSeq2SeqLM.from_config(config), "seq2seq", frozenset())


def test_houlsby_trains_what_lst_reports_for_adapters_on_t5_base() -> None:
    """arXiv 2206.06522: 48 wide, all 62 norms: 3,625,728."""
    backbone = t5_base()
    assert Houlsby(width=48).trainable_count(backbone) == 3_625_728
    assert count(list(trainable(Houlsby(width=48).attach(backbone)).values())) == 3_625_728


@pytest.mark.parametrize(("family", "cross"), [("t5", "EncDecAttention"), ("bart", "encoder_attn")])
def test_houlsby_leaves_cross_attention_alone(family: str, cross: str) -> None:
    module = Houlsby().attach(zoo.backbone(family, "seq2seq"))
    paths = [name for name, child in module.named_modules() if isinstance(child, Bottleneck)]
    assert len(paths) == 8
    assert not any(cross in path for path in paths)


def test_default_widths() -> None:
    backbone = t5_base()  # d 768: 48 for both
    assert Houlsby().trainable_count(backbone) == Houlsby(width=48).trainable_count(backbone)
    assert Pfeiffer().trainable_count(backbone) == 24 * (2 * 768 * 48 + 48 + 768)
    assert Parallel().trainable_count(backbone) == 24 * (2 * 768 * 512 + 512 + 768)


@pytest.mark.filterwarnings("ignore:.gradient_checkpointing_enable. is deprecated:FutureWarning")
@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
@pytest.mark.parametrize(("family", "kind"), [("bert", "classification"), ("llama", "causal-lm"), ("t5", "seq2seq")])
def test_gradient_checkpointing_gives_the_same_gradients(method: Method, family: str, kind: str) -> None:
    found = []
    for checkpointing in (False, True):
        module, _ = adapted(method, family, kind)
        if checkpointing:
            module.gradient_checkpointing_enable({"use_reentrant": False})
        module.train()
        module(**zoo.batch(family, kind)).loss.backward()
        found.append([value.grad for value in trainable(module).values()])
        copy.deepcopy(module)  # no tensor of the graph is left behind in the module
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_autocast_keeps_the_branch_narrow(method: Method) -> None:
    """Under bf16 autocast the bottlenecks compute in bf16, their weights and gradients stay fp32."""
    module, _ = adapted(method, "llama", "causal-lm")
    seen: list[torch.dtype] = []
    for child in module.modules():
        if isinstance(child, Bottleneck):
            child.register_forward_hook(lambda _, __, out: seen.append(out.dtype))
    with torch.autocast("cpu", torch.bfloat16):
        loss = module(**zoo.batch("llama", "causal-lm")).loss
    loss.backward()
    assert set(seen) == {torch.bfloat16}
    assert {value.grad.dtype for value in trainable(module).values() if value.grad is not None} == {torch.float32}


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_new_parameters_are_fp32_beside_a_bf16_model(method: Method) -> None:
    backbone = zoo.backbone("llama", "causal-lm")
    backbone.model.to(torch.bfloat16)
    module = method.attach(backbone)
    added = [p for child in module.modules() if isinstance(child, Bottleneck) for p in child.parameters()]
    assert {parameter.dtype for parameter in added} == {torch.float32}


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_frozen_activations_are_not_kept(method: Method) -> None:
    """What a wrapped frozen map reads is not saved for it: only bottleneck inputs and inner values are."""
    backbone = zoo.backbone("llama", "causal-lm")
    module = method.attach(backbone)
    inner = 64  # the feed-forward's width: nothing trainable reads a tensor that wide but the gate product
    wide: list[tuple[int, ...]] = []

    def pack(tensor: Tensor) -> Tensor:
        if tensor.shape[-1:] == (inner,) and tensor.ndim == 3:
            wide.append(tuple(tensor.shape))
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        module(**zoo.batch("llama", "causal-lm"))
    # silu keeps its input, the product keeps both factors, once a block that a gradient goes through.
    assert len(wide) <= 2 * 3
