"""Dev score against each tuned option other than the learning rate: one chart per option."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bench.analysis.configurations import Configuration
from bench.report.html.chart_base import LONGEST_LABEL, Chart, Scene, Trace, look, scaled
from bench.report.html.chart_learning_rate import trials
from bench.report.html.escape import plot


def charts(scene: Scene) -> list[Chart]:
    """Every trial's dev score against each tuned number, one line per configuration."""
    searches = [one for one in scene.configurations if trials(one.first)]
    options = dict.fromkeys(option for one in searches for option in one.first["tuning"].get("options", ()))
    others = [option for option in options if option != "lr"]
    return [_chart(scene, (index, option), searches) for index, option in enumerate(others)]


def _chart(scene: Scene, which: tuple[int, str], searches: Sequence[Configuration]) -> Chart:
    index, option = which
    traces = []
    for one in searches:
        points = sorted(
            (
                (trial[option], trial["dev_score"], trial)
                for trial in trials(one.first)
                if isinstance(trial.get(option), int | float) and trial.get("dev_score") is not None
            ),
            key=lambda point: point[:2],
        )
        if points:
            traces.append(_trace(scene, option, one, points))
    log = all(value > 0 for trace in traces for value in trace["x"])
    axis = {"type": "log", "dtick": 1} if log else {"type": "linear"}  # a dropout of 0 has no logarithm
    layout = {
        "xaxis": {"title": {"text": plot(option)}, "tickformat": "~g", **axis},
        "yaxis": {"title": {"text": scene.dev[0]}},
        "showlegend": True,
    }
    note = "Trials on the dev split: the large mark was chosen, open marks were stopped early."
    return Chart(f"tuned-{index}", f"Dev score against {plot(option)}", note, traces, layout)


def _trace(scene: Scene, option: str, one: Configuration, points: Sequence[tuple[Any, float, Any]]) -> Trace:
    chosen = one.first["tuning"].get("chosen") or {}
    style = look(scene.slot[one.method])
    return style | {
        "type": "scatter",
        "mode": "lines+markers",
        "name": plot(one.label, LONGEST_LABEL),
        "x": [value for value, _, _ in points],
        "y": [scaled(score, scene.dev[1]) for _, score, _ in points],
        "text": [plot(f"{one.label}, {trial.get('status')}, {trial.get('steps')} steps") for _, _, trial in points],
        "hovertemplate": "%{text}<br>%{x:.3~g} · %{y:.4~g}<extra></extra>",
        "line": {"width": 1},
        "marker": style["marker"]
        | {
            "symbol": ["circle" if trial.get("status") == "ok" else "circle-open" for _, _, trial in points],
            "size": [13 if _is(trial, chosen) else 7 for _, _, trial in points],
        },
    }


def _is(trial: Mapping[str, Any], chosen: Mapping[str, Any]) -> bool:
    """Whether a trial is the one whose values were chosen, all of them."""
    return bool(chosen) and all(trial.get(option) == value for option, value in chosen.items())
