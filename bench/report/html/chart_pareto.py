"""The trade-off chart: any two measures against each other, with the Pareto front.

Drawn as score against peak memory; the page's script redraws it for the axes that the reader chooses.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from bench.analysis.configurations import Configuration
from bench.analysis.measures import MEASURES, PEAK
from bench.report.html.chart_base import LONGEST_LABEL, MOST_LABELS, Chart, Scene, Trace, look, padded, scaled
from bench.report.html.escape import plot
from bench.report.html.label_placement import place

_MOST_ERROR_BARS = 60
_PERCENT = 100.0  # the scale of scores that are shares


def chart(scene: Scene) -> Chart:
    """One point for every scored configuration; empty with fewer than two."""
    title = "Trade-offs"
    points = [one for one in scene.configurations if one.score is not None]
    choices = _choices(scene, points)
    if len(choices) < 2 or len(points) < 2:
        return Chart("pareto", title, "", [], {})
    columns = {
        choice["key"]: [_value(scene, one, choice["key"]) for one in points] for choice in choices
    }  # fmt: skip
    x, y = next((choice for choice in choices if choice["key"] == PEAK.key), choices[1]), choices[0]
    bars = len(points) <= _MOST_ERROR_BARS and any(one.margin for one in points)
    if bars:
        columns["margin"], columns["below"] = _bars(scene, points)
    seen = [index for index in range(len(points)) if columns[x["key"]][index] is not None]
    traces, layout = _drawn(scene, points, seen, (columns, x, y))
    note = "Dotted: Pareto front."
    if bars:
        note += " Bars: 95 % intervals of the score"
        note += ", clipped to 0-100 %." if scene.score_scale == _PERCENT else "."
    return Chart("pareto", title, note, traces, layout, True, choices, columns)


def _choices(scene: Scene, points: Sequence[Configuration]) -> list[dict[str, Any]]:
    """The score, then every measure that at least one scored configuration has."""
    found = [{"key": "score", "title": scene.score_title, "log": False, "least": scene.lower}]
    for measure in MEASURES:
        if measure.axis and any(one.of(measure) is not None for one in points):
            found.append({"key": measure.key, "title": measure.axis, "log": measure.log, "least": measure.least})
    return found


def _bars(scene: Scene, points: Sequence[Configuration]) -> tuple[list[float | None], list[float | None]]:
    """How far a score's interval reaches up and down on its axis; a share's no further than a share can be."""
    most = 1.0 if scene.score_scale == _PERCENT else math.inf
    up: list[float | None] = []
    down: list[float | None] = []
    for one in points:
        half, score = one.margin, one.score or 0.0
        up.append(None if half is None else scaled(min(half, most - score), scene.score_scale))
        down.append(None if half is None else scaled(min(half, score) if most == 1.0 else half, scene.score_scale))
    return up, down


def _value(scene: Scene, one: Configuration, key: str) -> float | None:
    if key == "score":
        return scaled(one.score, scene.score_scale)
    measure = next(measure for measure in MEASURES if measure.key == key)
    value = scaled(one.of(measure), measure.scale)
    return None if measure.log and not value else value  # a logarithmic axis has no place for 0


def _drawn(
    scene: Scene,
    points: Sequence[Configuration],
    seen: Sequence[int],
    axes: tuple[Mapping[str, Sequence[float | None]], Mapping[str, Any], Mapping[str, Any]],
) -> tuple[list[Trace], dict[str, Any]]:
    """Traces and layout for one pair of axes; ``meta.rows`` says which points a trace holds."""
    columns, x, y = axes
    at = {index: (columns[x["key"]][index] or 0.0, columns[y["key"]][index] or 0.0) for index in seen}
    named = len(points) <= MOST_LABELS
    x_range = padded([px for px, _ in at.values()], 0.18) if at else [0.0, 1.0]
    x_range = [0.0, x_range[1]]
    margins, below = columns.get("margin"), columns.get("below")
    half = {index: ((margins[index] or 0.0) if margins else 0.0) for index in at}
    down = {index: ((below[index] or 0.0) if below else 0.0) for index in at}
    y_range = padded([y for i, (_, py) in at.items() for y in (py - down[i], py + half[i])], 0.12) if at else [0.0, 1.0]
    edge = front(list(at.values()), x["least"], y["least"])
    beside = dict.fromkeys(range(len(points)), "top center")
    if named and at:
        shares = [(_share(px, x_range), _share(py, y_range)) for px, py in at.values()]
        tall = [half[index] / (y_range[1] - y_range[0]) for index in seen]
        labels = [plot(points[index].label, LONGEST_LABEL) for index in seen]
        line = [(_share(px, x_range), _share(py, y_range)) for px, py in edge]
        beside |= dict(zip(seen, place(shares, labels, tall, line), strict=True))
    traces = [_front(edge, x)]
    for method, number in scene.slot.items():
        rows = [index for index, one in enumerate(points) if one.method == method]
        if not rows:
            continue
        style = look(number)
        trace: Trace = style | {
            "type": "scatter",
            "mode": "markers+text" if named else "markers",
            "name": plot(method, LONGEST_LABEL),
            "x": [columns[x["key"]][index] for index in rows],
            "y": [columns[y["key"]][index] for index in rows],
            "text": [plot(points[index].label, LONGEST_LABEL) for index in rows],
            "hovertemplate": "%{text}<br>%{x:,.4~g} · %{y:.4~g}<extra></extra>",
            "cliponaxis": False,
            "meta": style["meta"] | {"rows": rows},
        }
        if named:
            trace["textposition"] = [beside[index] for index in rows]
        if margins and below:
            ends = {"array": [margins[i] for i in rows], "arrayminus": [below[i] for i in rows], "symmetric": False}
            trace["error_y"] = {"type": "data", **ends, "thickness": 1, "width": 3}
        traces.append(trace)
    layout = {
        "xaxis": {"title": {"text": x["title"]}, "range": x_range},
        "yaxis": {"title": {"text": y["title"]}, "range": y_range},
        "showlegend": not named,
        "height": 440,
    }
    return traces, layout


def _front(line: Sequence[tuple[float, float]], x: Mapping[str, Any]) -> Trace:
    return {
        "type": "scatter",
        "mode": "lines",
        "name": "front",
        "x": [px for px, _ in line],
        "y": [py for _, py in line],
        "line": {"width": 1, "dash": "dot", "shape": "hv" if x["least"] else "vh"},
        "hoverinfo": "skip",
        "showlegend": False,
        "meta": {"ink": "muted", "front": True},
    }


def front(points: Sequence[tuple[float, float]], x_least: bool, y_least: bool) -> list[tuple[float, float]]:
    """The points that no other point beats in one coordinate without losing in the other, by x."""
    signed = sorted(
        ((px if x_least else -px, py if y_least else -py) for px, py in points if math.isfinite(px + py)),
    )
    kept: list[tuple[float, float]] = []
    for point in signed:
        if not kept or point[1] < kept[-1][1]:
            kept.append(point)
    return sorted((px if x_least else -px, py if y_least else -py) for px, py in kept)


def _share(value: float, ends: Sequence[float]) -> float:
    return (value - ends[0]) / (ends[1] - ends[0])
