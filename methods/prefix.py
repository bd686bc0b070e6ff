"""Learned keys and values in every layer: prefix-tuning (Li & Liang, arXiv 2101.00190), P-tuning v2 (2110.07602)."""

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


class Trunk(nn.Module):
    """The shared part of the reparametrisation: () → tanh(W E), (P, m), from P embeddings of width d."""

    def __init__(self, length: int, width: int, middle: int, device: torch.device) -> None:
        super().__init__()
        self.embedding = nn.Parameter(torch.randn(length, width, device=device))
        self.down = nn.Linear(width, middle, device=device)

    def forward(self) -> Tensor:
        return torch.tanh(self.down(self.embedding))


class Place(nn.Module):
    """All prefixes of one kind of attention of a stack, with the hooks that prepare them for a pass.

    Args:
        trunk: the reparametrisation's shared part, or None where keys and values are free.
        shift: how far the text's positions move, 0 where they stay.
        limit: positions the model has, or None.
    """

    def __init__(self, trunk: Trunk | None, shift: int, limit: int | None) -> None:
        super().__init__()
        self.trunk, self.shift, self.limit = trunk, shift, limit
        self.shared = Shared()

    def enter(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Forward pre-hook of the stack."""
        self.shared.made.clear()
        self.shared.states = self.trunk() if self.trunk is not None else None

    def move_ids(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[()], Any]:
        """Forward pre-hook of a stack that takes ``position_ids``, (batch or 1, seq).

        Raises:
            ValueError: when the shifted text is longer than the model's positions.
        """
        call = dict(by_name(module, args, kwargs))
        rows = call["input_ids"] if call.get("input_ids") is not None else call["inputs_embeds"]
        past, length = seen(call), rows.shape[1]
        self._check(past + length)
        ids = call.get("position_ids")
        if ids is None:
            ids = torch.arange(past, past + length, device=rows.device)[None]
        return (), call | {"position_ids": ids + self.shift}

    def move_embeddings(self, module: nn.Module, args: Any, kwargs: dict[str, Any]) -> tuple[tuple[()], Any]:
        """Forward pre-hook of embeddings that count positions themselves (BERT's, RoBERTa's, ELECTRA's)."""
        call = dict(by_name(module, args, kwargs))
        rows = call["input_ids"] if call.get("input_ids") is not None else call["inputs_embeds"]
        self._check(rows.shape[1])
        name = str(count_argument(module))
        return (), call | {name: call.get(name, 0) + self.shift}

    def _check(self, tokens: int) -> None:
        if self.limit is not None and tokens + self.shift > self.limit:
            raise ValueError(
                f"{tokens} tokens after a prefix of {self.shift} are more than the model's {self.limit} positions: "
                f"use --max-length {self.limit - self.shift}, a smaller length or positions=kept"
            )

    def leave(self, module: nn.Module, args: tuple[Any, ...], out: Any) -> None:
        """Forward hook of the stack: lets go of the masks."""
        self.shared.made.clear()


@dataclass(frozen=True)
class Spot:
    """An attention that can have a prefix: its place, module and the width of its keys (heads · head width)."""

    place: str
    module: Any
    width: int


def spots(tower: Tower) -> list[Spot]:
    """The attentions of a tower in layer order; the second one of a block attends across."""
    found = []
    for block in tower.layers:
        role = "key" if "key" in tower.roles else "qkv"
        for index, path in enumerate(tower.roles[role]):
            parent = block.get_submodule(path.rpartition(".")[0])
            width = widths(block.get_submodule(path))[1] // (1 if role == "key" else 3)
            found.append(Spot("cross" if index else tower.name, parent, width))
    return found


@dataclass(frozen=True)
class Settings:
    """The options of both methods, with the method's name for messages."""

    name: str
    length: int
    width: int | None
    std: float
    places: tuple[str, ...]
    positions: str


def chosen(backbone: Backbone, settings: Settings) -> list[tuple[Tower, str, list[Spot]]]:
    """The places that get a prefix, with their attentions.

    Raises:
        ValueError: for an unknown place, or when the model has none of those asked for.
    """
    wrong = [unknown("place", place, PLACES) for place in settings.places if place not in PLACES]
    if wrong:
        raise ValueError(f"{settings.name}: {'; '.join(wrong)}")
    found = []
    for tower in backbone.towers():
        there = spots(tower)
        for place in dict.fromkeys(spot.place for spot in there):
            if place in settings.places:
                found.append((tower, place, [spot for spot in there if spot.place == place]))
    if not found:
        have = ", ".join(dict.fromkeys(spot.place for tower in backbone.towers() for spot in spots(tower)))
        raise ValueError(
            f"{settings.name}: this model has no attention in places={','.join(settings.places)}; use {have}"
        )
    return found


def _check_attention(name: str, attention: Any) -> None:
    if _pads(attention):
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


def _pads(attention: Any) -> bool:
    return hasattr(attention, "disentangled_attention_bias")


def _shift(backbone: Backbone, tower: Tower, place: str, settings: Settings) -> tuple[str, Any]:
    """How the text's positions move (``ids``, ``embeddings``, ``bias`` or nothing), and T5's owner of the bias.

    Raises:
        ValueError: when they shall move and cannot, or the model has no position left for the text.
    """
    if place == "cross" or settings.positions == "kept":
        return "", None
    for spot in spots(tower):
        if hasattr(spot.module, "relative_attention_bias"):
            return "bias", spot.module
    only_decoder = len(backbone.architecture.stacks) == 1 and tower.name == "decoder"
    if settings.positions == "auto" and not only_decoder:
        return "", None
    reader: Any = stack(backbone, tower)
    check_length(settings.name, settings.length, positions(backbone))
    if hasattr(reader, "embeddings") and count_argument(reader.embeddings):
        return "embeddings", None
    if accepts(reader, "position_ids"):
        return "ids", None
    raise ValueError(f"{settings.name}: this model does not let its positions be moved; use positions=kept")


def attach_prefixes(backbone: Backbone, settings: Settings) -> nn.Module:
    """Freeze the model and give every attention of the chosen places its prefix.

    Raises:
        ValueError: when an attention cannot take one, or the positions do not suffice.
    """
    groups = chosen(backbone, settings)
    for _, _, there in groups:
        for spot in there:
            _check_attention(settings.name, spot.module)
    moves = [_shift(backbone, tower, place, settings) for tower, place, _ in groups]
    backbone.freeze()
    for (tower, place, there), (move, owner) in zip(groups, moves, strict=True):
        device = next(tower.layers.parameters()).device
        trunk = Trunk(settings.length, backbone.width, settings.width, device) if settings.width else None
        group = Place(trunk, settings.length if move in ("ids", "embeddings") else 0, positions(backbone))
        group.shared.bias_owner = owner
        for spot in there:
            _install(spot, settings, group.shared, device)
        _hook(stack(backbone, tower), group, f"prefix_{place}", move)
    return backbone.model  # type: ignore[no-any-return]


def _install(spot: Spot, settings: Settings, shared: Shared, device: torch.device) -> None:
    """Give one attention its prefix, and send its attention calls through it."""
    if settings.width:
        prefix = Prefix(None, nn.Linear(settings.width, 2 * spot.width, device=device), shared)
    else:
        free = torch.randn(2, settings.length, spot.width, device=device) * settings.std
        prefix = Prefix((free[0].clone(), free[1].clone()), None, shared)
    spot.module.add_module("prefix", prefix)
    if _pads(spot.module):
        PaddedAttention(prefix, spot.module)
        return
    # A configuration of its own: the model's decides how masks are made, and stays as it was.
    config = copy.copy(spot.module.config)
    config._attn_implementation = implementation(config._attn_implementation)
    spot.module.config = config


def _hook(reader: Any, group: Place, name: str, move: str) -> None:
    reader.add_module(name, group)
    reader.register_forward_pre_hook(group.enter, with_kwargs=True)
    if move == "ids":
        reader.register_forward_pre_hook(group.move_ids, with_kwargs=True)
    if move == "embeddings":
        reader.embeddings.register_forward_pre_hook(group.move_embeddings, with_kwargs=True)
    reader.register_forward_hook(group.leave)


def count_prefixes(backbone: Backbone, settings: Settings) -> int:
    """Head + for each place: P·2·Σ width, or the trunk (P·d + d·m + m) and Σ (m + 1)·2·width."""
    total = backbone.head_count
    for _, _, there in chosen(backbone, settings):
        outputs = 2 * sum(spot.width for spot in there)
        if settings.width:
            d, m = backbone.width, settings.width
            total += settings.length * d + d * m + m + (m + 1) * outputs
        else:
            total += settings.length * outputs
    return total


def fold(module: nn.Module) -> nn.Module:
    """Replace reparametrised keys and values by plain ones, in place."""
    for place in [child for child in module.modules() if isinstance(child, Place)]:
        with torch.no_grad():
            place.shared.states = place.trunk() if place.trunk is not None else None
        for prefix in [child for child in module.modules() if isinstance(child, Prefix)]:
            if prefix.shared is place.shared and prefix.up is not None:
                with torch.no_grad():
                    key, value = prefix.rows()
                prefix.key, prefix.value = nn.Parameter(key.clone()), nn.Parameter(value.clone())
                prefix.up = None
        place.trunk, place.shared.states = None, None
    return module


class _Prefixes:
    """What the two methods do alike: all but their defaults."""

    name: ClassVar[str]
    swept: ClassVar[str | None] = "length"

    length: int
    projection: bool
    width: int
    std: float
    places: tuple[str, ...]
    positions: str

    @property
    def _settings(self) -> Settings:
        width = self.width if self.projection else None
        return Settings(self.name, self.length, width, self.std, self.places, self.positions)

    def attach(self, backbone: Backbone) -> nn.Module:
        return attach_prefixes(backbone, self._settings)

    def trainable_count(self, backbone: Backbone) -> int:
        return count_prefixes(backbone, self._settings)

    def merge(self, module: nn.Module) -> nn.Module:
        return fold(module)

    def to_peft(self, module: nn.Module, original: Mapping[str, Tensor]) -> tuple[dict[str, Any], dict[str, Tensor]]:
        from bench.methods import peft_export

        return peft_export.prefix(module, self.name)


@register_method
@dataclass(frozen=True)
class PrefixTuning(_Prefixes):
    """Prefix-tuning: P learned keys and values in every attention, made by a small MLP while training.

    Formula: attention over [K_p; K], [V_p; V]; K_p, V_p = W₂·tanh(W₁ E), one W₂ per attention; folded afterwards
    into P plain keys and values. Keys are given after rotary rotation, as in a key-value cache.
    Source: arXiv 2101.00190, section 4.2 and 4.3 (E of the model's width, tanh, 512 wide in the authors' code for
    GPT-2; BART: prefixes of their own in encoder, decoder and cross-attention, each with its own MLP).
    """

    name: ClassVar[str] = "prefix"

    length: int = option(30, "number of prefix keys and values P", low=1)
    projection: bool = option(True, "make keys and values by an MLP while training; false: train them directly")
    width: int = option(512, "width m of the MLP", low=1)
    std: float = option(1.0, "without projection: standard deviation of the start", low=0.0)
    places: tuple[str, ...] = option(PLACES, _PLACES_HELP)
    positions: str = option("auto", _POSITIONS_HELP, choices=POSITIONS)
    lr: float = option(5e-4, "peak learning rate", low=0.0)


@register_method
@dataclass(frozen=True)
class PTuning2(_Prefixes):
    """P-tuning v2: P free keys and values in every attention, with the model's plain classification head.

    Formula: attention over [K_p; K], [V_p; V], K_p and V_p trained directly.
    Source: arXiv 2110.07602, section 3.2 and 3.3 (reparametrisation optional, plain head, length by task: short
    for simple classification, near 100 for sequence labelling); start N(0, 1) and lr 5e-3 to 1e-2 as in its code.
    """

    name: ClassVar[str] = "p-tuning-v2"

    length: int = option(20, "number of prefix keys and values P", low=1)
    projection: bool = option(False, "make keys and values by an MLP while training")
    width: int = option(512, "width m of the MLP, with projection", low=1)
    std: float = option(1.0, "without projection: standard deviation of the start", low=0.0)
    places: tuple[str, ...] = option(PLACES, _PLACES_HELP)
    positions: str = option("auto", _POSITIONS_HELP, choices=POSITIONS)
    lr: float = option(1e-2, "peak learning rate", low=0.0)
