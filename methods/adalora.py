"""AdaLoRA: low-rank updates whose ranks are pruned to a budget while training (Zhang et al., arXiv 2303.10512)."""

from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.core.protocols import option
from bench.core.registry import register_method
from bench.methods.lora import (
    LAYERS_HELP,
    TARGETS_HELP,
    AdaptedLinear,
    check_rank,
    find,
    fold,
    full_precision,
    plus_product,
)
from bench.models.backbone import Backbone, widths

_STD = 0.02  # of P and Q, as in the authors' code (SVDLinear.reset_parameters)
_FACTORS = ("p", "l", "q")


class AdaLoraLinear(AdaptedLinear):
    """A frozen linear map with h = W x + b + s·P Λ Q dropout(x), x: (…, in) → h: (…, out).

    P: (out, r), Q: (r, in), and Λ's diagonal ``adalora_l``: (r,), zero at the start. Buffers: the running averages of
    each factor's sensitivity and uncertainty, and ``kept``, (r,): the triplets that the last allocation kept.
    """

    kept: Tensor

    def __init__(self, base: nn.Module, rank: int, scale: float, dropout: float) -> None:
        super().__init__(base, dropout)
        self.scale = scale
        inputs, outputs = widths(base)
        like: dict[str, Any] = {"device": self.weight.device, "dtype": torch.float32}
        self.adalora_p = nn.Parameter(torch.empty(outputs, rank, **like))
        self.adalora_l = nn.Parameter(torch.zeros(rank, **like))
        self.adalora_q = nn.Parameter(torch.empty(rank, inputs, **like))
        nn.init.normal_(self.adalora_p, std=_STD)
        nn.init.normal_(self.adalora_q, std=_STD)
        for factor in _FACTORS:
            value = self.get_parameter(f"adalora_{factor}").detach()
            self.register_buffer(f"sensitivity_{factor}", torch.zeros_like(value))
            self.register_buffer(f"uncertainty_{factor}", torch.zeros_like(value))
        self.register_buffer("kept", torch.ones(rank, device=self.weight.device, dtype=torch.bool))

    def forward(self, x: Tensor) -> Tensor:
        frozen = self.base(x)
        narrow = F.linear(self.dropout(x), self.adalora_q) * self.adalora_l
        return plus_product(frozen, narrow, self.adalora_p, self.scale)

    def folded(self) -> Tensor:
        return self.matrix + self.scale * (self.adalora_p * self.adalora_l) @ self.adalora_q

    def grams(self) -> list[Tensor]:
        """PᵀP and QQᵀ, (r, r) each."""
        return [self.adalora_p.t() @ self.adalora_p, self.adalora_q @ self.adalora_q.t()]

    def observe(self, beta_1: float, beta_2: float) -> None:
        """Update the running averages from the gradients in place (section 3.2: I = |w·∂L/∂w|)."""
        for factor in _FACTORS:
            parameter = self.get_parameter(f"adalora_{factor}")
            if parameter.grad is None:
                continue
            # A step that fp16's loss scaling skips has infinite gradients; they carry no information.
            now = (parameter * parameter.grad).abs().nan_to_num_(0.0, 0.0, 0.0)
            average = self.get_buffer(f"sensitivity_{factor}").lerp_(now, 1 - beta_1)
            self.get_buffer(f"uncertainty_{factor}").lerp_(now.sub_(average).abs_(), 1 - beta_2)

    def importance(self) -> Tensor:
        """Score of each triplet, (r,): of λ, plus the means over its column of P and its row of Q (section 3.2)."""
        left, middle, right = (
            self.get_buffer(f"sensitivity_{factor}") * self.get_buffer(f"uncertainty_{factor}") for factor in _FACTORS
        )
        return middle + left.mean(dim=0) + right.mean(dim=1)


def _layers(module: nn.Module) -> list[AdaLoraLinear]:
    return [child for child in module.modules() if isinstance(child, AdaLoraLinear)]


def _add_penalty(weight: float, module: nn.Module, _: Any, out: Any) -> Any:
    """Forward hook: add ``weight`` times the mean of ‖PᵀP − I‖ and ‖QQᵀ − I‖ over all maps to the loss.

    The paper (section 3.1) sums the squares; the authors' code (``compute_orth_regu``), the source of the weight 0.1,
    takes the mean of the norms. After a merge there are no such maps, and the loss is the model's own.
    """
    layers = _layers(module)
    if layers and getattr(out, "loss", None) is not None:
        with full_precision(layers[0].adalora_l):
            grams = torch.stack([gram for layer in layers for gram in layer.grams()])
            deviation = grams - torch.eye(grams.shape[1], device=grams.device)
            out.loss = out.loss + weight * torch.linalg.matrix_norm(deviation).mean()
    return out


@register_method
@dataclass(frozen=True)
class AdaLora:
    """AdaLoRA: low-rank updates in the form of a singular value decomposition, pruned to a total rank while training.

    Formula: h = W x + (α/r₀)·P Λ Q x, Λ = 0 at the start; loss + γ·(‖PᵀP − I‖ + ‖QQᵀ − I‖). From r₀ a map the sum of
    ranks falls along a cubic to ``rank`` a map; the triplets of least importance over all maps (smoothed sensitivity
    times uncertainty) lose their λ.
    Source: arXiv 2303.10512, algorithm 1, schedule in section 3.3. All maps, α 16, ranks 12 to 8 and the shares of the
    steps as in the authors' scripts (github.com/QingruZhang/AdaLoRA at f6968aa: SST-2 6,000 and 22,000 of 50,500 steps,
    every 100); their learning rates on GLUE go from 5e-4 (MNLI) to 2.2e-3 (STS-B).
    """

    name: ClassVar[str] = "adalora"
    swept: ClassVar[str | None] = "rank"

    rank: int = option(8, "mean rank of a map at the end of training", low=1)
    init_rank: int | None = option(None, "rank of every map at the start; none: 1.5 × rank, as in the paper", low=1)
    alpha: float = option(16.0, "the update is scaled by alpha / initial rank", low=0.0)
    dropout: float = option(0.0, "dropout on the update's input while training", low=0.0, high=0.99)
    targets: tuple[str, ...] = option(("all",), TARGETS_HELP)
    layers: tuple[str, ...] = option(("all",), LAYERS_HELP)
    orthogonality: float = option(0.1, "weight γ of the penalty that keeps P and Q orthogonal", low=0.0)
    beta_1: float = option(0.85, "smoothing of the sensitivity", low=0.0, high=0.9999)
    beta_2: float = option(0.85, "smoothing of the uncertainty", low=0.0, high=0.9999)
    warmup: float = option(0.1, "share of the steps before the budget begins to fall", low=0.0, high=1.0)
    final: float = option(0.5, "share of the steps, at the end, with the final budget", low=0.0, high=1.0)
    interval: float = option(0.002, "share of the steps between two allocations; at least one step", low=0.0, high=1.0)
    lr: float = option(2e-3, "peak learning rate", low=0.0)

    def __post_init__(self) -> None:
        if self.start_rank < self.rank:
            raise ValueError(f"init_rank {self.init_rank} is below rank {self.rank}: the budget can only fall")
        if self.warmup + self.final >= 1:
            raise ValueError(
                f"warmup {self.warmup:g} and final {self.final:g} leave no step for the budget to fall in: "
                "their sum must be below 1"
            )

    @property
    def start_rank(self) -> int:
        """Rank r₀ of every map before pruning."""
        return self.rank * 3 // 2 if self.init_rank is None else self.init_rank

    def attach(self, backbone: Backbone) -> nn.Module:
        sites = find(self.name, backbone, self.targets, self.layers)
        for site in sites:
            check_rank(self.name, self.start_rank, site)
        backbone.freeze()
        for site in sites:
            layer = AdaLoraLinear(site.module, self.start_rank, self.alpha / self.start_rank, self.dropout)
            backbone.replace(site, layer)
        if self.orthogonality > 0:
            backbone.model.register_forward_hook(partial(_add_penalty, self.orthogonality))
        return backbone.model  # type: ignore[no-any-return]

    def trainable_count(self, backbone: Backbone) -> int:
        sites = find(self.name, backbone, self.targets, self.layers)
        return backbone.head_count + sum(self.start_rank * (sum(widths(site.module)) + 1) for site in sites)

    def after_step(self, module: nn.Module, step: int, steps: int) -> None:
        """Update the importances, and prune at the scheduled steps (algorithm 1).

        Between allocations a pruned λ may grow again; in the final phase the same triplets stay pruned.
        """
        layers = _layers(module)
        begin, end, interval = self._phases(steps)
        with torch.no_grad():
            if step < end:
                for layer in layers:
                    layer.observe(self.beta_1, self.beta_2)
            if step == end or (begin < step < end and step % interval == 0):
                _allocate(layers, self.budget(step, steps, len(layers)))
            elif step < end:
                return
            for layer in layers:
                layer.adalora_l.mul_(layer.kept)

    def budget(self, step: int, steps: int, maps: int) -> int:
        """Sum of all ranks at step ``step`` of ``steps``: r₀ a map, a cubic fall, ``rank`` a map (section 3.3)."""
        begin, end, _ = self._phases(steps)
        first, last = self.start_rank * maps, self.rank * maps
        if step <= begin:
            return first
        left = 1 - (step - begin) / (end - begin) if step < end else 0.0
        return int((first - last) * left**3 + last)

    def merge(self, module: nn.Module) -> nn.Module:
        return fold(module)

    def _phases(self, steps: int) -> tuple[int, int, int]:
        """The last step with the initial budget, the first with the final one, and the steps between allocations."""
        begin, interval = round(self.warmup * steps), max(1, round(self.interval * steps))
        # Even in a run of few steps, at least one step is observed before anything is pruned.
        return begin, max(begin + 2, steps - round(self.final * steps)), interval


def _allocate(layers: list[AdaLoraLinear], budget: int) -> None:
    """Set ``kept`` to the ``budget`` most important triplets of all maps."""
    scores = torch.stack([layer.importance() for layer in layers])
    best = scores.flatten().topk(budget).indices
    kept = torch.zeros_like(scores, dtype=torch.bool).view(-1).scatter_(0, best, True).view_as(scores)
    for layer, row in zip(layers, kept, strict=True):
        layer.kept.copy_(row)
