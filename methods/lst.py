"""Ladder Side-Tuning: a narrow side network reads a frozen backbone (Sung et al., arXiv 2206.06522)."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

from torch import nn
from transformers.pytorch_utils import Conv1D

from bench.core.protocols import Batch, option
from bench.core.registry import register_method
from bench.methods import lst_pruning as fisher
from bench.methods import lst_side_network as parts
from bench.methods.lst_module import Ladder, Place
from bench.models.backbone import Backbone, Tower, choose_layers


@register_method
@dataclass(frozen=True)
class Lst:
    """Ladder Side-Tuning: only a narrow side network beside the frozen backbone is trained.

    Formula: z₀ = Down₀(h₀); z = μᵢ z + (1 − μᵢ) Downᵢ(hᵢ₊₁), z = SideBlockᵢ(z), μᵢ = sigmoid(αᵢ / 0.1); the head
    reads Up(dropout(norm(z))), and in post-norm families, whose blocks end with a norm, Up(z). No gradient enters
    the backbone, so none of its activations are kept. Encoder-decoders have a ladder in each tower.
    Source: arXiv 2206.06522, section 3; learning rate from its table 6. T5-base keeps layers 1-3, 5-7 and 9-11 of
    both towers, T5-large the odd ones, T5-3B layer 23 alone.
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
    layers: tuple[str, ...] = option(
        ("all",), "backbone layers that are read, in each tower: all, indices (3, -1), ranges (0-5)"
    )
    init: str = option(
        "random",
        "side blocks start from N(0, initializer_range), or from the backbone's weights pruned by Fisher information "
        "(one pass over training samples one by one; the author reports at most 0.24 GLUE points from it)",
        choices=("random", "fisher"),
    )
    fisher_samples: int = option(1024, "training samples that init=fisher looks at, at most", low=1)
    merge: str = option(
        "paper",
        "what the head reads: the side alone (paper), or the backbone's last state plus the side's from zero "
        "(residual, decoders only: starts as the base model)",
        choices=("paper", "residual"),
    )
    backbone_dropout: bool = option(
        False, "leave the backbone's dropout on while training, as the authors' code does (features vary then)"
    )
    lr: float = option(3e-3, "peak learning rate", low=0.0)

    @property
    def shares_trunk(self) -> bool:
        """Not where the backbone's dropout is on: then its features differ from run to run."""
        return not self.backbone_dropout

    def attach(self, backbone: Backbone) -> nn.Module:
        """Put a ladder in the place of the base model, or of each of an encoder-decoder's stacks.

        Raises:
            ValueError: when a width cannot be divided, or an option cannot apply to this family.
        """
        towers = backbone.towers()
        self._check(backbone, towers)
        paired = len(towers) > 1
        sides = [(tower, self._side(backbone, tower, up=tower is towers[-1])) for tower in towers]
        backbone.freeze()
        for tower, side in sides:
            holder = tower.path.rpartition(".")[0]
            # OPT's head reads the decoder inside the base model; an encoder's head reads the base model's pooling.
            path = holder if tower.name == "decoder" or paired else backbone.base_path
            place = Place(
                layers=tower.path.removeprefix(path + "."),
                stack=tower.name,
                paired=paired,
                residual=self.merge == "residual",
                backbone_dropout=self.backbone_dropout,
            )
            backbone.model.set_submodule(path, Ladder(backbone.model.get_submodule(path), side, place))
        return backbone.model  # type: ignore[no-any-return]

    def _check(self, backbone: Backbone, towers: list[Tower]) -> None:
        if self.merge == "residual" and towers[-1].name == "encoder":
            raise ValueError(
                "lst: merge=residual is for decoders: an encoder's head is fresh, so there is no base model's answer "
                "to start from; use merge=paper"
            )
        if self.init == "fisher":
            fisher.check(backbone)

    def _side(self, backbone: Backbone, tower: Tower, up: bool) -> parts.SideNetwork:
        stack = backbone.model.get_submodule(tower.path.rpartition(".")[0])
        config = getattr(stack, "config", backbone.config)
        narrow = parts.side_config(config, _widths(backbone, tower), self.reduction, self.heads)
        width = backbone.width // self.reduction
        kept = choose_layers(self.layers, len(tower.layers))
        kind = type(tower.layers[0])
        rotary = getattr(stack, "rotary_emb", None)
        norm = parts.final_norm(stack, backbone.base)
        with next(tower.layers.parameters()).device:
            relative = None
            if hasattr(stack, "rel_embeddings"):
                relative = parts.RelativeEmbeddings(stack, width, narrow.initializer_range)
            blocks = [parts.side_block(kind, narrow, index, first=index == kept[0]) for index in kept]
            side = parts.SideNetwork(
                parts.SideParts(
                    config=narrow,
                    width=backbone.width,
                    narrow=width,
                    kept=tuple(kept),
                    depth=len(tower.layers),
                    blocks=blocks,
                    norm=parts.narrow_norm(norm, width) if norm is not None else None,
                    dropout=parts.hidden_dropout(config),
                    up=_read_width(backbone) if up else None,
                    rotary=type(rotary)(config=narrow) if rotary is not None else None,
                    relative=relative,
                ),
                learned_gates=self.gates == "learned",
            )
        if side.up is not None and self.merge == "residual":
            nn.init.zeros_(side.up.weight)
        return side

    def trainable_count(self, backbone: Backbone) -> int:
        """Head, and for each tower: Down maps, gates, blocks, the tables they read and the final norm; one Up."""
        total, d = backbone.head_count, backbone.width
        n = d // self.reduction
        for tower in backbone.towers():
            stack = backbone.model.get_submodule(tower.path.rpartition(".")[0])
            widths = _widths(backbone, tower)
            config = getattr(stack, "config", backbone.config)
            full = parts.heads_of(config, widths)
            heads = parts.heads_of(parts.side_config(config, widths, self.reduction, self.heads), widths)
            kept = len(choose_layers(self.layers, len(tower.layers)))
            total += (kept + 1) * (d * n + n) + len(tower.layers) * (self.gates == "learned")
            total += kept * _block_count(tower.layers[0], self.reduction, full, heads)
            tables = [part for part in tower.layers[0].modules() if isinstance(part, nn.Embedding)]
            total += sum(table.num_embeddings * heads.count for table in tables)
            norm = parts.final_norm(stack, backbone.base)
            total += sum(n for _ in norm.parameters()) if norm is not None else 0
            relative = getattr(stack, "rel_embeddings", None)
            if relative is not None:
                total += relative.num_embeddings * n + (2 * n if hasattr(stack, "LayerNorm") else 0)
        return total + n * _read_width(backbone) + _read_width(backbone)

    def initialize(self, module: nn.Module, batches: Iterable[Batch]) -> None:
        """With ``init="fisher"``: fill the side from the backbone's weights, pruned by Fisher information.

        Args:
            batches: training batches of one sample each, on the module's device, with labels.

        Raises:
            ValueError: when there is no batch.
        """
        if self.init == "fisher":
            fisher.initialize(module, batches, self.fisher_samples)


def _widths(backbone: Backbone, tower: Tower) -> parts.Widths:
    return parts.Widths.of(backbone.architecture, tower.name)


def _read_width(backbone: Backbone) -> int:
    """Width of the states that the model's head reads; OPT may project them to its embeddings' width."""
    return int(getattr(backbone.config, "word_embed_proj_dim", None) or backbone.width)


def _block_count(block: nn.Module, reduction: int, full: parts.Heads, heads: parts.Heads) -> int:
    """Values in a side block, from the shapes of a backbone block: every dimension is divided by the reduction, but a
    norm over one head has the side's head size. Tables (T5's relative bias) are left out: one block alone has one."""
    total = 0
    for module in block.modules():
        if isinstance(module, nn.Embedding):
            continue
        linear = isinstance(module, nn.Linear | Conv1D)
        for parameter in module.parameters(recurse=False):
            shape = tuple(parameter.shape)
            if not linear and shape == (full.size,):
                total += heads.size
                continue
            size = 1
            for dimension in shape:
                size *= dimension // reduction
            total += size
    return total
