"""Tiny random models of every supported family, for tests: seconds for all of them, no network."""

from __future__ import annotations

from inspect import signature
from typing import Any

import torch
from transformers import AutoConfig, LlamaForCausalLM

from bench.models.backbone import Backbone
from bench.models.loading import fresh_head, model_class

VOCABULARY, SEQUENCE = 96, 12
_ENCODER = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
_DECODER = {**_ENCODER, "num_key_value_heads": 2, "head_dim": 8}

FAMILIES: dict[str, dict[str, Any]] = {
    "bert": _ENCODER,
    "roberta": _ENCODER | {"max_position_embeddings": 64},
    "distilbert": {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 64},
    "electra": _ENCODER | {"embedding_size": 16},
    "deberta-v2": _ENCODER
    | {"relative_attention": True, "position_buckets": 8, "norm_rel_ebd": "layer_norm", "share_att_key": True}
    | {"pos_att_type": ["p2c", "c2p"], "position_biased_input": False, "type_vocab_size": 0},
    "vit": _ENCODER | {"image_size": 16, "patch_size": 8, "num_channels": 3},
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64},
    "opt": _ENCODER | {"ffn_dim": 64, "word_embed_proj_dim": 32, "max_position_embeddings": 64},
    "gpt_neox": _ENCODER | {"max_position_embeddings": 64},
    "llama": _DECODER,
    "mistral": _DECODER,
    "qwen2": _DECODER,
    "qwen3": _DECODER,
    "gemma": _DECODER,
    "t5": {"d_model": 32, "num_layers": 2, "num_heads": 4, "d_ff": 64, "d_kv": 8, "decoder_start_token_id": 0},
    "bart": {"d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4}
    | {"decoder_attention_heads": 4, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64, "max_position_embeddings": 64},
}
KINDS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("bert", "roberta", "distilbert", "electra", "deberta-v2"), ("classification", "regression")),
    "vit": ("image-classification",),
    **dict.fromkeys(
        ("gpt2", "opt", "gpt_neox", "llama", "mistral", "qwen2", "qwen3", "gemma"), ("classification", "causal-lm")
    ),
    **dict.fromkeys(("t5", "bart"), ("classification", "seq2seq")),
}
LABELS = 3


# How models name a key-value cache among their arguments.
CACHE = next(name for name in ("cache", "past_key_values") if name in signature(LlamaForCausalLM.forward).parameters)


def backbone(family: str, kind: str, seed: int = 0, **changes: Any) -> Backbone:
    """A tiny random model of a family with a head of a kind; dropout off unless ``changes`` say otherwise."""
    settings = {**FAMILIES[family], **changes}
    if family != "vit":
        settings |= {"vocab_size": VOCABULARY, "pad_token_id": 1, "bos_token_id": 2, "eos_token_id": 2}
    config = AutoConfig.for_model(family, **settings)
    for name in ("dropout", "attention_dropout", "hidden_dropout_prob", "attention_probs_dropout_prob", "dropout_rate",
                 "resid_pdrop", "attn_pdrop", "embd_pdrop", "classifier_dropout", "summary_first_dropout",
                 "activation_dropout", "hidden_dropout", "seq_classif_dropout"):  # fmt: skip
        if getattr(config, name, None) is not None and name not in changes:
            setattr(config, name, 0.0)
    if kind == "regression":
        config.num_labels, config.problem_type = 1, "regression"
    elif kind in ("classification", "image-classification"):
        config.num_labels, config.problem_type = LABELS, "single_label_classification"
    torch.manual_seed(seed)
    model = model_class(kind).from_config(config)
    return Backbone(model, kind, fresh_head(model, kind))


def batch(family: str, kind: str, rows: int = 4, seed: int = 1) -> dict[str, torch.Tensor]:
    """Inputs with labels; the last row is padded, so that masks matter."""
    generator = torch.Generator().manual_seed(seed)
    if family == "vit":
        pixels = torch.randn(rows, 3, 16, 16, generator=generator)
        return {"pixel_values": pixels, "labels": torch.randint(LABELS, (rows,), generator=generator)}
    ids = torch.randint(3, VOCABULARY, (rows, SEQUENCE), generator=generator)
    mask = torch.ones_like(ids)
    if family in ("t5", "bart") and kind == "classification":
        ids[:, -1] = 2  # their head reads the last end-of-text token: every row needs as many
    else:
        ids[-1, -4:], mask[-1, -4:] = 1, 0
    found = {"input_ids": ids, "attention_mask": mask}
    if kind == "causal-lm":
        return found | {"labels": ids.masked_fill(mask == 0, -100)}
    if kind == "seq2seq":
        return found | {"labels": torch.randint(3, VOCABULARY, (rows, 7), generator=generator)}
    if kind == "regression":
        return found | {"labels": torch.randn(rows, generator=generator)}
    return found | {"labels": torch.randint(LABELS, (rows,), generator=generator)}


def lively(backbone: Backbone, seed: int = 7) -> Backbone:
    """Give a tiny model weights of a trained one's size, in place.

    At their initial size (0.02) the weights of 32-wide models hardly matter to the logits: what a method does to the
    backbone is then smaller than the tolerance of a comparison.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for value in backbone.model.parameters():
            noise = torch.randn(value.shape, generator=generator)
            value.copy_(noise * 0.25) if value.ndim >= 2 else value.add_(noise * 0.1)
    return backbone
