"""The figures of a run that are compared: where each stands in the record, its direction, its kind of noise."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from bench.analysis import gate_measures
from bench.core import formatting
from bench.store.record import Record

SCORE, EXACT, SPEED, TOLD = "score", "exact", "speed", "told"


@dataclass(frozen=True)
class Metric:
    """A figure of a run.

    Attributes:
        name: unique, with its unit.
        head: short, for a column.
        kind: SCORE (noise of seeds and examples, change in its own unit), EXACT (no noise), SPEED (relative noise), or
            TOLD (not tested: it follows from a speed that is, or says what the machine was doing).
        value: the figure in a record; None where it was not measured.
        better: 1 when higher is better, −1 when lower is, 0 when neither.
        text: the figure for people.
    """

    name: str
    head: str
    kind: str
    value: Callable[[Record], float | None]
    better: int
    text: Callable[[float | None], str]


def metrics(records: Sequence[Record]) -> list[Metric]:
    """The metrics that some of these records (of one configuration) have, scores first, the main score before all."""
    named = dict.fromkeys(name for record in records for name in gate_measures.scores(record))
    main = next((record["main_score"] for record in records if record["main_score"]), None)
    names = sorted(named, key=lambda name: (name != main, name == gate_measures.LOSS, name))
    found = [_score(name, records) for name in names]
    return [metric for metric in (*found, *_FIGURES) if any(metric.value(record) is not None for record in records)]


def _score(name: str, records: Sequence[Record]) -> Metric:
    better = 1 if all(gate_measures.higher_is_better(name, record) for record in records) else -1
    return Metric(
        name, name, SCORE, lambda record: gate_measures.scores(record).get(name), better,
        lambda value: formatting.score(name, value),
    )  # fmt: skip


def _at(part: str, name: str) -> Callable[[Record], float | None]:
    def value(record: Record) -> float | None:
        found: float | None = record[part].get(name)
        return found

    return value


def _whole(value: float | None) -> str:
    return formatting.DASH if value is None else f"{value:,.0f}"


def _reference(record: Record) -> float | None:
    return gate_measures.trimmed_mean(record["speed"].get("reference_step_seconds") or [])


def _milliseconds(value: float | None) -> str:
    return _unit(None if value is None else 1e3 * value, " ms")


def _per_second(value: float | None) -> str:
    return _unit(value, "/s")


def _plain_milliseconds(value: float | None) -> str:
    return _unit(value, " ms")


def _unit(value: float | None, unit: str) -> str:
    return formatting.DASH if value is None else formatting.significant(value) + unit


REFERENCE = "reference_step_seconds"
RATIO = "step in reference steps"

_FIGURES = (
    Metric("trainable", "trained", EXACT, _at("parameters", "trainable"), 0, _whole),
    Metric("train_peak_bytes", "peak memory", EXACT, _at("memory", "train_peak_bytes"), -1, formatting.size),
    Metric(RATIO, "step / ref.", SPEED, gate_measures.step_ratio, -1, formatting.significant),
    Metric("step_seconds", "step time", SPEED, gate_measures.step_seconds, -1, _milliseconds),
    *(
        Metric(name, head, SPEED, _at("speed", name), better, text)
        for name, head, better, text in (
            ("inference_samples_per_second", "infer samples", 1, _per_second),
            ("inference_latency_ms", "latency", -1, _plain_milliseconds),
            ("merged_inference_samples_per_second", "merged samples", 1, _per_second),
            ("merged_inference_latency_ms", "merged latency", -1, _plain_milliseconds),
        )
    ),
    Metric("inference_peak_bytes", "infer peak", EXACT, _at("memory", "inference_peak_bytes"), -1, formatting.size),
    Metric("checkpoint_bytes", "checkpoint", EXACT, _at("parameters", "checkpoint_bytes"), -1, formatting.size),
    Metric("total", "parameters", EXACT, _at("parameters", "total"), 0, _whole),
    Metric("reserved_peak_bytes", "reserved", EXACT, _at("memory", "reserved_peak_bytes"), -1, formatting.size),
    Metric(REFERENCE, "machine", TOLD, _reference, -1, _milliseconds),
    *(
        Metric(name, head, TOLD, _at("speed", name), better, text)
        for name, head, better, text in (
            ("train_samples_per_second", "train samples", 1, _per_second),
            ("train_tokens_per_second", "train tokens", 1, _per_second),
            ("train_seconds", "train time", -1, formatting.duration),
            ("total_seconds", "total time", -1, formatting.duration),
        )
    ),
)
