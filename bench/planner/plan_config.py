"""The request behind the flags of ``bench plan``, and what a plan assumes."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from bench.core.errors import RequestError
from bench.core.options import flag
from bench.core.protocols import KINDS, option

PRECISIONS = ("fp32", "bf16", "bf16-autocast", "bf16-plain")
DEVICES = ("cuda", "cpu")
GPUS = ("auto", "hopper", "other")
OPTIMIZERS = ("adamw", "adamw-foreach", "sgd", "adamw8bit")
ATTENTIONS = ("auto", "sdpa", "eager")

_UNITS = {"": 1, "B": 1}
for _power, _letter in enumerate("KMGT", start=1):
    _UNITS |= {_letter: 1000**_power, f"{_letter}B": 1000**_power, f"{_letter}IB": 1024**_power}


@dataclass(frozen=True)
class WhatToPlan:
    """Methods × models; names are not yet looked up."""

    methods: tuple[str, ...] = flag((), "methods to plan; see: bench list methods", "A,B")
    model: tuple[str, ...] = flag((), "config.json, folder with one, alias or Hub id", "M[,N]")
    ranks: tuple[str, ...] = flag((), "values of each method's size option (rank, width, reduction)", "4,8")
    set: tuple[str, ...] = flag((), "set a method's option; repeatable", "M.OPTION=V", repeated=True)
    kind: str | None = flag(
        None,
        "classification, regression, causal-lm, seq2seq or image-classification (default: what the architecture is "
        "for)",
        "K",
        choices=KINDS,
    )
    task: str | None = flag(None, "take the kind and the number of classes from a task", "T")
    plugin: tuple[Path, ...] = flag((), "load methods and tasks from a file; repeatable", "FILE", repeated=True)
    budget: str | None = flag(None, "check against a memory budget, such as 24GB or 22.5GiB", "SIZE")


@dataclass(frozen=True)
class Setting:
    """What a plan assumes besides the method; each field is a flag of ``bench plan``."""

    batch_size: int = flag(32, "batch size per forward/backward pass (micro-batch)", "N", low=1)
    max_length: int = flag(128, "tokens of every row", "N", low=1)
    target_length: int | None = flag(
        None, "tokens of an encoder-decoder's targets (default: as many as the input's)", "N", low=1
    )
    grad_accum: int = flag(1, "gradient accumulation steps", "N", low=1)
    precision: str = flag(
        "fp32",
        "fp32; bf16: base weights in bf16, what a method adds in fp32, autocast; bf16-autocast: all weights in fp32, "
        "autocast, as bench run --precision bf16 does; bf16-plain: as bf16 but without autocast, as peft's scripts do",
        "P",
        choices=PRECISIONS,
    )
    optimizer: str = flag(
        "adamw",
        "adamw: fused, as bench run does; adamw-foreach: torch's default; sgd; adamw8bit: an estimate",
        "O",
        choices=OPTIMIZERS,
    )
    device: str = flag("cuda", "memory rules to model: cuda or cpu", "D", choices=DEVICES)
    gpu: str = flag(
        "auto",
        "which cuBLAS workspaces to count: hopper (H100, H200) has two of 32 MiB, other two of 8; auto: as the GPU "
        "here, other without one",
        "G",
        choices=GPUS,
    )
    gradient_checkpointing: bool = flag(False, "recompute activations in the backward pass to save memory")
    dropout: float | None = flag(
        None, "dropout of the model, everywhere it has one (default: as its configuration says)", "P", low=0.0,
        high=0.99,
    )  # fmt: skip
    attention: str = flag("auto", "auto (what transformers chooses), sdpa or eager", "A", choices=ATTENTIONS)
    keep_outputs: bool = flag(
        False,
        "the training loop keeps the model's output, logits included, until the next forward pass, as scripts with "
        "outputs = model(...) do; bench run does not",
    )
    clip: float = option(1.0, "largest gradient norm; 0: no clipping", low=0.0)


def parse_size(text: str, flag: str = "--budget") -> int:
    """Bytes of a text such as ``24GB`` (10⁹ bytes each), ``22.5GiB`` (2³⁰) or ``800000000``.

    Raises:
        RequestError: when it is not a size above 0.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?|\.\d+)\s*([A-Za-z]*)\s*", text)
    unit = _UNITS.get(match.group(2).upper()) if match else None
    if match is None or unit is None or float(match.group(1)) * unit < 1:
        raise RequestError(
            f"{flag}: '{text}' is not a size. Write a number and a unit, such as 24GB (10^9 bytes), 22.5GiB (2^30) "
            "or 800MB.",
            code="invalid-value",
        )
    return int(float(match.group(1)) * unit)
