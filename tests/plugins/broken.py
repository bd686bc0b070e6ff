"""A sound method and its broken twins, each of which breaks one promise, for the tests of the checks."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from bench.api import Backbone, option, register_method


class Shifted(nn.Module):
    """A frozen linear map plus a trained vector: x (…, in) → W x + b + shift (…, out)."""

    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        self.base = base
        self.shift = nn.Parameter(torch.zeros(base.out_features, device=base.weight.device))

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + self.shift


@dataclass(frozen=True)
class Sound:
    """Adds a trained vector to every value map."""

    name: ClassVar[str] = "sound"
    swept: ClassVar[str | None] = None

    lr: float = option(3e-2, "peak learning rate", low=0.0)

    def attach(self, backbone: Backbone) -> nn.Module:
        backbone.freeze()
        for site in backbone.sites(("value",)):
            backbone.replace(site, Shifted(site.module))
        return backbone.model

    def trainable_count(self, backbone: Backbone) -> int:
        return backbone.head_count + sum(site.module.out_features for site in backbone.sites(("value",)))

    def merge(self, module: nn.Module) -> nn.Module:
        for name, child in list(module.named_modules()):
            if isinstance(child, Shifted):
                with torch.no_grad():
                    child.base.bias += child.shift
                module.set_submodule(name, child.base)
        return module


@dataclass(frozen=True)
class MovesFrozen(Sound):
    """Writes to a weight that it declared frozen."""

    name: ClassVar[str] = "moves-frozen"

    def after_step(self, module: nn.Module, step: int, steps: int) -> None:
        with torch.no_grad():
            module.get_input_embeddings().weight[-1] += 1e-6


@dataclass(frozen=True)
class Unfreezes(Sound):
    """Starts to train a weight that it did not declare."""

    name: ClassVar[str] = "unfreezes"

    def after_step(self, module: nn.Module, step: int, steps: int) -> None:
        module.get_input_embeddings().weight.requires_grad_(True)


class _Dead(Shifted):
    """Multiplies its vector by zero."""

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + 0.0 * self.shift


@dataclass(frozen=True)
class Dead(Sound):
    """Claims vectors and trains the head alone."""

    name: ClassVar[str] = "dead"

    def attach(self, backbone: Backbone) -> nn.Module:
        backbone.freeze()
        for site in backbone.sites(("value",)):
            backbone.replace(site, _Dead(site.module))
        return backbone.model


@dataclass(frozen=True)
class NotMoved(Sound):
    """Starts at values that are in use, and never changes them: their learning rate is zero."""

    name: ClassVar[str] = "not-moved"

    def attach(self, backbone: Backbone) -> nn.Module:
        model: Any = super().attach(backbone)
        for module in model.modules():
            if isinstance(module, Shifted):
                nn.init.constant_(module.shift, 0.1)
        return model

    def parameter_groups(self, module: nn.Module) -> list[dict[str, Any]]:
        trained = [value for value in module.parameters() if value.requires_grad]
        shifts = [part.shift for part in module.modules() if isinstance(part, Shifted)]
        held = {id(value) for value in shifts}
        return [{"params": [value for value in trained if id(value) not in held]}, {"params": shifts, "lr_scale": 0.0}]


class _Constant(nn.Module):
    """A head that always favours the first class, whatever it reads."""

    def __init__(self, base: nn.Module, high: float) -> None:
        super().__init__()
        self.base, self.high = base, high

    def forward(self, x: Tensor) -> Tensor:
        logits = self.base(x)
        return logits + self.high * nn.functional.one_hot(torch.zeros_like(logits[..., 0]).long(), logits.shape[-1])


@dataclass(frozen=True)
class Majority(Sound):
    """Always answers the first class."""

    name: ClassVar[str] = "majority"

    def attach(self, backbone: Backbone) -> nn.Module:
        model: Any = super().attach(backbone)
        model.classifier = _Constant(model.classifier, 1e3)
        return model


class _Idle(nn.Module):
    """Has a parameter that gets a gradient (of zero) and changes nothing."""

    def __init__(self, base: nn.Module, width: int) -> None:
        super().__init__()
        self.base = base
        self.idle = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + 0.0 * self.idle


@dataclass(frozen=True)
class Idle:
    """Trains something that no output depends on."""

    name: ClassVar[str] = "idle"
    swept: ClassVar[str | None] = None

    lr: float = option(3e-2, "peak learning rate", low=0.0)

    def attach(self, backbone: Backbone) -> nn.Module:
        backbone.model.requires_grad_(False)
        backbone.model.classifier = _Idle(backbone.model.classifier, 2)
        return backbone.model


class _Forgetful(Shifted):
    """Draws a vector that state_dict does not hold."""

    def __init__(self, base: nn.Linear) -> None:
        super().__init__(base)
        self.hidden = torch.randn(base.out_features)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + self.hidden


@dataclass(frozen=True)
class Forgetful(Sound):
    """Keeps state where saving does not find it."""

    name: ClassVar[str] = "forgetful"

    def attach(self, backbone: Backbone) -> nn.Module:
        backbone.freeze()
        for site in backbone.sites(("value",)):
            backbone.replace(site, _Forgetful(site.module))
        return backbone.model

    def merge(self, module: nn.Module) -> nn.Module:
        raise ValueError("forgetful: its hidden vector cannot be folded in")


@dataclass(frozen=True)
class MergesWrong(Sound):
    """Merges by dropping what was learned."""

    name: ClassVar[str] = "merges-wrong"

    def merge(self, module: nn.Module) -> nn.Module:
        for name, child in list(module.named_modules()):
            if isinstance(child, Shifted):
                module.set_submodule(name, child.base)
        return module


@dataclass(frozen=True)
class CountsWrong(Sound):
    """States a number of parameters that it does not train."""

    name: ClassVar[str] = "counts-wrong"

    def trainable_count(self, backbone: Backbone) -> int:
        return super().trainable_count(backbone) + 1


@dataclass(frozen=True)
class IgnoresSeed(Sound):
    """Ends in the same weights whatever the seed."""

    name: ClassVar[str] = "ignores-seed"

    def after_step(self, module: nn.Module, step: int, steps: int) -> None:
        generator = torch.Generator().manual_seed(step)
        for parameter in module.parameters():
            if parameter.requires_grad:
                parameter.data.normal_(generator=generator)


@dataclass(frozen=True)
class Explodes(Sound):
    """Its loss is not a number."""

    name: ClassVar[str] = "explodes"

    def attach(self, backbone: Backbone) -> nn.Module:
        model: Any = super().attach(backbone)
        model.classifier = _Constant(model.classifier, float("nan"))
        return model


for _method in (
    Sound, MovesFrozen, Unfreezes, Dead, NotMoved, Majority, Idle, Forgetful, MergesWrong, CountsWrong, IgnoresSeed,
    Explodes,
):  # fmt: skip
    register_method(_method)
