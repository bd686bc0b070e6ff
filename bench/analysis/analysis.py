"""The statistics of a folder: every configuration over its seeds, every pair of them, and what that rests on.

Families of comparisons, each corrected by Holm's procedure on its own: all pairs of one task and model, and, where a
baseline is chosen, the baseline with every other.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.analysis import multiple_testing, paired_tests, power, predictions
from bench.analysis.across_tasks import Measures, Overall, front, overall
from bench.analysis.configurations import ALPHA, Configuration, Group, Pair, gather, lower_is_better
from bench.analysis.measures import PEAK, THROUGHPUT, TRAINED
from bench.core import formatting
from bench.core.errors import RequestError, unknown
from bench.store.labels import differing, groups, labels, with_tuned_marked
from bench.store.record import Record

MOST_PAIRED = 40  # configurations of one task and model, best first: 780 pairs


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
    for key, members in groups(records).items():
        configurations, notes = gather(key, members, names, folder)
        chosen = _baseline(configurations, baseline)
        found.append(_group(key, configurations, chosen, (alpha, notes)))
    if baseline is not None and not any(group.baseline for group in found):
        known = sorted({name for group in found for c in group.configurations for name in (c.label, c.method)})
        raise RequestError(unknown("baseline", baseline, known), code="invalid-value")
    return Analysis(alpha, baseline, tuple(found))


def _baseline(configurations: Sequence[Configuration], wanted: str | None) -> str | None:
    if wanted is None:
        return None
    exact = [c.label for c in configurations if c.label == wanted and c.done]
    named = exact or [c.label for c in configurations if c.method == wanted and c.done]
    if len(named) > 1:
        raise RequestError(
            f"--baseline: '{wanted}' has {len(named)} configurations; name one of them: "
            f"{', '.join(repr(label) for label in sorted(named))}.",
            code="ambiguous",
        )
    return named[0] if named else None


def _group(
    key: tuple[str, str],
    configurations: Sequence[Configuration],
    baseline: str | None,
    settings: tuple[float, list[str]],
) -> Group:
    alpha, notes = settings
    ranked = [c for c in configurations if c.done]
    compared = ranked[:MOST_PAIRED] + [c for c in ranked[MOST_PAIRED:] if c.label == baseline]
    if len(compared) < len(ranked):
        notes = [*notes, f"only the best {MOST_PAIRED} of {len(ranked)} configurations were compared pair by pair"]
    lower = lower_is_better([run for c in ranked for run in c.done])
    pairs = _pairs(compared, baseline, alpha, lower)
    lettered = multiple_testing.all_compared(
        [c.label for c in compared], {(p.first, p.second) for p in pairs if p.comparison}
    )
    different = {(pair.first, pair.second) for pair in pairs if pair.different}
    marks = multiple_testing.letters(lettered, {pair for pair in different if set(pair) <= set(lettered)})
    records = [run for c in ranked for run in c.done]
    measured = {c.label: _costs(c) for c in ranked}
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


def _costs(c: Configuration) -> Measures:
    """The values that the Pareto front is drawn in."""
    return Measures(c.estimate.mean if c.estimate else None, c.of(PEAK), c.of(THROUGHPUT), c.of(TRAINED))


def _pairs(compared: Sequence[Configuration], baseline: str | None, alpha: float, lower: bool) -> list[Pair]:
    """Every pair with its corrected p-values."""
    found = [_pair(first, second, alpha, lower) for first, second in itertools.combinations(compared, 2)]
    tested = [(index, pair.comparison) for index, pair in enumerate(found) if pair.comparison is not None]
    raw = [comparison.p_value for _, comparison in tested]
    adjusted, steps = multiple_testing.holm(raw), multiple_testing.levels(raw, alpha)
    for (index, comparison), p, level in zip(tested, adjusted, steps, strict=True):
        settling = None if p <= alpha else power.settling(comparison.estimate, level)
        found[index] = dataclasses.replace(found[index], p_holm=p, different=p <= alpha, settling=settling)
    with_baseline = [(i, c) for i, c in tested if baseline in (found[i].first, found[i].second)]
    for (index, _), p in zip(with_baseline, multiple_testing.holm([c.p_value for _, c in with_baseline]), strict=True):
        found[index] = dataclasses.replace(found[index], p_baseline=p)
    return found


def _pair(first: Configuration, second: Configuration, alpha: float, lower: bool) -> Pair:
    """The pair, the one first that scores better over the seeds that both have: over all of its own it may not."""
    for one in (first, second):
        if one.references is None:
            return Pair(first.label, second.label, None, f"{one.label}, {one.unpaired}")
    common = sorted(set(first.samples) & set(second.samples))
    if not common:
        listed = [", ".join(map(str, c.samples)) for c in (first, second)]
        return Pair(first.label, second.label, None, f"they have no seed in common ({listed[0]} and {listed[1]})")
    if reason := predictions.unlike((first.first, first.references), (second.first, second.references)):
        return Pair(first.label, second.label, None, reason)
    ours, theirs = ([c.samples[seed] for seed in common] for c in (first, second))
    made = paired_tests.compare(ours, theirs, alpha)
    if made.difference * (-1 if lower else 1) < 0:
        return Pair(second.label, first.label, paired_tests.compare(theirs, ours, alpha))
    return Pair(first.label, second.label, made)


@dataclass(frozen=True)
class Summary:
    """All tasks of one model together.

    Attributes:
        tasks: those it is over.
        rows: configurations that have a score on all of them, best average rank first.
        front: of rows, those on the Pareto front of average score, mean peak, mean throughput and parameters.
        incomplete: configurations that lack a task, with the tasks they lack.
        scores: the names of the tasks' main scores.
        scale: of the average: "%" of shares, "points" (shares and correlations times 100, as GLUE's), "" of scores of
            one name; None where scores of these kinds have no average.
    """

    model: str
    tasks: tuple[str, ...]
    rows: tuple[Overall, ...]
    front: tuple[str, ...]
    incomplete: dict[str, tuple[str, ...]]
    scores: tuple[str, ...]
    scale: str | None

    @property
    def head(self) -> str:
        """What a column of averages is called."""
        return "average score %" if self.scale == "%" else "average score"

    @property
    def note(self) -> str:
        """What an average is of, where its name does not say that; a sentence or nothing."""
        listed = ", ".join(self.scores)
        if self.scale is None:
            return f"Scores of such kinds have no average ({listed}): their ranks compare."
        return f"The average is of shares and correlations, times 100 ({listed})." if self.scale == "points" else ""

    def written(self, value: float | None) -> str:
        """An average, or half its interval, as people read it."""
        if value is None:
            return formatting.DASH
        return f"{value:.3f}" if self.scale == "" else f"{100 * value:.1f}"


def over_tasks(analysis: Analysis) -> list[Summary]:
    """One summary for each model that was run on several tasks; tasks on which nothing has a score are not counted."""
    found = []
    for model in sorted({group.model for group in analysis.groups}):
        mine = [group for group in analysis.groups if group.model == model and group.score is not None]
        if len(mine) > 1:
            found.append(_summary(model, mine, analysis.alpha))
    return found


def _summary(model: str, members: Sequence[Group], alpha: float) -> Summary:
    members = _joined(members)
    scores = {
        group.task: {c.label: (c.estimate.mean, c.half(alpha)) for c in group.configurations if c.estimate}
        for group in members
    }
    kinds = tuple(dict.fromkeys(str(group.score) for group in members))
    scale = _scale(kinds, len({group.higher_is_better for group in members}) == 1)
    rows = overall(scores, {group.task: group.higher_is_better for group in members})
    if scale is None:
        rows = [dataclasses.replace(row, average=None, half=None) for row in rows]
    every = dict.fromkeys(c.label for group in members for c in group.configurations)
    lacking = {label: tuple(task for task in scores if label not in scores[task]) for label in every}
    measured = {}
    for row in rows:
        parts = [_costs(c) for group in members for c in group.configurations if c.label == row.label]
        measured[row.label] = Measures(
            row.average,
            _mean([part.memory for part in parts]),
            _mean([part.throughput for part in parts]),
            _mean([part.parameters for part in parts]),
        )
    on_front = front(measured, members[0].higher_is_better) if scale is not None else []
    incomplete = {label: tasks for label, tasks in lacking.items() if tasks}
    return Summary(model, tuple(scores), tuple(rows), tuple(on_front), incomplete, kinds, scale)


def _joined(members: Sequence[Group]) -> list[Group]:
    """Groups of one model in which a configuration has one label on all tasks.

    Where a method was run under several trainer settings on one task ("lora steps=60", "lora steps=20") and under one
    on the others ("lora"), the one of these settings takes the others' label.
    """

    def settings(c: Configuration) -> tuple[str, dict[str, str]]:
        spec = c.first["spec"]
        return repr(sorted(with_tuned_marked(spec, "method").items())), {
            k: repr(v) for k, v in with_tuned_marked(spec, "train").items()
        }

    of_method: dict[str, list[list[tuple[str, dict[str, str]]]]] = {}  # per task: label and trainer settings
    for group in members:
        here: dict[str, list[tuple[str, dict[str, str]]]] = {}
        for c in group.configurations:
            method, train = settings(c)
            here.setdefault(method, []).append((c.label, train))
        for method, found in here.items():
            of_method.setdefault(method, []).append(found)
    renamed: dict[str, str] = {}
    for tasks in of_method.values():
        single = [found[0] for found in tasks if len(found) == 1]
        for several in (found for found in tasks if len(found) > 1):
            telling = differing([train for _, train in several])
            wanted = {(label, tuple(train.get(key) for key in telling)) for label, train in single}
            if len(wanted) == 1:
                ((shared, values),) = wanted
                renamed |= {label: shared for label, train in several if tuple(map(train.get, telling)) == values}
    return [
        dataclasses.replace(
            group,
            configurations=tuple(
                dataclasses.replace(c, label=renamed.get(c.label, c.label)) for c in group.configurations
            ),
        )
        for group in members
    ]


def _scale(kinds: Sequence[str], one_direction: bool) -> str | None:
    """What an average of such scores is in; None where it means nothing."""
    if one_direction and all(map(formatting.is_share, kinds)):
        return "%"
    if (
        one_direction
        and all(formatting.is_share(kind) or formatting.is_correlation(kind) for kind in kinds)
        and len(kinds) > 1
    ):
        return "points"
    return "" if one_direction and len(kinds) == 1 else None


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known and len(known) == len(values) else None


COLUMNS = (
    "task", "model", "score_name", "first", "second", "difference", "low", "high", "p_value", "p_holm", "p_baseline",
    "different", "test", "seeds", "examples", "detectable", "seeds_needed", "examples_needed", "reason",
)  # fmt: skip


def rows(analysis: Analysis) -> list[dict[str, Any]]:
    """Every pair as a flat row of COLUMNS, for a data frame or JSON; differences are first minus second."""
    made = []
    for group in analysis.groups:
        for pair in group.pairs:
            found, settling = pair.comparison, pair.settling
            values: list[Any] = [group.task, group.model, group.score, pair.first, pair.second]
            values += [found.difference, found.low, found.high, found.p_value] if found else [None] * 4
            values += [pair.p_holm, pair.p_baseline, pair.different if found else None]
            values += [found.test, found.seeds, found.estimate.examples] if found else [None] * 3
            values += [settling.detectable, settling.seeds, settling.examples] if settling else [None] * 3
            made.append(dict(zip(COLUMNS, [*values, pair.reason or None], strict=True)))
    return made
