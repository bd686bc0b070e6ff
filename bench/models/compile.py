"""torch.compile, and how long it took: shapes and modes that come later are compiled when they come.

What measures time subtracts what ``seconds`` grew by meanwhile, so that no step holds the compiler's time.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

_MOST_VARIANTS = 64  # of one piece of code; torch falls back to eager beyond its own 8


@dataclass
class _Stopwatch:
    """Seconds between torch's reports that a compilation begins and ends, in this process."""

    total: float = 0.0
    begun: float | None = None

    def listen(self) -> None:
        from torch._dynamo.callback import callback_handler

        if self.start not in callback_handler.start_callbacks:  # which torch._dynamo.reset() empties
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
    """Have ``module`` compiled when it is called, for any batch and length. Too many variants are an error.

    torch itself would go on uncompiled there, and the record would say that it was compiled.
    """
    _stopwatch.listen()
    _allow_variants(torch._dynamo.config)
    module.compile(dynamic=True)


def _allow_variants(config: Any) -> None:
    """Set torch._dynamo's limit of variants, and that beyond it is an error."""
    name = "recompile_limit" if hasattr(config, "recompile_limit") else "cache_size_limit"  # torch 2.6
    setattr(config, name, max(_MOST_VARIANTS, getattr(config, name)))
    setattr(config, f"fail_on_{name.replace('_size', '')}_hit", True)
