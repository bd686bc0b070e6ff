"""The report's sentences: the answer, what it rests on, and what makes it doubtful. All return HTML."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean
from typing import Any

from bench import units
from bench.record import Record, failed_checks, in_company, main_value, scored, shown
from bench.report import tuning
from bench.report.escape import text

_MOST_TRADES = 5
# Facts about a machine that differ between any two runs and say nothing about whether they compare.
_FLEETING = ("hostname", "pid", "time", "date", "free", "available", "load", "temperature", "busy", "uptime")

_UNIT = re.compile(r"(?<=[\d±]) (?=[%±\d]|[kMGT]?B\b|points)")

HOW_TO_READ = (
    ("score", "The task's main score on its official validation split; ± is one standard error over the examples."),
    ("peak MB", "Most memory held by tensors at once while training, in megabytes (10⁶ bytes)."),
    ("minus weights", "The same without the model's weights: the part that a method can change."),
    ("train samples/s", "Examples per second of optimizer steps alone, after warm-up, evaluation left out."),
    ("infer samples/s", "Examples per second when predicting in batches."),
    ("latency ms", "Milliseconds for one example on its own."),
    ("merged", "The same two with the tuned weights folded into the base weights; empty where a method cannot."),
    ("trained", "Parameters that training changes, the task's head included, and their share of all."),
    ("checkpoint", "Size of what has to be stored per task to use the result again."),
    ("train time", "Time for all training steps, without loading and the final evaluation."),
    ("checks", "Did the method do what it claims? A failed check puts the score beside it in doubt."),
)


@dataclasses.dataclass(frozen=True)
class Setup:
    """The runs of one configuration: same label, different seeds, all with a score."""

    label: str
    runs: tuple[Record, ...]

    @property
    def score(self) -> float:
        """Mean of the main score over the seeds."""
        return fmean(value for run in self.runs if (value := main_value(run)) is not None)

    @property
    def stderr(self) -> float | None:
        """Standard error over examples; seeds share the examples, so their mean is no more certain."""
        known = [run["stderr"] for run in self.runs if run["stderr"] is not None]
        return fmean(known) if known else None

    @property
    def peak(self) -> float | None:
        """Mean training peak in bytes."""
        known = [size for run in self.runs if (size := run["memory"]["train_peak_bytes"]) is not None]
        return fmean(known) if known else None


def setups(records: Iterable[Record], names: Mapping[str, str]) -> list[Setup]:
    """Gather the scored runs of one task and model by label, best mean score first."""
    found: dict[str, list[Record]] = {}
    for record in records:
        if scored(record):
            found.setdefault(names[record["run_id"]], []).append(record)
    made = [Setup(label, tuple(runs)) for label, runs in found.items()]
    return sorted(made, key=lambda setup: -_sign(setup) * setup.score)


def _sign(setup: Setup) -> int:
    return -1 if setup.runs[0]["higher_is_better"] is False else 1


def answer(records: Sequence[Record], names: Mapping[str, str]) -> str:
    """Which configuration is best, and what the leaner ones give up; numbers stay with their units."""
    return _UNIT.sub("\u00a0", _answer(records, names))


def _answer(records: Sequence[Record], names: Mapping[str, str]) -> str:
    ordered = setups(records, names)
    if not ordered:
        return "No run finished with a score, so there is no answer yet."
    best = ordered[0]
    metric = best.runs[0]["main_score"]
    over = f" (mean of {len(best.runs)} seeds)" if len(best.runs) > 1 else ""
    value = text(units.score(metric, best.score, best.stderr))
    if len(ordered) == 1:
        need = f", with {units.size(best.peak)} at the training peak" if best.peak else ""
        return f"Only <b>{text(best.label)}</b> has a score: {text(metric)} {value}{over}{need}."
    said = [f"<b>{text(best.label)}</b> scores best: {text(metric)} {value}{over}."]
    if any(failed_checks(run) for run in best.runs):
        said.append("<strong>That score is in doubt: a check failed.</strong>")
    level = [setup for setup in ordered[1:] if _told_apart(best, setup) is False]
    if level:
        said.append(
            f"The scored examples cannot tell {_join(_brief((s.label for s in level), 4, '<b>{}</b>'))} from it."
        )
    said.append(_trades(best, ordered[1:]))
    return " ".join(said)


def _told_apart(best: Setup, other: Setup) -> bool | None:
    """Whether a difference exceeds 1.96 standard errors of two independent scores; None without errors.

    Methods are scored on the same examples, which a paired test would use; this is the cautious bound.
    """
    margin = _margin(best, other)
    return None if margin is None else abs(best.score - other.score) > margin


def _margin(best: Setup, other: Setup) -> float | None:
    if best.stderr is None or other.stderr is None:
        return None
    return 1.96 * math.hypot(best.stderr, other.stderr)


def _trades(best: Setup, others: Sequence[Setup]) -> str:
    """What each configuration on the front of score against memory gives up, and for how much memory."""
    if best.peak is None:
        return ""
    front, least = [], best.peak
    for setup in others:  # in order of score, so whatever needs less than all before it is on the front
        if setup.peak is not None and setup.peak < least:
            front.append(setup)
            least = setup.peak
    if not front:
        return f"It also needs the least memory: {units.size(best.peak)} at the training peak."
    kept = front if len(front) <= _MOST_TRADES else [*front[: _MOST_TRADES - 1], front[-1]]
    metric = best.runs[0]["main_score"]
    parts = []
    for index, setup in enumerate(kept):
        lost, share = abs(best.score - setup.score), 100 * (setup.peak or 0) / best.peak
        verb, of = ("gives up ", " of that") if index == 0 else ("", "")
        parts.append(f"<b>{text(setup.label)}</b> {verb}{units.gap(metric, lost)} for {share:.0f} %{of}")
    return f"<b>{text(best.label)}</b> peaks at {units.size(best.peak)} in training; {_join(parts)}."


def rests_on(records: Sequence[Record], names: Mapping[str, str]) -> list[str]:
    """What the answer rests on: seeds, tuning, the budget, checks and runs that did not finish."""
    done = [record for record in records if scored(record)]
    said = [_seeds(done, names), _tuning(done), _budget(records)] if done else [_budget(records)]
    checked = [result for record in records for result in record["checks"].values()]
    doubtful = [record for record in records if failed_checks(record)]
    if doubtful:
        which = _join(
            _brief({f"{names[record['run_id']]} ({', '.join(failed_checks(record))})" for record in doubtful})
        )
        said.append(f"<strong>Checks failed</strong> for {which}: read those scores with doubt.")
    elif checked:
        passed = sum(result == "pass" for result in checked)
        said.append(f"All {passed} checks passed ({len(checked) - passed} did not apply).")
    lost = [record for record in records if not scored(record)]
    if lost:
        which = _join(_brief({f"{names[record['run_id']]} ({record['status']})" for record in lost}))
        said.append(f"<strong>{len(lost)} of {len(records)} runs have no score</strong>: {which}.")
    shared = sorted({names[record["run_id"]] for record in done if in_company(record)})
    if shared:
        said.append(f"Speeds of {_join(_brief(shared))} were measured in company: other runs were at work beside them.")
    return [sentence for sentence in said if sentence]


def _seeds(done: Sequence[Record], names: Mapping[str, str]) -> str:
    seeds = sorted({record["spec"]["seed"] for record in done})
    if len(seeds) == 1:
        return f"One seed ({seeds[0]}): how much scores vary from seed to seed was not measured."
    listed = ", ".join(map(str, seeds)) if len(seeds) <= 8 else f"{seeds[0]} to {seeds[-1]}"
    uneven = any(len(setup.runs) != len(seeds) for setup in setups(done, names))
    rest = ", but not every configuration has all of them" if uneven else ""
    return f"{len(seeds)} seeds ({listed}){rest}; the scores above are means over them."


def _tuning(done: Sequence[Record]) -> str:
    if (said := tuning.sentence(done)) is not None:
        return said
    rates: dict[str, set[float]] = {}
    for record in done:
        rates.setdefault(record["spec"]["method"]["name"], set()).add(record["spec"]["train"]["lr"])
    used = set().union(*rates.values())
    if len(rates) > 1 and len(used) == 1:
        return f"No tuning: every method at the same learning rate {text(shown(used.pop()))}, which favours some."
    if any(len(tried) > 1 for tried in rates.values()):
        return "Some methods ran at several learning rates; the best of several is not an untuned score."
    listed = ", ".join(f"{text(name)} {text(shown(tried.pop()))}" for name, tried in sorted(rates.items()))
    return f"No tuning: each method at its default learning rate, or the one it was given ({listed})."


def _budget(records: Sequence[Record]) -> str:
    shared = common([record["spec"]["train"] for record in records])
    steps, batch = shared.get("steps"), shared.get("batch_size")
    if steps is None or batch is None:
        return "Runs differ in steps or batch size: see each run's settings."
    extra = "".join(f", {text(shown(shared[key]))}{after}" for key, after in _EXTRAS if shared.get(key) is not None)
    return f"{steps:,} steps of {batch} examples each{extra}."


_EXTRAS = (("max_length", " tokens at most"), ("precision", ""), ("device", ""))


def warnings(records: Sequence[Record]) -> list[str]:
    """Reasons why the rows of one task and model may not compare."""
    said = []
    specs = [record["spec"] for record in records]
    for part, what in (("task", "data"), ("model", "model weights")):
        prints = {spec[part]["fingerprint"] for spec in specs} - {None}
        if len(prints) > 1:
            said.append(f"Rows mix {len(prints)} versions of the {what}: {_join(_brief(prints))}.")
    for key in sorted({key for spec in specs for key in spec["train"]} - {"lr"}):
        values = {shown(spec["train"].get(key)) for spec in specs}
        if len(values) > 1:
            said.append(f"Rows differ in {text(key.replace('_', ' '))}: {_join(_brief(values))}.")
    sources = {record["memory"]["source"] for record in records} - {None}
    if len(sources) > 1:
        said.append(f"Memory was measured in different ways: {_join(_brief(sources))}.")
    versions = {spec["code"]["bench"] for spec in specs} - {None}
    if len(versions) > 1:
        said.append(f"Rows come from different versions of the harness: {_join(_brief(versions))}.")
    for method in sorted({spec["method"]["name"] for spec in specs}):
        codes = {spec["code"]["method"] for spec in specs if spec["method"]["name"] == method} - {None}
        if len(codes) > 1:
            said.append(f"Rows of {text(method)} come from {len(codes)} versions of its code.")
    said += [
        f"Rows mix environments, {text(key)}: {_join(_brief(values))}."
        for key, values in environments(records).items()
        if len(values) > 1 and not any(word in key.lower() for word in _FLEETING)
    ]
    return said


def environments(records: Iterable[Record]) -> dict[str, list[str]]:
    """Every fact about the environments (``git.commit`` for nested ones) with its different values."""
    found: dict[str, dict[str, None]] = {}
    for record in records:
        for key, value in _flat(record["environment"]):
            found.setdefault(key, {})[shown(value)] = None
    return {key: list(values) for key, values in found.items()}


def _flat(value: Mapping[str, Any], before: str = "") -> Iterable[tuple[str, Any]]:
    for key, member in value.items():
        if isinstance(member, dict):
            yield from _flat(member, f"{before}{key}.")
        else:
            yield before + key, member


def common(settings: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The settings on which all agree."""
    first = settings[0] if settings else {}
    return {key: value for key, value in first.items() if all(other.get(key) == value for other in settings)}


def _brief(items: Iterable[str], most: int = 6, form: str = "{}") -> list[str]:
    """Escape and sort items, and count those beyond the first few."""
    ordered = sorted(items)
    rest = len(ordered) - most
    return [form.format(text(item)) for item in ordered[:most]] + ([f"{rest} more"] if rest > 0 else [])


def _join(items: Iterable[str]) -> str:
    *first, last = list(items)
    return f"{', '.join(first)} and {last}" if first else last
