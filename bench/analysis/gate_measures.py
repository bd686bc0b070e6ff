"""What the gate looks at in a record: exact figures, scores with a direction, and a step's time in reference steps."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from bench.store.record import Record
from bench.tasks.metrics import compute

COUNTS = ("trainable", "total")
BYTES = ("train_peak_bytes", "inference_peak_bytes", "checkpoint_bytes")
LOSS = "train loss"
_LOSS_SHARE = 0.25  # of the steps, at the end
_TRIMMED = 0.1  # of the step times, at either end

# Checks whose answer is a matter of chance when a score is near the border: the scores are compared by themselves.
STATISTICAL_CHECKS = ("beats majority", "seeds differ")


def counts(record: Record) -> dict[str, int]:
    """Parameter counts by name; what is unknown is left out."""
    return _known(record["parameters"], COUNTS)


def sizes(record: Record) -> dict[str, int]:
    """Bytes by name: the peaks of training and inference, and the checkpoint."""
    return _known({**record["memory"], **record["parameters"]}, BYTES)


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
    """The time of a training step in units of the reference work timed beside it; None when either is missing.

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


def _known(values: Mapping[str, Any], names: Sequence[str]) -> dict[str, int]:
    return {name: int(values[name]) for name in names if values.get(name) is not None}


def log_ratio(record: Record) -> float | None:
    """Natural logarithm of ``step_ratio``: its noise is relative."""
    ratio = step_ratio(record)
    return None if ratio is None else math.log(ratio)
