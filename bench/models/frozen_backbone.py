"""What a frozen trunk gives its reader, and the one place where something else may answer in its stead.

A side network, or a head on a frozen model, reads features that no gradient flows into. They depend on the input
alone, so several runs may share one pass (``bench.training.shared.lockstep``) and one run may keep them between epochs
(``bench.training.shared.feature_cache``). Whoever does so sets ``feed`` on the modules that ``readers`` finds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from torch import Tensor, nn


@dataclass(frozen=True)
class Reading:
    """What one pass through a frozen trunk gave. A reader takes from it and changes nothing in it.

    Attributes:
        output: the trunk's own output; a reader copies it before it puts other states into it.
        features: what is read, detached, in a fixed order: (batch, seq, d) each, or (batch, d).
        calls: for each block that is read, the arguments by name that it received beside the hidden states.
    """

    output: Any
    features: list[Tensor]
    calls: list[dict[str, Any]]


@dataclass(frozen=True)
class Stored:
    """What is kept of one example under one name.

    Attributes:
        width: values of a token, or of the example.
        tokens: whether there is one for each token: (tokens, width), else (width,).
    """

    width: int
    tokens: bool


class Feed(Protocol):
    """Gives the reading for a trunk's inputs in the trunk's stead."""

    def __call__(self, reader: Reads, inputs: Mapping[str, Any]) -> Reading:
        """The reading for ``inputs``, the trunk's arguments by name, as ``reader.read(inputs)`` would give it."""
        ...


@runtime_checkable
class Reads(Protocol):
    """A module that stands where a frozen trunk stood and reads its features.

    Attributes:
        feed: asked for readings in place of the trunk; None: the trunk runs. Passes that fill or use a key-value
            cache never ask it.
        trunk: the frozen module.
        steady: whether the features depend on the input alone (no dropout in the trunk).
        taps: what is read of the trunk; readers of equal trunks and equal taps give equal readings.
    """

    feed: Feed | None
    trunk: nn.Module

    @property
    def taps(self) -> str: ...

    @property
    def steady(self) -> bool: ...

    def read(self, inputs: Mapping[str, Any]) -> Reading:
        """Run the trunk without gradient and keep what is read."""
        ...


@runtime_checkable
class Recalls(Reads, Protocol):
    """A reader whose readings can be kept between passes: what its trunk's blocks gave is enough to make one again.

    Attributes:
        stores: what a cache keeps of each example, by names that say what it is (``layer.3``), whoever reads it.
    """

    @property
    def stores(self) -> Mapping[str, Stored]: ...

    def store(self, reading: Reading) -> dict[str, Tensor]:
        """What to keep of a reading: (batch, seq, width) or (batch, width) each, by the names of ``stores``."""
        ...

    def recall(self, inputs: Mapping[str, Any], stored: Mapping[str, Tensor]) -> Reading:
        """The reading of ``inputs`` from what was stored of them, without a pass through the trunk's blocks.

        Args:
            stored: as ``store`` gave it, for the same inputs at any padding; zeros where the padding is.
        """
        ...


def readers(module: nn.Module) -> dict[str, Reads]:
    """The readers inside a tuned module by dotted name; none where a gradient enters the backbone."""
    return {name: part for name, part in module.named_modules() if isinstance(part, Reads)}


def unwrapped(module: nn.Module) -> nn.Module:
    """The module with frozen trunks back in the place of readers that have no parameters of their own."""
    for name, reader in readers(module).items():
        if isinstance(reader, nn.Module) and len(list(reader.parameters())) == len(list(reader.trunk.parameters())):
            module.set_submodule(name, reader.trunk)
    return module


def cannot_recall(name: str, module: nn.Module) -> str | None:
    """Why nothing can be kept of a method's module between epochs; None where it can.

    Args:
        name: of the method, for the sentence.
    """
    found: Sequence[Reads] = list(readers(module).values())
    if not found or any(value.requires_grad for reader in found for value in reader.trunk.parameters()):
        return f"{name}: its gradients enter the backbone, so no features stay the same from epoch to epoch"
    if not all(reader.steady for reader in found):
        return f"{name}: with the backbone's dropout on, features differ from epoch to epoch (backbone_dropout=true)"
    if len(found) > 1:
        return f"{name}: this model has {len(found)} trunks, of which the last reads what is trained beside the others"
    if not isinstance(found[0], Recalls):
        return f"{name}: its reader does not say what to keep"
    return None
