"""The features that a module reads from a frozen backbone, and the hook by which they can come from elsewhere.

A side network, or a head on a frozen model, reads features that no gradient flows into. They depend on the input
alone, so several runs can share one pass (``bench.training.shared.lockstep``) and one run can cache them between epochs
(``bench.training.shared.feature_cache``). Both set ``feed`` on the modules that ``readers`` finds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from torch import Tensor, nn


@dataclass(frozen=True)
class Reading:
    """The result of one pass through a frozen backbone; readers must not change it.

    Attributes:
        output: the backbone's own output; a reader copies it before replacing its states.
        features: detached, in a fixed order: (batch, seq, d) each, or (batch, d).
        calls: for each block that is read, the arguments by name that it received beside the hidden states.
    """

    output: Any
    features: list[Tensor]
    calls: list[dict[str, Any]]


@dataclass(frozen=True)
class Stored:
    """The shape of one cached feature of an example.

    Attributes:
        width: values per token, or of the example.
        tokens: whether there is one row for each token: (tokens, width), else (width,).
    """

    width: int
    tokens: bool


class Feed(Protocol):
    """Replaces a backbone's forward pass."""

    def __call__(self, reader: Reads, inputs: Mapping[str, Any]) -> Reading:
        """Return what ``reader.read(inputs)`` would, ``inputs`` being the backbone's arguments by name."""
        ...


@runtime_checkable
class Reads(Protocol):
    """A module that replaces a frozen backbone and reads its features.

    Attributes:
        feed: gives readings in place of the backbone; None: the backbone runs. It is not called in passes that fill or
            use a key-value cache.
        backbone: the frozen module.
        steady: whether the features depend on the input alone (no dropout in the backbone).
        taps: which features are read; readers with equal backbones and equal taps give equal readings.
    """

    feed: Feed | None
    backbone: nn.Module

    @property
    def taps(self) -> str: ...

    @property
    def steady(self) -> bool: ...

    def read(self, inputs: Mapping[str, Any]) -> Reading:
        """Run the backbone without gradient and keep the features that are read."""
        ...


@runtime_checkable
class Recalls(Reads, Protocol):
    """A reader whose readings can be cached: the outputs of its backbone's blocks suffice to restore one.

    Attributes:
        stores: what a cache keeps of each example, by names such as ``layer.3`` that are the same for all readers.
    """

    @property
    def stores(self) -> Mapping[str, Stored]: ...

    def store(self, reading: Reading) -> dict[str, Tensor]:
        """The tensors to cache of a reading: (batch, seq, width) or (batch, width) each, by the names of ``stores``."""
        ...

    def recall(self, inputs: Mapping[str, Any], stored: Mapping[str, Tensor]) -> Reading:
        """Restore the reading of ``inputs`` from stored tensors, without a pass through the backbone's blocks.

        Args:
            stored: the result of ``store`` for the same inputs at any padding; padding is zero.
        """
        ...


def readers(module: nn.Module) -> dict[str, Reads]:
    """The readers inside a tuned module by dotted name; none where a gradient enters the backbone."""
    return {name: part for name, part in module.named_modules() if isinstance(part, Reads)}


def unwrapped(module: nn.Module) -> nn.Module:
    """The module with every reader that has no parameters of its own replaced by its frozen backbone."""
    for name, reader in readers(module).items():
        if isinstance(reader, nn.Module) and len(list(reader.parameters())) == len(list(reader.backbone.parameters())):
            module.set_submodule(name, reader.backbone)
    return module


def cannot_recall(name: str, module: nn.Module) -> str | None:
    """Why a method's module cannot use cached features; None where it can.

    Args:
        name: the method's name, for the message.
    """
    every: Sequence[Reads] = list(readers(module).values())
    if not every or any(value.requires_grad for reader in every for value in reader.backbone.parameters()):
        return f"{name}: its gradients enter the backbone, so no features stay the same from epoch to epoch"
    if not all(reader.steady for reader in every):
        return f"{name}: with the backbone's dropout on, features differ from epoch to epoch (backbone_dropout=true)"
    if len(every) > 1:
        return f"{name}: this model has {len(every)} frozen stacks, and the last reads trained states of the others"
    if not isinstance(every[0], Recalls):
        return f"{name}: its reader does not define what to cache"
    return None
