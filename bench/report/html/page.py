"""The page: sections per task and model, what they rest on, and everything it needs embedded in it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from bench.analysis.analysis import analyse
from bench.report import published
from bench.report.html import (
    across_tasks,
    budget_picker,
    chart_heatmap,
    gpu_fit,
    method_pages,
    notes,
    pair_matrix,
    provenance,
    published_comparison,
)
from bench.report.html.assets import page_script
from bench.report.html.chart_base import Chart, Scene, scenes
from bench.report.html.chart_list import charts
from bench.report.html.escape import text
from bench.report.html.layout import Carried, page
from bench.report.html.run_details import details
from bench.report.html.summary import answer
from bench.report.html.table import table
from bench.report.inputs import Extras
from bench.store.record import Record


def document(records: Sequence[Record], extras: Extras) -> str:
    """Return the whole report as HTML, with its styles, its script and plotly inside."""
    analysis = extras.analysis or analyse(records, extras.folder)
    parts = scenes(records, analysis)
    heading = extras.title or _title(parts)
    drawn = _Drawn()
    overall = across_tasks.section(analysis, [drawn.figure(chart) for chart in chart_heatmap.charts(parts)])
    sections = [_section(index, scene, drawn) for index, scene in enumerate(parts)]
    lead = "" if parts else _EMPTY
    body = "\n".join(
        part
        for part in (
            _contents(parts),
            lead,
            overall,
            *sections,
            method_pages.section(records, extras.about),
            _how_to_read() if parts else "",
            provenance.sections(records, extras.folder),
        )
        if part
    )
    script = page_script(extras.live is not None)
    without = "Charts, sorting and filtering need JavaScript; all values are in the tables."
    return page(heading, f"<p>{_dated(records)}</p>", body, Carried(script, drawn.data, without, extras.live))


_EMPTY = (
    '<p class="answer">There are no runs in this folder yet.</p>'
    "<p>This makes some, and the report with them:</p>"
    "<pre>bench run --methods full,lora,lst,head --task demo/docstrings --model minilm</pre>"
)


class _Drawn:
    """Collects what the page's script draws from, in page order."""

    def __init__(self) -> None:
        self.data: dict[str, Any] = {"charts": [], "fits": {}}

    def figure(self, chart: Chart) -> str:
        """The place of a chart in the page."""
        number = len(self.data["charts"])
        self.data["charts"].append(chart.data())
        height = chart.layout.get("height", 340)
        kind = ' class="wide-figure"' if chart.wide else ""
        spoken = f"{chart.title}. {chart.note} The values are in the table.".replace('"', "&quot;")
        return (
            f"<figure{kind}><figcaption><b>{chart.title}</b> {chart.note}</figcaption>{_choosers(chart, number)}"
            f'<div class="chart" data-chart="{number}" style="height:{height}px" role="img" aria-label="{spoken}">'
            "</div></figure>"
        )


def _choosers(chart: Chart, number: int) -> str:
    """Two menus for the axes of a chart that offers a choice."""
    if not chart.choices:
        return ""
    shown = {axis: chart.layout[f"{axis}axis"]["title"]["text"] for axis in "xy"}
    menus = "".join(
        f'<label>{where} <select data-axis="{axis}" data-of="{number}" aria-label="{where}">'
        + "".join(
            f'<option value="{text(choice["key"])}"{" selected" if choice["title"] == shown[axis] else ""}>'
            f"{choice['title']}</option>"
            for choice in chart.choices
        )
        + "</select></label>"
        for axis, where in (("x", "x axis"), ("y", "y axis"))
    )
    return f'<div class="axes">{menus}<span class="note" data-corner="{number}"></span></div>'


def _title(parts: Sequence[Scene]) -> str:
    tasks, models = sorted({scene.task for scene in parts}), sorted({scene.model for scene in parts})
    if not parts:
        return "Fine-tuning methods compared"
    of = tasks[0] if len(tasks) == 1 else f"{len(tasks)} tasks"
    on = models[0] if len(models) == 1 else f"{len(models)} models"
    return f"Fine-tuning methods on {of}, {on}"


def _dated(records: Sequence[Record]) -> str:
    made = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    count = f"{len(records)} run{'s' if len(records) != 1 else ''}"
    return f"{count}, report made {made} by tunebench"


def _contents(parts: Sequence[Scene]) -> str:
    if len(parts) < 2:
        return ""
    links = "".join(
        f'<li><a href="#s{index}">{text(scene.task)} on {text(scene.model)}</a>' for index, scene in enumerate(parts)
    )
    return f'<nav aria-label="Contents"><ul>{links}</ul></nav>'


def _section(index: int, scene: Scene, drawn: _Drawn) -> str:
    """One task on one model; its charts are added to what the page's script draws from."""
    task, model = text(scene.task), text(scene.model)
    others = published.matching(scene.shown)
    figures = "".join(drawn.figure(chart) for chart in charts(scene, others))
    slider, candidates = budget_picker.panel(scene, index)
    if candidates:
        drawn.data["fits"][str(index)] = candidates
    warnings = "".join(f"<li>{warning}" for warning in notes.warnings(scene.shown))
    rests = "".join(f"<li>{sentence}" for sentence in notes.rests_on(scene))
    return f"""<section id="s{index}" aria-labelledby="h{index}">
<h2 id="h{index}">{task} <span>on {model}</span></h2>
<p class="answer">{answer(scene)}</p>
<ul class="rests">{rests}</ul>
{f'<div class="warning" role="note"><h3>Rows may not be comparable</h3><ul>{warnings}</ul></div>' if warnings else ""}
{table(scene, index)}
{slider}
{gpu_fit.panel(scene)}
<div class="figures">{figures}</div>
{pair_matrix.panel(scene)}
{published_comparison.panel(scene, others)}
{details(scene)}
</section>"""


def _how_to_read() -> str:
    rows = "".join(f"<dt>{text(name)}<dd>{text(meaning)}" for name, meaning in notes.HOW_TO_READ)
    return f'<section><h2>How to read it</h2><dl class="terms">{rows}</dl></section>'
