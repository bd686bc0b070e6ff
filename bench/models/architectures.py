"""The paths of each model family's layers and the roles of its linear maps: one entry per ``model_type``.

Paths of stacks are relative to the base model (``model.base_model``), paths of roles to one layer. Everything else
about a model is found from its structure.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

ROLES = ("query", "key", "value", "qkv", "output", "up", "gate", "down")


@dataclass(frozen=True)
class Stack:
    """One tower of identical blocks.

    Attributes:
        name: ``encoder`` or ``decoder``.
        layers: path of the list of blocks.
        roles: role → paths of its linear maps inside a block (two where a block also has cross-attention); paths
            that a variant of the family lacks are ignored.
        fused: sizes of the parts of ``qkv`` are equal and in the order query, key, value (GPT-2), or interleaved
            by head (GPT-NeoX); empty where there is no fused map.
        closing_norm: path inside a block of the norm that its output leaves through (post-norm families: it reads the
            feed-forward's output plus the residual); empty where a block ends with the residual sum (pre-norm).
    """

    name: str
    layers: str
    roles: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    fused: str = ""
    closing_norm: str = ""


@dataclass(frozen=True)
class Architecture:
    """A model family: its stacks and where its configuration keeps widths.

    Attributes:
        older: the entry for earlier versions of transformers 5.
    """

    stacks: tuple[Stack, ...]
    width: str = "hidden_size"
    heads: str = "num_attention_heads"
    feed_forward: str = "intermediate_size"
    older: Architecture | None = None

    def fitting(self, base: Any) -> Architecture:
        """The entry that matches a base model: this one, unless it has the older one's lists of blocks."""
        if self.older is None:
            return self
        paths = {name for name, _ in base.named_modules()}
        return self.older if paths.issuperset(stack.layers for stack in self.older.stacks) else self


def _roles(attention: str, names: str, rest: dict[str, str]) -> dict[str, tuple[str, ...]]:
    """Roles of a block: ``names`` are its query, key, value and output maps below ``attention``."""
    inside = dict(zip(("query", "key", "value", "output"), names.split(), strict=True))
    paths = {role: (f"{attention}.{name}",) for role, name in inside.items()}
    return {**paths, **{role: (path,) for role, path in rest.items()}}


def _both(first: dict[str, tuple[str, ...]], second: dict[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
    return {role: first.get(role, ()) + second.get(role, ()) for role in {**first, **second}}


_DENSE = {"output": ("attention.output.dense",), "up": ("intermediate.dense",), "down": ("output.dense",)}
_BERT_ROLES = {role: (f"attention.self.{role}",) for role in ("query", "key", "value")} | _DENSE
_DEBERTA2_ROLES = {role: (f"attention.self.{role}_proj",) for role in ("query", "key", "value")} | _DENSE
_BERT = Architecture((Stack("encoder", "encoder.layer", _BERT_ROLES, closing_norm="output.LayerNorm"),))
_LLAMA_ROLES = _roles(
    "self_attn", "q_proj k_proj v_proj o_proj", {"up": "mlp.up_proj", "gate": "mlp.gate_proj", "down": "mlp.down_proj"}
)
_LLAMA = Architecture((Stack("decoder", "layers", _LLAMA_ROLES),))
_FC = {"up": "fc1", "down": "fc2"}
_OPT_ROLES = _roles("self_attn", "q_proj k_proj v_proj out_proj", _FC)
_BART_DECODER = _both(_OPT_ROLES, _roles("encoder_attn", "q_proj k_proj v_proj out_proj", {}))
_VIT_ROLES = _roles("attention", "q_proj k_proj v_proj o_proj", {"up": "mlp.fc1", "down": "mlp.fc2"})
_OLDER_VIT_ROLES = {role: (f"attention.attention.{role}",) for role in ("query", "key", "value")} | _DENSE
_GPT2_ROLES = {"qkv": ("attn.c_attn",), "output": ("attn.c_proj",), "up": ("mlp.c_fc",), "down": ("mlp.c_proj",)}
_NEOX_ROLES = {
    "qkv": ("attention.query_key_value",),
    "output": ("attention.dense",),
    "up": ("mlp.dense_h_to_4h",),
    "down": ("mlp.dense_4h_to_h",),
}


def _t5_feed_forward(layer: int) -> dict[str, tuple[str, ...]]:
    """The plain (wi) and the gated (wi_0: activated, wi_1) feed-forward of T5 at ``layer.N`` of a block."""
    at = f"layer.{layer}.DenseReluDense"
    return {"up": (f"{at}.wi", f"{at}.wi_1"), "gate": (f"{at}.wi_0",), "down": (f"{at}.wo",)}


_T5_SELF = _roles("layer.0.SelfAttention", "q k v o", {})
_T5_DECODER = _both(_T5_SELF, _roles("layer.1.EncDecAttention", "q k v o", {}))

ARCHITECTURES: dict[str, Architecture] = {
    "bert": _BERT,
    "roberta": _BERT,
    "xlm-roberta": _BERT,
    "camembert": _BERT,
    "electra": _BERT,
    "distilbert": Architecture(
        (
            Stack(
                "encoder",
                "transformer.layer",
                _roles("attention", "q_lin k_lin v_lin out_lin", {"up": "ffn.lin1", "down": "ffn.lin2"}),
                closing_norm="output_layer_norm",
            ),
        ),
        width="dim",
        heads="n_heads",
        feed_forward="hidden_dim",
    ),
    "deberta-v2": Architecture((Stack("encoder", "encoder.layer", _DEBERTA2_ROLES, closing_norm="output.LayerNorm"),)),
    "vit": Architecture(
        (Stack("encoder", "layers", _VIT_ROLES),),
        older=Architecture((Stack("encoder", "encoder.layer", _OLDER_VIT_ROLES),)),  # before transformers 5.9
    ),
    "gpt2": Architecture(
        (Stack("decoder", "h", _GPT2_ROLES, fused="blocks"),), width="n_embd", heads="n_head", feed_forward="n_inner"
    ),
    "opt": Architecture((Stack("decoder", "decoder.layers", _OPT_ROLES),), feed_forward="ffn_dim"),
    "gpt_neox": Architecture((Stack("decoder", "layers", _NEOX_ROLES, fused="heads"),)),
    "llama": _LLAMA,
    "mistral": _LLAMA,
    "qwen2": _LLAMA,
    "qwen3": _LLAMA,
    "gemma": _LLAMA,
    "gemma2": _LLAMA,
    "t5": Architecture(
        (
            Stack("encoder", "encoder.block", {**_T5_SELF, **_t5_feed_forward(1)}),
            Stack("decoder", "decoder.block", {**_T5_DECODER, **_t5_feed_forward(2)}),
        ),
        width="d_model",
        heads="num_heads",
        feed_forward="d_ff",
    ),
    "bart": Architecture(
        (
            Stack("encoder", "encoder.layers", _OPT_ROLES, closing_norm="final_layer_norm"),
            Stack("decoder", "decoder.layers", _BART_DECODER, closing_norm="final_layer_norm"),
        ),
        width="d_model",
        heads="encoder_attention_heads",
        feed_forward="encoder_ffn_dim",
    ),
}
