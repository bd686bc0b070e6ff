"""Arguments of a model's stacks by name, their cached tokens, and the number of positions of a model."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any

from torch import nn

from bench.models.backbone import Backbone, Tower

# Argument names of a key-value cache (transformers 5.24 renamed it; GPT-NeoX's blocks have their own name), and of the
# number of cached tokens in embeddings that count positions themselves.
_CACHES = ("cache", "past_key_values", "layer_past")
_COUNTS = ("cache_length", "past_key_values_length")


@lru_cache(maxsize=64)
def _names(forward: Callable[..., Any]) -> tuple[str, ...]:
    return tuple(inspect.signature(forward).parameters)[1:]


def accepts(module: nn.Module, argument: str) -> bool:
    """Whether a module's forward names this argument."""
    return argument in _names(type(module).forward)


def by_name(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """All arguments of a call of ``module`` by name."""
    return named(_names(type(module).forward), args, kwargs) if args else kwargs


def named(names: Sequence[str], args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments by name, the positional ones by ``names``."""
    # Not with zip, which torch 2.7 cannot compile.
    return {names[place]: value for place, value in enumerate(args)} | dict(kwargs)


def stack(backbone: Backbone, tower: Tower) -> nn.Module:
    """The module that embeds the input of a tower and runs its blocks.

    That is the deepest module above the blocks that takes embeddings, or the base model where none does (images).
    """
    parts = tower.path.removeprefix(backbone.base_path).lstrip(".").split(".")[:-1]
    for depth in range(len(parts), 0, -1):
        module = backbone.base.get_submodule(".".join(parts[:depth]))
        if accepts(module, "inputs_embeds"):
            return module
    return backbone.base


def positions(backbone: Backbone) -> int | None:
    """Number of tokens the model has positions for; None where positions are relative or fixed to the image."""
    limit = getattr(backbone.config, "max_position_embeddings", None)
    embeddings: Any = getattr(backbone.base, "embeddings", None)
    if limit is None or (hasattr(embeddings, "position_embeddings") and embeddings.position_embeddings is None):
        return None
    table = getattr(embeddings, "position_embeddings", None)
    # RoBERTa's positions start after the padding row, so its first rows are unused.
    unused = table.padding_idx + 1 if isinstance(table, nn.Embedding) and table.padding_idx is not None else 0
    return int(limit) - unused


def check_length(name: str, length: int, limit: int | None) -> None:
    """Raise ValueError where ``length`` virtual tokens leave no position for the text."""
    if limit is not None and length >= limit:
        raise ValueError(
            f"{name}: length {length} leaves no room for text in this model's {limit} positions; "
            f"use a length well below {limit}"
        )


def key_values(call: Mapping[str, Any]) -> Any:
    """The key-value cache among a call's arguments by name; None where there is none."""
    return next((call[name] for name in _CACHES if call.get(name) is not None), None)


def seen(call: Mapping[str, Any]) -> int:
    """Tokens that a call's key-value cache already holds."""
    cache = key_values(call)
    return int(cache.get_seq_length()) if cache is not None else 0


def count_argument(module: nn.Module) -> str | None:
    """The name by which embeddings take the number of cached tokens; None where they do not."""
    return next((name for name in _COUNTS if accepts(module, name)), None)
