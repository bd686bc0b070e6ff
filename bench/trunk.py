"""What a frozen trunk gives its reader, and the one place where something else may answer in its stead.

A side network, or a head on a frozen model, reads features that no gradient flows into. They depend on the input
alone, so several runs may share one pass (``bench.lockstep``) and one run may keep them between epochs
(``bench.trunkcache``). Whoever does so sets ``feed`` on the modules that ``readers`` finds.
"""

from __future__ import annotations

from collections.abc import Mapping
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


def readers(module: nn.Module) -> dict[str, Reads]:
    """The readers inside a tuned module by dotted name; none where a gradient enters the backbone."""
    return {name: part for name, part in module.named_modules() if isinstance(part, Reads)}
