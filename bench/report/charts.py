"""The report's charts as plotly traces. Colours are left to the page, which knows whether it is light or dark.

A trace names its colour as ``meta.ink``: ``m0`` to ``m7`` for methods, ``weights`` and so on for memory.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from bench import units
from bench.record import Record, main_value, scored
from bench.report import memory
from bench.report.escape import plot
from bench.report.labels import place

INKS = 8
_SYMBOLS = ("circle", "square", "diamond", "triangle-up", "cross", "x", "star", "pentagon")
_DASHES = ("solid", "dash", "dot", "dashdot", "longdash")
_MOST_LABELS = 8  # more points than this are named by a legend instead of beside the point
_MOST_ERROR_BARS = 60
_CURVE_POINTS = 10_000  # over all curves of one chart: what keeps 500 runs small and quick to draw
_LONGEST_LABEL = 26  # characters of a label beside a bar, on a phone

Trace = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Chart:
    """One chart: its place in the page (``wide`` takes the whole row), words, and what plotly draws."""

    title: str
    note: str
    traces: list[Trace]
    layout: dict[str, Any]
    wide: bool = False


def slots(records: Sequence[Record]) -> dict[str, int]:
    """A number for every method, from which its colour and symbol follow: the same in every chart."""
    names = sorted({record["spec"]["method"]["name"] for record in records})
    return {name: index for index, name in enumerate(names)}


def charts(ordered: Sequence[Record], names: Mapping[str, str], slot: Mapping[str, int]) -> list[Chart]:
    """The charts of one task and model, without those for which nothing was measured.

    Args:
        ordered: the records, best first.
        names: label by run id.
        slot: number by method name, from ``slots``.
    """
    drawer = _Drawer(ordered, names, slot)
    return [chart for chart in drawer.all() if chart.traces]


@dataclasses.dataclass(frozen=True)
class _Drawer:
    ordered: Sequence[Record]
    names: Mapping[str, str]
    slot: Mapping[str, int]

    def all(self) -> list[Chart]:
        lower = any(record["higher_is_better"] is False for record in self.ordered)
        corner = "Lower left is better" if lower else "Upper left is better"
        return [
            self._scatter(
                "Score against peak memory",
                f"{corner}.",
                lambda record: _scaled(record["memory"]["train_peak_bytes"], 1e-6),
                {"title": {"text": "training peak, MB"}, "rangemode": "tozero"},
            ),
            self._scatter(
                "Score against trained parameters",
                f"{corner}; logarithmic scale.",
                lambda record: record["parameters"]["trainable"] or None,
                {"title": {"text": "trained parameters"}, "type": "log", "tickformat": "~s", "dtick": 1},
            ),
            self._memory(),
            self._phases(),
            self._curve("Training loss", "loss", "loss"),
            self._curve("Dev score", "dev_score", self._score_title(), self._score_scale()),
        ]

    def _score_name(self) -> str | None:
        return next((record["main_score"] for record in self.ordered if record["main_score"]), None)

    def _score_scale(self) -> float:
        return 100.0 if units.is_share(self._score_name()) else 1.0

    def _score_title(self) -> str:
        return plot(self._score_name() or "score") + (", %" if units.is_share(self._score_name()) else "")

    def _scatter(self, title: str, note: str, x_of: Callable[[Record], Any], axis: dict[str, Any]) -> Chart:
        """Points of the scored runs; a few of them are named beside the point, many by a legend."""
        scale = self._score_scale()
        runs = [run for run in self.ordered if scored(run) and x_of(run) is not None]
        if not runs:
            return Chart(title, note, [], {})
        points = [(float(x_of(run)), scale * (main_value(run) or 0.0)) for run in runs]
        log = axis.get("type") == "log"
        x_range = _padded([math.log10(x) if log else x for x, _ in points], 0.18)
        if not log:
            x_range = [0.0, x_range[1]]
        y_range = _padded([y for _, y in points], 0.2)
        named = len(runs) <= _MOST_LABELS
        beside = [""] * len(runs)
        if named:
            at = [(_share(math.log10(x) if log else x, x_range), _share(y, y_range)) for x, y in points]
            tall = [_scaled(run["stderr"], scale / (y_range[1] - y_range[0])) or 0.0 for run in runs]
            beside = place(at, [self._label(run) for run in runs], tall)
        traces: list[Trace] = []
        for method, number in self.slot.items():
            mine = [index for index, run in enumerate(runs) if run["spec"]["method"]["name"] == method]
            if mine:
                trace = self._points(method, number, [runs[index] for index in mine])
                trace |= {
                    "x": [points[index][0] for index in mine],
                    "y": [points[index][1] for index in mine],
                }
                if named:
                    trace |= {"mode": "markers+text", "textposition": [beside[index] for index in mine]}
                if len(runs) <= _MOST_ERROR_BARS:
                    errors = [_scaled(runs[index]["stderr"], scale) for index in mine]
                    trace["error_y"] = {"type": "data", "array": errors, "thickness": 1, "width": 3}
                traces.append(trace)
        if len(runs) <= _MOST_ERROR_BARS and any(run["stderr"] for run in runs):
            note += " Bars: one standard error."
        ends = {"range": x_range}
        y_axis = {"title": {"text": self._score_title()}, "range": y_range}
        return Chart(title, note, traces, {"xaxis": axis | ends, "yaxis": y_axis, "showlegend": not named})

    def _points(self, method: str, number: int, runs: Sequence[Record]) -> Trace:
        return {
            "type": "scatter",
            "mode": "markers",
            "name": plot(method, _LONGEST_LABEL),
            "text": [self._label(run) for run in runs],
            "hovertext": [self._hover(run) for run in runs],
            "hovertemplate": "%{hovertext}<br>%{x:,.4~g} · %{y:.4~g}<extra></extra>",
            "cliponaxis": False,
            **_look(number),
        }

    def _label(self, run: Record) -> str:
        return plot(self.names[run["run_id"]], _LONGEST_LABEL)

    def _hover(self, run: Record) -> str:
        return f"{plot(self.names[run['run_id']])}, seed {run['spec']['seed']}"

    def _memory(self) -> Chart:
        note, traces, layout = memory.split(self.ordered, self.names)
        return Chart("What the training peak consists of", note, traces, layout, wide=True)

    def _phases(self) -> Chart:
        note, traces, layout = memory.phases(
            self.ordered, self.names, {name: _look(number) for name, number in self.slot.items()}
        )
        return Chart("Peak memory over phases", note, traces, layout)

    def _curve(self, title: str, value: str, axis: str, scale: float = 1.0) -> Chart:
        """A value against the optimizer step, one line per run, one legend entry per label or method."""
        runs = [run for run in self.ordered if any(point[value] is not None for point in run["curve"])]
        labels = list(dict.fromkeys(self.names[run["run_id"]] for run in runs))
        few = len(labels) <= _MOST_LABELS
        most = max(8, _CURVE_POINTS // max(1, len(runs)))
        seen: dict[str, list[str]] = {}  # labels by method, in the order of their dashes
        traces: list[Trace] = []
        for run in runs:
            method, label = run["spec"]["method"]["name"], self.names[run["run_id"]]
            mine = seen.setdefault(method, [])
            first = label not in mine if few else not mine
            if label not in mine:
                mine.append(label)
            name = plot(label if few else method, _LONGEST_LABEL)
            dash = mine.index(label) + self.slot[method] // INKS if few else 0
            points = [(point["step"], scale * point[value]) for point in run["curve"] if point[value] is not None]
            trace = self._line(run, thinned(points, most)) | {"name": name, "legendgroup": name}
            trace["line"] = {"width": 2 if few else 1, "dash": _DASHES[dash % len(_DASHES)]}
            traces.append(trace if first else trace | {"showlegend": False})
        layout = {"xaxis": {"title": {"text": "step"}}, "yaxis": {"title": {"text": axis}}}
        return Chart(title, "Per run, against the optimizer step.", traces, layout)

    def _line(self, run: Record, points: Sequence[tuple[int, float]]) -> Trace:
        steps = [step for step, _ in points]
        strides = {later - step for step, later in itertools.pairwise(steps)}
        made: Trace = {"x0": steps[0], "dx": strides.pop()} if len(strides) == 1 else {"x": steps}
        if len(points) == 1:
            made["mode"] = "markers"
        who = self._hover(run)
        return made | {
            "y": [y for _, y in points],
            "meta": {"ink": f"m{self.slot[run['spec']['method']['name']] % INKS}", "who": who},
        }


def thinned(points: Sequence[Any], most: int) -> list[Any]:
    """At most so many points at even distances, the last one always among them."""
    if len(points) <= most:
        return list(points)
    stride = math.ceil(len(points) / most)
    return [points[index] for index in range((len(points) - 1) % stride, len(points), stride)]


def _look(number: int) -> Trace:
    """Symbol and ink of a method: the same in every chart."""
    symbol = _SYMBOLS[(number + number // INKS) % len(_SYMBOLS)]
    return {"marker": {"symbol": symbol, "size": 10}, "meta": {"ink": f"m{number % INKS}"}}


def _scaled(value: float | None, factor: float) -> float | None:
    return None if value is None else value * factor


def _padded(values: Sequence[float], part: float) -> list[float]:
    low, high = min(values), max(values)
    pad = part * (high - low) or max(abs(high) * part, 1e-3)
    return [low - pad, high + pad]


def _share(value: float, ends: Sequence[float]) -> float:
    return (value - ends[0]) / (ends[1] - ends[0])
