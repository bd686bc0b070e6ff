"""Real small runs for the gate's tests: an honest trainer, and three ways to break LoRA while its name stays the same.

    python -m tests.analysis.regressions [REPEATS]

trains a baseline, breaks LoRA in each way, and repeats honest runs with other seeds (20 times unless told): prints what
the gate says of each.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import transformers

from bench.analysis import baseline, regression_check
from bench.methods import lora
from bench.report.terminal import check as show
from tests.tiny import Place, place

METHODS = ("lora", "pfeiffer")
SEEDS = (0, 1, 2, 3, 4)
# A scale of alpha / rank = 16, so that a step's update depends on it; 40 steps of 16 rows.
SETS = {"lora": ("lora.rank=4", "lora.alpha=64"), "pfeiffer": ("pfeiffer.width=8", "pfeiffer.lr=0.01")}
STEPS = 40


def train(where: Place, methods: Iterable[str] = METHODS, seeds: Iterable[int] = SEEDS) -> list[dict[str, Any]]:
    """Real runs of some methods, one for each seed."""
    return [where.run(m, sets=SETS[m], steps=STEPS, seed=seed) for m in methods for seed in seeds]


@contextmanager
def scale_dropped() -> Iterator[None]:
    """LoRA without its alpha / rank: h = W x + B A x, in training, merging and saving alike."""
    honest = lora.LoraLinear.__init__

    def broken(self: Any, base: Any, rank: int, scale: float, dropout: float) -> None:
        honest(self, base, rank, 1.0, dropout)

    with mock.patch.object(lora.LoraLinear, "__init__", broken):
        yield


@contextmanager
def twice_the_memory(train_peak_bytes: int) -> Iterator[None]:
    """LoRA that keeps as much again as the whole training peak."""

    def kept(module: Any, _: Any) -> Any:
        module.register_buffer("spare", torch.zeros(train_peak_bytes // 4), persistent=False)
        return module

    with _attached(kept):
        yield


@contextmanager
def twice_as_slow() -> Iterator[None]:
    """LoRA whose every optimizer step waits for as long as it has taken."""
    begun = [0.0]

    def timed(module: Any, _: Any) -> Any:
        module.register_forward_pre_hook(lambda *_: begun.__setitem__(0, time.perf_counter()))
        return module

    def wait(self: Any, module: Any, step: int, steps: int) -> None:
        time.sleep(time.perf_counter() - begun[0])

    with _attached(timed), mock.patch.object(lora.Lora, "after_step", wait, create=True):
        yield


@contextmanager
def _attached(change: Callable[[Any, Any], Any]) -> Iterator[None]:
    honest = lora.Lora.attach

    def attach(self: Any, backbone: Any) -> Any:
        return change(honest(self, backbone), backbone)

    with mock.patch.object(lora.Lora, "attach", attach):
        yield


def only(known: dict[str, Any], method: str) -> dict[str, Any]:
    """A baseline of one method alone."""
    return {**known, "runs": [run for run in known["runs"] if run["method"]["name"] == method]}


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def main(repeats: int) -> int:
    """Print what the gate says; the number of mistakes it made."""
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    mistakes = 0
    with tempfile.TemporaryDirectory() as name, place(Path(name)) as where:
        honest = train(where)
        known = baseline.make(honest)
        peak = honest[0]["memory"]["train_peak_bytes"]
        for what, broken in (("scale dropped", scale_dropped()), ("memory doubled", twice_the_memory(peak)),
                             ("step twice as slow", twice_as_slow())):  # fmt: skip
            with broken:
                result = regression_check.check(only(known, "lora"), train(where, ("lora",)))
            mistakes += not result.failures
            _say(f"LoRA, {what}: {len(result.failures)} failures")
            for finding in result.failures:
                _say(f"  {show.line(finding)}")
        alarms = 0
        for repeat in range(repeats):
            seeds = tuple(len(SEEDS) * (repeat + 1) + seed for seed in SEEDS)
            result = regression_check.check(known, train(where, seeds=seeds))
            alarms += bool(result.failures)
            said = " | ".join(show.line(finding) for finding in result.failures) or show.headline(result)
            _say(f"honest repeat {repeat + 1}, seeds {', '.join(map(str, seeds))}: {said}")
        _say(f"{alarms} false alarms in {repeats} honest repeats")
    return mistakes + alarms


if __name__ == "__main__":
    sys.exit(min(1, main(int(sys.argv[1]) if len(sys.argv) > 1 else 20)))
