"""Ladder Side-Tuning: a narrow side network reads a frozen backbone (Sung et al., arXiv 2206.06522)."""

import copy
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from bench.api import option
from bench.backbone import Backbone, Tower, choose_layers
from bench.registry import register_method

_GATE_TEMPERATURE = 0.1  # the paper's T in μ = sigmoid(α / T), section 3.2
_STD = 0.01  # of Down and Up, as in the authors' code


class SideNetwork(nn.Module):
    """The trainable side: Down maps, gates, narrow blocks of the backbone's own class, and one Up map.

    Reads ``len(kept) + 1`` features of shape (batch, seq, d), the embeddings first; gives (batch, seq, d).
    z₀ = Down₀(h₀); for each kept layer: z = μ z + (1 − μ) Down(h), then z = Block(z); out = Up(z).
    """

    def __init__(self, width: int, narrow: int, blocks: list[nn.Module], learned_gates: bool) -> None:
        super().__init__()
        self.downs = nn.ModuleList(nn.Linear(width, narrow) for _ in range(len(blocks) + 1))
        self.blocks = nn.ModuleList(blocks)
        self.up = nn.Linear(narrow, width)
        self.gates = nn.Parameter(torch.zeros(len(blocks)), requires_grad=learned_gates)
        for linear in (*self.downs, self.up):
            nn.init.normal_(linear.weight, std=_STD)
            nn.init.zeros_(linear.bias)

    def forward(self, features: list[Tensor], call: "BlockCall", first_token: bool) -> Tensor:
        z = self.downs[0](features[0])
        mixes = torch.sigmoid(self.gates / _GATE_TEMPERATURE)
        for mix, down, block, feature in zip(mixes, self.downs[1:], self.blocks, features[1:], strict=True):
            z = torch.lerp(down(feature), z, mix)
            z = call.replay(block, z)
        return self.up(z[:, :1] if first_token else z)  # type: ignore[no-any-return]


@dataclass
class BlockCall:
    """How the backbone called its blocks: everything but the hidden states (masks and the like)."""

    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] | None = None

    def replay(self, block: nn.Module, hidden: Tensor) -> Tensor:
        """Call a side block as the backbone called its own, with other hidden states (batch, seq, d/r)."""
        out = block(hidden, *self.args, **(self.kwargs or {}))
        return out[0] if isinstance(out, tuple) else out


class Ladder(nn.Module):
    """Stands where the base model stood: runs it frozen, then the side network, and returns the side's states.

    The model's own head then reads them; so every head and loss of the model class is used as it is.
    The trunk always stays in eval mode and runs under ``no_grad``: its features depend on the input alone.
    """

    def __init__(self, trunk: nn.Module, tower: Tower, kept: list[int], side: SideNetwork, first_token: bool) -> None:
        super().__init__()
        self.trunk = trunk.eval()
        self.side = side
        self.first_token = first_token
        self._layers = [tower.layers[index] for index in kept]
        self._first = tower.layers[0]

    def train(self, mode: bool = True) -> "Ladder":
        """Switch the side network; the trunk stays in eval mode."""
        super().train(mode)
        self.trunk.eval()
        return self

    def read(self, *args: Any, **kwargs: Any) -> tuple[Any, list[Tensor], BlockCall]:
        """Run the frozen trunk: its output, the kept features (batch, seq, d), and how it called its blocks."""
        features: list[Tensor] = []
        call = BlockCall()

        def entry(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            features.append(args[0])
            call.args, call.kwargs = args[1:], kwargs

        def output(_: nn.Module, __: Any, out: Any) -> None:
            features.append(out[0] if isinstance(out, tuple) else out)

        handles: list[RemovableHandle] = [self._first.register_forward_pre_hook(entry, with_kwargs=True)]
        handles += [layer.register_forward_hook(output) for layer in self._layers]
        try:
            with torch.no_grad():
                out = self.trunk(*args, **kwargs)
        finally:
            for handle in handles:
                handle.remove()
        return out, features, call

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        out, features, call = self.read(*args, **kwargs)
        states = self.side(features, call, self.first_token)
        out.last_hidden_state = states
        if getattr(out, "pooler_output", None) is not None:
            out.pooler_output = states[:, 0]
        return out


@register_method
@dataclass(frozen=True)
class Lst:
    """Ladder Side-Tuning: only a narrow side network beside the frozen backbone is trained.

    Formula: z₀ = Down₀(h₀); z = μᵢ z + (1 − μᵢ) Downᵢ(hᵢ₊₁), z = SideBlockᵢ(z), μᵢ = sigmoid(αᵢ / 0.1); the head
    reads Up(z). No gradient enters the backbone, so none of its activations are kept.
    Source: arXiv 2206.06522, section 3; learning rate from its table 6.
    """

    name: ClassVar[str] = "lst"
    swept: ClassVar[str | None] = "reduction"

    reduction: int = option(8, "the side network's widths are the backbone's divided by this", low=1)
    heads: str = option(
        "scaled",
        "attention heads of a side block: about heads / reduction, or as many as the backbone",
        choices=("scaled", "official"),
    )
    gates: str = option(
        "learned",
        "how ladder and side are mixed: learned per layer, or fixed at one half",
        choices=("learned", "fixed"),
    )
    layers: tuple[str, ...] = option(("all",), "backbone layers that are read: all, indices (3, -1), ranges (0-5)")
    init: str = option("random", "side blocks start from N(0, initializer_range)", choices=("random",))
    lr: float = option(3e-3, "peak learning rate", low=0.0)

    def attach(self, backbone: Backbone) -> nn.Module:
        backbone.freeze()
        narrow = side_config(backbone, self.reduction, self.heads)
        (tower,) = backbone.towers()
        kept = choose_layers(self.layers, len(tower.layers))
        width = backbone.width
        device = next(backbone.model.parameters()).device
        with device:
            block = type(tower.layers[0])
            blocks = [block(narrow, index) for index in range(len(kept))]
            side = SideNetwork(width, width // self.reduction, blocks, self.gates == "learned")
        for module in side.blocks.modules():
            backbone.model._init_weights(module)
        ladder = Ladder(backbone.base, tower, kept, side, first_token=tower.name == "encoder")
        backbone.model.set_submodule(backbone.base_path, ladder)
        return backbone.model  # type: ignore[no-any-return]

    def trainable_count(self, backbone: Backbone) -> int:
        (tower,) = backbone.towers()
        kept = len(choose_layers(self.layers, len(tower.layers)))
        d, r = backbone.width, self.reduction
        block = sum(_divided(tuple(p.shape), r) for p in tower.layers[0].parameters())
        downs = (kept + 1) * (d * (d // r) + d // r)
        up = (d // r) * d + d
        return backbone.head_count + downs + up + kept * block + kept * (self.gates == "learned")


def _divided(shape: tuple[int, ...], reduction: int) -> int:
    """Values in a tensor of this shape after every dimension is divided by the reduction."""
    size = 1
    for dimension in shape:
        size *= dimension // reduction
    return size


def side_config(backbone: Backbone, reduction: int, heads: str) -> Any:
    """The backbone's configuration with its widths divided by ``reduction``.

    Raises:
        ValueError: when a width cannot be divided.
    """
    config = copy.deepcopy(backbone.config)
    where = backbone.architecture
    for name in (where.width, where.feed_forward):
        size = getattr(config, name)
        if reduction > size or size % reduction:
            raise ValueError(f"lst: reduction {reduction} does not divide the model's {name} {size}")
        setattr(config, name, size // reduction)
    narrow, full_heads = getattr(config, where.width), getattr(config, where.heads)
    wanted = full_heads if heads == "official" else max(1, round(full_heads / reduction))
    if heads == "official" and narrow % full_heads:
        raise ValueError(
            f"lst: heads=official keeps {full_heads} heads, which do not divide the side width {narrow}; "
            f"use heads=scaled or another reduction"
        )
    setattr(config, where.heads, max(count for count in range(1, wanted + 1) if narrow % count == 0))
    return config
