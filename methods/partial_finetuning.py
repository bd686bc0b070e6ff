"""Methods that train a part of the model itself: all, top layers, biases (BitFit, 2106.10199), norms, the head."""

from dataclasses import dataclass
from typing import ClassVar, cast

import torch
from torch import Tensor, nn

from bench.core.protocols import option
from bench.core.registry import register_method
from bench.methods.frozen_features import Frozen
from bench.models.backbone import Backbone, count, widths


@register_method
@dataclass(frozen=True)
class Full:
    """Full fine-tuning: every parameter of the model is trained.

    Formula: W ← W − η·∇L for all W.
    Source: the baseline that every method is compared with (BERT, arXiv 1810.04805, section 4).
    """

    name: ClassVar[str] = "full"
    swept: ClassVar[str | None] = None

    lr: float = option(1e-4, "peak learning rate", low=0.0)

    def attach(self, backbone: Backbone) -> nn.Module:
        backbone.model.requires_grad_(True)
        return backbone.model  # type: ignore[no-any-return]

    def trainable_count(self, backbone: Backbone) -> int:
        return count(list(backbone.model.parameters()))


@register_method
@dataclass(frozen=True)
class Head:
    """Linear probe: the backbone is frozen, only the fresh task head is trained.

    Formula: y = W_head·h + b_head, h from the frozen backbone, whose dropout is off, so a text always has the same h.
    Source: the lower baseline of any comparison (e.g. arXiv 1902.00751, section 3.6).
    """

    name: ClassVar[str] = "head"
    swept: ClassVar[str | None] = None

    backbone_dropout: bool = option(False, "leave the backbone's dropout on while training (features vary then)")
    lr: float = option(5e-3, "peak learning rate", low=0.0)

    def attach(self, backbone: Backbone) -> nn.Module:
        if not backbone.head_parameters:
            raise ValueError(
                "head: a language model's head is pretrained, so there is no fresh head to train; use last-k or full"
            )
        backbone.freeze()
        towers = backbone.towers()
        first_token = len(towers) == 1 and towers[0].name == "encoder"
        # OPT may project its last states to its embeddings' width.
        width = int(getattr(backbone.config, "word_embed_proj_dim", None) or backbone.width)
        frozen = Frozen(backbone.base, width, first_token, self.backbone_dropout)
        backbone.model.set_submodule(backbone.base_path, frozen)
        return backbone.model  # type: ignore[no-any-return]

    def trainable_count(self, backbone: Backbone) -> int:
        return backbone.head_count


@register_method
@dataclass(frozen=True)
class LastK:
    """The top k blocks and the head are trained; the rest of the backbone is frozen.

    Formula: W ← W − η·∇L for the W of blocks L−k+1 … L and of the head. In an encoder-decoder the blocks are the
    decoder's. What lies above the blocks (a final norm, a pooler) stays frozen, and so does a pretrained head.
    Source: arXiv 1911.03090 (the top quarter of the layers reaches nine tenths of the quality); the baseline of
    arXiv 1902.00751, section 3.4.
    """

    name: ClassVar[str] = "last-k"
    swept: ClassVar[str | None] = "k"

    k: int | None = option(None, "blocks to train, from the top; none: a quarter of them", low=1)
    lr: float = option(1e-4, "peak learning rate", low=0.0)

    def attach(self, backbone: Backbone) -> nn.Module:
        blocks = self._blocks(backbone)
        backbone.freeze()
        for block in blocks:
            block.requires_grad_(True)
        return backbone.model  # type: ignore[no-any-return]

    def trainable_count(self, backbone: Backbone) -> int:
        return backbone.head_count + count([value for block in self._blocks(backbone) for value in block.parameters()])

    def _blocks(self, backbone: Backbone) -> list[nn.Module]:
        tower = backbone.towers()[-1]  # the architecture table lists a decoder after its encoder
        depth = len(tower.layers)
        k = self.k or max(1, depth // 4)
        if k > depth:
            raise ValueError(f"last-k: k is {k}, but the {tower.name} has {depth} layers; use at most {depth}, or full")
        return list(tower.layers)[depth - k :]


class BiasedNorm(nn.Module):
    """Norm(x) + b, b starting at zero, around a frozen norm that has no bias. x: (…, d) → (…, d)."""

    def __init__(self, base: nn.Module) -> None:
        super().__init__()
        self.base = base
        self.bias = nn.Parameter(torch.zeros_like(cast(Tensor, base.weight), dtype=torch.float32))

    def forward(self, x: Tensor) -> Tensor:
        out = self.base(x)
        return cast(Tensor, out + self.bias.to(out.dtype))


@register_method
@dataclass(frozen=True)
class BitFit:
    """BitFit: the backbone's biases and the head are trained.

    Formula: b ← b − η·∇L for every bias b of linear maps and norms. With ``add``, linear maps without a bias (a
    pretrained language head too) and the blocks' norms without one first get a bias of zeros; norms outside the
    blocks do not. This gives the 280,932 parameters on T5-base of LST's authors.
    Source: arXiv 2106.10199, section 3; added biases as in the code of arXiv 2206.06522; learning rate the upper end
    of the range in its appendix.
    """

    name: ClassVar[str] = "bitfit"
    swept: ClassVar[str | None] = None

    add: bool = option(False, "give linear maps and the blocks' norms that have no bias a bias of zeros")
    lr: float = option(2e-3, "peak learning rate", low=0.0)

    def attach(self, backbone: Backbone) -> nn.Module:
        trained = biases(backbone)
        if not trained and not self.add:
            raise ValueError(f"bitfit: {backbone.config.model_type} has no biases; use --set bitfit.add=true")
        backbone.freeze()
        for bias in trained:
            bias.requires_grad_(True)
        if self.add:
            linears, norms = bare_linears(backbone), bare_norms(backbone)
            for linear in linears:
                linear.bias = nn.Parameter(torch.zeros(linear.out_features, device=linear.weight.device))
            for path, norm in norms.items():
                backbone.model.set_submodule(path, BiasedNorm(norm))
        return backbone.model  # type: ignore[no-any-return]

    def trainable_count(self, backbone: Backbone) -> int:
        total = backbone.head_count + count(biases(backbone))
        if self.add:
            total += sum(widths(linear)[1] for linear in bare_linears(backbone))
            total += sum(cast(Tensor, norm.weight).numel() for norm in bare_norms(backbone).values())
        return total


def biases(backbone: Backbone) -> list[nn.Parameter]:
    """The biases of the pretrained part, each once, without the fresh head's."""
    head = {id(parameter) for parameter in backbone.head_parameters}
    attributes = [getattr(module, "bias", None) for module in backbone.model.modules()]
    chosen = {id(bias): bias for bias in attributes if isinstance(bias, nn.Parameter) and id(bias) not in head}
    return list(chosen.values())


def bare_linears(backbone: Backbone) -> list[nn.Linear]:
    """The pretrained linear maps that have no bias."""
    head = {id(parameter) for parameter in backbone.head_parameters}
    linears = [module for module in backbone.model.modules() if isinstance(module, nn.Linear)]
    return [linear for linear in linears if linear.bias is None and id(linear.weight) not in head]


def bare_norms(backbone: Backbone) -> dict[str, nn.Module]:
    """The norms inside blocks that have no bias, by path."""
    blocks = tuple(f"{tower.path}." for tower in backbone.towers())
    norms = backbone.norms().items()
    return {path: norm for path, norm in norms if path.startswith(blocks) and getattr(norm, "bias", None) is None}


@register_method
@dataclass(frozen=True)
class Norm:
    """Norm tuning: the weights (and biases) of every LayerNorm and RMSNorm, and the head, are trained.

    Formula: γ ← γ − η·∇L, β ← β − η·∇L in γ ⊙ x̂ + β; RMSNorm has no β.
    Source: arXiv 2312.11420, which peft's LN tuning follows; the learning rate is not the paper's.
    """

    name: ClassVar[str] = "norm"
    swept: ClassVar[str | None] = None

    lr: float = option(2e-3, "peak learning rate", low=0.0)

    def attach(self, backbone: Backbone) -> nn.Module:
        backbone.freeze()
        train_norms(backbone)
        return backbone.model  # type: ignore[no-any-return]

    def trainable_count(self, backbone: Backbone) -> int:
        return backbone.head_count + norm_count(backbone)


def train_norms(backbone: Backbone) -> None:
    """Make every norm of the base model trainable, including the final one and the embeddings'."""
    for norm in backbone.norms().values():
        norm.requires_grad_(True)


def norm_count(backbone: Backbone) -> int:
    """Number of values in the base model's norms."""
    return sum(count(list(norm.parameters(recurse=False))) for norm in backbone.norms().values())
