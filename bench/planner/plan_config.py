"""The assumptions of a plan, as options of ``bench plan``."""

from __future__ import annotations

import re
from dataclasses import dataclass

from bench.core.errors import RequestError
from bench.core.protocols import option

PRECISIONS = ("fp32", "bf16", "bf16-autocast", "bf16-plain")
DEVICES = ("cuda", "cpu")
GPUS = ("auto", "hopper", "other")
OPTIMIZERS = ("adamw", "adamw-foreach", "sgd", "adamw8bit")
ATTENTIONS = ("auto", "sdpa", "eager")

_UNITS = {"": 1, "B": 1}
for _power, _letter in enumerate("KMGT", start=1):
    _UNITS |= {_letter: 1000**_power, f"{_letter}B": 1000**_power, f"{_letter}IB": 1024**_power}


@dataclass(frozen=True)
class Setting:
    """What a plan assumes besides the method; each field is a flag of ``bench plan``."""

    batch_size: int = option(32, "rows in one forward and backward pass", low=1)
    max_length: int = option(128, "tokens of every row", low=1)
    target_length: int | None = option(
        None, "tokens of an encoder-decoder's targets; none: as many as the input's", low=1
    )
    grad_accum: int = option(1, "passes per optimizer step", low=1)
    precision: str = option(
        "fp32",
        "fp32; bf16: base weights in bf16, what a method adds in fp32, autocast; bf16-autocast: all weights in fp32, "
        "autocast, as bench run --precision bf16 does; bf16-plain: as bf16 but without autocast, as peft's scripts do",
        choices=PRECISIONS,
    )
    optimizer: str = option(
        "adamw",
        "adamw: fused, as bench run does; adamw-foreach: torch's default; sgd; adamw8bit: an estimate",
        choices=OPTIMIZERS,
    )
    device: str = option("cuda", "whose rules are modelled: cuda or cpu", choices=DEVICES)
    gpu: str = option(
        "auto",
        "of which cuBLAS's two workspaces are: hopper (H100, H200) has 32 MiB each, other 8; auto: as the GPU here, "
        "other without one",
        choices=GPUS,
    )
    gradient_checkpointing: bool = option(False, "recompute activations in the backward pass to save memory")
    dropout: float | None = option(
        None, "dropout of the model, in every place that has one; none: as its configuration says", low=0.0, high=0.99
    )
    attention: str = option(
        "auto", "attention of the model: auto (what transformers chooses), sdpa or eager", choices=ATTENTIONS
    )
    keep_outputs: bool = option(
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
