"""Compare runs with a baseline: what got worse, what got better, what is missing, and what cannot be compared.

Counts must be equal. Memory must not grow: exactly, for a seed of the baseline with the same data, weights, device,
torch and transformers; else within ``MEMORY_ELSEWHERE``, since another version allocates other temporaries and other
rows make another largest batch. Scores may fall by the baseline's tolerance, speed by its factor. Better is never a
failure.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from statistics import fmean
from typing import Any

from bench.analysis import measures
from bench.analysis.baseline import MACHINE, Baseline
from bench.analysis.configurations import Configuration
from bench.analysis.matching import match
from bench.core import formatting
from bench.store.record import Record

MEMORY_ELSEWHERE = 1.10

REGRESSION, MISSING, BETTER, SAME, SKIPPED, NEW = "regression", "missing", "better", "same", "not compared", "new"
FAILURES = (REGRESSION, MISSING)


@dataclasses.dataclass(frozen=True)
class Finding:
    """What became of one measure of one configuration.

    Attributes:
        label, where: the configuration, and ``TASK on MODEL``.
        measure: ``accuracy``, ``train_peak_bytes``, ``speed``, …
        verdict: one of the words above.
        said: what moved, by how much, against what noise; one sentence without the label.
    """

    label: str
    where: str
    measure: str
    verdict: str
    said: str

    @property
    def failed(self) -> bool:
        """Whether the check fails on it."""
        return self.verdict in FAILURES


@dataclasses.dataclass(frozen=True)
class Result:
    """All findings, and notes on what the comparison rests on."""

    findings: list[Finding]
    notes: list[str]

    @property
    def failures(self) -> list[Finding]:
        """The findings on which the check fails."""
        return [finding for finding in self.findings if finding.failed]


@dataclasses.dataclass(frozen=True)
class _Pair:
    """A configuration of the baseline and its runs now; ``runs`` are those that finished."""

    entry: Mapping[str, Any]
    configuration: Configuration
    runs: Mapping[int, Record]
    before: Mapping[str, Any]  # the baseline's environment

    def differing(self, names: Sequence[str]) -> list[str]:
        """The facts of the environment that are not the baseline's, as ``torch 2.7 → 2.8``."""
        found = []
        for name in names:
            now = list(dict.fromkeys(str(run["environment"].get(name)) for run in self.runs.values()))
            if now != [str(self.before.get(name))]:
                found.append(f"{name} {self.before.get(name)} → {' or '.join(now)}")
        return found

    def changed(self, part: str) -> bool:
        """Whether the data (``task``) or the weights (``model``) are not the baseline's."""
        prints = {run["spec"][part].get("fingerprint") for run in self.runs.values()}
        return prints != {self.entry[part]["fingerprint"]}


def check(baseline: Baseline, records: Sequence[Record]) -> Result:
    """Compare records with a baseline as ``bench.analysis.baseline.read`` gives it."""
    known = [_as_record(index, entry, baseline) for index, entry in enumerate(baseline["runs"])]
    matched = match(known, records)
    findings: list[Finding] = []
    pairs = []
    for there, now in matched.pairs:
        entry = baseline["runs"][int(there.runs[0]["run_id"])]
        done = {seed: run for seed, run in now.by_seed.items() if run["status"] == "ok"}
        pairs.append(_Pair(entry, now, done, baseline["environment"]))
        findings += _compare(pairs[-1])
    for configuration in matched.only_first:
        seeds = len(baseline["runs"][int(configuration.runs[0]["run_id"])]["seeds"])
        findings.append(Finding(configuration.label, configuration.where, "run", MISSING,
                                f"the baseline has it with {seeds} seeds, this folder has no such run"))  # fmt: skip
    findings += [
        Finding(configuration.label, configuration.where, "run", NEW, "not in the baseline, not checked")
        for configuration in matched.only_second
    ]
    return Result(findings, [*matched.notes, *_notes(pairs)])


def _as_record(index: int, entry: Mapping[str, Any], baseline: Baseline) -> Record:
    spec = {part: entry[part] for part in ("method", "task", "model", "train")}
    return {"run_id": str(index), "spec": {**spec, "seed": 0}, "environment": baseline["environment"]}


def _notes(pairs: Sequence[_Pair]) -> list[str]:
    said: dict[str, None] = {}
    for pair in pairs:
        if not pair.runs:
            continue
        for text in pair.differing((*MACHINE, "python", "tunebench")):
            said[f"{text}."] = None
        for part, what in (("task", "data"), ("model", "weights")):
            if pair.changed(part):
                said[f"The {what} of {pair.entry[part]['name']} are not those of the baseline."] = None
    return list(said)


def _compare(pair: _Pair) -> Iterator[Finding]:
    yield from _finished(pair)
    if not pair.runs:
        return
    for test in (_counts, _bytes, _scores, _speed, _checks):
        for measure, verdict, said in test(pair):
            yield Finding(pair.configuration.label, pair.configuration.where, measure, verdict, said)


def _finished(pair: _Pair) -> Iterator[Finding]:
    """Every seed must have finished, and there must be as many as in the baseline."""
    label, where = pair.configuration.label, pair.configuration.where
    for seed, run in pair.configuration.by_seed.items():
        if run["status"] != "ok":
            why = formatting.first_line(run["error"]) or "no reason was recorded"
            yield Finding(label, where, "run", REGRESSION, f"seed {seed} {run['status']}: {why}")
    wanted, there = len(pair.entry["seeds"]), len(pair.configuration.runs)
    if there < wanted:
        lacking = [str(seed) for seed in pair.entry["seeds"] if seed not in pair.configuration.by_seed]
        yield Finding(label, where, "run", MISSING,
                      f"{there} of {wanted} seeds; not there: {', '.join(lacking)}")  # fmt: skip


_Told = Iterator[tuple[str, str, str]]  # measure, verdict, sentence


def _counts(pair: _Pair) -> _Told:
    for name, wanted in pair.entry["counts"].items():
        found = sorted({measures.counts(run).get(name, 0) for run in pair.runs.values()})
        if found == [wanted]:
            yield name, SAME, f"{wanted:,} parameters"
        else:
            now = " or ".join(f"{count:,}" for count in found)
            yield name, REGRESSION, f"{wanted:,} → {now} parameters; must be equal"


def _bytes(pair: _Pair) -> _Told:
    sources = {run["memory"]["source"] for run in pair.runs.values()}
    for name, sizes in pair.entry["bytes"].items():
        if name != "checkpoint_bytes" and sources != {pair.entry["memory_source"]}:
            measured = " or ".join(map(str, sources))
            yield name, SKIPPED, f"measured by {measured}, in the baseline by {pair.entry['memory_source']}"
            continue
        yield name, *_grown(pair, name, dict(zip(pair.entry["seeds"], sizes, strict=True)))


def _grown(pair: _Pair, name: str, before: Mapping[int, int]) -> tuple[str, str]:
    """The verdict of the seed that grew most beyond what it may."""
    reasons = pair.differing(("device", "torch", "transformers"))
    reasons += [what for part, what in (("task", "other data"), ("model", "other weights")) if pair.changed(part)]
    worst: tuple[tuple[bool, float], str, str] | None = None
    for seed, run in pair.runs.items():
        now = measures.sizes(run).get(name)
        if now is None:
            return REGRESSION, f"was not measured for seed {seed}"
        exact = seed in before and not reasons
        was = before.get(seed, max(before.values()))
        allowed = was if exact else was * MEMORY_ELSEWHERE
        why = "exact" if exact else f"+{(MEMORY_ELSEWHERE - 1) * 100:.0f} %: {', '.join(reasons) or 'another seed'}"
        sizes = (formatting.size(was), formatting.size(now))
        sizes = sizes if sizes[0] != sizes[1] else (f"{was:,}", f"{now:,} bytes")
        change = f"{sizes[0]} → {sizes[1]} ({(now - was) / max(1, was) * 100:+.1f} %, seed {seed})"
        verdict = REGRESSION if now > allowed else BETTER if exact and now < was else SAME
        least, most = min(before.values()), max(before.values())
        if verdict == REGRESSION and seed not in before and not reasons and most > least * MEMORY_ELSEWHERE:
            verdict = SKIPPED  # a seed peaks at the longest batch that it happens to draw
            why = f"the baseline's own seeds, {formatting.size(least)} to {formatting.size(most)}: compare with those"
        told = f"{change}; allowed: {why}" if now != was else f"{formatting.size(was)} ({why})"
        excess = (verdict == REGRESSION, now / max(1.0, allowed))
        if worst is None or excess > worst[0]:
            worst = excess, verdict, told
    assert worst is not None  # there is a run
    return worst[1], worst[2]


def _scores(pair: _Pair) -> _Told:
    found = [measures.scores(run) for run in pair.runs.values()]
    for name, was in pair.entry["scores"].items():
        if any(name not in scores for scores in found):
            yield name, REGRESSION, "was not measured this time"
        elif name == measures.LOSS and pair.changed("task"):
            yield name, SKIPPED, "other data: their loss is another"
        else:
            yield name, *_moved(pair, name, was, fmean(scores[name] for scores in found))


def _moved(pair: _Pair, name: str, was: Mapping[str, Any], mean: float) -> tuple[str, str]:
    """A score's verdict: how far the mean over seeds moved against what it may."""
    wanted, there = len(pair.entry["seeds"]), len(pair.runs)
    one = was["spread"] * math.sqrt(2 / wanted)  # standard error of the difference the tolerance was made for
    noise = was["spread"] * math.sqrt(1 / wanted + 1 / there)
    errors = [run["stderr"] for run in pair.runs.values() if run["stderr"] is not None]
    if pair.changed("task") and was["stderr"] is not None and errors:
        noise = math.hypot(noise, was["stderr"], fmean(errors))
    allowed = was["tolerance"] * (noise / one if one > 0 else 1.0)
    higher = all(
        measures.higher_is_better(name, run) for run in pair.runs.values()
    )  # an early baseline may say otherwise
    worse = (was["mean"] - mean) * (1 if higher else -1)
    change = f"{formatting.score(name, was['mean'])} → {formatting.score(name, mean)}"
    seeds = f"{wanted} and {there} seeds" if wanted != there else f"{wanted} seeds"
    told = f"{change}: {formatting.gap(name, worse)} {'worse' if worse > 0 else 'better'}, "
    told += f"allowed {formatting.gap(name, allowed)} (noise ±{formatting.gap(name, noise)}, {seeds})"
    return REGRESSION if worse > allowed else BETTER if -worse > allowed else SAME, told


def _speed(pair: _Pair) -> _Told:
    was = pair.entry["speed"]
    if was is None:
        yield "speed", SKIPPED, "the baseline has no times of the reference work"
        return
    found = [measures.log_ratio(run) for run in pair.runs.values()]
    logs = [value for value in found if value is not None]
    if device := pair.differing(("device",)):
        yield "speed", SKIPPED, device[0]
    elif len(logs) < len(found):
        yield "speed", SKIPPED, "the runs have no times of the reference work: they were made by an earlier version"
    else:
        elsewhere = pair.differing(MACHINE)
        allowed = was["tolerance_elsewhere" if elsewhere else "tolerance"]
        ratio = math.exp(fmean(logs))
        slower = ratio / was["step_ratio"]
        noise = math.expm1(was["spread"] * math.sqrt(1 / len(pair.entry["seeds"]) + 1 / len(logs)))
        why = "another machine or stack" if elsewhere else "the same machine"
        told = f"a step takes {was['step_ratio']:.2f} → {ratio:.2f} reference steps: {slower:.2f} times as long, "
        told += f"allowed {allowed:.2f} on {why} (noise ±{noise * 100:.0f} %)"
        yield "speed", REGRESSION if slower > allowed else BETTER if slower < 1 / allowed else SAME, told


def _checks(pair: _Pair) -> _Told:
    for name in pair.entry["checks"]:
        failed = {
            seed: result.removeprefix("fail: ")
            for seed, run in pair.runs.items()
            if (result := run["checks"].get(name, "fail: it was not made")).startswith("fail")
        }
        if failed:
            seed, why = next(iter(failed.items()))
            yield (
                f"check: {name}",
                REGRESSION,
                f"passed in the baseline, now (seed {seed}): {formatting.first_line(why)}",
            )
        else:
            yield f"check: {name}", SAME, "passed"
