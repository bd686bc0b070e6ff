"""What faster dropout saves: torch's Bernoulli numbers against bench's, alone and inside a training step of MiniLM.

    python tests/speed/dropout.py

The steps of the two kernels cannot take turns in one process, so each has a process of its own, three times in turn.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

METHODS = ("full", "lora", "ia3", "lst")


def timed(act: Callable[[], object], repeats: int) -> float:
    """Median milliseconds of a call, after three to warm up."""
    for _ in range(3):
        act()
    found = []
    for _ in range(repeats):
        begun = time.perf_counter()
        act()
        found.append(1000 * (time.perf_counter() - begun))
    return statistics.median(found)


def measure(fast: bool) -> dict[str, float]:
    """Milliseconds of drawing 32 × 24 × 384 numbers and of a step at batch 32 × 24 tokens of each method."""
    import torch

    from bench.core import options, registry
    from bench.core.train_config import TrainSettings
    from bench.models import loading
    from bench.models.backbone import trainable
    from bench.models.inference import Engine
    from bench.training import bernoulli
    from bench.training.trainer import Trainer

    if fast:
        bernoulli.install()
    values = torch.empty(32, 24, 384)
    found = {"numbers alone": timed(lambda: values.bernoulli_(0.9), 50)}
    registry.load()
    torch.manual_seed(0)
    batch = {"input_ids": torch.randint(1000, 20000, (32, 24)), "labels": torch.randint(0, 2, (32,))}
    batch["attention_mask"] = torch.ones_like(batch["input_ids"])
    for name in METHODS:
        method = options.build(registry.method_entry(name).value, {}, name)
        module = method.attach(loading.load(loading.resolve("minilm"), "classification", ("no", "yes"))).train()
        trainer = Trainer(module, method, TrainSettings(steps=1000), Engine(torch.device("cpu"), "fp32", {}))

        def step(trainer: Trainer = trainer) -> None:
            trainer.backward(trainer.forward(batch))
            trainer.step()

        assert trainable(module)
        found[f"{name} step"] = timed(step, 15)
    return found


def main() -> None:
    """Print the table; with an argument, measure one kernel and print JSON."""
    if sys.argv[1:]:
        sys.stdout.write(json.dumps(measure(sys.argv[1] == "fast")) + "\n")
        return
    found: dict[str, list[dict[str, float]]] = {"torch": [], "fast": []}
    for kind in 3 * ("torch", "fast"):
        done = subprocess.run([sys.executable, __file__, kind], stdout=subprocess.PIPE, text=True, check=True)
        found[kind].append(json.loads(done.stdout.splitlines()[-1]))
    sys.stdout.write("| | torch's, ms | bench's, ms | saved |\n|---|---|---|---|\n")
    for what in found["torch"][0]:
        before, after = (statistics.median(run[what] for run in runs) for runs in found.values())
        sys.stdout.write(f"| {what} | {before:.2f} | {after:.2f} | {1 - after / before:.0%} |\n")


if __name__ == "__main__":
    main()
