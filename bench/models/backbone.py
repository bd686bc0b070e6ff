"""A pretrained model with a head, for methods: freeze it, find its layers and linear maps, replace them."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from bench.core.errors import unknown
from bench.models.architectures import ARCHITECTURES, ROLES, Architecture


@dataclass(frozen=True)
class Site:
    """A module inside a block that a method may replace.

    Attributes:
        path: dotted name from the whole model.
        stack: ``encoder`` or ``decoder``.
        layer: index of its block in the stack.
        role: what it does (one of ``bench.models.architectures.ROLES``), or None for another module.
        module: the module itself.
    """

    path: str
    stack: str
    layer: int
    role: str | None
    module: nn.Module


@dataclass(frozen=True)
class Tower:
    """A stack of blocks of a concrete model: its name, dotted path, blocks and roles."""

    name: str
    path: str
    layers: nn.ModuleList
    roles: Mapping[str, tuple[str, ...]]


class Backbone:
    """A model, with the structure that methods need.

    Args:
        model: a transformers model with a head; its forward gives ``.loss`` and ``.logits``.
        kind: the task's kind, one of ``bench.core.protocols.KINDS``.
        fresh: names of parameters that are not in the pretrained checkpoint (the task's head).

    Raises:
        ValueError: when the model's family is not in ``bench.models.architectures``.
    """

    def __init__(self, model: Any, kind: str, fresh: frozenset[str]) -> None:
        self.model = model
        self.kind = kind
        self.config = model.config
        family = self.config.model_type
        if family not in ARCHITECTURES:
            raise ValueError(unknown("architecture", family, ARCHITECTURES))
        # T5ForConditionalGeneration holds its stacks itself, without a base model.
        prefix: str = model.base_model_prefix
        self.base_path = prefix if hasattr(model, prefix) else ""
        self.architecture: Architecture = ARCHITECTURES[family].fitting(self.base)
        self._head = [parameter for name, parameter in model.named_parameters() if name in fresh]

    @property
    def base(self) -> nn.Module:
        """The model without its head."""
        return self.model.get_submodule(self.base_path)  # type: ignore[no-any-return]

    @property
    def width(self) -> int:
        """Hidden size d."""
        return int(getattr(self.config, self.architecture.width))

    @property
    def head_parameters(self) -> list[nn.Parameter]:
        """The fresh head's parameters, which every method trains."""
        return list(self._head)

    @property
    def head_count(self) -> int:
        """Number of values in the fresh head."""
        return sum(parameter.numel() for parameter in self._head)

    def head_modules(self) -> list[str]:
        """Dotted paths of the outermost modules that hold only parameters of the fresh head."""
        fresh = {id(parameter) for parameter in self._head}
        paths: list[str] = []
        for path, module in self.model.named_modules():
            held = [id(parameter) for parameter in module.parameters()]
            inside = any(path.startswith(f"{outer}.") for outer in paths)
            if path and held and fresh.issuperset(held) and not inside:
                paths.append(path)
        return paths

    def freeze(self) -> None:
        """Freeze everything but the fresh head."""
        self.model.requires_grad_(False)
        for parameter in self._head:
            parameter.requires_grad_(True)

    def towers(self) -> list[Tower]:
        """The stacks of this model."""
        towers = []
        for stack in self.architecture.stacks:
            layers = self.base.get_submodule(stack.layers)
            if not isinstance(layers, nn.ModuleList):
                raise ValueError(f"{stack.layers} of {self.config.model_type} is not a list of blocks")
            path = f"{self.base_path}.{stack.layers}".removeprefix(".")
            towers.append(Tower(stack.name, path, layers, stack.roles))
        return towers

    def sites(self, targets: Sequence[str], layers: Sequence[str] = ("all",)) -> list[Site]:
        """Find linear maps by role (``query``) or by a model's own name (``q_proj``, ``*.dense``) in chosen layers.

        Args:
            targets: roles, module names or shell patterns over the dotted name within a block; ``all`` means
                every linear map.
            layers: see ``choose_layers``.

        Raises:
            ValueError: for a target that matches nothing (listing the known ones), or a layer that does not exist.
        """
        sites: list[Site] = []
        unmatched = set(targets)
        names: set[str] = set()
        for tower in self.towers():
            role_of = {path: role for role, paths in tower.roles.items() for path in paths}
            for index in choose_layers(layers, len(tower.layers)):
                for name, module in _linear_maps(tower.layers[index]):
                    names |= {name.rsplit(".", 1)[-1]} | ({role_of[name]} if name in role_of else set())
                    hits = {target for target in targets if _matches(target, name, role_of.get(name))}
                    unmatched -= hits
                    if hits:
                        path = f"{tower.path}.{index}.{name}"
                        sites.append(Site(path, tower.name, index, role_of.get(name), module))
        if unmatched:
            raise ValueError("; ".join(unknown("target", name, names | {"all"}) for name in sorted(unmatched)))
        return sites

    def norms(self) -> dict[str, nn.Module]:
        """The base model's normalisation layers (LayerNorm, RMSNorm) by dotted path from the whole model.

        Recognised by structure, as every family has its own class: only their ``weight`` is a vector.
        """
        prefix = self.base_path + "." if self.base_path else ""
        return {
            prefix + name: module
            for name, module in self.base.named_modules()
            if isinstance(weight := getattr(module, "weight", None), nn.Parameter) and weight.ndim == 1
        }

    def replace(self, site: Site, module: nn.Module) -> None:
        """Put ``module`` in the place of a site."""
        self.model.set_submodule(site.path, module)


class WrappedLinear(nn.Module):
    """A module in the place of a linear map ``base``, whose weight and bias models still find (T5 reads ``wo.weight``'s
    dtype)."""

    def __init__(self, base: nn.Module) -> None:
        super().__init__()
        self.base = base

    @property
    def weight(self) -> Tensor:
        """The wrapped map's weight as it is stored."""
        return cast(Tensor, self.base.weight)

    @property
    def bias(self) -> Tensor | None:
        """The wrapped map's bias, (out,)."""
        return cast("Tensor | None", self.base.bias)


def _linear_maps(block: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    for name, module in block.named_modules():
        if isinstance(module, nn.Linear | Conv1D):
            yield name, module


def _matches(target: str, name: str, role: str | None) -> bool:
    if target == "all" or target == role:
        return True
    if target in ROLES:
        return False
    return name == target or name.endswith("." + target) or fnmatch.fnmatchcase(name, target)


def widths(module: nn.Module) -> tuple[int, int]:
    """(inputs, outputs) of a linear map: ``nn.Linear`` or transformers' ``Conv1D`` (weights stored (in, out))."""
    if isinstance(module, Conv1D):
        return module.weight.shape[0], module.weight.shape[1]
    if isinstance(module, nn.Linear):
        return module.in_features, module.out_features
    raise ValueError(f"{type(module).__name__} is not a linear map")


def choose_layers(text: Sequence[str], count: int) -> list[int]:
    """Layer indices from words: ``all``, ``3``, ``-1`` (from the top), ``0-5`` (both ends included).

    Raises:
        ValueError: for a word that is none of these or an index outside ``0 … count - 1``.
    """
    chosen: set[int] = set()
    for word in text:
        if word == "all":
            chosen |= set(range(count))
            continue
        first, dash, last = word.partition("-") if not word.startswith("-") else (word, "", "")
        try:
            low = int(first)
            high = int(last) if dash else low
        except ValueError:
            raise ValueError(f"layers: '{word}' is neither 'all', an index such as 3 or -1, nor a range 0-5") from None
        low, high = low + count * (low < 0), high + count * (high < 0)
        if not 0 <= low <= high < count:
            raise ValueError(f"layers: '{word}' is outside this model's layers 0-{count - 1}")
        chosen |= set(range(low, high + 1))
    if not chosen:
        raise ValueError("layers: no layer chosen")
    return sorted(chosen)


def trainable(module: nn.Module) -> dict[str, nn.Parameter]:
    """The trainable parameters of a module by name."""
    return {name: parameter for name, parameter in module.named_parameters() if parameter.requires_grad}


def count(parameters: Sequence[Tensor]) -> int:
    """Number of values in tensors."""
    return sum(parameter.numel() for parameter in parameters)


def recompute_activations(model: Any, **options: Any) -> None:
    """Switch gradient checkpointing on; transformers 5.23 gave the call another name.

    ``options`` are further ones of torch.utils.checkpoint.checkpoint.
    """
    name = "activation_checkpointing_enable"
    enable = getattr(model, name if hasattr(model, name) else "gradient_checkpointing_enable")
    enable({"use_reentrant": False, **options})
