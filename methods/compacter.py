"""Compacter: adapters whose weights are sums of Kronecker products (Mahabadi et al., arXiv 2106.04647)."""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.core.protocols import option
from bench.core.registry import register_method
from bench.methods.bottleneck import SerialAdapter, serial_sites
from bench.methods.partial_finetuning import norm_count, train_norms
from bench.models.backbone import Backbone, widths

_RULE_STD = 0.01  # phm_init_range of the authors' code


class KroneckerLinear(nn.Module):
    """x W + b with W = Σᵢ Aᵢ ⊗ (sᵢ tᵢᵀ). x: (…, in) → (…, out); A: (n, n, n), s: (n, in/n), t: (n, out/n).

    A is one parameter shared by all such maps of a model. s and t start Glorot-uniform, as columns and rows.
    """

    def __init__(self, rule: nn.Parameter, inputs: int, outputs: int) -> None:
        super().__init__()
        n = rule.shape[0]
        self.rule = rule
        self.s = nn.Parameter(torch.empty(n, inputs // n, device=rule.device))
        self.t = nn.Parameter(torch.empty(n, outputs // n, device=rule.device))
        self.bias = nn.Parameter(torch.zeros(outputs, device=rule.device))
        for factor in (self.s, self.t):
            bound = math.sqrt(6 / (factor.shape[1] + 1))
            nn.init.uniform_(factor, -bound, bound)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight(), self.bias)

    def weight(self) -> Tensor:
        """Wᵀ as torch keeps it, (out, in)."""
        # One product of (n·n, n) and (n, out/n·in/n): building W by parts would keep n tensors of its size.
        n = self.rule.shape[0]
        outer = torch.einsum("iq,ip->iqp", self.t, self.s)
        return torch.einsum("iab,iqp->bqap", self.rule, outer).reshape(n * self.t.shape[1], n * self.s.shape[1])


class CompacterBlock(nn.Module):
    """Up(gelu(Down(x))) with Kronecker maps. x: (…, d) → (…, d)."""

    def __init__(self, rule: nn.Parameter, size: int, width: int) -> None:
        super().__init__()
        self.down = KroneckerLinear(rule, size, width)
        self.up = KroneckerLinear(rule, width, size)

    def forward(self, x: Tensor) -> Tensor:
        return self.up(F.gelu(self.down(x)))  # type: ignore[no-any-return]


@register_method
@dataclass(frozen=True)
class Compacter:
    """Compacter: Houlsby adapters whose weights are sums of n Kronecker products with rank-one factors.

    Formula: h ← h + W_up gelu(W_down h + b_down) + b_up after attention and after the feed-forward, each
    W = Σᵢ Aᵢ ⊗ (sᵢ tᵢᵀ), the n×n matrices Aᵢ shared by all of them; norms are trained too.
    Source: arXiv 2106.04647, section 3; n = 4, reduction 32, gelu and learning rate 3e-3 of its experiments on T5; A
    from N(0, 0.01), s and t Glorot-uniform as in the authors' code.
    """

    name: ClassVar[str] = "compacter"
    swept: ClassVar[str | None] = "width"

    width: int | None = option(
        None, "bottleneck width, a multiple of n; none: about a thirty-second of the hidden size", low=1
    )
    n: int = option(4, "number of Kronecker products; divides hidden size and width", low=1)
    lr: float = option(3e-3, "peak learning rate", low=0.0)

    def attach(self, backbone: Backbone) -> nn.Module:
        sites = serial_sites(backbone)
        sizes = [widths(site.module)[1] for site in sites]
        chosen = [self._width(size) for size in sizes]  # refuses before anything is changed
        backbone.freeze()
        train_norms(backbone)
        device = next(sites[0].module.parameters()).device
        rule = nn.Parameter(torch.empty(self.n, self.n, self.n, device=device))
        nn.init.normal_(rule, std=_RULE_STD)
        for site, size, width in zip(sites, sizes, chosen, strict=True):
            backbone.replace(site, SerialAdapter(site.module, CompacterBlock(rule, size, width)))
        return backbone.model  # type: ignore[no-any-return]

    def trainable_count(self, backbone: Backbone) -> int:
        total = backbone.head_count + norm_count(backbone) + self.n**3
        for site in serial_sites(backbone):
            _, size = widths(site.module)
            width = self._width(size)
            total += 2 * (size + width) + width + size  # s and t of both maps: n·(d/n + w/n) each; two biases
        return total

    def _width(self, size: int) -> int:
        if size % self.n:
            raise ValueError(
                f"compacter: n {self.n} does not divide the hidden size {size}; set compacter.n to a divisor"
            )
        if self.width is None:
            return self.n * max(1, math.ceil(size / 32 / self.n))
        if self.width % self.n:
            near = self.n * max(1, round(self.width / self.n))
            raise ValueError(
                f"compacter: n {self.n} does not divide the width {self.width}; use a multiple such as {near}"
            )
        return self.width
