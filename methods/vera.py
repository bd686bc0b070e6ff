"""VeRA: trainable vectors around one random low-rank pair that all maps share (Kopiczko et al., arXiv 2310.11454)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.core.protocols import option
from bench.core.registry import register_method
from bench.methods.lora import LAYERS_HELP, TARGETS_HELP, AdaptedLinear, find, fold, plus_product
from bench.models.backbone import Backbone, widths


class Projections(nn.Module):
    """The frozen random pair, A: (r, widest input) and B: (widest output, r), Kaiming-uniform (section 3.3).

    Buffers of one module shared by all adapted maps, so that they are stored and saved once.
    """

    a: Tensor
    b: Tensor

    def __init__(self, inputs: int, outputs: int, rank: int, device: torch.device) -> None:
        super().__init__()
        for name, shape in (("a", (rank, inputs)), ("b", (outputs, rank))):
            matrix = torch.empty(shape, device=device, dtype=torch.float32)
            self.register_buffer(name, nn.init.kaiming_uniform_(matrix))


class VeraLinear(AdaptedLinear):
    """A frozen linear map with h = W x + bias + Λ_b B Λ_d A dropout(x), x: (…, in) → h: (…, out).

    d: (r,) and b: (out,) are the diagonals of Λ_d and Λ_b; A and B are the first columns and rows of the shared pair.
    """

    def __init__(self, base: nn.Module, shared: Projections, d_init: float, dropout: float) -> None:
        super().__init__(base, dropout)
        self.shared = shared
        self.inputs, self.outputs = widths(base)
        device = self.weight.device
        self.vera_d = nn.Parameter(torch.full((len(shared.a),), d_init, device=device, dtype=torch.float32))
        self.vera_b = nn.Parameter(torch.zeros(self.outputs, device=device, dtype=torch.float32))

    def forward(self, x: Tensor) -> Tensor:
        frozen = self.base(x)
        narrow = F.linear(self.dropout(x), self.shared.a[:, : self.inputs]) * self.vera_d
        # Λ_b multiplies B, (out, r), not the product: autograd would have to keep the (…, out) product.
        return plus_product(frozen, narrow, self._wide())

    def _wide(self) -> Tensor:
        return self.vera_b[:, None] * self.shared.b[: self.outputs]

    def folded(self) -> Tensor:
        return self.matrix + (self._wide() * self.vera_d) @ self.shared.a[:, : self.inputs]


@register_method
@dataclass(frozen=True)
class Vera:
    """VeRA: two trainable vectors a map, around a random low-rank pair shared by all maps.

    Formula: h = W x + Λ_b B Λ_d A dropout(x); A, B random and frozen, d = 0.1, b = 0, so training starts at the base
    model. The pair has the widest input and output; narrower maps use its first columns and rows.
    Source: arXiv 2310.11454, equation 2, initialisation in section 3.3. The update is not scaled by α/r, so it takes a
    higher learning rate than LoRA.
    """

    name: ClassVar[str] = "vera"
    swept: ClassVar[str | None] = "rank"

    rank: int = option(256, "rank r of the shared pair; it may be above the maps' own", low=1)
    d_init: float = option(0.1, "initial value of d")
    dropout: float = option(0.0, "dropout on the update's input while training", low=0.0, high=0.99)
    targets: tuple[str, ...] = option(("query", "value"), TARGETS_HELP)
    layers: tuple[str, ...] = option(("all",), LAYERS_HELP)
    lr: float = option(1e-2, "peak learning rate", low=0.0)

    def attach(self, backbone: Backbone) -> nn.Module:
        sites = find(self.name, backbone, self.targets, self.layers)
        backbone.freeze()
        sizes = [widths(site.module) for site in sites]
        device = cast(Tensor, sites[0].module.weight).device
        shared = Projections(max(i for i, _ in sizes), max(o for _, o in sizes), self.rank, device)
        for site in sites:
            backbone.replace(site, VeraLinear(site.module, shared, self.d_init, self.dropout))
        return backbone.model  # type: ignore[no-any-return]

    def trainable_count(self, backbone: Backbone) -> int:
        sites = find(self.name, backbone, self.targets, self.layers)
        return backbone.head_count + sum(self.rank + widths(site.module)[1] for site in sites)

    def merge(self, module: nn.Module) -> nn.Module:
        return fold(module)

    def to_peft(self, module: nn.Module, original: Mapping[str, Tensor]) -> tuple[dict[str, Any], dict[str, Tensor]]:
        from bench.methods import peft_export

        return peft_export.vera(module, self.rank)
