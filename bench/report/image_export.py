"""Each chart of a report as a PNG or SVG file, drawn by kaleido in the colours of the light theme."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.analysis.analysis import Analysis, analyse
from bench.core.errors import RequestError
from bench.core.files import write_atomically
from bench.report import published
from bench.report.html import chart_heatmap
from bench.report.html.assets import asset
from bench.report.html.chart_base import Chart, scenes
from bench.report.html.chart_list import charts
from bench.store.record import Record

_WIDTH = {False: 640, True: 1080}
_SCALE = 2  # pixels per point of a PNG


def write(records: Sequence[Record], folder: Path, kind: str, analysis: Analysis | None = None) -> list[Path]:
    """Write every chart to a file of its own, ``TASK-MODEL-CHART.png``.

    Args:
        records: of any tasks and models.
        folder: made when it is not there.
        kind: ``png`` or ``svg``.
        analysis: of these records; without it, nothing is paired.

    Raises:
        RequestError: when kaleido, or the browser that it draws with, is not there, or the folder cannot be written.
    """
    try:
        import kaleido
    except ImportError as error:
        raise RequestError(
            "--images needs kaleido: pip install 'tunebench[images]'.", code="package-missing"
        ) from error
    written: list[Path] = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, chart in _named(records, analysis).items():
            path = folder / f"{name}.{kind}"
            write_atomically(path, _drawn(chart, kind))
            if not written:  # its browser starts, or the first chart would have said why not: now keep one running
                kaleido.start_sync_server(silence_warnings=True)
            written.append(path)
    except OSError as error:
        raise RequestError(
            f"Images cannot be written to {folder}: {error.strerror or error}.", code="not-written"
        ) from error
    finally:
        if written:
            kaleido.stop_sync_server(silence_warnings=True)
    return written


def _drawn(chart: Chart, kind: str) -> bytes:
    import plotly.graph_objects as go

    palette = colours()
    figure = go.Figure(data=[painted(trace, palette) for trace in chart.traces], layout=_layout(chart, palette))
    size = {"width": _WIDTH[chart.wide], "height": chart.layout.get("height", 400) + 64}
    try:
        made: bytes = figure.to_image(format=kind, scale=_SCALE if kind == "png" else 1, **size)
    except (RuntimeError, ValueError) as error:
        # Kaleido tells a missing browser by either; its advice (plotly_get_chrome) needs the network.
        raise RequestError(
            f"kaleido could not draw {chart.title!r}: {str(error).strip().splitlines()[0]}", code="unavailable"
        ) from error
    return made


def _named(records: Sequence[Record], analysis: Analysis | None) -> dict[str, Chart]:
    """The charts by file name; names are made of letters, digits and hyphens alone, and never twice the same."""
    shown = scenes(records, analysis or analyse(records, None))
    found: dict[str, Chart] = {}
    for scene in shown:
        for chart in charts(scene, published.matching(scene.shown)):
            _add(found, f"{scene.task}-{scene.model}-{chart.key}", chart)
    for chart in chart_heatmap.charts(shown):
        _add(found, chart.key, chart)
    return found


def _add(found: dict[str, Chart], name: str, chart: Chart) -> None:
    slug = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[-120:] or "chart"
    taken, number = slug, 2
    while taken in found:
        taken, number = f"{slug}-{number}", number + 1
    found[taken] = chart


def colours() -> dict[str, str]:
    """The light theme's colours by name, from the style sheet."""
    first = asset("report.css").split("}")[0]
    return dict(re.findall(r"--([\w-]+):\s*(#[0-9a-f]{6})", first))


def painted(trace: Mapping[str, Any], palette: Mapping[str, str]) -> dict[str, Any]:
    """A trace with its colours, as the page's script paints it."""
    made = dict(trace)
    ink = made.pop("meta")["ink"]
    if made.get("type") == "heatmap":
        scale = [[0, palette["heat"]], [1, palette["wash"]]]
        return made | {"colorscale": scale, "textfont": {"color": palette["ink"]}}
    colour = palette[ink]
    if made.get("line") and "type" not in made:
        made["mode"] = made.get("mode", "lines")
    made["marker"] = {**made.get("marker", {}), "color": colour}
    for part in ("line", "error_x", "error_y"):
        if part in made:
            made[part] = {**made[part], "color": colour}
    if made.get("mode") == "markers+text":
        made["textfont"] = {"color": palette["ink"], "size": 12}
    return made


def _layout(chart: Chart, palette: Mapping[str, str]) -> dict[str, Any]:
    axis = {"gridcolor": palette["rule"], "linecolor": palette["muted"], "zeroline": False, "automargin": True}
    legend = {"orientation": "h", "x": 0, "xanchor": "left", "y": 1.02, "yanchor": "bottom"}
    return {
        "margin": {"l": 60, "r": 20, "t": 84, "b": 50},
        "paper_bgcolor": "#ffffff",
        "plot_bgcolor": "#ffffff",
        "font": {"family": "Helvetica, Arial, sans-serif", "size": 12, "color": palette["muted"]},
        **{name: value for name, value in chart.layout.items() if name not in ("xaxis", "yaxis", "legend", "height")},
        "title": {
            "text": chart.title,
            "font": {"size": 15, "color": palette["ink"]},
            "x": 0,
            "xref": "paper",
            "y": 0.97,
            "yanchor": "top",
        },
        "legend": legend | chart.layout.get("legend", {}),
        "xaxis": {**axis, "showline": True, **chart.layout.get("xaxis", {})},
        "yaxis": {**axis, **chart.layout.get("yaxis", {})},
    }
