"""Several tasks at once: methods against tasks, each cell the score and its distance to the task's best."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bench.analysis.configurations import Configuration
from bench.core import formatting
from bench.report.html.chart_base import LONGEST_LABEL, Chart, Scene, Trace, rows_axis
from bench.report.html.escape import plot

_MOST_ROWS = 24  # with more labels than this, a method is shown by its best configuration per task


def charts(found: Sequence[Scene]) -> list[Chart]:
    """One heatmap for every model that ran on at least two tasks."""
    by_model: dict[str, dict[str, list[Configuration]]] = {}
    for scene in found:
        scored = [one for one in scene.configurations if one.score is not None]
        if scored:
            by_model.setdefault(scene.model, {})[scene.task] = scored
    return [_chart(model, tasks) for model, tasks in by_model.items() if len(tasks) > 1]


def _chart(model: str, tasks: Mapping[str, Sequence[Configuration]]) -> Chart:
    labels = dict.fromkeys(one.label for found in tasks.values() for one in found)
    whole = len(labels) <= _MOST_ROWS
    cells: dict[str, dict[str, Configuration]] = {}
    for task, found in tasks.items():
        for one in found:  # best first
            cells.setdefault(one.label if whole else one.method, {}).setdefault(task, one)
    best = {task: found[0] for task, found in tasks.items()}
    rows = sorted(cells, key=lambda row: _mean_loss(cells[row], best))
    note = "Score in the cell; colour: gap to the task's best. Sorted by mean gap to the best."
    note += "" if whole else " Each method by its best configuration per task."
    trace: Trace = {
        "type": "heatmap",
        "x": list(range(len(tasks))),
        "y": list(range(len(rows))),
        "z": [[_loss(cells[row].get(task), best[task]) for task in tasks] for row in rows],
        "text": [[_written(cells[row].get(task)) for task in tasks] for row in rows],
        "texttemplate": "%{text}",
        "hoverinfo": "skip",
        "showscale": False,
        "zmin": 0,
        "xgap": 2,
        "ygap": 2,
        "meta": {"ink": "heat"},
    }
    layout: dict[str, Any] = {
        "height": 110 + 32 * len(rows),
        "xaxis": {
            "tickvals": list(range(len(tasks))),
            "ticktext": [plot(task, LONGEST_LABEL) for task in tasks],
            "side": "top",
            "showgrid": False,
        },
        "yaxis": rows_axis(rows),
    }
    return Chart("heatmap", f"Methods and tasks on {plot(model)}", note, [trace], layout, wide=True)


def _loss(one: Configuration | None, best: Configuration) -> float | None:
    """How far a score is below the task's best, as a share of that best; 0 is the best."""
    if one is None or one.score is None or best.score is None:
        return None
    return abs(one.score - best.score) / (abs(best.score) or 1.0)


def _mean_loss(row: Mapping[str, Configuration], best: Mapping[str, Configuration]) -> tuple[int, float]:
    """Rows with all tasks come first, then by their mean loss."""
    losses = [loss for task, one in row.items() if (loss := _loss(one, best[task])) is not None]
    return len(best) - len(losses), sum(losses) / max(1, len(losses))


def _written(one: Configuration | None) -> str:
    if one is None:
        return ""
    return plot(formatting.score(one.first["main_score"], one.score).removesuffix(" %"))
