"""Configurations: the runs that differ only in their seed, as one score, one interval and one value per measure."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import fmean

import numpy as np

from bench.analysis import paired_tests, power, predictions, variance
from bench.analysis import samples as scores
from bench.analysis.measures import PEAK, Measure
from bench.analysis.variance import Estimate
from bench.store.record import Record, failed_checks, main_value, provenance_key, scored

ALPHA = 0.05
_UNKNOWN_EXAMPLES = 1_000_000  # where predictions are gone: the normal distribution, without small-sample widening


# What an interval covers.
BOTH = "seeds and examples"
SEEDS = "seeds"
EXAMPLES = "examples"


@dataclass(frozen=True, eq=False)
class Configuration:
    """A method with its options on one task and model.

    Attributes:
        label: its name among the others: ``lora rank=8``.
        task: with the options that distinguish it from other configurations of the task.
        model: with its quantisation.
        runs: by seed: the newest scored run of each seed, and the runs without a score of the other seeds.
        estimate: of the main score; None where no run has one.
        covers: what its interval covers: BOTH (new seeds, new examples), EXAMPLES (new examples for the one trained
            model), SEEDS (new seeds, the same examples: the score has no standard error), or None without an interval.
        group: letters; configurations that share one do not differ significantly.
        samples, references: by seed, and what they were scored against, where predictions could be read; else
            ``unpaired`` says why not.
    """

    label: str
    task: str
    model: str
    runs: tuple[Record, ...]
    estimate: Estimate | None = None
    covers: str | None = None
    group: str = ""
    samples: Mapping[int, scores.Sample] = dataclasses.field(default_factory=dict)
    references: scores.Array | None = None
    unpaired: str = ""

    @property
    def where(self) -> str:
        """``TASK on MODEL``."""
        return f"{self.task} on {self.model}"

    @property
    def method(self) -> str:
        """The method's name."""
        return str(self.runs[0]["spec"]["method"]["name"])

    @cached_property
    def by_seed(self) -> dict[int, Record]:
        """The runs by seed."""
        return {run["spec"]["seed"]: run for run in self.runs}

    @cached_property
    def done(self) -> tuple[Record, ...]:
        """The runs with a score."""
        return tuple(run for run in self.runs if scored(run))

    @property
    def lost(self) -> tuple[Record, ...]:
        """The runs without one."""
        return tuple(run for run in self.runs if not scored(run))

    @property
    def lost_seeds(self) -> int:
        """How many seeds have no score."""
        return len({run["spec"]["seed"] for run in self.lost})

    @property
    def seeds(self) -> tuple[int, ...]:
        """Seeds with a score."""
        return tuple(run["spec"]["seed"] for run in self.done)

    @property
    def measured(self) -> tuple[Record, ...]:
        """The runs whose values are shown: those with a score, or all where none has one."""
        return self.done or self.runs

    @property
    def first(self) -> Record:
        """The first of the measured runs, for what all agree on."""
        return self.measured[0]

    @cached_property
    def score(self) -> float | None:
        """Mean of the main score over the seeds that have one."""
        values = [value for run in self.done if (value := main_value(run)) is not None]
        return fmean(values) if values else None

    @property
    def margin(self) -> float | None:
        """Half of the score's 95 % interval."""
        return self.half()

    @property
    def peak(self) -> float | None:
        """Training peak in bytes, the largest of the seeds."""
        return self.of(PEAK)

    @property
    def highest(self) -> Record:
        """The measured run with the largest training peak."""
        return max(self.measured, key=lambda run: run["memory"]["train_peak_bytes"] or 0)

    @property
    def doubts(self) -> dict[str, str]:
        """The checks that failed in any of the runs, with a reason."""
        return {name: why for run in self.runs for name, why in failed_checks(run).items()}

    @property
    def status(self) -> str:
        """``ok`` when every run has a score, a run's status when none has, else how many have."""
        if not self.lost:
            return "ok"
        if not self.done:
            return " and ".join(dict.fromkeys(status_of(run) for run in self.runs))
        return f"{len(self.done)} of {len(self.runs)} ok"

    def of(self, measure: Measure) -> float | None:
        """A measure over the seeds: the largest peak, the median speed, the mean of the rest."""
        values = [value for run in self.measured if (value := measure.of(run)) is not None]
        return measure.over(values) if values else None

    def half(self, alpha: float = ALPHA) -> float | None:
        """Half the interval of the score; None when nothing says how it varies: also where every answer counts alike,
        as that would be an interval of no width."""
        return None if self.estimate is None or self.covers is None else self.estimate.half(alpha) or None


def status_of(run: Record) -> str:
    """A run's status, or ``no score`` where it ended well without one."""
    return str(run["status"]) if run["status"] != "ok" or scored(run) else "no score"


def gather(
    key: tuple[str, str], members: Sequence[Record], names: Mapping[str, str], folder: Path | None
) -> tuple[list[Configuration], list[str]]:
    """The configurations of one task and model, best first and those without a score last, with their statistics.

    Args:
        key: task and model.
        members: their records.
        names: label by run id.
        folder: the store's, for the predictions; None: they are not read.

    Returns:
        The configurations, and a note for each of which older runs were left out.
    """
    by_label: dict[str, list[Record]] = {}
    for record in members:
        by_label.setdefault(names[record["run_id"]], []).append(record)
    made, notes = [], []
    for label, runs in by_label.items():
        done = [run for run in runs if scored(run)]
        kept = {run["spec"]["seed"]: run for run in newest(done)}
        if left_out := len(done) - len(kept):
            runs_of = "run" if left_out == 1 else "runs"
            notes.append(f"{label}: {left_out} older {runs_of} of other data, weights or code left out")
        lost = [run for run in runs if not scored(run) and run["spec"]["seed"] not in kept]
        ordered = sorted([*kept.values(), *lost], key=lambda run: int(run["spec"]["seed"]))
        made.append(_with_statistics(Configuration(label, *key, tuple(ordered)), folder))
    sign = -1.0 if lower_is_better(members) else 1.0
    made.sort(key=lambda c: (c.score is None, -sign * (c.score or 0.0), c.label))
    return made, notes


def newest(runs: Iterable[Record]) -> list[Record]:
    """The runs on the data, weights and code of the newest one, oldest first."""
    ordered = sorted(runs, key=lambda run: (str(run.get("created_at") or ""), run["run_id"]))
    keys = [provenance_key(run["spec"]) for run in ordered]
    return [run for run, key in zip(ordered, keys, strict=True) if key == keys[-1]]


def lower_is_better(records: Iterable[Record]) -> bool:
    return any(record["higher_is_better"] is False for record in records)


def _with_statistics(made: Configuration, folder: Path | None) -> Configuration:
    runs = made.done
    if not runs:
        return made
    try:
        samples, references = _samples(runs, folder)
    except (predictions.Unpaired, scores.Undefined) as error:
        why = str(error)
    else:
        found = variance.score(*paired_tests.arrays(list(samples.values())), len(references))
        covers = BOTH if len(runs) > 1 else EXAMPLES
        return dataclasses.replace(made, estimate=found, covers=covers, samples=samples, references=references)
    known = [float(run["stderr"]) for run in runs if run["stderr"] is not None]
    if known:
        spread: str | None = BOTH if len(runs) > 1 else EXAMPLES
    else:
        spread = SEEDS if len(runs) > 1 else None
    values = [float(main_value(run) or 0.0) for run in runs]
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


@dataclass(frozen=True)
class Pair:
    """Two configurations, the one with the better score first.

    Attributes:
        comparison: first minus second; None where they cannot be compared, and ``reason`` says why.
        p_holm: corrected over all pairs of the task and model.
        different: whether p_holm is at most alpha.
        p_baseline: corrected over the comparisons with the baseline alone; None when neither is the baseline.
        settling: the sample size needed; None where the pair differs significantly or cannot be compared.
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
