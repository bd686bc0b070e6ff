"""The catalogue of measures: each one's name, unit, direction, noise, format and place in the record.

The tables' columns, the data frame, the axes of the charts, the plain formats, ``bench compare`` and ``bench check``
all read it.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from statistics import fmean, median
from typing import Any

from bench.core import formatting
from bench.store.record import SPLIT, Record, without_weights
from bench.tasks.metrics import compute

SCORE, EXACT, SPEED, INFORMATION = "score", "exact", "speed", "told"
COUNTS = ("trainable", "total")
BYTES = ("train_peak_bytes", "inference_peak_bytes", "checkpoint_bytes")
LOSS = "train loss"
REFERENCE = "reference_step_seconds"
RATIO = "step in reference steps"
_LOSS_SHARE = 0.25  # of the steps, at the end
_TRIMMED = 0.1  # of the step times, at either end

# Checks whose answer is a matter of chance when a score is near the border: the scores are compared by themselves.
STATISTICAL_CHECKS = ("beats majority", "seeds differ")


Number = float | None


@dataclasses.dataclass(frozen=True)
class Measure:
    """One measured value of a run.

    Attributes:
        key: unique name, with its unit (``train_peak_bytes``); the name in the plain formats.
        title: short name outside a table, as in ``bench compare``.
        of: reads it from a record; None where it was not measured.
        text: formats it with its unit.
        noise: SCORE (of seeds and examples; a change is in the score's own unit), EXACT (none), SPEED (relative), or
            INFORMATION (not tested: it follows from a tested speed, or describes the machine).
        better: 1 when higher is better, −1 when lower is, 0 when neither.
        head, unit: heading of its column and the small text below; an empty head: no column.
        narrow: heading in the terminal, in lines; empty: from ``head`` and ``unit``.
        priority: in a narrow terminal: 0 is always shown, the highest is left out first; None: never shown there.
        show: formats it for a column, without the unit where ``unit`` is not empty.
        axis: title of a chart's axis, with the unit; empty where no chart offers it.
        scale: factor of the value on that axis.
        log: whether that axis is logarithmic.
        over: one value from those of several seeds.
    """

    key: str
    title: str
    of: Callable[[Record], Number]
    text: Callable[[Number], str]
    noise: str
    better: int = -1
    head: str = ""
    unit: str = ""
    show: Callable[[Number], str] = formatting.significant
    axis: str = ""
    scale: float = 1.0
    log: bool = False
    over: Callable[[Sequence[float]], float] = fmean
    narrow: str = ""
    priority: int | None = None

    @property
    def narrow_head(self) -> str:
        """Heading of its column in the terminal, one word per line."""
        return self.narrow or f"{self.head} {self.unit.replace('/s', ' per_s')}".strip().replace(" ", "\n").replace(
            "_", " "
        )

    @property
    def least(self) -> bool:
        """Whether a table marks the lowest value as the best."""
        return self.better <= 0


def counts(record: Record) -> dict[str, int]:
    """Parameter counts by name; what is unknown is left out."""
    return _known(record, COUNTS)


def sizes(record: Record) -> dict[str, int]:
    """Bytes by name: the peaks of training and inference, and the checkpoint."""
    return _known(record, BYTES)


def scores(record: Record) -> dict[str, float]:
    """Every score, and ``train loss``: the mean loss over the last quarter of the steps.

    The loss says more than a score of a few hundred examples: it is a mean over all of the last steps' rows, and no
    rounding to whole examples hides a small change.
    """
    found = {name: float(value) for name, value in record["scores"].items() if value is not None}
    losses = [point["loss"] for point in record["curve"] if point["loss"] is not None]
    if losses:
        found[LOSS] = fmean(losses[-max(1, round(len(losses) * _LOSS_SHARE)) :])
    return found


def higher_is_better(name: str, record: Record) -> bool:
    """A score's direction: the record has that of its main score; other metrics are known by name, or follow it.

    A further split's score is called ``metric_split``: it goes by its metric.
    """
    main = record["main_score"]
    if name == LOSS:
        return False
    if main is None or (name != main and not name.startswith(f"{main}_")):
        known = [metric for metric in (*compute.METRICS, "loss") if name == metric or name.startswith(f"{metric}_")]
        if known:
            return max(known, key=len) not in (*compute.LOWER_IS_BETTER, "loss")
    return record["higher_is_better"] is not False


def passed_checks(record: Record) -> set[str]:
    """The checks that passed and whose answer is no matter of chance."""
    return {name for name, result in record["checks"].items() if result == "pass" and name not in STATISTICAL_CHECKS}


def step_ratio(record: Record) -> float | None:
    """The time of a training step in units of the reference work timed along with it; None when either is missing.

    Both are means without the slowest and fastest tenth, after warm-up. The reference is timed at even intervals
    among the steps, so that what takes part of the machine away takes the same part of both; a median or minimum
    would not see that part (measured under a load of 6 on 2 processors: the ratio's standard deviation over runs was
    10 %, of medians 18 %, of minima 33 %; that of the bare step time 20 %).
    """
    own, unit = step_seconds(record), trimmed_mean(record["speed"].get("reference_step_seconds") or [])
    return own / unit if own and unit else None


def step_seconds(record: Record) -> float | None:
    """Mean seconds of a training step after warm-up, without the slowest and fastest tenth."""
    return trimmed_mean(timed_steps(record))


def timed_steps(record: Record) -> list[float]:
    """Seconds of each step after warm-up, in order."""
    speed = record["speed"]
    return list(speed.get("step_seconds") or [])[speed.get("warmup_steps") or 0 :]


def trimmed_mean(values: Sequence[float]) -> float | None:
    """Mean without the tenth at either end; None of nothing."""
    cut = int(len(values) * _TRIMMED)
    return fmean(sorted(values)[cut : len(values) - cut]) if values else None


def resolution(name: str, record: Record) -> float:
    """The least a score can move: half an example of those scored, or a ten-thousandth of a loss.

    What seeds that happened to agree cannot show: another processor adds in another order, and one example flips.
    """
    if not higher_is_better(name, record):
        return 1e-4 * abs(scores(record)[name])
    spec = record["spec"]
    rows = [n for n in (spec["train"].get("eval_size"), spec["task"].get("validation_rows")) if n]
    return 0.5 / min(rows) if rows else 1e-3


def log_ratio(record: Record) -> float | None:
    """Natural logarithm of ``step_ratio``: its noise is relative."""
    ratio = step_ratio(record)
    return None if ratio is None else math.log(ratio)


def _known(record: Record, names: Sequence[str]) -> dict[str, int]:
    values = {name: BY_KEY[name].of(record) for name in names}
    return {name: int(value) for name, value in values.items() if value is not None}


def measured(records: Sequence[Record]) -> list[Measure]:
    """The measures with a column that any of these records has."""
    return [measure for measure in MEASURES if any(measure.of(record) is not None for record in records)]


def compared(records: Sequence[Record]) -> list[Measure]:
    """What ``bench compare`` compares of one configuration's records: scores first, the main score before all."""
    named = dict.fromkeys(name for record in records for name in scores(record))
    main = next((record["main_score"] for record in records if record["main_score"]), None)
    names = sorted(named, key=lambda name: (name != main, name == LOSS, name))
    found = [_score(name, records) for name in names] + [BY_KEY[key] for key in _COMPARED]
    return [measure for measure in found if any(measure.of(record) is not None for record in records)]


def _score(name: str, records: Sequence[Record]) -> Measure:
    better = 1 if all(higher_is_better(name, record) for record in records) else -1
    return Measure(
        name, name, lambda record: scores(record).get(name), lambda value: formatting.score(name, value), SCORE, better
    )


def _at(*path: str) -> Callable[[Record], Number]:
    def value(record: Record) -> Number:
        found: Any = record
        for name in path[:-1]:
            found = found[name]
        number: Number = found.get(path[-1])
        return number

    return value


def _with_unit(unit: str, scale: float = 1.0) -> Callable[[Number], str]:
    return lambda value: formatting.DASH if value is None else formatting.significant(scale * value) + unit


def _whole(value: Number) -> str:
    return formatting.DASH if value is None else f"{value:,.0f}"


def _share(value: Number) -> str:
    return formatting.percent(value).rstrip(" %")


def _reference(record: Record) -> Number:
    return trimmed_mean(record["speed"].get(REFERENCE) or [])


def _memory(key: str, title: str, of: Callable[[Record], Number] | None = None, **column: Any) -> Measure:
    """A peak in bytes: what must fit is the largest of the seeds, whose largest batches differ."""
    return Measure(
        key, title, of or _at("memory", key), formatting.size, EXACT,
        unit="MB", show=formatting.megabytes, scale=1e-6, over=max, **column,
    )  # fmt: skip


def _speed(key: str, title: str, unit: str, better: int = 1, noise: str = SPEED, **column: Any) -> Measure:
    text = _with_unit(f" {unit}" if unit == "ms" else "/s")
    return Measure(key, title, _at("speed", key), text, noise, better, unit=unit, over=median, **column)


def _duration(key: str, title: str, **column: Any) -> Measure:
    return Measure(
        key, title, _at("speed", key), formatting.duration, INFORMATION,
        show=formatting.duration, over=median, **column,
    )  # fmt: skip


PEAK = _memory("train_peak_bytes", "peak memory", head="peak", axis="training peak, MB", priority=0)
TRAINED = Measure(
    "trainable", "trained", _at("parameters", "trainable"), _whole, EXACT, 0,
    head="trained", unit="params", show=formatting.count, axis="trained parameters", log=True, priority=0,
)  # fmt: skip
THROUGHPUT = _speed(
    "train_samples_per_second", "train samples", "samples/s", noise=INFORMATION,
    head="train", axis="training, samples/s", priority=1,
)  # fmt: skip

# In the order of the tables' columns; those without a heading have none.
_CATALOGUE = (
    PEAK,
    *(_memory(f"{part}_bytes", part, _at("memory", "train_peak", part)) for part in SPLIT),
    _memory(
        "minus_weights_bytes", "peak excl. weights", without_weights,
        head="peak excl. weights", axis="training peak excl. weights, MB", narrow="excl.\nweights\nMB", priority=0,
    ),
    _memory("reserved_peak_bytes", "reserved", head="reserved", axis="reserved peak, MB"),
    TRAINED,
    Measure(
        "trainable_percent", "trained %", _at("parameters", "trainable_percent"), formatting.percent, EXACT,
        head="trainable", unit="%", show=_share, narrow="train-\nable\n%", priority=0,
    ),
    THROUGHPUT,
    _speed(
        "inference_samples_per_second", "infer samples", "samples/s",
        head="infer", axis="inference, samples/s", priority=3,
    ),
    _speed(
        "inference_latency_ms", "latency", "ms", -1,
        head="latency", axis="inference latency, ms", narrow="infer\nlatency\nms", priority=4,
    ),
    _speed(
        "merged_inference_samples_per_second", "merged samples", "samples/s",
        head="merged", axis="merged inference, samples/s", priority=7,
    ),
    _speed(
        "merged_inference_latency_ms", "merged latency", "ms", -1,
        head="merged", axis="merged latency, ms", narrow="merged\nlatency\nms", priority=8,
    ),
    Measure(
        "checkpoint_bytes", "checkpoint", _at("parameters", "checkpoint_bytes"), formatting.size, EXACT,
        head="checkpoint", show=formatting.size, axis="checkpoint, MB", scale=1e-6, log=True,
        narrow="check-\npoint", priority=5,
    ),
    _duration("train_seconds", "train time", head="train time", axis="train time, s", priority=2),
    _memory("inference_peak_bytes", "infer peak"),
    Measure("total", "parameters", _at("parameters", "total"), _whole, EXACT, 0),
    Measure(RATIO, "step / ref.", step_ratio, formatting.significant, SPEED),
    Measure("step_seconds", "step time", step_seconds, _with_unit(" ms", 1e3), SPEED),
    Measure(REFERENCE, "machine", _reference, _with_unit(" ms", 1e3), INFORMATION),
    _speed("train_tokens_per_second", "train tokens", "tokens/s", noise=INFORMATION),
    _duration("eval_seconds", "eval time"),
    _duration("total_seconds", "total time"),
)  # fmt: skip
BY_KEY = {measure.key: measure for measure in _CATALOGUE}
MEASURES = tuple(measure for measure in _CATALOGUE if measure.head)
_COMPARED = (
    "trainable", "train_peak_bytes", RATIO, "step_seconds", "inference_samples_per_second", "inference_latency_ms",
    "merged_inference_samples_per_second", "merged_inference_latency_ms", "inference_peak_bytes", "checkpoint_bytes",
    "total", "reserved_peak_bytes", REFERENCE, "train_samples_per_second", "train_tokens_per_second", "train_seconds",
    "total_seconds",
)  # fmt: skip
