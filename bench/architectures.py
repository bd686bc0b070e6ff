"""Where each model family keeps its layers and what its linear maps do: one row per ``model_type``.

Paths are relative to the base model (``model.base_model``) for stacks and to one layer for roles. Everything
else about a model is found by structure.
"""

from __future__ import annotations

from dataclasses import dataclass, field

ROLES = ("query", "key", "value", "qkv", "output", "up", "gate", "down")


@dataclass(frozen=True)
class Stack:
    """One tower of identical blocks.

    Attributes:
        name: ``encoder`` or ``decoder``.
        layers: path of the list of blocks.
        roles: role → path of the linear map inside a block.
    """

    name: str
    layers: str
    roles: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Architecture:
    """A model family: its stacks and where its configuration keeps widths."""

    stacks: tuple[Stack, ...]
    width: str = "hidden_size"
    heads: str = "num_attention_heads"
    feed_forward: str = "intermediate_size"


_BERT_ROLES = {
    "query": "attention.self.query",
    "key": "attention.self.key",
    "value": "attention.self.value",
    "output": "attention.output.dense",
    "up": "intermediate.dense",
    "down": "output.dense",
}
_BERT = Architecture((Stack("encoder", "encoder.layer", _BERT_ROLES),))

ARCHITECTURES: dict[str, Architecture] = {
    "bert": _BERT,
    "roberta": _BERT,
    "xlm-roberta": _BERT,
    "camembert": _BERT,
    "electra": _BERT,
}
