"""What a chart is, and what all charts of one task and model are drawn from.

Colours are left to the page, which knows whether it is light or dark. A trace names its colour as ``meta.ink``:
``m0`` to ``m7`` for methods, ``weights`` and so on for memory, ``muted`` for what is only there for orientation.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from bench.core import formatting
from bench.report.html.escape import plot
from bench.store.labels import groups, labels, ranked
from bench.store.record import Record

if TYPE_CHECKING:
    from bench.analysis.analysis import Analysis
    from bench.analysis.configurations import Configuration, Group

INKS = 8
MOST_LABELS = 8  # more points or lines than this are named by a legend instead of beside them
LONGEST_LABEL = 26  # characters of a label in a chart, on a phone
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "cross", "x", "star", "pentagon")
DASHES = ("solid", "dash", "dot", "dashdot", "longdash")

Trace = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Chart:
    """One chart: its place in the page (``wide`` takes the whole row), words, and what plotly draws.

    Attributes:
        key: short name, for files: ``pareto``, ``memory``.
        choices: axes that the reader may choose from, as the page's script takes them; empty for a fixed chart.
        columns: values of every point, by the key of a choice.
    """

    key: str
    title: str
    note: str
    traces: list[Trace]
    layout: dict[str, Any]
    wide: bool = False
    choices: Sequence[Mapping[str, Any]] = ()
    columns: Mapping[str, Sequence[float | None]] = dataclasses.field(default_factory=dict)

    def data(self) -> dict[str, Any]:
        """What the page's script reads."""
        made: dict[str, Any] = {"data": self.traces, "layout": self.layout}
        return made | {"choices": self.choices, "columns": self.columns} if self.choices else made


@dataclasses.dataclass(frozen=True)
class Scene:
    """The runs of one task and model, best first, with their labels, their methods' numbers and their statistics."""

    task: str
    model: str
    ordered: Sequence[Record]
    names: Mapping[str, str]
    slot: Mapping[str, int]
    group: Group

    @property
    def configurations(self) -> Sequence[Configuration]:
        """The configurations, best first."""
        return self.group.configurations

    @functools.cached_property
    def shown(self) -> list[Record]:
        """The runs that the rows are of, in the order of all."""
        there = {run["run_id"] for configuration in self.configurations for run in configuration.runs}
        return [run for run in self.ordered if run["run_id"] in there]

    @property
    def score_name(self) -> str | None:
        """The main score's name, as the task gives it."""
        return next((record["main_score"] for record in self.ordered if record["main_score"]), None)

    @property
    def lower(self) -> bool:
        """Whether a lower score is better."""
        return any(record["higher_is_better"] is False for record in self.ordered)

    @property
    def score_scale(self) -> float:
        """What a score is multiplied by on an axis: shares are drawn as percentages."""
        return 100.0 if formatting.is_share(self.score_name) else 1.0

    @property
    def dev(self) -> tuple[str, float]:
        """Title of the dev score's axis and its scale: the main score, unless the records say that it is another."""
        told = next((record["dev_score"] for record in self.ordered if record.get("dev_score")), None)
        if told is None or told["name"] == self.score_name:
            return self.score_title, self.score_scale
        share = formatting.is_share(told["name"])
        return plot(told["name"]) + (", %" if share else ""), 100.0 if share else 1.0

    @property
    def score_title(self) -> str:
        """Title of a score's axis."""
        return plot(self.score_name or "score") + (", %" if formatting.is_share(self.score_name) else "")


def scenes(records: Sequence[Record], analysis: Analysis) -> list[Scene]:
    """The tasks and models of some records, each with its runs best first."""
    names, slot = labels(records), slots(records)
    members = groups(records)
    return [
        Scene(group.task, group.model, ranked(members[group.task, group.model]), names, slot, group)
        for group in analysis.groups
    ]


def slots(records: Sequence[Record]) -> dict[str, int]:
    """A number for every method, from which its colour and symbol follow: the same in every chart."""
    names = sorted({record["spec"]["method"]["name"] for record in records})
    return {name: index for index, name in enumerate(names)}


def look(number: int) -> Trace:
    """Symbol and ink of a method: the same in every chart."""
    symbol = SYMBOLS[(number + number // INKS) % len(SYMBOLS)]
    return {"marker": {"symbol": symbol, "size": 10}, "meta": {"ink": f"m{number % INKS}"}}


def scaled(value: float | None, factor: float) -> float | None:
    """A measured value in an axis's unit; what was not measured stays None."""
    return None if value is None else value * factor


def bars(
    sizes: Sequence[tuple[str, str, Sequence[float | None]]],
    names: Sequence[str],
    hover: str,
) -> tuple[list[Trace], dict[str, Any]]:
    """Stacked horizontal bars, the first at the top: traces and layout.

    Bars are at numbers and the axis names them: two labels may be the same once cut short.

    Args:
        sizes: name, ink and one value per bar, for each part of a bar.
        names: of the bars.
        hover: how a value is shown, as plotly's template: ``%{x:,.1f} MB``.
    """
    places = list(range(len(names)))
    traces = [
        {
            "type": "bar",
            "orientation": "h",
            "name": part,
            "y": places,
            "x": list(values),
            "hovertext": [plot(name) for name in names],
            "hovertemplate": f"%{{hovertext}}<br>{part} {hover}<extra></extra>",
            "meta": {"ink": ink},
        }
        for part, ink, values in sizes
    ]
    layout = {
        "barmode": "stack",
        "bargap": 0.35,
        "height": 120 + 34 * len(names),
        "xaxis": {"rangemode": "tozero"},
        "yaxis": rows_axis(names),
    }
    return traces, layout


def rows_axis(names: Sequence[str]) -> dict[str, Any]:
    """A vertical axis of named rows, the first at the top."""
    shown = [plot(name, LONGEST_LABEL) for name in names]
    ticks = {"tickvals": list(range(len(names))), "ticktext": shown, "range": [len(names) - 0.5, -0.5]}
    return {**ticks, "automargin": True, "showgrid": False}


def padded(values: Sequence[float], part: float) -> list[float]:
    """An axis range with a margin of a part of its length on either side."""
    low, high = min(values), max(values)
    pad = part * (high - low) or max(abs(high) * part, 1e-3)
    return [low - pad, high + pad]
