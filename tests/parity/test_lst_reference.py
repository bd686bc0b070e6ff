"""LST against a plain implementation of the paper's equations: forward, gradients and one step (arXiv 2206.06522).

The references below share no code with the package: they take weights by name and write every step of a BERT, Llama
and T5 block out. The trunk is the untouched model; its raw layer outputs come from hooks of the test's own.
"""

import math
from collections.abc import Callable
from typing import Any, cast

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.testing import assert_close

from bench.methods.lst import Lst
from bench.models.backbone import trainable
from tests import zoo

D, R, LR = 32, 2, 0.1
N = D // R
Weights = dict[str, Tensor]


def raw_outputs(blocks: nn.ModuleList, run: Callable[[], Any]) -> tuple[list[Tensor], Any]:
    """The first block's input and every block's output of one pass without gradient, and what the pass gave."""
    states: list[Tensor] = []
    handles = [blocks[0].register_forward_pre_hook(lambda _, args: states.append(args[0]))]
    for block in blocks:
        handles.append(
            block.register_forward_hook(lambda _, __, out: states.append(out[0] if isinstance(out, tuple) else out))
        )
    with torch.no_grad():
        out = run()
    for handle in handles:
        handle.remove()
    return states, out


def linear(w: Weights, name: str, x: Tensor) -> Tensor:
    return F.linear(x, w[f"{name}.weight"], w.get(f"{name}.bias"))


def rms(w: Weights, name: str, x: Tensor) -> Tensor:
    return w[f"{name}.weight"] * x / torch.sqrt((x**2).mean(-1, keepdim=True) + 1e-6)


def split(x: Tensor, heads: int) -> Tensor:
    """(batch, seq, heads·size) → (batch, heads, seq, size)"""
    return x.view(*x.shape[:2], heads, -1).transpose(1, 2)


def attend(query: Tensor, key: Tensor, value: Tensor, scale: float, bias: Tensor) -> Tensor:
    """Softmax attention; ``bias`` is added to the scores. Gives (batch, seq, heads·size)."""
    weights = torch.softmax(query @ key.transpose(2, 3) * scale + bias, dim=-1)
    return (weights @ value).transpose(1, 2).flatten(2)


def hidden(mask: Tensor) -> Tensor:
    """A bias that hides the keys where ``mask`` (batch, source) is 0."""
    return torch.where(mask[:, None, None, :] == 0, -1e30, 0.0)


def causal(length: int) -> Tensor:
    return torch.full((length, length), -1e30).triu(1)


def mixed(w: Weights, side: str, position: int, layer: int, z: Tensor, h: Tensor) -> Tensor:
    mu = 1 / (1 + torch.exp(-w[f"{side}.gates"][layer] / 0.1))
    return mu * z + (1 - mu) * linear(w, f"{side}.downs.{position}", h)


# -- BERT: post-norm blocks, the first token through Up to the classifier -------------------------------------------


def bert_block(w: Weights, at: str, x: Tensor, bias: Tensor, heads: int) -> Tensor:
    q, k, v = (split(linear(w, f"{at}.attention.self.{name}", x), heads) for name in ("query", "key", "value"))
    mixed_in = linear(w, f"{at}.attention.output.dense", attend(q, k, v, (N / heads) ** -0.5, bias))
    norm = f"{at}.attention.output.LayerNorm"
    x = F.layer_norm(x + mixed_in, (N,), w[f"{norm}.weight"], w[f"{norm}.bias"], 1e-12)
    wide = F.gelu(linear(w, f"{at}.intermediate.dense", x))
    norm = f"{at}.output.LayerNorm"
    return F.layer_norm(x + linear(w, f"{at}.output.dense", wide), (N,), w[f"{norm}.weight"], w[f"{norm}.bias"], 1e-12)


def bert_loss(w: Weights, base: Any, batch: Weights, kept: list[int], heads: int) -> Tensor:
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    states, _ = raw_outputs(base.bert.encoder.layer, lambda: base.bert(**inputs))
    z = linear(w, "bert.side.downs.0", states[0])
    for position, layer in enumerate(kept):
        z = mixed(w, "bert.side", position + 1, layer, z, states[layer + 1])
        z = bert_block(w, f"bert.side.blocks.{position}", z, hidden(batch["attention_mask"]), heads)
    return F.cross_entropy(linear(w, "classifier", linear(w, "bert.side.up", z[:, 0])), batch["labels"])


# -- Llama: pre-norm, rotary, grouped queries, a norm behind the last block, the frozen language-model head --------


def rotate(x: Tensor) -> Tensor:
    """Rotary positions of (batch, heads, seq, size): dimension i turns with i + size/2."""
    size, length = x.shape[-1], x.shape[-2]
    angles = torch.arange(length)[:, None] * 10_000.0 ** (-torch.arange(0, size, 2) / size)
    first, second = x.chunk(2, dim=-1)
    return torch.cat(
        [first * angles.cos() - second * angles.sin(), second * angles.cos() + first * angles.sin()], dim=-1
    )


def llama_block(w: Weights, at: str, x: Tensor, bias: Tensor, heads: tuple[int, int]) -> Tensor:
    inner = rms(w, f"{at}.input_layernorm", x)
    q = rotate(split(linear(w, f"{at}.self_attn.q_proj", inner), heads[0]))
    k = rotate(split(linear(w, f"{at}.self_attn.k_proj", inner), heads[1]))
    v = split(linear(w, f"{at}.self_attn.v_proj", inner), heads[1])
    k, v = (part.repeat_interleave(heads[0] // heads[1], dim=1) for part in (k, v))
    x = x + linear(w, f"{at}.self_attn.o_proj", attend(q, k, v, q.shape[-1] ** -0.5, bias))
    inner = rms(w, f"{at}.post_attention_layernorm", x)
    wide = F.silu(linear(w, f"{at}.mlp.gate_proj", inner)) * linear(w, f"{at}.mlp.up_proj", inner)
    return x + linear(w, f"{at}.mlp.down_proj", wide)


def llama_loss(
    w: Weights, base: Any, batch: Weights, kept: list[int], heads: tuple[int, int], residual: bool
) -> Tensor:
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    states, out = raw_outputs(base.model.layers, lambda: base.model(**inputs))
    z = linear(w, "model.side.downs.0", states[0])
    bias = hidden(batch["attention_mask"]) + causal(zoo.SEQUENCE)
    for position, layer in enumerate(kept):
        z = mixed(w, "model.side", position + 1, layer, z, states[layer + 1])
        z = llama_block(w, f"model.side.blocks.{position}", z, bias, heads)
    top = linear(w, "model.side.up", rms(w, "model.side.norm", z))
    logits = F.linear(top + out.last_hidden_state if residual else top, base.lm_head.weight.detach())
    return F.cross_entropy(logits[:, :-1].flatten(0, 1), batch["labels"][:, 1:].flatten())


# -- T5: a ladder in both towers, relative biases, unscaled attention, cross-attention to the encoder's side -------


def bucket(distance: int, both: bool) -> int:
    """T5's bucket of a key's distance from its query: half of them exact, then in logarithmic steps to 128."""
    buckets, start = 32, 0
    if both:
        buckets, start = 16, 16 if distance > 0 else 0
        distance = abs(distance)
    else:
        distance = max(-distance, 0)
    if distance < buckets // 2:
        return start + distance
    step = math.log(distance / (buckets // 2)) / math.log(128 / (buckets // 2)) * (buckets - buckets // 2)
    return start + min(buckets // 2 + int(step), buckets - 1)


def relative(w: Weights, tower: str, length: int, both: bool) -> Tensor:
    table = w[f"{tower}.side.blocks.0.layer.0.SelfAttention.relative_attention_bias.weight"]
    buckets = torch.tensor([[bucket(key - query, both) for key in range(length)] for query in range(length)])
    return table[buckets].permute(2, 0, 1)


def t5_attention(w: Weights, at: str, x: Tensor, source: Tensor, bias: Tensor, heads: int) -> Tensor:
    q = split(linear(w, f"{at}.q", x), heads)
    k, v = (split(linear(w, f"{at}.{name}", source), heads) for name in ("k", "v"))
    return linear(w, f"{at}.o", attend(q, k, v, 1.0, bias))


def t5_block(
    w: Weights, at: str, x: Tensor, biases: tuple[Tensor, Tensor], encoder: Tensor | None, heads: int
) -> Tensor:
    inner = rms(w, f"{at}.layer.0.layer_norm", x)
    x = x + t5_attention(w, f"{at}.layer.0.SelfAttention", inner, inner, biases[0], heads)
    last = 1
    if encoder is not None:
        inner = rms(w, f"{at}.layer.1.layer_norm", x)
        x = x + t5_attention(w, f"{at}.layer.1.EncDecAttention", inner, encoder, biases[1], heads)
        last = 2
    inner = rms(w, f"{at}.layer.{last}.layer_norm", x)
    wide = F.relu(linear(w, f"{at}.layer.{last}.DenseReluDense.wi", inner))
    return x + linear(w, f"{at}.layer.{last}.DenseReluDense.wo", wide)


def t5_loss(w: Weights, base: Any, batch: Weights, kept: list[int], heads: int) -> Tensor:
    labels, mask = batch["labels"], batch["attention_mask"]
    states, out = raw_outputs(
        base.encoder.block, lambda: base.encoder(input_ids=batch["input_ids"], attention_mask=mask)
    )
    unseen = hidden(mask)
    bias = unseen + relative(w, "encoder", zoo.SEQUENCE, both=True)
    z = linear(w, "encoder.side.downs.0", states[0])
    for position, layer in enumerate(kept):
        z = mixed(w, "encoder.side", position + 1, layer, z, states[layer + 1])
        z = t5_block(w, f"encoder.side.blocks.{position}", z, (bias, bias), None, heads)
    encoder = rms(w, "encoder.side.norm", z)
    shifted = torch.cat([torch.zeros_like(labels[:, :1]), labels[:, :-1]], dim=1)
    states, _ = raw_outputs(
        base.decoder.block,
        lambda: base.decoder(
            input_ids=shifted, encoder_hidden_states=out.last_hidden_state, encoder_attention_mask=mask, use_cache=False
        ),
    )
    bias = causal(labels.shape[1]) + relative(w, "decoder", labels.shape[1], both=False)
    z = linear(w, "decoder.side.downs.0", states[0])
    for position, layer in enumerate(kept):
        z = mixed(w, "decoder.side", position + 1, layer, z, states[layer + 1])
        z = t5_block(w, f"decoder.side.blocks.{position}", z, (bias, unseen), encoder, heads)
    top = linear(w, "decoder.side.up", rms(w, "decoder.side.norm", z))
    scale = D**-0.5 if base.config.scale_decoder_outputs else 1.0
    logits = F.linear(top * scale, base.lm_head.weight.detach())
    return F.cross_entropy(logits.flatten(0, 1), labels.flatten())


# -- the comparison ------------------------------------------------------------------------------------------------


def compared(family: str, kind: str, method: Lst, loss: Callable[[Weights, Any, Weights], Tensor], depth: str) -> None:
    """The module and the reference agree on loss, gradients, one step of SGD, and the loss after it."""
    base = zoo.backbone(family, kind, **{depth: 3}).model.eval()
    module = method.attach(zoo.backbone(family, kind, **{depth: 3})).train()
    generator = torch.Generator().manual_seed(13)
    with torch.no_grad():
        for value in trainable(module).values():
            value.add_(torch.randn(value.shape, generator=generator) * 0.2)
    batch = zoo.batch(family, kind)
    weights = {name: value.detach().clone().requires_grad_() for name, value in trainable(module).items()}
    optimizer = torch.optim.SGD(trainable(module).values(), lr=LR)
    for _ in range(2):
        ours, plain = module(**batch).loss, loss(weights, base, batch)
        assert_close(ours, plain, rtol=0, atol=1e-4)
        ours.backward()
        names = list(weights)
        wanted = torch.autograd.grad(plain, [weights[name] for name in names])
        found = {name: cast(Tensor, trainable(module)[name].grad) for name in names}
        assert_close(found, dict(zip(names, wanted, strict=True)), rtol=1e-3, atol=1e-4)
        assert all(gradient.abs().sum() > 0 for gradient in wanted)
        optimizer.step()
        optimizer.zero_grad()
        weights = {
            name: (weights[name] - LR * gradient).detach().requires_grad_()
            for name, gradient in zip(names, wanted, strict=True)
        }
        assert_close({name: value.detach() for name, value in trainable(module).items()}, weights, rtol=0, atol=1e-4)


@pytest.mark.parametrize(("heads", "count"), [("scaled", 2), ("official", 4)])
def test_bert_equals_the_plain_equations(heads: str, count: int) -> None:
    method = Lst(reduction=R, heads=heads, layers=("0", "2"))
    compared(
        "bert", "classification", method, lambda w, base, batch: bert_loss(w, base, batch, [0, 2], count),
        "num_hidden_layers",
    )  # fmt: skip


@pytest.mark.parametrize("merge", ["paper", "residual"])
@pytest.mark.parametrize(("heads", "count"), [("scaled", (2, 1)), ("official", (4, 2))])
def test_llama_equals_the_plain_equations(heads: str, count: tuple[int, int], merge: str) -> None:
    method = Lst(reduction=R, heads=heads, layers=("1-2",), merge=merge)
    compared(
        "llama", "causal-lm", method,
        lambda w, base, batch: llama_loss(w, base, batch, [1, 2], count, merge == "residual"), "num_hidden_layers",
    )  # fmt: skip


@pytest.mark.parametrize(("heads", "count"), [("scaled", 2), ("official", 4)])
def test_t5_equals_the_plain_equations(heads: str, count: int) -> None:
    method = Lst(reduction=R, heads=heads, layers=("1-2",))
    compared(
        "t5", "seq2seq", method, lambda w, base, batch: t5_loss(w, base, batch, [1, 2], count), "num_layers"
    )  # fmt: skip
