"""torch.compile, and the time it takes: new shapes and modes are compiled when they first occur.

Measurements subtract the growth of ``seconds``, so that no step includes compilation.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

_MAX_VARIANTS = 64  # per function; torch falls back to eager beyond its default of 8


@dataclass
class _Stopwatch:
    """Seconds between torch's callbacks at the start and end of a compilation, in this process."""

    total: float = 0.0
    begun: float | None = None

    def listen(self) -> None:
        from torch._dynamo.callback import callback_handler

        if self.start not in callback_handler.start_callbacks:  # torch._dynamo.reset() removes it
            callback_handler.register_start_callback(self.start)
            callback_handler.register_end_callback(self.stop)

    def start(self, *_: object) -> None:
        self.begun = time.perf_counter()

    def stop(self, *_: object) -> None:
        if self.begun is not None:
            self.total += time.perf_counter() - self.begun
            self.begun = None


_stopwatch = _Stopwatch()


def seconds() -> float:
    """Seconds that this process has spent compiling so far, backward passes included."""
    return _stopwatch.total


def compile_in_place(module: nn.Module) -> None:
    """Compile ``module`` when it is called, for any batch and length; too many variants are an error.

    torch itself would continue uncompiled, and the record would claim a compiled run.
    """
    _stopwatch.listen()
    _allow_variants(torch._dynamo.config)
    module.compile(dynamic=True)


def _allow_variants(config: Any) -> None:
    """Raise torch._dynamo's limit of variants, and make exceeding it an error."""
    name = "recompile_limit" if hasattr(config, "recompile_limit") else "cache_size_limit"  # torch 2.6
    setattr(config, name, max(_MAX_VARIANTS, getattr(config, name)))
    setattr(config, f"fail_on_{name.replace('_size', '')}_hit", True)
