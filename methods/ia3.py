"""IA³: learned rescaling of keys, values and inner activations (Liu et al., arXiv 2205.05638)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from bench.core.protocols import option
from bench.core.registry import register_method
from bench.models.backbone import Backbone, WrappedLinear, widths


def _rescale(x: Tensor, scale: Tensor) -> Tensor:
    """x ⊙ scale in x's dtype, rounded only once: a scale near one would become one if cast to bf16 first."""
    return (x * scale).to(x.dtype)


class ScaledOutput(WrappedLinear):
    """l ⊙ (W x + b), l starting at one. x: (…, in) → (…, out); l: (out,)."""

    def __init__(self, base: nn.Module) -> None:
        super().__init__(base)
        self.scale = nn.Parameter(torch.ones(widths(base)[1], device=self.weight.device))

    def forward(self, x: Tensor) -> Tensor:
        return _rescale(self.base(x), self.vector())

    def vector(self) -> Tensor:
        """One factor for each output, (out,)."""
        return self.scale

    def merge(self) -> nn.Module:
        """The base map with rescaled outputs, bias included, in place."""
        scale, bias = self.vector(), self.bias
        with torch.no_grad():
            self.weight.mul_(scale if isinstance(self.base, Conv1D) else scale[:, None])
            if bias is not None:
                bias.mul_(scale)
        return self.base


class ScaledInput(WrappedLinear):
    """W (l ⊙ x) + b, l starting at one. x: (…, in) → (…, out); l: (in,)."""

    def __init__(self, base: nn.Module) -> None:
        super().__init__(base)
        self.scale = nn.Parameter(torch.ones(widths(base)[0], device=self.weight.device))

    def forward(self, x: Tensor) -> Tensor:
        return self.base(_rescale(x, self.scale))  # type: ignore[no-any-return]

    def merge(self) -> nn.Module:
        """The base map with rescaled inputs, in place."""
        with torch.no_grad():
            self.weight.mul_(self.scale[:, None] if isinstance(self.base, Conv1D) else self.scale)
        return self.base


class ScaledKeyValue(ScaledOutput):
    """A fused query-key-value map whose keys and values are rescaled, queries are not. x: (…, d) → (…, 3·d).

    The fused output is read as (groups, 3, d/groups): one group where the parts lie one after another (GPT-2), one
    per head where they alternate by head (GPT-NeoX). ``scale``: (2, d), first the keys' l, then the values'.
    """

    def __init__(self, base: nn.Module, groups: int) -> None:
        super().__init__(base)
        self.groups = groups
        self.scale = nn.Parameter(torch.ones(2, widths(base)[1] // 3, device=self.weight.device))

    def vector(self) -> Tensor:
        """One factor for each fused output, (3·d,); those of queries are one."""
        # One product with the whole vector: splitting the output and joining its parts would copy it.
        keys, values = self.scale.view(2, self.groups, -1)
        return torch.stack((torch.ones_like(keys), keys, values), dim=1).view(-1)


@register_method
@dataclass(frozen=True)
class Ia3:
    """IA³: keys, values and the feed-forward's inner activations are rescaled by learned vectors.

    Formula: k ← l_k ⊙ k, v ← l_v ⊙ v in self- and cross-attention, W_down (l_ff ⊙ h) in the feed-forward; l = 1 at the
    start. Where one fused map makes query, key and value (GPT-2, GPT-NeoX), its queries are not rescaled.
    Source: arXiv 2205.05638, section 3.3, with its learning rate.
    """

    name: ClassVar[str] = "ia3"
    swept: ClassVar[str | None] = None

    lr: float = option(3e-3, "peak learning rate", low=0.0)

    def attach(self, backbone: Backbone) -> nn.Module:
        backbone.freeze()
        for site in backbone.sites(_targets(backbone)):
            if site.role == "down":
                module: nn.Module = ScaledInput(site.module)
            elif site.role == "qkv":
                module = ScaledKeyValue(site.module, _groups(backbone, site.stack))
            else:
                module = ScaledOutput(site.module)
            backbone.replace(site, module)
        return backbone.model  # type: ignore[no-any-return]

    def trainable_count(self, backbone: Backbone) -> int:
        total = backbone.head_count
        for site in backbone.sites(_targets(backbone)):
            inputs, outputs = widths(site.module)
            total += inputs if site.role == "down" else 2 * outputs // 3 if site.role == "qkv" else outputs
        return total

    def merge(self, module: nn.Module) -> nn.Module:
        for name, child in list(module.named_modules()):
            if isinstance(child, ScaledOutput | ScaledInput):
                module.set_submodule(name, child.merge())
        return module

    def to_peft(self, module: nn.Module, original: Mapping[str, Tensor]) -> tuple[dict[str, Any], dict[str, Tensor]]:
        from bench.methods import peft_export

        return peft_export.ia3(module)


def _targets(backbone: Backbone) -> tuple[str, ...]:
    fused = any(stack.fused for stack in backbone.architecture.stacks)
    return ("qkv", "down") if fused else ("key", "value", "down")


def _groups(backbone: Backbone, name: str) -> int:
    """How often query, key and value alternate in the outputs of a stack's fused map."""
    (stack,) = (stack for stack in backbone.architecture.stacks if stack.name == name)
    return int(getattr(backbone.config, backbone.architecture.heads)) if stack.fused == "heads" else 1
