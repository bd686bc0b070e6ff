"""Low-rank adaptation of linear maps: LoRA (Hu et al., arXiv 2106.09685)."""

import math
from dataclasses import dataclass
from typing import ClassVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.api import option
from bench.backbone import Backbone
from bench.registry import register_method


class LoraLinear(nn.Module):
    """A frozen linear map with a trainable low-rank update: h = W x + b + (α/r)·B A dropout(x).

    x: (…, in) → h: (…, out); A: (rank, in), B: (out, rank). A starts Kaiming-uniform(√5) as in the authors'
    code (loralib, ``LoRALayer.reset_parameters``), B at zero, so the map starts as the frozen one.
    """

    def __init__(self, base: nn.Linear, rank: int, alpha: float, dropout: float) -> None:
        super().__init__()
        self.base = base
        self.scale = alpha / rank
        self.dropout = nn.Dropout(dropout) if dropout > 0 else None
        where = base.weight.device
        self.lora_a = nn.Parameter(torch.empty(rank, base.in_features, device=where))
        self.lora_b = nn.Parameter(torch.zeros(base.out_features, rank, device=where))
        nn.init.kaiming_uniform_(self.lora_a, a=math.sqrt(5))

    def forward(self, x: Tensor) -> Tensor:
        frozen = self.base(x)
        if self.dropout is not None:
            x = self.dropout(x)
        # The scale goes on the narrow side: (…, rank) is cheaper to multiply than (…, out).
        return cast(Tensor, frozen + F.linear(F.linear(x, self.lora_a) * self.scale, self.lora_b))

    def delta(self) -> Tensor:
        """The update of the weight: (α/r)·B A, shape (out, in)."""
        return self.scale * (self.lora_b @ self.lora_a)


@register_method
@dataclass(frozen=True)
class Lora:
    """LoRA: a trainable low-rank update beside frozen linear maps.

    Formula: h = W x + (α/r)·B A dropout(x), B = 0 at the start, so training starts at the base model.
    Source: arXiv 2106.09685, section 4.1; query and value as in its section 7.1; GLUE settings in its table 9.
    """

    name: ClassVar[str] = "lora"
    swept: ClassVar[str | None] = "rank"

    rank: int = option(8, "rank r of the update", low=1)
    alpha: float = option(16.0, "the update is scaled by alpha / rank", low=0.0)
    dropout: float = option(0.0, "dropout on the update's input while training", low=0.0, high=0.99)
    targets: tuple[str, ...] = option(
        ("query", "value"), "linear maps: roles (query, key, value, output, up, gate, down), module names, or all"
    )
    layers: tuple[str, ...] = option(("all",), "which blocks: all, indices (3, -1) and ranges (0-5)")
    lr: float = option(1e-3, "peak learning rate", low=0.0)

    def attach(self, backbone: Backbone) -> nn.Module:
        backbone.freeze()
        for site in backbone.sites(self.targets, self.layers):
            base = cast(nn.Linear, site.module)
            limit = min(base.in_features, base.out_features)
            if self.rank > limit:
                raise ValueError(
                    f"lora: rank {self.rank} is beyond {site.path}, a {base.out_features}×{base.in_features} map: "
                    f"its rank is at most {limit}"
                )
            backbone.replace(site, LoraLinear(base, self.rank, self.alpha, self.dropout))
        return backbone.model  # type: ignore[no-any-return]

    def trainable_count(self, backbone: Backbone) -> int:
        maps = [cast(nn.Linear, site.module) for site in backbone.sites(self.targets, self.layers)]
        return backbone.head_count + sum(self.rank * (m.in_features + m.out_features) for m in maps)

    def merge(self, module: nn.Module) -> nn.Module:
        for name, child in list(module.named_modules()):
            if isinstance(child, LoraLinear):
                with torch.no_grad():
                    child.base.weight += child.delta()
                module.set_submodule(name, child.base)
        return module
