"""Several tasks at once: averages, average ranks, and which methods nothing beats in every respect."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np


@dataclass(frozen=True)
class Measures:
    """What a configuration costs and gives; what was not measured is None.

    Attributes:
        score: the main score, in its own direction.
        memory: training peak in bytes.
        throughput: training samples per second.
        parameters: trained parameters.
    """

    score: float | None
    memory: float | None
    throughput: float | None
    parameters: float | None


def ranks(scores: Mapping[str, float], higher_is_better: bool = True) -> dict[str, float]:
    """Rank of each name on one task, 1 for the best; equal scores share their mean rank."""
    sign = -1.0 if higher_is_better else 1.0
    values = np.array([sign * score for score in scores.values()])
    found = [float((values < value).sum() + ((values == value).sum() + 1) / 2) for value in values]
    return dict(zip(scores, found, strict=True))


@dataclass(frozen=True)
class Overall:
    """A configuration over all tasks that every listed configuration has; no average where the scores have none."""

    label: str
    average: float | None
    average_rank: float
    half: float | None


def overall(
    scores: Mapping[str, Mapping[str, tuple[float, float | None]]], directions: Mapping[str, bool]
) -> list[Overall]:
    """Average score and average rank over tasks, best average rank first.

    Args:
        scores: task → label → (score, half of its interval); labels that lack a task are left out, as an average over
            fewer tasks would not compare.
        directions: task → whether higher is better. The average only means something where all agree.

    Returns:
        Overall of each label; its ``half`` takes the tasks to be independent: the root of the summed squares over
        their number.
    """
    labels = set.intersection(*(set(found) for found in scores.values())) if scores else set()
    by_task = {
        task: ranks({label: found[label][0] for label in sorted(labels)}, directions[task])
        for task, found in scores.items()
    }
    made = []
    for label in labels:
        values = [found[label] for found in scores.values()]
        halves = [half for _, half in values if half is not None]
        half = sum(part**2 for part in halves) ** 0.5 / len(values) if len(halves) == len(values) else None
        rank = fmean(found[label] for found in by_task.values())
        made.append(Overall(label, fmean(value for value, _ in values), rank, half))
    return sorted(made, key=lambda row: (row.average_rank, row.label))


def front(measures: Mapping[str, Measures], higher_is_better: bool = True) -> list[str]:
    """The Pareto front over (score, memory, throughput, parameters): the names that no other name dominates.

    One dominates another when it is as good in all four and better in one. Names that lack a measure are left out.
    """
    sign = 1.0 if higher_is_better else -1.0
    points = {
        name: (sign * found.score, -found.memory, found.throughput, -found.parameters)
        for name, found in measures.items()
        if found.score is not None
        and found.memory is not None
        and found.throughput is not None
        and found.parameters is not None
    }
    return [name for name, point in points.items() if not any(_dominates(other, point) for other in points.values())]


def _dominates(one: Sequence[float], other: Sequence[float]) -> bool:
    return all(a >= b for a, b in zip(one, other, strict=True)) and tuple(one) != tuple(other)
