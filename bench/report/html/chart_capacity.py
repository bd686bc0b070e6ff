"""Quality against trained parameters: one line per method over its ranks, and published results."""

from __future__ import annotations

from collections.abc import Sequence

from bench.analysis.configurations import Configuration
from bench.analysis.measures import TRAINED
from bench.report.html.chart_base import LONGEST_LABEL, Chart, Scene, Trace, look, scaled
from bench.report.html.escape import plot
from bench.report.published import Figure


def chart(scene: Scene, published: Sequence[Figure] = ()) -> Chart:
    """One line per method; where several configurations of it have the same size, the line follows the best."""
    traces: list[Trace] = []
    sized = [one for one in scene.configurations if one.score is not None and one.of(TRAINED)]
    for method, number in scene.slot.items():
        mine = [one for one in sized if one.method == method]
        if mine:
            traces += _method(scene, method, number, mine)
    note = "One line per method over its sizes; where several have one size, it follows the best of them."
    known = [figure for figure in published if figure.score is not None and figure.trainable]
    if traces and known:
        traces.append(_published(scene, known))
        note += " Open diamonds: published results, under other settings (see below)."
    layout = {
        "xaxis": {"title": {"text": TRAINED.axis}, "type": "log", "tickformat": "~s", "dtick": 1},
        "yaxis": {"title": {"text": scene.score_title}},
    }
    return Chart("capacity", "Score against trained parameters", note, traces, layout)


def _method(scene: Scene, method: str, number: int, mine: Sequence[Configuration]) -> list[Trace]:
    """The points of a method, and the line through the best of each size."""
    style = look(number)
    name = plot(method, LONGEST_LABEL)
    best: dict[float, Configuration] = {}
    for one in mine:  # best first
        best.setdefault(one.of(TRAINED) or 0.0, one)
    points: Trace = style | {
        "type": "scatter",
        "mode": "markers",
        "name": name,
        "legendgroup": name,
        "x": [one.of(TRAINED) for one in mine],
        "y": [scaled(one.score, scene.score_scale) for one in mine],
        "text": [plot(one.label) for one in mine],
        "hovertemplate": "%{text}<br>%{x:,} · %{y:.4~g}<extra></extra>",
    }
    if len(best) < 2:
        return [points]
    sizes = sorted(best)
    line: Trace = {
        "type": "scatter",
        "mode": "lines",
        "x": sizes,
        "y": [scaled(best[size].score, scene.score_scale) for size in sizes],
        "legendgroup": name,
        "showlegend": False,
        "hoverinfo": "skip",
        "line": {"width": 1.5},
        "meta": style["meta"],
    }
    return [line, points]


def _published(scene: Scene, figures: Sequence[Figure]) -> Trace:
    return {
        "type": "scatter",
        "mode": "markers",
        "name": "published",
        "x": [figure.trainable for figure in figures],
        "y": [scaled(figure.score, scene.score_scale) for figure in figures],
        "text": [plot(f"{figure.method}, {figure.source}") for figure in figures],
        "hovertemplate": "%{text}<br>%{x:,} · %{y:.4~g}<extra></extra>",
        "marker": {"symbol": "diamond-open", "size": 10},
        "meta": {"ink": "muted"},
    }
