"""The change of one metric between two sides of a configuration, its noise, and whether chance explains it.

- A score whose predictions are there on both sides, on the same examples: the paired tests of ``bench.analysis``
  (exact McNemar or paired bootstrap for one seed; seeds and examples together for several).
- A score without: Welch's t over seeds, where both sides have two or more; for one seed its standard error over
  examples on both sides, as if these were other examples, which is too cautious where they are the same.
- A speed: Welch's t of its logarithm over seeds; for one seed a step time's over ten stretches of the run. A change
  below ``LEAST_SPEED`` is never marked: whole runs differ by more than a run shows within itself.
- What has no noise (counts, bytes): every change is marked.

p-values are corrected by Holm's procedure over everything tested between the two folders.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import fmean, variance
from typing import NamedTuple

from bench.analysis import measures, paired_tests, predictions
from bench.analysis import samples as scores
from bench.analysis.configurations import Configuration
from bench.analysis.measures import EXACT, INFORMATION, SCORE, Measure, compared
from bench.store.record import Record

LEAST_SPEED = 0.05
_STRETCHES = 10
BETTER, WORSE, CHANGED = "better", "worse", "changed"
EXACTLY = "exact"
WELCH = "Welch's t over seeds"
UNPAIRED = "z from standard errors, unpaired"
STRETCHES = "Welch's t over stretches of one run"


@dataclasses.dataclass(frozen=True)
class Change:
    """A metric before and after.

    Attributes:
        metric: which.
        before, after: means over the seeds that were compared; None where a side has none.
        change: after − before of a score, after / before − 1 of anything else.
        noise: standard error of ``change``; None when nothing says how much it varies, 0 where it does not.
        test: which test, or why there is none.
        p_value, p_holm: two-sided, without and with the correction; None without a test.
        mark: better, worse, changed, or empty when chance may explain it.
    """

    metric: Measure
    before: float | None
    after: float | None
    change: float | None
    noise: float | None
    test: str
    p_value: float | None = None
    p_holm: float | None = None
    mark: str = ""


class _Test(NamedTuple):
    change: float
    noise: float
    p_value: float
    name: str


class Side(NamedTuple):
    """A configuration's finished runs by seed, and the folder its predictions are in."""

    runs: Mapping[int, Record]
    folder: Path


def sides(pair: tuple[Configuration, Configuration], folders: tuple[Path, Path]) -> tuple[Side, Side]:
    """The finished runs of both sides; of the seeds that both have, where they have any in common."""
    done = [{seed: run for seed, run in side.by_seed.items() if run["status"] == "ok"} for side in pair]
    if common := set(done[0]) & set(done[1]):
        done = [{seed: run for seed, run in runs.items() if seed in common} for runs in done]
    return Side(done[0], folders[0]), Side(done[1], folders[1])


def changes(first: Side, second: Side) -> list[Change]:
    """The change of every metric of a configuration, not yet corrected for the number of them."""
    records = [*first.runs.values(), *second.runs.values()]
    return [_change(metric, first, second) for metric in compared(records)]


def _change(metric: Measure, first: Side, second: Side) -> Change:
    values = [[v for run in side.runs.values() if (v := metric.of(run)) is not None] for side in (first, second)]
    before, after = (fmean(found) if found else None for found in values)
    if before is None or after is None:
        return Change(metric, before, after, None, None, "not measured on both sides")
    if metric.noise == EXACT:
        change = _relative(before, after)
        mark = "" if before == after else _direction(metric, change)
        return Change(metric, before, after, change, 0.0, EXACTLY, mark=mark)
    if metric.noise == INFORMATION:
        return Change(metric, before, after, _relative(before, after), None, "not tested")
    test = _score_test(metric, first, second, values) if metric.noise == SCORE else _speed_test(metric, first, second)
    if test is None:
        change = after - before if metric.noise == SCORE else _relative(before, after)
        why = "one seed: its noise is not known" if min(map(len, values)) < 2 else "its seeds do not vary: not tested"
        return Change(metric, before, after, change, None, why)
    return Change(metric, before, after, test.change, test.noise, test.name, test.p_value)


def _relative(before: float, after: float) -> float | None:
    if before == after:
        return 0.0
    return after / before - 1 if before else None


def _direction(metric: Measure, change: float | None) -> str:
    if not metric.better or change is None:
        return CHANGED
    return BETTER if change * metric.better > 0 else WORSE


def _score_test(metric: Measure, first: Side, second: Side, values: list[list[float]]) -> _Test | None:
    paired_up = _samples(metric.key, first, second)
    if paired_up is not None:
        found = paired_tests.compare(paired_up[1], paired_up[0])
        return _Test(found.difference, found.estimate.stderr, found.p_value, found.test)
    if min(map(len, values)) >= 2:
        return _welch(values[0], values[1], WELCH)
    errors = [
        [run["stderr"] for run in side.runs.values() if run["main_score"] == metric.key and run["stderr"] is not None]
        for side in (first, second)
    ]
    if not all(errors):
        return None
    noise, change = math.hypot(*map(fmean, errors)), fmean(values[1]) - fmean(values[0])
    return _Test(change, noise, math.erfc(abs(change) / noise / math.sqrt(2)) if noise else 1.0, UNPAIRED)


def _samples(name: str, first: Side, second: Side) -> tuple[list[scores.Sample], list[scores.Sample]] | None:
    """Per-example samples of the seeds that both have; None when something about them cannot be paired."""
    if set(first.runs) != set(second.runs):
        return None
    found: tuple[list[scores.Sample], list[scores.Sample]] = ([], [])
    known = None
    try:
        for seed in first.runs:
            for side, samples in zip((first, second), found, strict=True):
                run = side.runs[seed]
                answers = predictions.read(run, side.folder)
                known = known or (run, answers.references)
                if predictions.unlike(known, (run, answers.references)):
                    return None
                samples.append(answers.sample(name))
                if not math.isclose(samples[-1].value, run["scores"][name], rel_tol=1e-6, abs_tol=1e-9):
                    return None  # predictions of another run, or a task's own score of the same name
    except (predictions.Unpaired, scores.Undefined):
        return None
    return found


def _speed_test(metric: Measure, first: Side, second: Side) -> _Test | None:
    logs = [_logs(side, metric.of) for side in (first, second)]
    name = WELCH
    if min(map(len, logs)) < 2:
        stretch = _STRETCHES_OF.get(metric.key)
        if stretch is None:
            return None
        logs = [[math.log(v) for run in side.runs.values() for v in stretch(run) if v > 0] for side in (first, second)]
        name = STRETCHES
    if min(map(len, logs)) < 2:
        return None
    found = _welch(logs[0], logs[1], name)
    if found is None:
        return None
    change = math.expm1(found.change)
    return _Test(change, math.exp(found.change) * found.noise, found.p_value, name)


def _logs(side: Side, value: Callable[[Record], float | None]) -> list[float]:
    return [math.log(v) for run in side.runs.values() if (v := value(run)) is not None and v > 0]


def _stretches(record: Record) -> list[float]:
    """Mean step times of ten stretches of a run, after warm-up: one step's time depends on the one before."""
    steps = measures.timed_steps(record)
    size = len(steps) // _STRETCHES
    return [fmean(steps[at : at + size]) for at in range(0, size * _STRETCHES, size)] if size else []


_STRETCHES_OF: dict[str, Callable[[Record], list[float]]] = {"step_seconds": _stretches}


def _welch(first: Sequence[float], second: Sequence[float], name: str) -> _Test | None:
    """Welch's (1947) t-test of second − first; None where nothing varies but the two: equal seeds measure no noise."""
    from scipy.stats import t

    change = fmean(second) - fmean(first)
    parts = [variance(values) / len(values) for values in (first, second)]
    noise = math.sqrt(sum(parts))
    if noise == 0:
        return _Test(change, 0.0, 1.0, name) if change == 0 else None
    counts = (len(first), len(second))
    freedom = sum(parts) ** 2 / sum(part**2 / (n - 1) for part, n in zip(parts, counts, strict=True))
    return _Test(change, noise, 2 * float(t.sf(abs(change) / noise, freedom)), name)


def corrected(found: Sequence[Change], p_holm: Sequence[float], alpha: float) -> list[Change]:
    """The changes with Holm's p-values (of those that have a p-value, in order) and their marks."""
    left = iter(p_holm)
    made = []
    for change in found:
        if change.p_value is None:
            made.append(change)
            continue
        p = next(left)
        small = change.metric.noise != SCORE and abs(change.change or 0.0) < LEAST_SPEED
        mark = _direction(change.metric, change.change) if p <= alpha and not small else ""
        made.append(dataclasses.replace(change, p_holm=p, mark=mark))
    return made
