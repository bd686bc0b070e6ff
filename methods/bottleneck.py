"""Bottleneck adapters: houlsby (arXiv 1902.00751), pfeiffer (arXiv 2005.00247), parallel (arXiv 2110.04366)."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.core.protocols import option
from bench.core.registry import register_method
from bench.methods.partial_finetuning import norm_count, train_norms
from bench.models.backbone import Backbone, Site, WrappedLinear, widths

_HOULSBY_STD = 1e-3  # init_scale of feedforward_adapter in the authors' code (google-research/adapter-bert)
_PFEIFFER_STD = 0.02  # the authors' code initialises adapters as BERT does its own linear maps

Activation = Callable[[Tensor], Tensor]


class Bottleneck(nn.Module):
    """Up(f(Down(x))), both maps with a bias that starts at zero. x: (…, d) → (…, d) through (…, width)."""

    def __init__(self, size: int, width: int, activation: Activation, device: torch.device) -> None:
        super().__init__()
        self.down = nn.Linear(size, width, device=device)
        self.up = nn.Linear(width, size, device=device)
        self.activation = activation
        nn.init.zeros_(self.down.bias)
        nn.init.zeros_(self.up.bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.up(self.activation(self.down(x)))  # type: ignore[no-any-return]


class SerialAdapter(WrappedLinear):
    """h + A(h) with h = W x + b from a frozen linear map and A a bottleneck. x: (…, in) → (…, out)."""

    def __init__(self, base: nn.Module, adapter: nn.Module) -> None:
        super().__init__(base)
        self.adapter = adapter

    def forward(self, x: Tensor) -> Tensor:
        h = self.base(x)
        return cast(Tensor, h + self.adapter(h))


class NormAdapter(nn.Module):
    """Norm(s + A(Norm(s))) around the frozen norm that closes a post-norm block. s, the FFN's output plus the
    residual: (batch, seq, d)."""

    def __init__(self, base: nn.Module, adapter: nn.Module) -> None:
        super().__init__()
        self.base = base
        self.adapter = adapter

    def forward(self, s: Tensor) -> Tensor:
        return self.base(s + self.adapter(self.base(s)))  # type: ignore[no-any-return]


def _adapt_output(block: nn.Module, _: tuple[Any, ...], output: Any) -> Any:
    """Forward hook of a pre-norm block: s + A(s) in place of its hidden states s (batch, seq, d)."""
    adapter = cast(nn.Module, block.adapter)
    if isinstance(output, tuple):
        return (output[0] + adapter(output[0]), *output[1:])
    return output + adapter(output)


class _BranchInput:
    """The FFN's input, kept from its first map to its last within one forward pass; otherwise empty."""

    def __init__(self) -> None:
        self.x: Tensor | None = None

    def take(self) -> Tensor:
        """Return the input and let go of it."""
        x, self.x = self.x, None
        if x is None:
            raise RuntimeError("parallel: the feed-forward's last map ran without its first")
        return x


class ParallelFirst(WrappedLinear):
    """The FFN's first map, which also keeps its input for the branch. x: (…, d) → (…, ff)."""

    def __init__(self, base: nn.Module, branch_input: _BranchInput) -> None:
        super().__init__(base)
        self.branch_input = branch_input

    def forward(self, x: Tensor) -> Tensor:
        self.branch_input.x = x
        return self.base(x)  # type: ignore[no-any-return]


class ParallelLast(WrappedLinear):
    """The FFN's last map plus s·A(x), x the FFN's input. h: (…, ff) → (…, d)."""

    def __init__(self, base: nn.Module, branch_input: _BranchInput, adapter: nn.Module, scale: float) -> None:
        super().__init__(base)
        self.branch_input = branch_input
        self.adapter = adapter
        self.scale = scale

    def forward(self, h: Tensor) -> Tensor:
        return torch.add(self.base(h), self.adapter(self.branch_input.take()), alpha=self.scale)


def serial_sites(backbone: Backbone) -> list[Site]:
    """The sites of Houlsby's adapters: each block's attention output map and its FFN's last map.

    A decoder's cross-attention gets none, as in the T5 code of Compacter and LST: 48 adapters on T5-base's 24
    blocks, and LST's published 3,625,728 trainable parameters.
    """
    attention: set[str] = set()
    for tower in backbone.towers():
        own, *_ = tower.roles["output"]  # the architecture table lists self-attention before cross-attention
        attention |= {f"{tower.path}.{index}.{own}" for index in range(len(tower.layers))}
    return [site for site in backbone.sites(("output", "down")) if site.role == "down" or site.path in attention]


def _truncated_normal(weight: Tensor, std: float) -> None:
    """Fill in place from a normal distribution truncated at two standard deviations."""
    # By the inverse CDF: nn.init.trunc_normal_ reads values, which the planner's fake tensors do not have.
    inside = math.erf(math.sqrt(2))
    with torch.no_grad():
        weight.uniform_(-inside, inside).erfinv_().mul_(std * math.sqrt(2))


def _bottleneck_count(size: int, width: int) -> int:
    return 2 * size * width + width + size


def _device(module: nn.Module) -> torch.device:
    return next(module.parameters()).device


@register_method
@dataclass(frozen=True)
class Houlsby:
    """Houlsby adapters: two serial bottlenecks in each block, one after attention and one after the feed-forward.

    Formula: h ← h + W_up·gelu(W_down·h + b_down) + b_up after the attention output map and after the FFN's last map,
    before the residual is added; norms are trained too. Weights start from N(0, 1e-3) truncated at two standard
    deviations, so an adapter starts near the identity. The model's dropout follows the adapter here and precedes it in
    the paper.
    Source: arXiv 1902.00751, section 2.1; gelu and the initial deviation from the authors' code; learning rate: the
    middle of the GLUE sweep in section 3.2.
    """

    name: ClassVar[str] = "houlsby"
    swept: ClassVar[str | None] = "width"

    width: int | None = option(None, "bottleneck width; none: a sixteenth of the hidden size", low=1)
    lr: float = option(1e-3, "peak learning rate", low=0.0)

    def attach(self, backbone: Backbone) -> nn.Module:
        backbone.freeze()
        train_norms(backbone)
        for site in serial_sites(backbone):
            _, size = widths(site.module)
            adapter = Bottleneck(size, self._width(size), F.gelu, _device(site.module))
            for linear in (adapter.down, adapter.up):
                _truncated_normal(linear.weight, _HOULSBY_STD)
            backbone.replace(site, SerialAdapter(site.module, adapter))
        return backbone.model  # type: ignore[no-any-return]

    def trainable_count(self, backbone: Backbone) -> int:
        sizes = [widths(site.module)[1] for site in serial_sites(backbone)]
        adapters = sum(_bottleneck_count(size, self._width(size)) for size in sizes)
        return backbone.head_count + norm_count(backbone) + adapters

    def _width(self, size: int) -> int:
        return self.width or max(1, size // 16)


@register_method
@dataclass(frozen=True)
class Pfeiffer:
    """Pfeiffer adapter: one bottleneck in each block, after the feed-forward and its residual.

    Formula: with s = FFN(x) + x, a post-norm block gives LN(s + A(LN(s))), a pre-norm block s + A(s), where
    A(h) = W_up·relu(W_down·h + b_down) + b_up. No norm is added and none is trained: the pretrained one is used twice.
    Source: arXiv 2005.00247, the architecture that the search in its appendix found best; weights start from
    N(0, 0.02) as in the authors' code (AdapterHub's ``pfeiffer`` configuration). The paper's learning rate is 1e-4 for
    up to 30 epochs; this default is for shorter runs.
    """

    name: ClassVar[str] = "pfeiffer"
    swept: ClassVar[str | None] = "width"

    width: int | None = option(None, "bottleneck width; none: a sixteenth of the hidden size", low=1)
    lr: float = option(1e-3, "peak learning rate", low=0.0)

    def attach(self, backbone: Backbone) -> nn.Module:
        backbone.freeze()
        for tower, stack in zip(backbone.towers(), backbone.architecture.stacks, strict=True):
            for block in tower.layers:
                adapter = Bottleneck(backbone.width, self._width(backbone.width), F.relu, _device(block))
                for linear in (adapter.down, adapter.up):
                    nn.init.normal_(linear.weight, std=_PFEIFFER_STD)
                if stack.closing_norm:
                    norm = block.get_submodule(stack.closing_norm)
                    block.set_submodule(stack.closing_norm, NormAdapter(norm, adapter))
                else:
                    block.add_module("adapter", adapter)
                    block.register_forward_hook(_adapt_output)
        return backbone.model  # type: ignore[no-any-return]

    def trainable_count(self, backbone: Backbone) -> int:
        blocks = sum(len(tower.layers) for tower in backbone.towers())
        return backbone.head_count + blocks * _bottleneck_count(backbone.width, self._width(backbone.width))

    def _width(self, size: int) -> int:
        return self.width or max(1, size // 16)


@register_method
@dataclass(frozen=True)
class Parallel:
    """Scaled parallel adapter: a bottleneck beside each feed-forward, reading the same input.

    Formula: FFN(x) + s·(W_up·relu(W_down·x + b_down) + b_up), x the input of the FFN's first map. W_down starts
    Kaiming-uniform(√5), W_up and the biases at zero, as LoRA does, so training starts at the base model.
    Source: arXiv 2110.04366, section 4 (width 512, s = 4 on XSum; its MAM adapter takes width 16, s = 2 on GLUE).
    The paper's learning rate on GLUE is 1e-4 for 10 epochs; this default is for shorter runs.
    """

    name: ClassVar[str] = "parallel"
    swept: ClassVar[str | None] = "width"

    width: int = option(512, "bottleneck width", low=1)
    scale: float = option(4.0, "factor s of the branch", low=0.0)
    lr: float = option(2e-4, "peak learning rate", low=0.0)

    def attach(self, backbone: Backbone) -> nn.Module:
        backbone.freeze()
        for first, last in self._pairs(backbone):
            size, _ = widths(first.module)
            adapter = Bottleneck(size, self.width, F.relu, _device(first.module))
            nn.init.kaiming_uniform_(adapter.down.weight, a=math.sqrt(5))
            nn.init.zeros_(adapter.up.weight)
            branch_input = _BranchInput()
            backbone.replace(first, ParallelFirst(first.module, branch_input))
            backbone.replace(last, ParallelLast(last.module, branch_input, adapter, self.scale))
        return backbone.model  # type: ignore[no-any-return]

    def trainable_count(self, backbone: Backbone) -> int:
        sizes = [widths(first.module)[0] for first, _ in self._pairs(backbone)]
        return backbone.head_count + sum(_bottleneck_count(size, self.width) for size in sizes)

    def _pairs(self, backbone: Backbone) -> list[tuple[Site, Site]]:
        """The first and last map of every feed-forward, in the order of the blocks."""
        return list(zip(backbone.sites(("up",)), backbone.sites(("down",)), strict=True))
