"""What measuring costs while a run trains: the trainer with its clock, curve and progress against a bare loop.

    python tests/speed/meters.py                       tiny-bert and MiniLM, lora and lst
    python tests/speed/meters.py --models tiny-bert --pairs 20

Both train the same module on the same batches with the same optimizer and schedule, in one process and in blocks that
take turns (on, off, off, on, …). "off" does the step alone. "on" is what a run does between its first and last step:
``Trainer.fit`` with clock, mean losses, curve, learning rates, and messages through the worker's emitter into a pipe.
Prints the mean of the pairs' ratios with its standard error, in CPU time of the one thread. The reference work between
the steps is a fixed amount a run, however long it is: its CPU seconds a run stand in a column of their own, with the
share they take of a run of ``--steps`` steps.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import os
import statistics
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

import numpy as np
import torch
from torch import nn

import bench.training.trainer
from bench.core import registry
from bench.core.train_config import TrainSettings
from bench.data.encoding import Encoded
from bench.data.sampling import training_batches
from bench.models import loading
from bench.models.inference import Engine
from bench.training.events import Emitter
from bench.training.reference_workload import TIMES, Reference
from bench.training.trainer import Trainer

ENGINE = Engine(torch.device("cpu"), "fp32", {"input_ids": 0, "attention_mask": 0})
ROWS = 3200


def rows() -> Encoded:
    """Random tokens, two classes; lengths spread as SST-2's are (median 11, longest 60)."""
    generator = np.random.default_rng(0)
    lengths = np.clip(generator.lognormal(2.4, 0.6, ROWS).astype(np.int64), 3, 60)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    ids = generator.integers(5, 1000, offsets[-1]).astype(np.int32)
    return Encoded({"input_ids": ids, "attention_mask": np.ones_like(ids)}, offsets, generator.integers(0, 2, ROWS))


class FakeStep:
    """A module under a method, and the two ways to train it for some steps."""

    def __init__(self, model: str, method: str, steps: int) -> None:
        torch.manual_seed(0)
        self.method: Any = registry.method_entry(method).value()
        self.module: nn.Module = self.method.attach(loading.load(loading.resolve(model), "classification", ("a", "b")))
        self.settings, self.data = TrainSettings(steps=steps, batch_size=32), rows()
        reading, self.pipe = os.pipe()
        os.set_blocking(reading, False)
        self.reading = reading

    def batches(self) -> Iterator[tuple[dict[str, torch.Tensor], int]]:
        lengths = self.data.lengths
        for chosen in training_batches(lengths, self.settings.batch_size, 0):
            yield ENGINE.batch(self.data, chosen), int(lengths[chosen].sum())

    def off(self) -> float:
        """CPU seconds of the bare steps."""
        trainer, batches = self.trainer(), self.batches()
        self.module.train()
        begun = time.process_time()
        for number in range(1, trainer.steps + 1):
            batch, _ = next(batches)
            trainer.backward(trainer.forward(batch))
            trainer.step(number)
            trainer.scheduler.step()
        return time.process_time() - begun

    def on(self) -> float:
        """CPU seconds of the same steps as a run takes them."""
        trainer, batches = self.trainer(), self.batches()
        send = Emitter(lambda message: self.write({"run_id": "0" * 16, **message}), lambda: False)
        clock = time.perf_counter()

        def report(point: dict[str, Any]) -> None:
            send({"event": "step", "steps": trainer.steps, "seconds": time.perf_counter() - clock, **point})

        begun = time.process_time()
        trainer.fit(batches, None, True, report)
        seconds = time.process_time() - begun
        os.read(self.reading, 1 << 20)
        return seconds

    def write(self, message: dict[str, Any]) -> None:
        os.write(self.pipe, (json.dumps(message) + "\n").encode())

    def trainer(self) -> Trainer:
        return Trainer(self.module, self.method, self.settings, ENGINE)


class _NoReference(Reference):
    """Leaves the reference work out, which is measured apart."""

    def __init__(self, device: torch.device, clock: Any, steps: int) -> None:
        self.clock = clock

    def at(self, step: int) -> None: ...


def reference_seconds(steps: int) -> float:
    """CPU seconds of all reference work of a run, setting it up included."""
    begun = time.process_time()
    made = Reference(ENGINE.device, bench.training.trainer._Clock(ENGINE.device), steps)
    for step in range(1, steps + 1):
        made.at(step)
    return time.process_time() - begun


def overhead(subject: FakeStep, pairs: int) -> tuple[float, float, float]:
    """Percent that "on" takes longer, its standard error, and CPU seconds of a bare step."""
    subject.on(), subject.off()  # what first calls set up
    ratios, bare = [], []
    for turn in range(pairs):
        if turn % 2:
            off, on = subject.off(), subject.on()
        else:
            on, off = subject.on(), subject.off()
        ratios.append(100 * (on / off - 1))
        bare.append(off)
    error = statistics.stdev(ratios) / math.sqrt(pairs) if pairs > 1 else math.nan
    return statistics.fmean(ratios), error, min(bare) / subject.settings.steps  # type: ignore[operator]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default="tiny-bert,minilm")
    parser.add_argument("--methods", default="lora,lst")
    parser.add_argument("--pairs", type=int, default=8)
    parser.add_argument("--block-seconds", type=float, default=3.0, help="how long a block should take")
    parser.add_argument("--steps", type=int, default=400, help="of the run whose share of reference work is printed")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    registry.load()
    bench.training.trainer.Reference = _NoReference  # type: ignore[misc]
    reference = min(reference_seconds(chosen.steps) for _ in range(3))
    sys.stdout.write(
        "| model | method | bare step, CPU ms | steps a block | meters, % of a step | reference work, CPU s a run | "
        f"% of {chosen.steps} steps | together % |\n|---|---|---|---|---|---|---|---|\n"
    )
    for model, method in itertools.product(chosen.models.split(","), chosen.methods.split(",")):
        probe = FakeStep(model, method, 5)
        probe.off()
        steps = max(10, min(400, round(chosen.block_seconds / (probe.off() / 5))))
        more, error, bare = overhead(FakeStep(model, method, steps), chosen.pairs)
        share = 100 * reference / (chosen.steps * bare)
        sys.stdout.write(
            f"| {model} | {method} | {1e3 * bare:.1f} | {steps} | {more:.2f} ± {error:.2f} | "
            f"{reference:.2f} ({TIMES} times) | {share:.2f} | {more + share:.2f} |\n"
        )
        sys.stdout.flush()


if __name__ == "__main__":
    main()
