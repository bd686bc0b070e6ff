"""The command line that does one run again, from its specification."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from bench.store.labels import format_value

# Settings of the trainer that have a flag of their own.
_FLAGS = (
    "steps",
    "epochs",
    "batch_size",
    "eval_batch_size",
    "grad_accum",
    "max_length",
    "train_size",
    "eval_size",
    "precision",
    "device",
)


def reproduce(spec: Mapping[str, Any], seeds: Sequence[int] = ()) -> str:
    """Return ``bench run …`` with every resolved option of a specification, quoted for a POSIX shell.

    Options are all written out, so that a later change of a default does not change what the command does.

    Args:
        spec: a run's specification.
        seeds: of all runs to do again; only the specification's own when empty.
    """
    return f"{own_part(spec, seeds)} {training(spec['train'])}".strip()


def own_part(spec: Mapping[str, Any], seeds: Sequence[int] = ()) -> str:
    """The command up to the trainer's settings: what tells a run from others under the same settings."""
    method, rate = spec["method"], spec["train"].get("lr")
    name = method["name"]
    words = ["bench", "run", "--methods", name, "--task", spec["task"]["name"], "--model", spec["model"]["name"]]
    words += ["--quantize", spec["model"]["quantize"]] if spec["model"].get("quantize") else []
    words += [
        f"--{flag.replace('_', '-')}" for flag in ("trust_remote_code", "allow_pickle") if spec["model"].get(flag)
    ]
    words += ["--seeds", ",".join(map(str, seeds or [spec["seed"]]))]
    if rate is not None:
        words += ["--lr", format_value(rate)]
    for option, value in spec["task"].get("options", {}).items():
        words += ["--set", f"task.{option}={format_value(value)}"]
    for option, value in method.items():
        same_rate = option == "lr" and value == rate
        if option != "name" and not same_rate:
            words += ["--set", f"{name}.{option}={format_value(value)}"]
    return shlex.join(words)


def training(train: Mapping[str, Any]) -> str:
    """The flags of the trainer's settings but the learning rate; settings without a flag by ``--set``."""
    words = []
    for name, value in train.items():
        counted = name == "steps" and train.get("epochs") is not None  # the steps follow from the epochs
        if value is None or name == "lr" or counted:
            continue
        words += (
            ["--" + name.replace("_", "-"), format_value(value)]
            if name in _FLAGS
            else ["--set", f"train.{name}={format_value(value)}"]
        )
    return shlex.join(words)
