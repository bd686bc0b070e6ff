"""Runs gathered by configuration: one score over the seeds, what its interval covers, and its predictions.

A configuration is what ``bench.store.labels.labels`` calls by one name: a method with its options, over seeds.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bench.analysis import paired_tests, power, predictions, variance
from bench.analysis import samples as scores
from bench.analysis.across_tasks import Measures
from bench.analysis.averaging import averaged
from bench.analysis.variance import Estimate
from bench.store.record import Record, main_value, provenance_key, scored

ALPHA = 0.05
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
        group: letters; configurations that share one do not differ significantly.
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

    def shows(self, run: Record) -> bool:
        """Whether a run of this label is among those that its row is of: no older one of other data or code, and no
        lost one whose seed has a score since."""
        done = {kept["run_id"] for kept in self.runs}
        return not done or run["run_id"] in done or (not scored(run) and run["spec"]["seed"] not in self.seeds)

    def half(self, alpha: float = ALPHA) -> float | None:
        """Half the interval of the score; None when nothing says how it varies: also where every answer counts alike,
        as that would be an interval of no width."""
        return None if self.estimate is None or self.covers is None else self.estimate.half(alpha) or None


def gather(
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
            runs_of = "run" if left_out == 1 else "runs"
            notes.append(f"{label}: {left_out} older {runs_of} of other data, weights or code left out")
        lost = {run["spec"]["seed"] for run in runs if not scored(run)} - {run["spec"]["seed"] for run in kept}
        made.append(_configuration(label, kept, (kept or runs, len(lost)), folder))
    sign = -1.0 if lower_is_better(members) else 1.0
    made.sort(key=lambda c: (c.estimate is None, -sign * c.estimate.mean if c.estimate else 0.0, c.label))
    return made, notes


def _newest(runs: Sequence[Record]) -> tuple[list[Record], int]:
    """One run per seed, all on the data, weights and code of the newest run; and how many were left out."""
    latest = sorted(runs, key=lambda run: (run["created_at"], run["run_id"]))
    if not latest:
        return [], 0
    newest = provenance_key(latest[-1]["spec"])
    by_seed = {run["spec"]["seed"]: run for run in latest if provenance_key(run["spec"]) == newest}
    return [by_seed[seed] for seed in sorted(by_seed)], len(runs) - len(by_seed)


def lower_is_better(records: Iterable[Record]) -> bool:
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
        found = variance.score(*paired_tests.arrays(list(samples.values())), len(references))
        covers = BOTH if len(runs) > 1 else EXAMPLES
        return dataclasses.replace(made, estimate=found, covers=covers, samples=samples, references=references)
    stderrs = [run["stderr"] for run in runs]
    known = [float(stderr) for stderr in stderrs if stderr is not None]
    if known:
        spread: str | None = BOTH if len(runs) > 1 else EXAMPLES
    else:
        spread = SEEDS if len(runs) > 1 else None
    found = variance.from_stderrs(values, known or [0.0], _UNKNOWN_EXAMPLES)
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
            made = answers.sample(str(run["main_score"]))
        except (predictions.Unpaired, scores.Undefined) as error:
            raise predictions.Unpaired(f"seed {seed}: {error}") from error
        value = float(main_value(run) or 0.0)
        if abs(made.value - value) > 1e-6 * max(1.0, abs(value)):
            raise predictions.Unpaired(
                f"seed {seed}: its predictions give {made.value:.4g}, its record says {value:.4g}"
            )
        found[seed] = made
    return found, np.array([]) if references is None else references


def measures(configuration: Configuration) -> Measures:
    """The means over seeds that the Pareto front is drawn in."""
    record = configuration.record
    return Measures(
        configuration.estimate.mean if configuration.estimate else None,
        record["memory"]["train_peak_bytes"],
        record["speed"]["train_samples_per_second"],
        record["parameters"]["trainable"],
    )


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
    comparison: paired_tests.Comparison | None
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
        """The configurations that were compared with this one and do not differ significantly from it, best first."""
        return [
            pair.second if pair.first == label else pair.first
            for pair in self.pairs
            if label in (pair.first, pair.second) and pair.comparison is not None and not pair.different
        ]

    def pair(self, one: str, other: str) -> Pair | None:
        """The pair of two labels, in whichever order."""
        return next((pair for pair in self.pairs if {pair.first, pair.second} == {one, other}), None)
