"""The report's sentences: the answer, what it rests on, and what makes it doubtful. All return HTML."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from bench import units
from bench.record import Record, failed_checks, scored, shown
from bench.report.escape import text
from bench.statistics.analysis import Group
from bench.statistics.configurations import Configuration

_MOST_TRADES = 5
# Facts about a machine that differ between any two runs and say nothing about whether they compare.
_FLEETING = ("hostname", "pid", "time", "date", "free", "available", "load", "temperature", "busy", "uptime")

_UNIT = re.compile(r"(?<=[\d±]) (?=[%±\d]|[kMGT]?B\b|points)")

HOW_TO_READ = (
    ("score", "The task's main score on its official validation split; ± is half a 95 % interval."),
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


def answer(group: Group, alpha: float) -> str:
    """Which configuration is best, what is tied with it, and what the leaner ones give up; numbers stay with units."""
    return _UNIT.sub("\u00a0", _answer(group, alpha))


def _answer(group: Group, alpha: float) -> str:
    ordered = [c for c in group.configurations if c.estimate is not None]
    if not ordered:
        return "No run finished with a score, so there is no answer yet."
    best = ordered[0]
    over = f" (mean of {len(best.runs)} seeds)" if len(best.runs) > 1 else ""
    value = text(units.score(group.score, _mean(best), best.half(alpha)))
    peak = _peak(best)
    if len(ordered) == 1:
        need = f", with {units.size(peak)} at the training peak" if peak else ""
        return f"Only <b>{text(best.label)}</b> has a score: {text(group.score)} {value}{over}{need}."
    said = [f"<b>{text(best.label)}</b> scores best: {text(group.score)} {value}{over}."]
    if failed_checks(best.record):
        said.append("<strong>That score is in doubt: a check failed.</strong>")
    tied = group.tied(best.label)
    if tied:
        verb = "are" if len(tied) > 1 else "is"
        said.append(f"{_join(_brief(tied, 4, '<b>{}</b>'))} {verb} tied with it.")
    elif not any(pair.comparison for pair in group.pairs):
        level = [c.label for c in ordered[1:] if _near(best, c, alpha)]
        if level:
            said.append(f"The scored examples cannot tell {_join(_brief(level, 4, '<b>{}</b>'))} from it.")
    said.append(_trades(group, ordered))
    return " ".join(said)


def _mean(configuration: Configuration) -> float:
    return 0.0 if configuration.estimate is None else configuration.estimate.mean


def _peak(configuration: Configuration) -> float | None:
    peak: float | None = configuration.record["memory"]["train_peak_bytes"]
    return peak


def _near(best: Configuration, other: Configuration, alpha: float) -> bool:
    """Whether two scores that could not be paired are within the interval of independent ones: the cautious bound."""
    halves = (best.half(alpha), other.half(alpha))
    if halves[0] is None or halves[1] is None:
        return False
    return abs(_mean(best) - _mean(other)) <= math.hypot(halves[0], halves[1])


def _trades(group: Group, ordered: Sequence[Configuration]) -> str:
    """What each configuration on the front of score against memory gives up, and for how much memory."""
    best, least = ordered[0], _peak(ordered[0])
    if not least:
        return ""
    whole, front = least, []
    for configuration in ordered[1:]:  # in order of score, so what needs less than all before it is on the front
        peak = _peak(configuration)
        if peak is not None and peak < least:
            front.append(configuration)
            least = peak
    if not front:
        return f"It also needs the least memory: {units.size(whole)} at the training peak."
    kept = front if len(front) <= _MOST_TRADES else [*front[: _MOST_TRADES - 1], front[-1]]
    parts = []
    for index, configuration in enumerate(kept):
        lost, share = _lost(group, best, configuration), 100 * (_peak(configuration) or 0) / whole
        verb, of = ("gives up ", " of that") if index == 0 else ("", "")
        parts.append(f"<b>{text(configuration.label)}</b> {verb}{lost} for {share:.0f} %{of}")
    return f"<b>{text(best.label)}</b> peaks at {units.size(whole)} in training; {_join(parts)}."


def _lost(group: Group, best: Configuration, other: Configuration) -> str:
    """The difference to the best, with half of its interval where the two were paired: ``2.1 ± 0.6 points``."""
    pair = group.pair(best.label, other.label)
    if pair is None or pair.comparison is None:
        return units.gap(group.score, _mean(best) - _mean(other))
    found = pair.comparison
    number, _, unit = units.gap(group.score, found.difference).partition(" ")
    half = units.gap(group.score, (found.high - found.low) / 2).partition(" ")[0]
    return f"{number} ± {half} {unit}".strip()


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
    return [sentence for sentence in said if sentence]


def _seeds(done: Sequence[Record], names: Mapping[str, str]) -> str:
    seeds = sorted({record["spec"]["seed"] for record in done})
    if len(seeds) == 1:
        return f"One seed ({seeds[0]}): how much scores vary from seed to seed was not measured."
    listed = ", ".join(map(str, seeds)) if len(seeds) <= 8 else f"{seeds[0]} to {seeds[-1]}"
    counts = Counter(names[record["run_id"]] for record in done)
    uneven = any(count != len(seeds) for count in counts.values())
    rest = ", but not every configuration has all of them" if uneven else ""
    return f"{len(seeds)} seeds ({listed}){rest}; the scores above are means over them."


def _tuning(done: Sequence[Record]) -> str:
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
