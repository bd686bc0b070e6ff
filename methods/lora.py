"""Low-rank adaptation of linear maps: LoRA (Hu et al., arXiv 2106.09685) and its variants."""

import math
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from fnmatch import fnmatchcase
from itertools import accumulate
from typing import Any, ClassVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from bench.core.errors import unknown
from bench.core.protocols import option
from bench.core.registry import register_method
from bench.models.backbone import Backbone, Site, WrappedLinear, count, trainable, widths

_ATTENTION = ("query", "key", "value")
TARGETS_HELP = (
    "linear maps: roles (query, key, value, qkv, output, up, gate, down), module names, patterns, or all; where one "
    "map makes query, key and value (GPT-2, GPT-NeoX), each of these three means that whole map, qkv"
)
LAYERS_HELP = "which blocks: all, indices (3, -1) and ranges (0-5)"


class AdaptedLinear(WrappedLinear):
    """A frozen ``nn.Linear`` or ``Conv1D`` plus a trainable update, with dropout on the update's input.

    Subclasses define ``forward``, x: (…, in) → (…, out), and ``folded``.
    """

    def __init__(self, base: nn.Module, dropout: float) -> None:
        super().__init__(base)
        self.dropout = nn.Dropout(dropout) if dropout > 0 else nn.Identity()

    @property
    def matrix(self) -> Tensor:
        """The frozen weight as (out, in): a view, transposed for Conv1D."""
        return self.weight.t() if isinstance(self.base, Conv1D) else self.weight

    def folded(self) -> Tensor:
        """The single weight equivalent to ``forward`` in eval mode, (out, in)."""
        raise NotImplementedError


def fold(module: nn.Module) -> nn.Module:
    """Replace every adapted map of ``module`` by its base with the folded weight, in place."""
    for name, child in list(module.named_modules()):
        if isinstance(child, AdaptedLinear):
            with torch.no_grad():
                child.matrix.copy_(child.folded())
            module.set_submodule(name, child.base)
    return module


def plus_product(frozen: Tensor, narrow: Tensor, wide: Tensor, scale: float = 1.0) -> Tensor:
    """frozen (…, out) + scale · narrow (…, r) · wideᵀ, wide: (out, r); one kernel, and no (…, out) temporary."""
    total = torch.addmm(frozen.flatten(0, -2), narrow.flatten(0, -2), wide.t(), alpha=scale)
    return total.view(frozen.shape)


def full_precision(tensor: Tensor) -> AbstractContextManager[Any]:
    """Autocast off on the tensor's device, for sums that are too inexact in bf16."""
    kind = tensor.device.type  # querying autocast on "meta" raises
    active = torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)
    return torch.autocast(kind, enabled=False) if active else nullcontext()


def find(name: str, backbone: Backbone, targets: Sequence[str], layers: Sequence[str]) -> list[Site]:
    """The linear maps that the method ``name`` adapts; see ``TARGETS_HELP``.

    Raises:
        ValueError: for targets or layers that this model does not have.
    """
    roles = {role for tower in backbone.towers() for role in tower.roles}
    if "qkv" in roles and "query" not in roles:
        targets = tuple(dict.fromkeys("qkv" if target in _ATTENTION else target for target in targets))
    try:
        return backbone.sites(targets, layers)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error


def check_rank(name: str, rank: int, site: Site) -> None:
    """Raise ValueError when ``rank`` exceeds the map's own maximum."""
    inputs, outputs = widths(site.module)
    if rank > min(inputs, outputs):
        raise ValueError(
            f"{name}: rank {rank} is beyond {site.path}, a {outputs}×{inputs} map: its rank is at most "
            f"{min(inputs, outputs)}; use a lower rank or other targets"
        )


class LoraLinear(AdaptedLinear):
    """A frozen linear map with a trainable low-rank update: h = W x + b + s·B A dropout(x).

    x: (…, in) → h: (…, out); A: (rank, in), B: (out, rank). A starts Kaiming-uniform(√5) as in the authors'
    code (loralib, ``LoRALayer.reset_parameters``), B at zero, so the map starts as the frozen one. With A frozen,
    autograd keeps the (…, rank) product alone and not x (LoRA-FA, arXiv 2308.03303).
    """

    row_squares: Tensor

    def __init__(self, base: nn.Module, rank: int, scale: float, dropout: float) -> None:
        super().__init__(base, dropout)
        self.scale = scale
        inputs, outputs = widths(base)
        device = self.weight.device
        self.lora_a = nn.Parameter(torch.empty(rank, inputs, device=device, dtype=torch.float32))
        self.lora_b = nn.Parameter(torch.zeros(outputs, rank, device=device, dtype=torch.float32))
        nn.init.kaiming_uniform_(self.lora_a, a=math.sqrt(5))
        self.magnitude: nn.Parameter | None = None

    def take_principal(self) -> None:
        """PiSSA (arXiv 2404.02948, section 3): A = √S Vᵀ and B = U √S of the top singular values, S divided
        by s; the frozen weight keeps the residual, so that the sum is W. A later attach to the same W finds the
        same residual again, so only A and B need to be saved."""
        rank = len(self.lora_a)
        with torch.no_grad():
            u, s, v = torch.linalg.svd(self.matrix.float(), full_matrices=False)
            root = (s[:rank] / self.scale).sqrt()
            self.lora_a.copy_(root[:, None] * v[:rank])
            self.lora_b.copy_(u[:, :rank] * root)
            self.matrix.sub_(self.delta())

    def add_magnitude(self) -> None:
        """DoRA (arXiv 2402.09353, equation 5): a trainable length for each output's weights, initially their own."""
        squares = torch.linalg.vector_norm(self.matrix.detach(), dim=1, dtype=torch.float32).square()
        self.register_buffer("row_squares", squares, persistent=False)  # follows from the frozen weight
        self.magnitude = nn.Parameter(self.lengths())

    def lengths(self) -> Tensor:
        """‖W + s·B A‖ of each output's row, (out,), without gradient (arXiv 2402.09353, section 4.3).

        From ‖W‖² + 2s·W·BA + s²‖BA‖², without an (out, in) matrix.
        """
        with torch.no_grad(), full_precision(self.lora_a):
            a, b = self.lora_a, self.lora_b
            cross = torch.addmm(b @ (a @ a.t()), self.matrix, a.t(), alpha=2 * self.scale, beta=self.scale**2)
            squares = self.row_squares + (b * cross).sum(dim=1)
            # A row of zeros has length 0; the clamp avoids 0/0 = NaN.
            return squares.clamp_min(torch.finfo(squares.dtype).tiny).sqrt()

    def forward(self, x: Tensor) -> Tensor:
        h = plus_product(self.base(x), F.linear(self.dropout(x), self.lora_a), self.lora_b, self.scale)
        if self.magnitude is None:
            return h
        ratio = self.magnitude / self.lengths()
        # In fp32 also under autocast: bf16 would round a ratio near 1 to steps of 0.4 %.
        scaled = h * ratio
        if self.bias is not None:
            scaled += self.bias - ratio * self.bias  # undo the scaling of the bias, which h includes
        return scaled.to(h.dtype)

    def delta(self) -> Tensor:
        """The update of the weight before any magnitude: s·B A, (out, in)."""
        return self.scale * (self.lora_b @ self.lora_a)

    def folded(self) -> Tensor:
        weight = self.matrix + self.delta()
        return weight if self.magnitude is None else weight * (self.magnitude / self.lengths())[:, None]


@register_method
@dataclass(frozen=True)
class Lora:
    """LoRA: a trainable low-rank update beside frozen linear maps.

    Formula: h = W x + (α/r)·B A dropout(x), B = 0 at the start, so training starts at the base model.
    Source: arXiv 2106.09685, section 4.1; query and value as in its section 7.1; GLUE settings in its table 9.
    Options, in any combination: ``rslora`` α/√r (2312.03732); ``dora`` m·(W + s·B A)/‖W + s·B A‖ per output
    (2402.09353); ``pissa`` A and B from the top singular vectors of W (2404.02948); ``plus`` a higher rate for B
    (2402.12354); ``freeze_a`` only B is trained, the input of A is not kept (LoRA-FA, 2308.03303).
    """

    name: ClassVar[str] = "lora"
    swept: ClassVar[str | None] = "rank"

    rank: int = option(8, "rank r of the update", low=1)
    alpha: float = option(16.0, "the update is scaled by alpha / rank", low=0.0)
    dropout: float = option(0.0, "dropout on the update's input while training", low=0.0, high=0.99)
    targets: tuple[str, ...] = option(("query", "value"), TARGETS_HELP)
    layers: tuple[str, ...] = option(("all",), LAYERS_HELP)
    rslora: bool = option(False, "scale by alpha / √rank instead of alpha / rank")
    dora: bool = option(False, "train the length of each output's weights separately from their direction")
    pissa: bool = option(False, "start A and B at the top singular vectors of W, and freeze the rest of W")
    plus: bool = option(False, "LoRA+: a higher learning rate for B than for A")
    plus_ratio: float = option(16.0, "with plus: the learning rate of B over that of A", low=1.0)
    freeze_a: bool = option(False, "LoRA-FA: train B alone, so that the input of A need not be kept")
    bias: str = option(
        "none",
        "biases to train too: none, all of the model, or the adapted maps'",
        choices=("none", "all", "lora_only"),
    )
    rank_pattern: tuple[str, ...] = option((), "other ranks, as NAME=RANK: a role, or a part or pattern of the path")
    alpha_pattern: tuple[str, ...] = option((), "other alphas, as NAME=ALPHA; of several that match the last holds")
    also_train: tuple[str, ...] = option((), "further modules to train fully: names or patterns (LayerNorm, *norm*)")
    lr: float = option(2e-3, "peak learning rate", low=0.0)

    def __post_init__(self) -> None:
        ranks, alphas = _pairs("rank_pattern", self.rank_pattern), _pairs("alpha_pattern", self.alpha_pattern)
        if wrong := [value for _, value in ranks if value < 1 or value % 1]:
            raise ValueError(f"rank_pattern: {wrong[0]:g} is not a whole number of at least 1")
        if wrong := [value for value in (self.alpha, *(value for _, value in alphas)) if value <= 0]:
            raise ValueError(f"alpha {wrong[0]:g} switches the update off; to train the head alone use the method head")
        if self.freeze_a and self.plus:
            raise ValueError("plus is the rate of B over that of A, but freeze_a freezes A; set lr instead")

    def attach(self, backbone: Backbone) -> nn.Module:
        shapes = self._shapes(backbone)
        others = self._others(backbone, [site for site, _, _ in shapes])
        backbone.freeze()
        for parameter in others:
            parameter.requires_grad_(True)
        for site, rank, scale in shapes:
            layer = LoraLinear(site.module, rank, scale, self.dropout)
            if self.pissa:
                layer.take_principal()
            if self.dora:
                layer.add_magnitude()
            layer.lora_a.requires_grad_(not self.freeze_a)
            backbone.replace(site, layer)
        return backbone.model  # type: ignore[no-any-return]

    def trainable_count(self, backbone: Backbone) -> int:
        shapes = self._shapes(backbone)
        total = backbone.head_count + count(self._others(backbone, [site for site, _, _ in shapes]))
        for site, rank, _ in shapes:
            inputs, outputs = widths(site.module)
            total += rank * outputs + (0 if self.freeze_a else rank * inputs) + (outputs if self.dora else 0)
        return total

    def parameter_groups(self, module: nn.Module) -> list[dict[str, Any]]:
        """One group, or with ``plus`` two: everything else, and the matrices B at ``plus_ratio`` times the rate."""
        wide = {id(child.lora_b) for child in module.modules() if isinstance(child, LoraLinear)}
        chosen = list(trainable(module).values())
        if not self.plus:
            return [{"params": chosen}]
        return [
            {"params": [parameter for parameter in chosen if id(parameter) not in wide]},
            {"params": [parameter for parameter in chosen if id(parameter) in wide], "lr_scale": self.plus_ratio},
        ]

    def merge(self, module: nn.Module) -> nn.Module:
        return fold(module)

    def to_peft(self, module: nn.Module, original: Mapping[str, Tensor]) -> tuple[dict[str, Any], dict[str, Tensor]]:
        from bench.methods import peft_export

        return peft_export.lora(module, original)

    def _shapes(self, backbone: Backbone) -> list[tuple[Site, int, float]]:
        """Each adapted map with its rank and its scale s."""
        sites = find(self.name, backbone, self.targets, self.layers)
        ranks = _per_site(sites, _pairs("rank_pattern", self.rank_pattern), self.rank)
        alphas = _per_site(sites, _pairs("alpha_pattern", self.alpha_pattern), self.alpha)
        shapes = []
        for site, value, alpha in zip(sites, ranks, alphas, strict=True):
            rank = int(value)
            check_rank(self.name, rank, site)
            shapes.append((site, rank, alpha / (math.sqrt(rank) if self.rslora else rank)))
        return shapes

    def _others(self, backbone: Backbone, sites: Sequence[Site]) -> list[nn.Parameter]:
        """The further parameters that ``bias`` and ``also_train`` select, without the head's."""
        names = dict(backbone.model.named_parameters())
        chosen: list[nn.Parameter] = []
        if self.bias == "all":
            chosen = [parameter for name, parameter in names.items() if name.rpartition(".")[2] == "bias"]
        elif self.bias == "lora_only":
            chosen = [cast(nn.Parameter, site.module.bias) for site in sites if site.module.bias is not None]
        if self.bias != "none" and not chosen:
            raise ValueError(f"lora: bias={self.bias}, but there is no such bias in this model; use bias=none")
        adapted = {id(site.module.weight): site.path for site in sites}
        for pattern in self.also_train:
            hits = [parameter for name, parameter in names.items() if _covers(pattern, name)]
            if not hits:
                known = {part for name in names for part in name.split(".") if not part.isdigit()}
                raise ValueError(f"lora: also_train: {unknown('module', pattern, known)}")
            if both := [adapted[id(parameter)] for parameter in hits if id(parameter) in adapted]:
                raise ValueError(f"lora: also_train={pattern} holds {both[0]}, which is adapted: train it or adapt it")
            chosen += hits
        head = {id(parameter) for parameter in backbone.head_parameters}
        return list({id(parameter): parameter for parameter in chosen if id(parameter) not in head}.values())


def _pairs(field: str, texts: Sequence[str]) -> list[tuple[str, float]]:
    """Parse ``NAME=NUMBER`` texts."""
    pairs = []
    for text in texts:
        name, _, value = text.rpartition("=")
        try:
            if not name.strip():
                raise ValueError
            pairs.append((name.strip(), float(value)))
        except ValueError:
            raise ValueError(f"{field}: '{text}' is not NAME=NUMBER, such as query=16") from None
    return pairs


def _per_site(sites: Sequence[Site], pairs: Sequence[tuple[str, float]], default: float) -> list[float]:
    """The value of each site: that of the last pair whose name matches, or the default."""
    values = [default] * len(sites)
    for name, value in pairs:
        hits = [index for index, site in enumerate(sites) if name == site.role or _covers(name, site.path)]
        if not hits:
            known = {part for site in sites for part in (site.role, site.path.rpartition(".")[2]) if part}
            raise ValueError(f"lora: {unknown('adapted map', name, known)}")
        for index in hits:
            values[index] = value
    return values


def _covers(pattern: str, path: str) -> bool:
    """Whether a shell pattern matches the dotted name, or the end of it, of ``path`` or of a module above it."""
    above = accumulate(path.split("."), "{}.{}".format)
    return any(fnmatchcase(part, pattern) or fnmatchcase(part, "*." + pattern) for part in above)
