"""The side network of Ladder Side-Tuning: its widths, blocks and their own arguments (arXiv 2206.06522)."""

import copy
import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from bench.models.architectures import Architecture

GATE_TEMPERATURE = 0.1  # the paper's T in μ = sigmoid(α / T), section 3.2
LADDER_STD = 0.01  # of Down and Up, as in the authors' code
BLOCK_STD = 0.02  # of the side blocks where the configuration has no initializer_range (T5, BART)

# Configuration fields of a head's size; families without one divide the hidden size by the number of heads.
_HEAD_SIZES = ("head_dim", "d_kv", "attention_head_size")
# Configuration fields of dropout on hidden states; Llama-like families have none.
_DROPOUTS = ("dropout_rate", "resid_pdrop", "hidden_dropout_prob", "hidden_dropout", "dropout")
# Attributes of the norm after the last block of a pre-norm stack.
_FINAL_NORMS = ("norm", "ln_f", "final_layer_norm", "layernorm")


@dataclass(frozen=True)
class Heads:
    """Attention heads of a block: of queries, of keys and values, and the width of each.

    Attributes:
        rotary: dimensions of a head with rotary positions; 0 where the family has none.
    """

    count: int
    keys: int
    size: int
    rotary: int


@dataclass(frozen=True)
class Widths:
    """Configuration fields of a stack's hidden size, feed-forward width and number of heads."""

    hidden: str
    feed_forward: str
    heads: str

    @classmethod
    def of(cls, architecture: Architecture, stack: str) -> "Widths":
        """The fields of a stack; BART's decoder has its own."""

        def own(name: str) -> str:
            return name.replace("encoder_", "decoder_", 1) if stack == "decoder" else name

        return cls(architecture.width, own(architecture.feed_forward), own(architecture.heads))


def heads_of(config: Any, widths: Widths) -> Heads:
    """The attention heads that a configuration describes."""
    count = int(getattr(config, widths.heads))
    keys = int(getattr(config, "num_key_value_heads", None) or count)
    stated = [int(getattr(config, name)) for name in _HEAD_SIZES if getattr(config, name, None)]
    size = stated[0] if stated else int(getattr(config, widths.hidden)) // count
    return Heads(count, keys, size, _rotary(config, size))


def _rotary(config: Any, size: int) -> int:
    rope = getattr(config, "rope_parameters", None)
    return int(size * rope.get("partial_rotary_factor", 1.0)) if rope else 0


def side_config(config: Any, widths: Widths, reduction: int, heads: str) -> Any:
    """A stack's configuration with its widths divided by ``reduction``.

    ``heads="official"`` keeps the number of heads and divides their size; ``"scaled"`` divides their number
    (rounded, at least one) and gives each an equal part of the width. Grouped queries keep their group size.

    Raises:
        ValueError: when a width cannot be divided, or no number of heads divides the rest.
    """
    full = heads_of(config, widths)
    config = copy.deepcopy(config)
    for name in (widths.hidden, widths.feed_forward):
        size = getattr(config, name)
        if size is not None:  # GPT-2's feed-forward width: None means four times the hidden size
            setattr(config, name, _divide(name, size, reduction))
    chosen = _side_heads(config, full, reduction, heads)
    setattr(config, widths.heads, chosen.count)
    for name in ("num_key_value_heads", *_HEAD_SIZES):
        if getattr(config, name, None):
            setattr(config, name, chosen.keys if name == "num_key_value_heads" else chosen.size)
    return config


def _divide(name: str, size: int, reduction: int) -> int:
    if size % reduction:
        raise ValueError(
            f"lst: reduction {reduction} does not divide the model's {name} {size}; use a divisor of it, such as 2 or 4"
        )
    return size // reduction


def _side_heads(config: Any, full: Heads, reduction: int, heads: str) -> Heads:
    width = _divide("key and value width", full.keys * full.size, reduction)
    group = full.count // full.keys

    def fits(keys: int) -> bool:
        rotary = _rotary(config, width // keys)
        return width % keys == 0 and rotary % 2 == 0 and (rotary > 0) == (full.rotary > 0)

    target = full.keys if heads == "official" else max(1, round(full.keys / reduction))
    possible = [keys for keys in range(1, target + 1) if fits(keys)]
    if not possible or (heads == "official" and possible[-1] != target):
        rule = " into heads with an even number of rotary dimensions" if full.rotary else ""
        raise ValueError(
            f"lst: heads={heads} cannot split the side's key and value width {width} over {target} head(s){rule}; "
            + ("use heads=scaled or a smaller reduction" if heads == "official" else "use a smaller reduction")
        )
    keys = possible[-1]
    return Heads(keys * group, keys, width // keys, _rotary(config, width // keys))


def argument_names(module: nn.Module) -> tuple[str, ...]:
    """Names of the arguments of a module's forward."""
    return tuple(inspect.signature(type(module).forward).parameters)[1:]


def side_block(kind: type[nn.Module], config: Any, index: int, first: bool) -> nn.Module:
    """A narrow block of the backbone's own class, N(0, initializer_range) with zero biases.

    Args:
        index: of its backbone layer (some families choose a layer's attention by it).
        first: whether it is the side's first block, which holds T5's relative position bias.
    """
    known = inspect.signature(kind.__init__).parameters
    extra = {"layer_idx": index, "has_relative_attention_bias": first}
    block = kind(config, **{name: value for name, value in extra.items() if name in known})
    std = getattr(config, "initializer_range", None) or BLOCK_STD
    for module in block.modules():
        if isinstance(module, nn.Linear | Conv1D | nn.Embedding):
            nn.init.normal_(module.weight, std=std)
            if getattr(module, "bias", None) is not None:
                nn.init.zeros_(cast(Tensor, module.bias))
    return block


def final_norm(*holders: nn.Module) -> nn.Module | None:
    """The norm after a stack's last block; None for post-norm families, whose blocks end with a norm.

    Args:
        holders: the module that holds the blocks, and its parent (ViT before transformers 5.9).
    """
    for holder in holders:
        for name in _FINAL_NORMS:
            norm = getattr(holder, name, None)
            if norm is not None:
                return cast(nn.Module, norm)
    return None


def narrow_norm(norm: nn.Module, width: int) -> nn.Module:
    """A new norm of the same class over ``width`` values."""
    if isinstance(norm, nn.LayerNorm):
        return nn.LayerNorm(width, norm.eps, norm.elementwise_affine, norm.bias is not None)
    eps = getattr(norm, "variance_epsilon", None) or norm.eps
    return type(norm)(width, eps=eps)


def hidden_dropout(config: Any) -> float:
    """A configuration's dropout probability on hidden states; 0 where it has none."""
    return next((float(value) for name in _DROPOUTS if (value := getattr(config, name, None)) is not None), 0.0)


class RelativeEmbeddings(nn.Module):
    """DeBERTa's table of relative positions at the side's width: (2·buckets, d/r), through its norm."""

    def __init__(self, stack: nn.Module, width: int, std: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(cast(nn.Embedding, stack.rel_embeddings).num_embeddings, width))
        nn.init.normal_(self.weight, std=std)
        norm = getattr(stack, "LayerNorm", None)
        self.norm = narrow_norm(norm, width) if norm is not None else None

    def forward(self) -> Tensor:
        return self.weight if self.norm is None else cast(Tensor, self.norm(self.weight))


class Own:
    """Block arguments that depend on the number or size of heads, so that the side computes its own."""

    ROTARY = "position_embeddings"
    RELATIVE = "rel_embeddings"
    BIASES = ("position_bias", "encoder_decoder_position_bias")
    ENCODER = "encoder_hidden_states"


def _biases(out: Sequence[Any], call: dict[str, Any]) -> dict[str, Any]:
    """T5's biases by name, from a block's output.

    Before transformers 5.15 an encoder's block returns only one, and attention weights, if requested, follow each.
    """
    return dict(zip(Own.BIASES, out[1::2] if call.get("output_attentions") else out[1:3], strict=False))


@dataclass(frozen=True)
class SideParts:
    """The parts of a side network.

    Attributes:
        config: the narrow configuration that the blocks were built from.
        width: of the backbone, d.
        narrow: of the side, d/r.
        kept: backbone layers that are read, ascending.
        depth: number of backbone layers.
        blocks: one narrow block for each kept layer.
        norm: final norm at the side's width, or None.
        dropout: probability after the final norm.
        up: output width of Up, or None where nothing reads it (the encoder below a decoder).
        rotary: module that computes the side's rotary (cos, sin), or None.
        relative: DeBERTa's relative embeddings, or None.
    """

    config: Any
    width: int
    narrow: int
    kept: tuple[int, ...]
    depth: int
    blocks: Sequence[nn.Module]
    norm: nn.Module | None
    dropout: float
    up: int | None
    rotary: nn.Module | None
    relative: nn.Module | None


class SideNetwork(nn.Module):
    """The trainable side: Down maps, gates, narrow blocks of the backbone's own class, final norm and Up.

    z₀ = Down₀(h₀); for each kept layer i: z = μᵢ z + (1 − μᵢ) Downᵢ(hᵢ₊₁), then z = Blockᵢ(z), with
    μᵢ = sigmoid(αᵢ / 0.1); at the end Up(dropout(norm(z))). Source: arXiv 2206.06522, section 3.2.

    There is one α for each backbone layer, as in the authors' code (their counts include the unused ones).
    """

    def __init__(self, parts: SideParts, learned_gates: bool) -> None:
        super().__init__()
        self.config, self.kept, self.depth = parts.config, parts.kept, parts.depth
        self.width, self.narrow = parts.width, parts.narrow
        self.downs = nn.ModuleList(nn.Linear(parts.width, parts.narrow) for _ in range(len(parts.kept) + 1))
        self.gates = nn.Parameter(torch.zeros(parts.depth), requires_grad=learned_gates)
        self.blocks = nn.ModuleList(parts.blocks)
        self.norm = parts.norm
        self.dropout = nn.Dropout(parts.dropout) if parts.norm is not None and parts.dropout > 0 else None
        self.up = nn.Linear(parts.narrow, parts.up) if parts.up is not None else None
        self.rotary, self.relative = parts.rotary, parts.relative
        for linear in (*self.downs, *((self.up,) if self.up is not None else ())):
            nn.init.normal_(cast(Tensor, linear.weight), std=LADDER_STD)
            nn.init.zeros_(cast(Tensor, linear.bias))
        # The side's attention uses cache layers after the backbone's, so that one cache holds both networks' keys.
        for position, block in enumerate(self.blocks):
            for module in block.modules():
                if hasattr(module, "layer_idx"):
                    module.layer_idx = self.depth + position  # type: ignore[assignment]

    def lower(self, position: int, feature: Tensor) -> Tensor:
        """Down of the feature at ``position`` (0: the embeddings): (batch, seq, d) → (batch, seq, d/r)."""
        return cast(Tensor, self.downs[position](feature))

    def forward(
        self, lowered: Sequence[Tensor], calls: Sequence[dict[str, Any]], encoder: Tensor | None, first_token: bool
    ) -> Tensor:
        """Run the side blocks.

        Args:
            lowered: ``lower`` of the embeddings and of each kept layer, each (batch, seq, d/r).
            calls: for each kept layer, its backbone block's arguments by name besides the hidden states.
            encoder: final states of the encoder's side, (batch, source, d/r), or None.
            first_token: return only the first position.

        Returns:
            The side's final states before Up, (batch, seq or 1, d/r).
        """
        z = lowered[0]
        own = self._own(z, calls[0], encoder)
        mixes = torch.sigmoid(self.gates / GATE_TEMPERATURE)
        for index, block, down, call in zip(self.kept, self.blocks, lowered[1:], calls, strict=True):
            # In this form autograd keeps only the difference, not both operands.
            z = down + mixes[index] * (z - down)
            out = block(z, **{**call, **{name: value for name, value in own.items() if name in call}})
            if isinstance(out, tuple):
                z = out[0]
                if Own.BIASES[0] in own:
                    own.update(_biases(out, call))
            else:
                z = out
        if first_token:
            z = z[:, :1]
        if self.norm is not None:
            z = self.norm(z)
        return z if self.dropout is None else cast(Tensor, self.dropout(z))

    def _own(self, z: Tensor, call: dict[str, Any], encoder: Tensor | None) -> dict[str, Any]:
        """The side's own values of the arguments that depend on the heads."""
        own: dict[str, Any] = {}
        if encoder is not None:
            own[Own.ENCODER] = encoder
        if self.rotary is not None:
            own[Own.ROTARY] = self.rotary(z, position_ids=call["position_ids"])
        if self.relative is not None:
            own[Own.RELATIVE] = self.relative()
        if Own.BIASES[0] in call:
            own.update(dict.fromkeys(Own.BIASES))
        return own
