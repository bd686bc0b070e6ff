"""The small models: their shapes, their tokenizers and how long each was trained."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

_ENCODER = {"hidden_size": 128, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 512}
_SPREAD = 0.08  # of initial weights: about 1/√128, so that a layer passes on what it gets (0.02 is for width 768)
VOCABULARY = 4096
LENGTH = 64  # tokens of a training sequence


@dataclass(frozen=True)
class Recipe:
    """One small model.

    Attributes:
        family: transformers' model type.
        objective: ``masked``, ``causal``, ``spans`` or ``glyphs``.
        config: what differs from the family's defaults.
        special: the tokenizer's special tokens by role, in the order of their ids.
        lower_case: whether the tokenizer lower-cases.
        steps: optimizer steps.
        batch_size: sequences (or images) a step.
        lr: peak learning rate of AdamW.
    """

    family: str
    objective: str
    config: dict[str, Any]
    special: dict[str, str]
    lower_case: bool
    steps: int
    batch_size: int
    lr: float


RECIPES: dict[str, Recipe] = {
    "tiny-bert": Recipe(
        "bert",
        "masked",
        {**_ENCODER, "vocab_size": VOCABULARY, "max_position_embeddings": 128, "pad_token_id": 0}
        | {"initializer_range": _SPREAD},
        {"pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"},
        True,
        steps=1200,
        batch_size=32,
        lr=1e-3,
    ),
    "tiny-llama": Recipe(
        "llama",
        "causal",
        {**_ENCODER, "intermediate_size": 384, "num_key_value_heads": 4, "head_dim": 32, "vocab_size": VOCABULARY}
        | {"max_position_embeddings": 512, "tie_word_embeddings": True, "initializer_range": _SPREAD}
        | {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2},
        {"pad": "<pad>", "bos": "<s>", "eos": "</s>", "unk": "<unk>"},
        False,
        steps=900,
        batch_size=32,
        lr=2e-3,
    ),
    "tiny-t5": Recipe(
        "t5",
        "spans",
        {"d_model": 128, "d_kv": 32, "num_heads": 4, "d_ff": 320, "num_layers": 2, "num_decoder_layers": 2}
        | {"vocab_size": VOCABULARY, "tie_word_embeddings": True}
        | {"pad_token_id": 0, "eos_token_id": 1, "decoder_start_token_id": 0},
        {"pad": "<pad>", "eos": "</s>", "unk": "<unk>"},
        False,
        steps=1200,
        batch_size=32,
        lr=2e-3,
    ),
    "tiny-vit": Recipe(
        "vit",
        "glyphs",
        {"hidden_size": 64, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 256}
        | {"image_size": 8, "patch_size": 2, "num_channels": 3},
        {},
        False,
        steps=2500,
        batch_size=128,
        lr=1e-3,
    ),
}
SENTINELS = 24  # of the span corruption: more than a sequence of LENGTH tokens can need
