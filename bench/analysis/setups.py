"""Configurations: the runs that differ only in their seed, taken together."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from statistics import fmean
from typing import TYPE_CHECKING

from bench.analysis.measures import PEAK, Measure
from bench.store.record import Record, failed_checks, main_value, scored

if TYPE_CHECKING:
    from bench.analysis.configurations import Configuration, Group


@dataclasses.dataclass(frozen=True)
class Setup:
    """The runs of one configuration of one task and model: same label, different seeds.

    Attributes:
        margin: half of the score's 95 % interval over seeds and examples; None where it cannot be told.
        covers: what the interval is over: seeds, examples, or both.
        group: letters of the rank groups it belongs to: configurations that share one do not differ significantly.
    """

    label: str
    runs: tuple[Record, ...]
    margin: float | None = None
    group: str = ""
    covers: str = ""

    @property
    def method(self) -> str:
        """The method's name."""
        name: str = self.runs[0]["spec"]["method"]["name"]
        return name

    @property
    def done(self) -> tuple[Record, ...]:
        """The runs with a score."""
        return tuple(run for run in self.runs if scored(run))

    @property
    def lost(self) -> tuple[Record, ...]:
        """The runs without one."""
        return tuple(run for run in self.runs if not scored(run))

    @property
    def first(self) -> Record:
        """The run that stands for all where they agree: the first with a score, else the first."""
        return (self.done or self.runs)[0]

    @property
    def score(self) -> float | None:
        """Mean of the main score over the seeds that have one."""
        values = [value for run in self.done if (value := main_value(run)) is not None]
        return fmean(values) if values else None

    @property
    def peak(self) -> float | None:
        """Training peak in bytes, the largest of the seeds."""
        return self.of(PEAK)

    @property
    def highest(self) -> Record:
        """The run with the largest training peak among those whose figures are shown."""
        return max(self.done or self.runs, key=lambda run: run["memory"]["train_peak_bytes"] or 0)

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
        """A measure over the seeds with a score, or over all where none has one: the largest peak, the median speed,
        the mean of what is left."""
        values = [value for run in self.done or self.runs if (value := measure.of(run)) is not None]
        return measure.over(values) if values else None


def status_of(run: Record) -> str:
    """A run's status, or ``no score`` where it ended well without one."""
    return str(run["status"]) if run["status"] != "ok" or scored(run) else "no score"


def setups(records: Iterable[Record], names: Mapping[str, str], found: Group | None = None) -> list[Setup]:
    """Gather the runs of one task and model by label, best mean score first, what has none last.

    Args:
        records: of one task and model.
        names: label by run id.
        found: their statistics, for intervals and rank groups; runs that these left out (older ones of other data or
            code) are left out here too.
    """
    by_label: dict[str, list[Record]] = {}
    for record in records:
        by_label.setdefault(names[record["run_id"]], []).append(record)
    known = {one.label: one for one in found.configurations} if found else {}
    return sorted((_setup(label, runs, known.get(label)) for label, runs in by_label.items()), key=_order)


def _setup(label: str, runs: list[Record], found: Configuration | None) -> Setup:
    ordered = sorted(runs, key=lambda run: int(run["spec"]["seed"]))
    if found is None or not found.runs:
        return Setup(label, tuple(ordered))
    chosen = tuple(run for run in ordered if found.shows(run))
    return Setup(label, chosen, found.half(), found.group, found.covers or "")


def _order(setup: Setup) -> tuple[bool, float, str]:
    sign = 1.0 if setup.first["higher_is_better"] is False else -1.0
    score = setup.score
    return score is None, 0.0 if score is None else sign * score, setup.label
