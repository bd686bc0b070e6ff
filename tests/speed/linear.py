"""What frozen linear maps by oneDNN save: training steps of MiniLM with torch's own and with bench's, in turn.

python tests/speed/linear.py [--methods lora,ia3,prefix,lst,head] [--tokens 14] [--steps 60]
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time

import torch

from bench.core import options, registry
from bench.core.train_config import TrainSettings
from bench.models import loading
from bench.models.inference import Engine
from bench.training import bernoulli, heap, onednn
from bench.training.trainer import Trainer


def trainer(name: str) -> Trainer:
    """A method's trainer on MiniLM."""
    torch.manual_seed(0)
    method = options.build(registry.method_entry(name).value, {}, name)
    module = method.attach(loading.load(loading.resolve("minilm"), "classification", ("no", "yes"))).train()
    return Trainer(module, method, TrainSettings(steps=10_000), Engine(torch.device("cpu"), "fp32", {}))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", default="lora,ia3,prefix,lst,head")
    parser.add_argument("--tokens", type=int, default=14)
    parser.add_argument("--steps", type=int, default=60)
    chosen = parser.parse_args()
    bernoulli.install()
    heap.keep_freed()
    registry.load()
    own = torch.nn.functional.linear
    if not onednn.install():
        sys.exit("no oneDNN, or not an x86 CPU")
    kernels = {"torch": own, "oneDNN": torch.nn.functional.linear}
    batch = {
        "input_ids": torch.randint(1000, 20000, (32, chosen.tokens)),
        "attention_mask": torch.ones(32, chosen.tokens, dtype=torch.int64),
        "labels": torch.randint(0, 2, (32,)),
    }
    sys.stdout.write("| method | torch, ms/step | oneDNN, ms/step | ratio |\n|---|---|---|---|\n")
    for name in chosen.methods.split(","):
        trained = trainer(name)
        times: dict[str, list[float]] = {"torch": [], "oneDNN": []}
        for number in range(5 + chosen.steps):
            for kernel, function in kernels.items():
                torch.nn.functional.linear = function  # type: ignore[assignment]
                begun = time.perf_counter()
                trained.backward(trained.forward(batch))
                trained.step()
                if number >= 5:
                    times[kernel].append(1000 * (time.perf_counter() - begun))
        before, after = (statistics.median(times[kernel]) for kernel in kernels)
        sys.stdout.write(f"| {name} | {before:.1f} | {after:.1f} | {before / after:.3f} |\n")


if __name__ == "__main__":
    main()
