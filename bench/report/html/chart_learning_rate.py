"""Score against the learning rate: the trials of a tuning, and methods that ran at several rates."""

from __future__ import annotations

from typing import Any

from bench.analysis.configurations import Configuration
from bench.core import formatting
from bench.report.html.chart_base import LONGEST_LABEL, Chart, Scene, Trace, look, scaled
from bench.report.html.escape import plot
from bench.store.record import Record

_MOST_LINES = 8  # tuned configurations of one method, best first

_Point = tuple[float, float, str]  # learning rate, score in the record's unit, words


def trials(record: Record) -> list[dict[str, Any]]:
    """The trials of the tuning that chose this run's options; empty where there was none."""
    tuning = record.get("tuning") or {}
    found = tuning.get("trials") if isinstance(tuning, dict) else None
    return [trial for trial in found or () if isinstance(trial, dict)]


def chart(scene: Scene) -> Chart:
    """Dashed lines with open points: tuning trials on the dev split. Full points: final scores."""
    traces: list[Trace] = []
    tuned = several = False
    for method, number in scene.slot.items():
        mine = [one for one in scene.configurations if one.method == method]
        style, name = look(number), plot(method, LONGEST_LABEL)
        common = style | {"type": "scatter", "name": name, "legendgroup": name}
        open_marker = style["marker"] | {"symbol": f"{style['marker']['symbol']}-open", "size": 8}
        dashed = {"mode": "lines+markers", "marker": open_marker, "line": {"width": 1, "dash": "dash"}}
        tried = {one.label: sorted(_tried(one)) for one in mine[:_MOST_LINES] if _tried(one)}
        for index, points in enumerate(tried.values()):
            tuned = True
            traces.append(common | dashed | {"showlegend": index == 0} | _points(points, scene.dev[1]))
        final = sorted(point for one in mine if (point := _final(one)))
        if final and (tried or len({rate for rate, _, _ in final}) > 1):
            several = True
            traces.append(common | {"mode": "markers", "showlegend": not tried} | _points(final, scene.score_scale))
    note = "Open points: trials on the dev split. " if tuned else ""
    note += "Full points: final scores, one per configuration." if several else ""
    if scene.dev[0] != scene.score_title:
        # The trials were ranked by another metric than the final score: they cannot share an axis.
        traces = [trace for trace in traces if ("line" in trace) == tuned]
        note = f"Trials on the dev split, judged by {scene.dev[0]}." if tuned else note
    axis = scene.dev[0] if tuned else scene.score_title
    layout = {
        "xaxis": {"title": {"text": "learning rate"}, "type": "log", "dtick": 1, "exponentformat": "e"},
        "yaxis": {"title": {"text": axis}},
    }
    return Chart("learning-rate", "Score against learning rate", note, traces, layout)


def _tried(one: Configuration) -> list[_Point]:
    """The trials of a configuration: its seeds share them."""
    found = []
    for trial in trials(one.first):
        rate, score = trial.get("lr"), trial.get("dev_score")
        if isinstance(rate, int | float) and isinstance(score, int | float) and rate > 0:
            found.append((float(rate), float(score), f"{plot(one.label)}, trial, dev score"))
    return found


def _final(one: Configuration) -> _Point | None:
    rate = one.first["spec"]["train"]["lr"]
    if one.score is None or not rate:
        return None
    written = formatting.score(one.first["main_score"], one.score, one.margin)
    return float(rate), one.score, f"{plot(one.label)}, {plot(written)}"


def _points(points: list[_Point], scale: float) -> Trace:
    return {
        "x": [rate for rate, _, _ in points],
        "y": [scaled(score, scale) for _, score, _ in points],
        "text": [words for _, _, words in points],
        "hovertemplate": "%{text}<br>lr %{x:.3~g} · %{y:.4~g}<extra></extra>",
    }
