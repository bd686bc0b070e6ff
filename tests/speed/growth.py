"""How a training step's time and memory grow with batch size, length and model size, two decades each.

    python tests/speed/growth.py                               full, lora and lst on BERT-like models, random weights
    python tests/speed/growth.py --methods lora --axes batch

The harness's own trainer takes the steps and its probe measures the memory. Prints a Markdown table for each axis: CPU
seconds of a step on one thread (the least of some), peak memory and the part of it that the batch needs (activations
and other; next to none where the peak is in the optimizer's step, as with few rows under full). The last rows are
exponents b of value = a · size^b, by least squares of the logarithms, with their standard errors: over all sizes, and
over the larger half of them, where what a step costs at any size weighs less.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

import torch
from transformers import AutoConfig

from bench.core import registry
from bench.core.train_config import TrainSettings
from bench.models.backbone import Backbone
from bench.models.inference import Engine
from bench.models.loading import fresh_head, model_class
from bench.training.memory_probe import measure
from bench.training.trainer import Trainer
from tests.speed.fits import exponent

VOCABULARY = 1000
SMALL = (256, 4)  # width and layers of the model whose batches and lengths grow
MODELS = ((128, 5), (192, 7), (256, 12), (512, 9), (768, 14))  # 1 M to 100 M parameters
BATCHES = (1, 2, 4, 8, 16, 32, 64, 128)
LENGTHS = (4, 8, 16, 32, 64, 128, 256, 512)
ENGINE = Engine(torch.device("cpu"), "fp32", {})


def made(width: int, layers: int) -> Backbone:
    """A BERT of that size with random weights and a head of two classes."""
    config = AutoConfig.for_model(
        "bert", vocab_size=VOCABULARY, hidden_size=width, num_hidden_layers=layers, intermediate_size=4 * width,
        num_attention_heads=width // 32, max_position_embeddings=512, num_labels=2,
    )  # fmt: skip
    torch.manual_seed(0)
    model = model_class("classification").from_config(config)
    return Backbone(model, "classification", fresh_head(model, "classification"))


def batch(rows: int, length: int) -> dict[str, torch.Tensor]:
    """Rows of random tokens, all of one length."""
    ids = torch.randint(1, VOCABULARY, (rows, length), generator=torch.Generator().manual_seed(1))
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": torch.arange(rows) % 2}


def point(method: str, shape: tuple[int, int], rows: int, length: int) -> tuple[int, list[float]]:
    """Parameters of the model, and [step seconds, peak bytes, bytes of it that the batch needs]."""
    backbone = made(*shape)
    size = sum(value.numel() for value in backbone.model.parameters())
    chosen: Any = registry.method_entry(method).value()
    module = chosen.attach(backbone)
    inputs, settings = batch(rows, length), TrainSettings(steps=1000)
    memory = measure(Trainer(module, chosen, settings, ENGINE), inputs, inputs)
    trainer = Trainer(module, chosen, settings, ENGINE)
    module.train()
    seconds: list[float] = []
    while len(seconds) < 3 or (sum(seconds) < 0.3 and len(seconds) < 20):
        begun = time.process_time()
        trainer.backward(trainer.forward(inputs))
        trainer.step()
        seconds.append(time.process_time() - begun)
    needed = sum(memory["train_peak"][part] for part in ("activations", "other"))
    return size, [min(seconds[1:]), float(memory["train_peak_bytes"]), float(needed)]


def table(axis: str, methods: Sequence[str], sizes: Sequence[float], found: dict[str, list[list[float]]]) -> str:
    """A Markdown table of one axis with the exponents below."""
    titles = [f"{method}: {what}" for method in methods for what in ("step ms", "peak MB", "of it batch MB")]
    lines = [f"| {axis} | {' | '.join(titles)} |", f"|---|{'---|' * len(titles)}"]
    units = (1e3, 1e-6, 1e-6)
    for index, size in enumerate(sizes):
        cells = [
            f"{value * unit:.3g}"
            for method in methods
            for value, unit in zip(found[method][index], units, strict=True)
        ]  # fmt: skip
        lines.append(f"| {size:,} | {' | '.join(cells)} |")
    for name, start in (("exponent", 0), ("exponent, larger half", len(sizes) // 2)):
        cells = []
        for method in methods:
            for which in range(3):
                slope, error = exponent(sizes[start:], [values[which] for values in found[method][start:]])
                cells.append(f"{slope:.2f}" + ("" if math.isnan(error) else f" ± {error:.2f}"))
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", default="full,lora,lst")
    parser.add_argument("--axes", default="batch,length,model")
    chosen = parser.parse_args()
    methods = chosen.methods.split(",")
    torch.set_num_threads(1)
    registry.load()
    axes = {
        "batch": ("rows of 32 tokens", [(SMALL, rows, 32) for rows in BATCHES], list(BATCHES)),
        "length": ("tokens of 8 rows", [(SMALL, 8, length) for length in LENGTHS], list(LENGTHS)),
        "model": ("parameters, 4 rows of 32 tokens", [(shape, 4, 32) for shape in MODELS], []),
    }
    for axis in chosen.axes.split(","):
        title, points, sizes = axes[axis]
        found: dict[str, list[list[float]]] = {method: [] for method in methods}
        for shape, rows, length in points:
            for method in methods:
                size, values = point(method, shape, rows, length)
                found[method].append(values)
            if axis == "model":
                sizes.append(size)
        sys.stdout.write(f"\n{table(title, methods, sizes, found)}")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
