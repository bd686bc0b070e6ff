"""Learned keys and values in every layer: prefix-tuning (Li & Liang, arXiv 2101.00190), P-tuning v2 (2110.07602)."""

from __future__ import annotations

import copy
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import transformers
from torch import Tensor, nn

from bench.core.errors import unknown
from bench.core.protocols import option
from bench.core.registry import register_method
from bench.models.backbone import Backbone, Tower, widths
from bench.models.forward_args import accepts, by_name, check_length, count_argument, positions, seen, stack
from bench.models.prefix_attention import PaddedAttention, Prefix, Shared, implementation

PLACES = ("encoder", "decoder", "cross")
POSITIONS = ("auto", "shifted", "kept")
_PLACES_HELP = "which attentions get a prefix, where the model has them: encoder, decoder (self-attention), cross"
_POSITIONS_HELP = (
    "shifted: the text's positions start after the prefix, as with a key-value cache; kept: they stay the model's own; "
    "auto: shifted in decoders and in T5, kept in encoders and in BART"
)


class PrefixMlp(nn.Module):
    """The shared part of the reparametrisation: () → tanh(W E), (P, m), from P embeddings of width d."""

    def __init__(self, length: int, width: int, middle: int, device: torch.device) -> None:
        super().__init__()
        self.embedding = nn.Parameter(torch.randn(length, width, device=device))
        self.down = nn.Linear(width, middle, device=device)

    def forward(self) -> Tensor:
        return torch.tanh(self.down(self.embedding))


class Place(nn.Module):
    """All prefixes of one kind of attention of a stack, with the hooks that prepare them for a forward pass.

    Args:
        mlp: the reparametrisation's shared part, or None where keys and values are free.
        shift: how far the text's positions move, 0 where they stay.
        limit: positions the model has, or None.
    """

    def __init__(self, mlp: PrefixMlp | None, shift: int, limit: int | None) -> None:
        super().__init__()
        self.trunk, self.shift, self.limit = mlp, shift, limit  # saved adapters have tensors of this name
        self.shared = Shared()

    def compute_states(self) -> None:
        """Set the shared hidden states for the prefixes; None without a reparametrisation."""
        self.shared.states = self.trunk() if self.trunk is not None else None

    def enter(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Forward pre-hook of the stack."""
        self.shared.made.clear()
        self.compute_states()

    def shift_ids(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[()], Any]:
        """Forward pre-hook of a stack that takes ``position_ids``, (batch or 1, seq).

        Raises:
            ValueError: when the shifted text is longer than the model's positions.
        """
        call, rows = self._call(module, args, kwargs)
        past, length = seen(call), rows.shape[1]
        self._check(past + length)
        ids = call.get("position_ids")
        if ids is None:
            ids = torch.arange(past, past + length, device=rows.device)[None]
        return (), call | {"position_ids": ids + self.shift}

    def shift_embeddings(self, module: nn.Module, args: Any, kwargs: dict[str, Any]) -> tuple[tuple[()], Any]:
        """Forward pre-hook of embeddings that count positions themselves (BERT's, RoBERTa's, ELECTRA's)."""
        call, rows = self._call(module, args, kwargs)
        self._check(rows.shape[1])
        name = str(count_argument(module))
        return (), call | {name: call.get(name, 0) + self.shift}

    @staticmethod
    def _call(module: nn.Module, args: Any, kwargs: dict[str, Any]) -> tuple[dict[str, Any], Tensor]:
        """The arguments by name, and the ids or embeddings among them, (batch, seq, …)."""
        call = dict(by_name(module, args, kwargs))
        return call, call["input_ids"] if call.get("input_ids") is not None else call["inputs_embeds"]

    def _check(self, tokens: int) -> None:
        if self.limit is not None and tokens + self.shift > self.limit:
            raise ValueError(
                f"{tokens} tokens after a prefix of {self.shift} are more than the model's {self.limit} positions: "
                f"use --max-length {self.limit - self.shift}, a smaller length or positions=kept"
            )

    def leave(self, module: nn.Module, args: tuple[Any, ...], out: Any) -> None:
        """Forward hook of the stack: releases the masks."""
        self.shared.made.clear()


@dataclass(frozen=True)
class AttentionSite:
    """An attention that can have a prefix: its place, module and the width of its keys (heads · head width)."""

    place: str
    module: Any
    width: int


def attention_sites(tower: Tower) -> list[AttentionSite]:
    """The attentions of a tower in layer order; the second one of a block is cross-attention."""
    sites = []
    for block in tower.layers:
        role = "key" if "key" in tower.roles else "qkv"
        for index, path in enumerate(tower.roles[role]):
            parent = block.get_submodule(path.rpartition(".")[0])
            width = widths(block.get_submodule(path))[1] // (1 if role == "key" else 3)
            sites.append(AttentionSite("cross" if index else tower.name, parent, width))
    return sites


def _chosen(backbone: Backbone, method: PrefixTuning) -> list[tuple[Tower, str, list[AttentionSite]]]:
    """The places that get a prefix, with their attentions.

    Raises:
        ValueError: for an unknown place, or when the model has none of those asked for.
    """
    wrong = [unknown("place", place, PLACES) for place in method.places if place not in PLACES]
    if wrong:
        raise ValueError(f"{method.name}: {'; '.join(wrong)}")
    groups: dict[str, tuple[Tower, str, list[AttentionSite]]] = {}
    for tower in backbone.towers():
        for site in attention_sites(tower):
            groups.setdefault(site.place, (tower, site.place, []))[2].append(site)
    chosen = [group for place, group in groups.items() if place in method.places]
    if not chosen:
        raise ValueError(
            f"{method.name}: this model has no attention in places={','.join(method.places)}; use {', '.join(groups)}"
        )
    return chosen


def _check_attention(name: str, attention: Any) -> None:
    if _needs_padding(attention):
        return
    names = vars(sys.modules[type(attention).__module__])
    if "ALL_ATTENTION_FUNCTIONS" not in names:
        raise ValueError(
            f"{name}: {type(attention).__name__} of transformers {transformers.__version__} computes its attention "
            "itself, so it cannot be given keys and values; use prompt or lora"
        )
    kind = attention.config._attn_implementation
    if kind not in ("sdpa", "eager"):
        raise ValueError(f"{name}: attention implementation {kind} cannot take a prefix; load the model with sdpa")


def _needs_padding(attention: Any) -> bool:
    return hasattr(attention, "disentangled_attention_bias")


def _shift(backbone: Backbone, tower: Tower, place: str, method: PrefixTuning) -> tuple[str, Any]:
    """How the text's positions move (``ids``, ``embeddings``, ``bias`` or nothing), and T5's owner of the bias.

    Raises:
        ValueError: when they must move and cannot, or the model has no position left for the text.
    """
    if place == "cross" or method.positions == "kept":
        return "", None
    for site in attention_sites(tower):
        if hasattr(site.module, "relative_attention_bias"):
            return "bias", site.module
    only_decoder = len(backbone.architecture.stacks) == 1 and tower.name == "decoder"
    if method.positions == "auto" and not only_decoder:
        return "", None
    reader: Any = stack(backbone, tower)
    check_length(method.name, method.length, positions(backbone))
    if hasattr(reader, "embeddings") and count_argument(reader.embeddings):
        return "embeddings", None
    if accepts(reader, "position_ids"):
        return "ids", None
    raise ValueError(f"{method.name}: this model does not let its positions be moved; use positions=kept")


def _install(site: AttentionSite, method: PrefixTuning, shared: Shared, device: torch.device) -> None:
    """Give one attention its prefix, and route its attention calls through it."""
    if method.projection:
        prefix = Prefix(None, nn.Linear(method.width, 2 * site.width, device=device), shared)
    else:
        free = torch.randn(2, method.length, site.width, device=device) * method.std
        prefix = Prefix((free[0].clone(), free[1].clone()), None, shared)
    site.module.add_module("prefix", prefix)
    if _needs_padding(site.module):
        PaddedAttention(prefix, site.module)
        return
    # A copy: the model's own configuration decides how masks are made and must not change.
    config = copy.copy(site.module.config)
    config._attn_implementation = implementation(config._attn_implementation)
    site.module.config = config


def _hook(reader: Any, group: Place, name: str, move: str) -> None:
    reader.add_module(name, group)
    reader.register_forward_pre_hook(group.enter, with_kwargs=True)
    if move == "ids":
        reader.register_forward_pre_hook(group.shift_ids, with_kwargs=True)
    if move == "embeddings":
        reader.embeddings.register_forward_pre_hook(group.shift_embeddings, with_kwargs=True)
    reader.register_forward_hook(group.leave)


@register_method
@dataclass(frozen=True)
class PrefixTuning:
    """Prefix-tuning: P learned keys and values in every attention, made by a small MLP while training.

    Formula: attention over [K_p; K], [V_p; V]; K_p, V_p = W₂·tanh(W₁ E), one W₂ per attention; folded afterwards
    into P plain keys and values. Keys are given after rotary rotation, as in a key-value cache.
    Source: arXiv 2101.00190, section 4.2 and 4.3 (E of the model's width, tanh, 512 wide in the authors' code for
    GPT-2; BART: prefixes of their own in encoder, decoder and cross-attention, each with its own MLP).
    """

    name: ClassVar[str] = "prefix"
    swept: ClassVar[str | None] = "length"

    length: int = option(30, "number of prefix keys and values P", low=1)
    projection: bool = option(True, "make keys and values by an MLP while training; false: train them directly")
    width: int = option(512, "with projection: width m of the MLP", low=1)
    std: float = option(1.0, "without projection: standard deviation of the start", low=0.0)
    places: tuple[str, ...] = option(PLACES, _PLACES_HELP)
    positions: str = option("auto", _POSITIONS_HELP, choices=POSITIONS)
    lr: float = option(5e-4, "peak learning rate", low=0.0)

    def attach(self, backbone: Backbone) -> nn.Module:
        """Freeze the model and give every attention of the chosen places its prefix.

        Raises:
            ValueError: when an attention cannot take one, or the positions do not suffice.
        """
        groups = _chosen(backbone, self)
        for _, _, sites in groups:
            for site in sites:
                _check_attention(self.name, site.module)
        shifts = [_shift(backbone, tower, place, self) for tower, place, _ in groups]
        backbone.freeze()
        for (tower, place, sites), (shift, owner) in zip(groups, shifts, strict=True):
            device = next(tower.layers.parameters()).device
            mlp = PrefixMlp(self.length, backbone.width, self.width, device) if self.projection else None
            group = Place(mlp, self.length if shift in ("ids", "embeddings") else 0, positions(backbone))
            group.shared.bias_owner = owner
            for site in sites:
                _install(site, self, group.shared, device)
            _hook(stack(backbone, tower), group, f"prefix_{place}", shift)
        return backbone.model  # type: ignore[no-any-return]

    def trainable_count(self, backbone: Backbone) -> int:
        """Head + for each place: P·2·Σ width, or the MLP (P·d + d·m + m) and Σ (m + 1)·2·width."""
        total = backbone.head_count
        for _, _, sites in _chosen(backbone, self):
            outputs = 2 * sum(site.width for site in sites)
            if self.projection:
                d, m = backbone.width, self.width
                total += self.length * d + d * m + m + (m + 1) * outputs
            else:
                total += self.length * outputs
        return total

    def merge(self, module: nn.Module) -> nn.Module:
        """Replace reparametrised keys and values by plain ones, in place."""
        for place in [child for child in module.modules() if isinstance(child, Place)]:
            with torch.no_grad():
                place.compute_states()
                for prefix in [child for child in module.modules() if isinstance(child, Prefix)]:
                    if prefix.shared is place.shared and prefix.up is not None:
                        key, value = prefix.rows()
                        prefix.key, prefix.value = nn.Parameter(key.clone()), nn.Parameter(value.clone())
                        prefix.up = None
            place.trunk, place.shared.states = None, None
        return module

    def to_peft(self, module: nn.Module, original: Mapping[str, Tensor]) -> tuple[dict[str, Any], dict[str, Tensor]]:
        from bench.methods import peft_export

        return peft_export.prefix(module, self.name)


@register_method
@dataclass(frozen=True)
class PTuning2(PrefixTuning):
    """P-tuning v2: P free keys and values in every attention, with the model's plain classification head.

    Formula: attention over [K_p; K], [V_p; V], K_p and V_p trained directly.
    Source: arXiv 2110.07602, section 3.2 and 3.3 (reparametrisation optional, plain head, length by task: short
    for simple classification, near 100 for sequence labelling); start N(0, 1) and lr 5e-3 to 1e-2 as in its code.
    """

    name: ClassVar[str] = "p-tuning-v2"

    length: int = option(20, "number of prefix keys and values P", low=1)
    projection: bool = option(False, "make keys and values by an MLP while training")
    lr: float = option(1e-2, "peak learning rate", low=0.0)
