"""Tuned modules in peft's file format (github.com/huggingface/peft, ``docs/source/developer_guides/checkpoint.md``).

One function for each kind of adapter; a method's ``to_peft`` calls the one that fits it. Each returns the content of
``adapter_config.json`` (without what every file has: task, base model, head) and of ``adapter_model.safetensors``.
peft itself is not needed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from bench.methods.ia3 import ScaledInput, ScaledOutput
from bench.methods.lora import LoraLinear
from bench.methods.prefix import Place
from bench.methods.prompt import VirtualTokens
from bench.methods.vera import VeraLinear
from bench.models.prefix_attention import Prefix

Content = tuple[dict[str, Any], dict[str, Tensor]]
_BELOW = "base_model.model."


def lora(module: nn.Module, original: Mapping[str, Tensor]) -> Content:
    """LoRA with what it can be combined with: ranks and scales by map, DoRA, PiSSA.

    A PiSSA adapter stands on a changed base weight W − s·B₀A₀; on W itself it is the update s·BA − s·B₀A₀ of twice
    the rank, as peft converts its own (``subtract_mutated_init``).

    Args:
        module: holds ``LoraLinear`` layers.
        original: the base model's tensors before the method was attached.

    Raises:
        ValueError: for DoRA on a PiSSA start, whose lengths peft would take from another matrix.
    """
    layers = {name: child for name, child in module.named_modules() if isinstance(child, LoraLinear)}
    state: dict[str, Tensor] = {}
    ranks, alphas, magnitudes = {}, {}, set()
    for name, layer in layers.items():
        a, b = layer.lora_a.detach(), layer.lora_b.detach()
        start = _start(layer, original[f"{name}.weight"])
        if start is not None:
            if layer.magnitude is not None:
                raise ValueError(f"lora: {name} has both dora and pissa, which peft cannot hold; export it merged")
            a, b = torch.cat((a, start[0])), torch.cat((b, -start[1]), dim=1)
        state |= {f"{_BELOW}{name}.lora_A.weight": a, f"{_BELOW}{name}.lora_B.weight": b}
        magnitudes.add(layer.magnitude is not None)
        if layer.magnitude is not None:
            state[f"{_BELOW}{name}.lora_magnitude_vector"] = layer.magnitude.detach()
        ranks[name], alphas[name] = len(a), layer.scale * len(a)
    rank, alpha = _commonest(ranks), _commonest(alphas)
    config = {
        "peft_type": "LORA",
        "r": rank,
        "lora_alpha": alpha,
        "rank_pattern": {name: value for name, value in ranks.items() if value != rank},
        "alpha_pattern": {name: value for name, value in alphas.items() if value != alpha},
        "use_dora": magnitudes == {True},
        "lora_dropout": 0.0,
        "bias": "none",
        "init_lora_weights": True,
    }
    return config | _targets(layers), state


def _start(layer: LoraLinear, original: Tensor) -> tuple[Tensor, Tensor] | None:
    """A₀ (r, in) and B₀ (out, r) that PiSSA took out of the base weight, or None when it is as it was."""
    stored = original.t() if isinstance(layer.base, Conv1D) else original
    taken = (stored - layer.matrix.detach()) / layer.scale
    if not taken.any():
        return None
    u, s, v = torch.linalg.svd(taken.float(), full_matrices=False)
    rank = len(layer.lora_a)
    root = s[:rank].sqrt()
    return root[:, None] * v[:rank], u[:, :rank] * root


def ia3(module: nn.Module) -> Content:
    """IA³: outputs of keys and values as (out, 1), inputs of the feed-forward's second map as (1, in)."""
    layers: dict[str, Any] = {}
    state, inner = {}, []
    for name, child in module.named_modules():
        if isinstance(child, ScaledInput):
            inner.append(name)
            vector = child.scale[None]
        elif isinstance(child, ScaledOutput):
            vector = child.vector()[:, None]
        else:
            continue
        layers[name] = child
        state[f"{_BELOW}{name}.ia3_l"] = vector.detach()
    return {"peft_type": "IA3", "feedforward_modules": inner, **_targets(layers)}, state


def vera(module: nn.Module, rank: int) -> Content:
    """VeRA with its shared random pair, so that nothing rests on a seed; peft before 0.21 draws its own anyway."""
    layers = {name: child for name, child in module.named_modules() if isinstance(child, VeraLinear)}
    shared = next(iter(layers.values())).shared
    state = {"base_model.vera_A": shared.a, "base_model.vera_B": shared.b}
    for name, layer in layers.items():
        state[f"{_BELOW}{name}.vera_lambda_d"] = layer.vera_d.detach()
        state[f"{_BELOW}{name}.vera_lambda_b"] = layer.vera_b.detach()
    config = {"peft_type": "VERA", "r": rank, "save_projection": True, "vera_dropout": 0.0, "bias": "none"}
    return config | _targets(layers), state


def virtual_tokens(module: nn.Module, name: str) -> Content:
    """Prompt tuning, and P-tuning by the embeddings that its encoder gives.

    Raises:
        ValueError: when the tokens stand behind the first one, where peft has no place for them.
    """
    (tokens,) = (child for child in module.modules() if isinstance(child, VirtualTokens))
    if tokens.first:
        raise ValueError(f"{name}: its tokens stand after the first one (place=after-first), peft's before it; "
                         f"train with place=start to export")  # fmt: skip
    with torch.no_grad():
        rows = tokens.source()
    return _prompt("PROMPT_TUNING", rows), {"prompt_embeddings": rows}


def prefix(module: nn.Module, name: str) -> Content:
    """Prefix-tuning and P-tuning v2 as the one table (P, layers · (key, value) · width) that peft reads.

    Raises:
        ValueError: when keys and values stand where peft has none, or the text's positions are not peft's.
    """
    places = [child for child in module.modules() if isinstance(child, Place)]
    if len(places) != 1:
        raise ValueError(f"{name}: peft has one prefix a layer, this model {len(places)} kinds; it cannot be exported")
    if not places[0].shift:
        raise ValueError(f"{name}: peft's text starts after the prefix; train with positions=shifted to export")
    rows: list[Tensor] = []
    with torch.no_grad():
        places[0].compute_states()
        for child in module.modules():
            if isinstance(child, Prefix):
                rows += child.rows()
    places[0].shared.states = None
    config = _prompt("PREFIX_TUNING", rows[0]) | {"num_layers": len(rows) // 2, "prefix_projection": False}
    return config, {"prompt_embeddings": torch.cat(rows, dim=1)}


def _prompt(kind: str, rows: Tensor) -> dict[str, Any]:
    return {
        "peft_type": kind,
        "num_virtual_tokens": len(rows),
        "token_dim": rows.shape[1],
        "num_transformer_submodules": 1,
    }


def _targets(layers: Mapping[str, Any]) -> dict[str, Any]:
    """Target modules by their whole path; how their weights are stored."""
    bases = [cast(nn.Module, layer.base) for layer in layers.values()]
    return {"target_modules": list(layers), "fan_in_fan_out": any(isinstance(base, Conv1D) for base in bases)}


def _commonest(values: Mapping[str, Any]) -> Any:
    return Counter(values.values()).most_common(1)[0][0]
