"""Lists of values in a request, and their full product: ``--ranks 4,8``, ``--set lst.heads=official,scaled``."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

from bench.core import options

OVERRIDE = "train."  # --set lora.train.steps=200: a training option of one method alone


def product(cls: type, given: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Every combination of the listed values of a dataclass's options.

    Commas separate values. Where an option is itself a list (``targets``), commas belong to it and ``|`` separates.

    Args:
        cls: the dataclass whose options these are.
        given: option → text, or a value of the right type, which stands for itself.

    Returns:
        One dictionary per combination, in the order of the lists; one empty dictionary when nothing was given.
    """
    known = options.options(cls)
    axes = [_values(known.get(name), value) for name, value in given.items()]
    return [dict(zip(given, values, strict=True)) for values in itertools.product(*axes)]


def _values(option: options.Option | None, value: Any) -> list[Any]:
    if not isinstance(value, str):
        return [value]
    parts = value.split("|" if option is not None and options.is_list(option) else ",")
    return list(dict.fromkeys(part.strip() for part in parts))


def overrides(given: Mapping[str, str]) -> tuple[dict[str, str], dict[str, str]]:
    """Split what was set for a method into its own options and its training options (``train.steps``)."""
    own = {name: text for name, text in given.items() if not name.startswith(OVERRIDE)}
    return own, {name.removeprefix(OVERRIDE): text for name, text in given.items() if name.startswith(OVERRIDE)}
