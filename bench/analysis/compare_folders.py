"""The whole comparison of two folders, as plain data that the terminal, JSON and HTML are made of."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.analysis import multiple_testing
from bench.analysis.compare_metric import Change, changes, corrected, sides
from bench.analysis.configurations import Configuration
from bench.analysis.matching import differences, match
from bench.core.formatting import first_line
from bench.store.record import Record


@dataclasses.dataclass(frozen=True)
class Row:
    """One configuration that both sides have.

    Attributes:
        label, task, model: what it is.
        seeds: the finished seeds of either side, of which those that both have were compared where there are any.
        unfinished: a sentence for each run that did not finish.
        changes: metric by metric.
    """

    label: str
    task: str
    model: str
    seeds: tuple[tuple[int, ...], tuple[int, ...]]
    unfinished: tuple[str, ...]
    changes: tuple[Change, ...]


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Two folders.

    Attributes:
        names: what the sides are called.
        rows: by task, model and label.
        missing: labels (``lora (glue/sst2 on minilm)``) that the second, and the first, side lacks.
        differences: what the two rest on that is not the same.
        notes: on how runs were matched.
        alpha, tests: Holm's error rate and how many tests share it.
    """

    names: tuple[str, str]
    rows: list[Row]
    missing: tuple[list[str], list[str]]
    differences: list[str]
    notes: list[str]
    alpha: float
    tests: int

    @property
    def marked(self) -> list[tuple[Row, Change]]:
        """What changed beyond its noise."""
        return [(row, change) for row in self.rows for change in row.changes if change.mark]


def compare(folders: tuple[Path, Path], records: tuple[list[Record], list[Record]], alpha: float) -> Comparison:
    """Compare two folders' records; predictions are read from the folders where they are there."""
    matched = match(*records)
    found = []
    for pair in matched.pairs:
        first, second = sides(pair, folders)
        found.append((pair, changes(first, second) if first.runs and second.runs else []))
    raw = [change.p_value for _, changed in found for change in changed if change.p_value is not None]
    left = multiple_testing.holm(raw)
    rows = []
    for pair, changed in found:
        count = sum(change.p_value is not None for change in changed)
        rows.append(_row(pair, corrected(changed, left[:count], alpha)))
        left = left[count:]
    return Comparison(
        names=(str(folders[0]), str(folders[1])),
        rows=rows,
        missing=(_named(matched.only_first), _named(matched.only_second)),
        differences=differences(*records),
        notes=matched.notes,
        alpha=alpha,
        tests=len(raw),
    )


def _named(configurations: Sequence[Configuration]) -> list[str]:
    return [f"{one.label} ({one.where})" for one in configurations]


def _row(pair: tuple[Configuration, Configuration], changed: list[Change]) -> Row:
    done, unfinished = [], []
    for side, configuration in zip("AB", pair, strict=True):
        done.append(tuple(seed for seed, run in configuration.by_seed.items() if run["status"] == "ok"))
        unfinished += [
            f"{side}, seed {seed}: {run['status']}{': ' if run['error'] else ''}{first_line(run['error'])}"
            for seed, run in configuration.by_seed.items()
            if run["status"] != "ok"
        ]
    return Row(pair[0].label, pair[0].task, pair[0].model, (done[0], done[1]), tuple(unfinished), tuple(changed))


def plain(comparison: Comparison) -> dict[str, Any]:
    """The comparison as JSON holds it; ``change`` of a score is in its own unit, of anything else a share."""
    rows = [
        {
            "label": row.label,
            "task": row.task,
            "model": row.model,
            "seeds": [list(seeds) for seeds in row.seeds],
            "unfinished": list(row.unfinished),
            "changes": [
                {
                    "metric": change.metric.key,
                    "kind": change.metric.noise,
                    **{
                        field.name: getattr(change, field.name)
                        for field in dataclasses.fields(change)
                        if field.name != "metric"
                    },
                }
                for change in row.changes
            ],
        }
        for row in comparison.rows
    ]
    return {
        "first": comparison.names[0],
        "second": comparison.names[1],
        "alpha": comparison.alpha,
        "correction": f"Holm over {comparison.tests} tests",
        "only_first": comparison.missing[0],
        "only_second": comparison.missing[1],
        "differences": comparison.differences,
        "notes": comparison.notes,
        "configurations": rows,
    }
