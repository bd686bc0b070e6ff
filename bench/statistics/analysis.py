"""The statistics of a folder: every configuration over its seeds, every pair of them, and what that rests on.

A configuration is what ``bench.record.labels`` calls by one name: a method with its options, over seeds. Families of
comparisons, each corrected by Holm's procedure on its own: all pairs of one task and model, and, where a baseline is
chosen, the baseline with every other.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bench.errors import RequestError, unknown
from bench.record import Record, groups, labels, main_value, scored
from bench.statistics import estimate, family, paired, power, predictions, scores
from bench.statistics.averaged import averaged
from bench.statistics.estimate import Estimate
from bench.statistics.tasks import Measures, front

ALPHA = 0.05
MOST_PAIRED = 40  # configurations of one task and model, best first: 780 pairs
_UNKNOWN_EXAMPLES = 1_000_000  # where predictions are gone: the normal distribution, without small-sample widening

# What an interval covers.
BOTH = "seeds and examples"
SEEDS = "seeds"
EXAMPLES = "examples"


@dataclass(frozen=True)
class Configuration:
    """One configuration on one task and model.

    Attributes:
        label, method: what it is called.
        runs: its scored runs, one per seed, by seed.
        record: their mean, as a record; the mean of what there is where no run has a score.
        lost: how many of its runs have no score.
        estimate: of the main score; None where no run has one.
        covers: what its interval covers: BOTH (new seeds, new examples), EXAMPLES (new examples for the one trained
            model), SEEDS (new seeds, the same examples: the score has no standard error), or None without an interval.
        group: letters; configurations that share one cannot be told apart.
        samples, references: by seed, and what they were scored against, where predictions could be read; else
            ``unpaired`` says why not.
    """

    label: str
    method: str
    runs: tuple[Record, ...]
    record: Record
    lost: int
    estimate: Estimate | None
    covers: str | None
    group: str = ""
    samples: Mapping[int, scores.Sample] = dataclasses.field(default_factory=dict)
    references: scores.Array | None = None
    unpaired: str = ""

    @property
    def seeds(self) -> tuple[int, ...]:
        """Seeds with a score."""
        return tuple(run["spec"]["seed"] for run in self.runs)

    def half(self, alpha: float = ALPHA) -> float | None:
        """Half the interval of the score; None when nothing says how it varies."""
        return None if self.estimate is None or self.covers is None else self.estimate.half(alpha)


@dataclass(frozen=True)
class Pair:
    """Two configurations, the one with the better score first.

    Attributes:
        comparison: first minus second; None where they cannot be compared, and ``reason`` says why.
        p_holm: corrected over all pairs of the task and model.
        different: whether p_holm is at most alpha.
        p_baseline: corrected over the comparisons with the baseline alone; None when neither is the baseline.
        settling: what would settle it; None where it is settled or cannot be compared.
    """

    first: str
    second: str
    comparison: paired.Comparison | None
    reason: str = ""
    p_holm: float | None = None
    different: bool = False
    p_baseline: float | None = None
    settling: power.Settling | None = None


@dataclass(frozen=True)
class Group:
    """One task on one model: configurations best first, and their pairs."""

    task: str
    model: str
    score: str | None
    higher_is_better: bool
    configurations: tuple[Configuration, ...]
    pairs: tuple[Pair, ...]
    front: tuple[str, ...]
    baseline: str | None
    notes: tuple[str, ...]

    def tied(self, label: str) -> list[str]:
        """The configurations that were compared with this one and not told apart from it, best first."""
        return [
            pair.second if pair.first == label else pair.first
            for pair in self.pairs
            if label in (pair.first, pair.second) and pair.comparison is not None and not pair.different
        ]

    def pair(self, one: str, other: str) -> Pair | None:
        """The pair of two labels, in whichever order."""
        return next((pair for pair in self.pairs if {pair.first, pair.second} == {one, other}), None)


@dataclass(frozen=True)
class Analysis:
    """All tasks and models of a folder."""

    alpha: float
    baseline: str | None
    groups: tuple[Group, ...]

    def of(self, task: str, model: str) -> Group | None:
        """The group of a task and model."""
        return next((group for group in self.groups if (group.task, group.model) == (task, model)), None)


def analyse(
    records: Sequence[Record], folder: Path | None, baseline: str | None = None, alpha: float = ALPHA
) -> Analysis:
    """Analyse records.

    Args:
        records: of any tasks, models and seeds, also failed ones.
        folder: the store's folder, for the predictions; without it nothing is paired.
        baseline: a label, or a method with a single configuration, that all others are compared with.
        alpha: of intervals (1 - alpha) and tests.

    Raises:
        RequestError: when the baseline is not there, or is the name of several configurations.
    """
    names = labels(records)
    found = []
    for (task, model), members in groups(records).items():
        configurations, notes = _configurations(members, names, folder)
        chosen = _baseline(configurations, baseline)
        found.append(_group((task, model), configurations, chosen, (alpha, notes)))
    if baseline is not None and not any(group.baseline for group in found):
        known = sorted({name for group in found for c in group.configurations for name in (c.label, c.method)})
        raise RequestError(unknown("baseline", baseline, known))
    return Analysis(alpha, baseline, tuple(found))


def _baseline(configurations: Sequence[Configuration], wanted: str | None) -> str | None:
    if wanted is None:
        return None
    exact = [c.label for c in configurations if c.label == wanted and c.runs]
    named = exact or [c.label for c in configurations if c.method == wanted and c.runs]
    if len(named) > 1:
        raise RequestError(
            f"--baseline: '{wanted}' has {len(named)} configurations; name one of them: "
            f"{', '.join(repr(label) for label in sorted(named))}."
        )
    return named[0] if named else None


def _configurations(
    members: Sequence[Record], names: Mapping[str, str], folder: Path | None
) -> tuple[list[Configuration], list[str]]:
    """Gather runs by label, best first; and what had to be left out."""
    by_label: dict[str, list[Record]] = {}
    for record in members:
        by_label.setdefault(names[record["run_id"]], []).append(record)
    made, notes = [], []
    for label, runs in by_label.items():
        kept, left_out = _newest([run for run in runs if scored(run)])
        if left_out:
            notes.append(
                f"{label}: {left_out} older {'run' if left_out == 1 else 'runs'} of other data or code left out"
            )
        lost = {run["spec"]["seed"] for run in runs if not scored(run)} - {run["spec"]["seed"] for run in kept}
        made.append(_configuration(label, kept, (kept or runs, len(lost)), folder))
    sign = -1.0 if _lower(members) else 1.0
    made.sort(key=lambda c: (c.estimate is None, -sign * c.estimate.mean if c.estimate else 0.0, c.label))
    return made, notes


def _newest(runs: Sequence[Record]) -> tuple[list[Record], int]:
    """One run per seed, all on the data of the newest run; and how many were left out."""
    latest = sorted(runs, key=lambda run: (run["created_at"], run["run_id"]))
    if not latest:
        return [], 0
    fingerprint = latest[-1]["spec"]["task"]["fingerprint"]
    by_seed = {run["spec"]["seed"]: run for run in latest if run["spec"]["task"]["fingerprint"] == fingerprint}
    return [by_seed[seed] for seed in sorted(by_seed)], len(runs) - len(by_seed)


def _lower(records: Iterable[Record]) -> bool:
    return any(record["higher_is_better"] is False for record in records)


def _configuration(
    label: str, runs: Sequence[Record], rest: tuple[Sequence[Record], int], folder: Path | None
) -> Configuration:
    anyway, lost = rest
    made = Configuration(label, anyway[0]["spec"]["method"]["name"], tuple(runs), averaged(anyway), lost, None, None)
    if not runs:
        return made
    values = [float(main_value(run) or 0.0) for run in runs]
    try:
        samples, references = _samples(runs, folder)
    except (predictions.Unpaired, scores.Undefined) as error:
        why = str(error)
    else:
        found = estimate.score(*paired.arrays(list(samples.values())), len(references))
        covers = BOTH if len(runs) > 1 else EXAMPLES
        return dataclasses.replace(made, estimate=found, covers=covers, samples=samples, references=references)
    stderrs = [run["stderr"] for run in runs]
    known = [float(stderr) for stderr in stderrs if stderr is not None]
    if known:
        spread: str | None = BOTH if len(runs) > 1 else EXAMPLES
    else:
        spread = SEEDS if len(runs) > 1 else None
    found = estimate.from_stderrs(values, known or [0.0], _UNKNOWN_EXAMPLES)
    return dataclasses.replace(made, estimate=found, covers=spread, unpaired=why)


def _samples(runs: Sequence[Record], folder: Path | None) -> tuple[dict[int, scores.Sample], scores.Array]:
    """The sample of each seed, in the runs' order, and the references they share; raises why there are none."""
    if folder is None:
        raise predictions.Unpaired("predictions were not looked at")
    found: dict[int, scores.Sample] = {}
    references: scores.Array | None = None
    for run in runs:
        seed = run["spec"]["seed"]
        try:
            answers = predictions.read(run, folder)
            references = answers.references if references is None else references
            if reason := predictions.unlike((runs[0], references), (run, answers.references)):
                raise predictions.Unpaired(reason)
            made = scores.sample(str(run["main_score"]), answers.predictions, answers.references)
        except (predictions.Unpaired, scores.Undefined) as error:
            raise predictions.Unpaired(f"seed {seed}: {error}") from error
        value = float(main_value(run) or 0.0)
        if abs(made.value - value) > 1e-6 * max(1.0, abs(value)):
            raise predictions.Unpaired(
                f"seed {seed}: its predictions give {made.value:.4g}, its record says {value:.4g}"
            )
        found[seed] = made
    return found, np.array([]) if references is None else references


def _group(
    key: tuple[str, str],
    configurations: Sequence[Configuration],
    baseline: str | None,
    settings: tuple[float, list[str]],
) -> Group:
    alpha, notes = settings
    ranked = [c for c in configurations if c.runs]
    compared = ranked[:MOST_PAIRED] + [c for c in ranked[MOST_PAIRED:] if c.label == baseline]
    if len(compared) < len(ranked):
        notes = [*notes, f"only the best {MOST_PAIRED} of {len(ranked)} configurations were compared pair by pair"]
    pairs = _pairs(compared, baseline, alpha)
    different = {(pair.first, pair.second) for pair in pairs if pair.different}
    marks = family.letters([c.label for c in compared], different) if any(p.comparison for p in pairs) else {}
    records = [run for c in ranked for run in c.runs]
    lower = _lower(records)
    measured = {c.label: measures(c) for c in ranked}
    return Group(
        *key,
        score=next((str(run["main_score"]) for run in records), None),
        higher_is_better=not lower,
        configurations=tuple(dataclasses.replace(c, group=marks.get(c.label, "")) for c in configurations),
        pairs=tuple(pairs),
        front=tuple(front(measured, not lower)),
        baseline=baseline,
        notes=tuple(notes),
    )


def measures(configuration: Configuration) -> Measures:
    """The means over seeds that the Pareto front is drawn in."""
    record = configuration.record
    return Measures(
        configuration.estimate.mean if configuration.estimate else None,
        record["memory"]["train_peak_bytes"],
        record["speed"]["train_samples_per_second"],
        record["parameters"]["trainable"],
    )


def _pairs(compared: Sequence[Configuration], baseline: str | None, alpha: float) -> list[Pair]:
    """Every pair with its corrected p-values."""
    found = [_pair(first, second, alpha) for first, second in itertools.combinations(compared, 2)]
    tested = [(index, pair.comparison) for index, pair in enumerate(found) if pair.comparison is not None]
    raw = [comparison.p_value for _, comparison in tested]
    adjusted, steps = family.holm(raw), family.levels(raw, alpha)
    for (index, comparison), p, level in zip(tested, adjusted, steps, strict=True):
        settling = None if p <= alpha else power.settling(comparison.estimate, level)
        found[index] = dataclasses.replace(found[index], p_holm=p, different=p <= alpha, settling=settling)
    with_baseline = [(i, c) for i, c in tested if baseline in (found[i].first, found[i].second)]
    for (index, _), p in zip(with_baseline, family.holm([c.p_value for _, c in with_baseline]), strict=True):
        found[index] = dataclasses.replace(found[index], p_baseline=p)
    return found


def _pair(first: Configuration, second: Configuration, alpha: float) -> Pair:
    for one in (first, second):
        if one.references is None:
            return Pair(first.label, second.label, None, f"{one.label}, {one.unpaired}")
    common = sorted(set(first.samples) & set(second.samples))
    if not common:
        listed = [", ".join(map(str, c.samples)) for c in (first, second)]
        return Pair(first.label, second.label, None, f"they have no seed in common ({listed[0]} and {listed[1]})")
    if reason := predictions.unlike((first.runs[0], first.references), (second.runs[0], second.references)):
        return Pair(first.label, second.label, None, reason)
    ours, theirs = ([c.samples[seed] for seed in common] for c in (first, second))
    return Pair(first.label, second.label, paired.compare(ours, theirs, alpha))


def table(analysis: Analysis) -> list[dict[str, Any]]:
    """Every pair as a flat row of plain values, for a data frame or JSON; differences are first minus second."""
    rows = []
    for group in analysis.groups:
        for pair in group.pairs:
            found, settling = pair.comparison, pair.settling
            rows.append(
                {
                    "task": group.task,
                    "model": group.model,
                    "score_name": group.score,
                    "first": pair.first,
                    "second": pair.second,
                    "difference": found and found.difference,
                    "low": found and found.low,
                    "high": found and found.high,
                    "p_value": found and found.p_value,
                    "p_holm": pair.p_holm,
                    "p_baseline": pair.p_baseline,
                    "different": pair.different if found else None,
                    "test": found and found.test,
                    "seeds": found and found.seeds,
                    "examples": found and found.estimate.examples,
                    "detectable": settling and settling.detectable,
                    "seeds_needed": settling and settling.seeds,
                    "examples_needed": settling and settling.examples,
                    "reason": pair.reason or None,
                }
            )
    return rows
