"""The memory charts of a section: what the training peak consists of, and the peak of every phase."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bench.analysis.configurations import Configuration
from bench.report.html.chart_base import LONGEST_LABEL, MOST_LABELS, Trace, bars
from bench.report.html.escape import plot
from bench.store.record import PHASES, SPLIT

_MOST_BARS = 40


def split(configurations: Sequence[Configuration]) -> tuple[str, list[Trace], dict[str, Any]]:
    """One stacked bar of megabytes for each configuration, best score at the top: note, traces, layout.

    Args:
        configurations: best first; a bar is the run whose peak the table shows, the largest of its seeds.
    """
    note = "Megabytes by kind of tensor, best score first."
    shown: dict[str, Mapping[str, Any]] = {}
    method: dict[str, str] = {}
    for one in configurations:
        parts = one.highest["memory"]["train_peak"]
        if any(parts[part] is not None for part in SPLIT):
            shown[one.label], method[one.label] = parts, one.method
    if len(shown) > _MOST_BARS:
        quota = max(1, _MOST_BARS // len(set(method.values())))
        note += f" The best {quota} of each method, of {len(shown)} configurations."
        shown = {label: shown[label] for label in _first_of_each(method, quota)[:_MOST_BARS]}
    sizes = [
        (part, part, [None if parts[part] is None else parts[part] / 1e6 for parts in shown.values()])
        for part in SPLIT
        if shown
    ]
    traces, layout = bars(sizes, list(shown), "%{x:,.1f} MB")
    layout["xaxis"]["title"] = {"text": "MB"}
    layout["legend"] = {"traceorder": "normal"}
    return note, traces, layout


def phases(
    configurations: Sequence[Configuration], look: Mapping[str, Trace]
) -> tuple[str, list[Trace], dict[str, Any]]:
    """The peak of each phase, one line for each configuration: note, traces, layout.

    Args:
        configurations: best first; each is the run with the largest training peak of its seeds.
        look: the marker and ink of a method, by its name.
    """
    every = {one.label: one.highest for one in configurations}
    chosen = {
        label: run
        for label, run in every.items()
        if any(phase and phase["peak_bytes"] for phase in run["memory"]["phases"].values())
    }
    shown = [name for name in PHASES if any(run["memory"]["phases"].get(name) for run in chosen.values())]
    few = len(chosen) <= MOST_LABELS
    named: set[str] = set()
    traces: list[Trace] = []
    for label, run in chosen.items():
        method = run["spec"]["method"]["name"]
        name = plot(label if few else method, LONGEST_LABEL)
        measured = [(phase, run["memory"]["phases"].get(phase)) for phase in shown]
        trace = {
            **look[method],
            "type": "scatter",
            "mode": "lines+markers",
            "name": name,
            "legendgroup": name,
            "x": [phase for phase, peak in measured if peak],
            "y": [peak["peak_bytes"] / 1e6 for _, peak in measured if peak],
            "hovertext": plot(label),
            "hovertemplate": "%{hovertext}<br>%{x}: %{y:,.1f} MB<extra></extra>",
            "line": {"width": 2 if few else 1},
        }
        traces.append(trace if name not in named else trace | {"showlegend": False})
        named.add(name)
    layout = {
        "xaxis": {"type": "category", "categoryorder": "array", "categoryarray": shown},
        "yaxis": {"title": {"text": "peak, MB"}, "rangemode": "tozero"},
    }
    return "The most that was held at once while the phase lasted.", traces, layout


def _first_of_each(method: Mapping[str, str], quota: int) -> list[str]:
    """The labels in their order, at most so many of one method."""
    counts: dict[str, int] = {}
    kept = []
    for label, name in method.items():
        counts[name] = counts.get(name, 0) + 1
        if counts[name] <= quota:
            kept.append(label)
    return kept
