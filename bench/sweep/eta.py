"""Estimates how long runs will take from earlier ones like them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from statistics import median
from typing import Any

from bench.store.record import Record

Spec = Mapping[str, Any]

# From the most to the least similar kind of earlier run, by the parts of the specification that must be equal.
_KINDS = (
    ("the same method, task and model", ("method", "task", "model")),
    ("other methods on the same task and model", ("task", "model")),
    ("other tasks on the same model", ("model",)),
)
_COST = ("batch_size", "grad_accum", "max_length", "precision", "device", "gradient_checkpointing")


def seconds(spec: Spec, records: Iterable[Record]) -> tuple[float, str] | None:
    """Estimated seconds of a run and the kind of runs they come from, or None without any like it.

    Training time is scaled by the number of steps; loading, measuring and evaluating are taken as they were. Only runs
    with the same batch size, length, precision and device count.
    """
    done = [record for record in records if record["status"] == "ok" and record["speed"]["total_seconds"] is not None]
    for words, parts in _KINDS:
        near = [record for record in done if _near(spec, record["spec"], parts)]
        if near:
            return median(_scaled(spec, record) for record in near), words
    return None


def _near(spec: Spec, other: Spec, parts: Sequence[str]) -> bool:
    same = all(spec[part]["name"] == other[part]["name"] for part in parts)
    return same and all(spec["train"].get(name) == other["train"].get(name) for name in _COST)


def _scaled(spec: Spec, record: Record) -> float:
    speed, steps = record["speed"], record["spec"]["train"]["steps"]
    trained = speed["train_seconds"] or 0.0
    rest = max(0.0, speed["total_seconds"] - trained)
    return float(rest + (trained * (spec["train"]["steps"] or 0) / steps if steps else 0.0))


def sentence(todo: Sequence[Spec], records: Sequence[Record], workers: int) -> str:
    """What ``--dry-run`` says about the time of the runs to do."""
    if not todo:
        return "Nothing to do."
    found = [seconds(spec, records) for spec in todo]
    known = [estimate for estimate in found if estimate is not None]
    unknown = len(todo) - len(known)
    if not known:
        return f"To do: {len(todo)}. How long they take is unknown: no earlier run in this folder is like them."
    total = sum(value for value, _ in known) / min(workers, len(todo))
    bases = [f"{sum(basis == words for _, basis in known)} from {words}" for words, _ in _KINDS]
    said = ", ".join(words for words in bases if not words.startswith("0 "))
    rest = f"; {unknown} more of unknown length" if unknown else ""
    shared = f" with {workers} in parallel, if they do not slow each other down" if workers > 1 else ""
    return f"To do: {len(todo)}, about {duration(total)}{shared} ({said}){rest}."


def duration(value: float) -> str:
    """Seconds as text with two digits or so: 45 s, 12 min, 3 h 20 min."""
    if value < 90:
        return f"{math.ceil(value)} s"
    minutes = math.ceil(value / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"
