"""Trainable counts of the LST paper's T5-base comparison that belong to no single method's tests."""

from __future__ import annotations

import torch
from transformers import T5Config, T5ForConditionalGeneration

from bench.methods.lora import Lora
from bench.methods.partial_finetuning import BitFit
from bench.methods.prompt import PromptTuning
from bench.models.backbone import Backbone


def t5_base() -> Backbone:
    """T5-base without weights."""
    config = T5Config(vocab_size=32_100, d_model=768, d_ff=3072, num_layers=12, num_heads=12, d_kv=64)
    with torch.device("meta"):
        return Backbone(T5ForConditionalGeneration(config), "seq2seq", frozenset())


def test_lora_with_added_biases() -> None:
    """LoRA r 32 on query and value of all 36 attentions, and the biases that BitFit adds: 3,819,876."""
    low_rank = Lora(rank=32).trainable_count(t5_base())
    assert low_rank == 36 * 2 * 32 * (768 + 768) == 3_538_944
    assert low_rank + BitFit(add=True).trainable_count(t5_base()) == 3_819_876


def test_prompt_of_100() -> None:
    assert PromptTuning(length=100).trainable_count(t5_base()) == 76_800
