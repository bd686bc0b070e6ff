"""What can be measured of a run: its name, its unit, where it stands in a record, and how it is written.

The table's columns, the axes of the charts and the plain formats all read this list.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from statistics import fmean, median
from typing import Any

from bench.core import formatting
from bench.store.record import Record, without_weights


@dataclasses.dataclass(frozen=True)
class Measure:
    """One figure of a run.

    Attributes:
        key: its name in the plain formats, with the unit in it (``train_peak_bytes``).
        head, unit: the column's heading and the small words below it.
        of: reads it from a record; None where it was not measured.
        show: writes it for people, without the unit where ``unit`` is not empty.
        least: whether less is better.
        axis: title of a chart's axis, with the unit; empty where no chart offers it.
        scale: what the value is multiplied by on that axis.
        log: whether that axis is logarithmic.
        over: one figure from those of several seeds.
    """

    key: str
    head: str
    unit: str
    of: Callable[[Record], float | None]
    show: Callable[[float | None], str]
    least: bool = True
    axis: str = ""
    scale: float = 1.0
    log: bool = False
    over: Callable[[Sequence[float]], float] = fmean


def _at(*path: str) -> Callable[[Record], float | None]:
    def value(record: Record) -> float | None:
        found: Any = record
        for name in path:
            found = found[name]
        number: float | None = found
        return number

    return value


def _share(value: float | None) -> str:
    return formatting.percent(value).rstrip(" %")


def _memory(key: str, head: str, axis: str, of: Callable[[Record], float | None]) -> Measure:
    """A peak in bytes: what must fit is the largest of the seeds, whose largest batches differ."""
    return Measure(key, head, "MB", of, formatting.megabytes, axis=axis, scale=1e-6, over=max)


def _rate(key: str, head: str, axis: str) -> Measure:
    return Measure(
        key,
        head,
        "samples/s",
        _at("speed", key),
        formatting.significant,
        least=False,
        axis=axis,
        scale=1.0,
        over=median,
    )


def _wait(key: str, head: str, axis: str) -> Measure:
    return Measure(key, head, "ms", _at("speed", key), formatting.significant, axis=axis, over=median)


PEAK = _memory("train_peak_bytes", "peak", "training peak, MB", _at("memory", "train_peak_bytes"))
TRAINED = Measure(
    "trainable",
    "trained",
    "params",
    _at("parameters", "trainable"),
    formatting.count,
    axis="trained parameters",
    log=True,
)
THROUGHPUT = _rate("train_samples_per_second", "train", "training, samples/s")

MEASURES = (
    PEAK,
    _memory("minus_weights_bytes", "minus weights", "training peak minus weights, MB", without_weights),
    _memory("reserved_peak_bytes", "reserved", "reserved peak, MB", _at("memory", "reserved_peak_bytes")),
    THROUGHPUT,
    _rate("inference_samples_per_second", "infer", "inference, samples/s"),
    _wait("inference_latency_ms", "latency", "inference latency, ms"),
    _rate("merged_inference_samples_per_second", "merged", "merged inference, samples/s"),
    _wait("merged_inference_latency_ms", "merged", "merged latency, ms"),
    TRAINED,
    Measure("trainable_percent", "of all", "%", _at("parameters", "trainable_percent"), _share),
    Measure(
        "checkpoint_bytes",
        "checkpoint",
        "",
        _at("parameters", "checkpoint_bytes"),
        formatting.size,
        axis="checkpoint, MB",
        scale=1e-6,
        log=True,
    ),
    Measure(
        "train_seconds", "train time", "", _at("speed", "train_seconds"), formatting.duration, axis="train time, s",
        over=median,
    ),
)  # fmt: skip


def measured(records: Sequence[Record]) -> list[Measure]:
    """The measures that any of these records has."""
    return [measure for measure in MEASURES if any(measure.of(record) is not None for record in records)]
