"""The page: sections per task and model, the environment, and everything it needs embedded in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.resources import files
from typing import Any

from bench.record import Record, groups, labels, ranked
from bench.report import tuning, words
from bench.report.charts import Chart, charts, slots
from bench.report.escape import script_json, text
from bench.report.rows import details, table


def document(records: Sequence[Record], title: str | None = None) -> str:
    """Return the whole report as HTML, with its styles, its script and plotly inside."""
    names, slot, parts = labels(records), slots(records), groups(records)
    heading = title or _title(list(parts))
    drawn: list[dict[str, Any]] = []
    sections = [
        _section(index, key, ranked(members), (names, slot, drawn))
        for index, (key, members) in enumerate(parts.items())
    ]
    body = "\n".join([*sections, _how_to_read() if parts else "", _environment(records)])
    lead = "" if parts else '<p class="answer">There are no runs in this folder yet.</p>'
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{text(heading)}</title>
<style>
{_asset("report.css")}</style>
</head>
<body>
<header>
<h1>{text(heading)}</h1>
<p>{_dated(records)}</p>
<button type="button" id="theme">Dark</button>
</header>
<main>
{_contents(list(parts))}
{lead}
<noscript><p class="note">Charts and sorting need JavaScript; every figure is in the tables.</p></noscript>
{body}
</main>
<p id="said" role="status" aria-live="polite"></p>
<script type="application/json" id="charts">{script_json(drawn)}</script>
<script>{_plotly()}</script>
<script>
{_asset("report.js")}</script>
</body>
</html>
"""


def _plotly() -> str:
    from plotly.offline import get_plotlyjs

    script: str = get_plotlyjs()
    return script.replace("</script", "<\\/script")  # inside a script element, this would end it


def _asset(name: str) -> str:
    return files("bench.report").joinpath(name).read_text(encoding="utf-8")


def _title(parts: Sequence[tuple[str, str]]) -> str:
    tasks, models = sorted({task for task, _ in parts}), sorted({model for _, model in parts})
    if not parts:
        return "Fine-tuning methods compared"
    of = tasks[0] if len(tasks) == 1 else f"{len(tasks)} tasks"
    on = models[0] if len(models) == 1 else f"{len(models)} models"
    return f"Fine-tuning methods on {of}, {on}"


def _dated(records: Sequence[Record]) -> str:
    made = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    count = f"{len(records)} run{'s' if len(records) != 1 else ''}"
    return f"{count}, report made {made} by tunebench"


def _contents(parts: Sequence[tuple[str, str]]) -> str:
    if len(parts) < 2:
        return ""
    links = "".join(
        f'<li><a href="#s{index}">{text(task)} on {text(model)}</a>' for index, (task, model) in enumerate(parts)
    )
    return f'<nav aria-label="Contents"><ul>{links}</ul></nav>'


def _section(
    index: int,
    key: tuple[str, str],
    ordered: Sequence[Record],
    shared: tuple[Mapping[str, str], Mapping[str, int], list[dict[str, Any]]],
) -> str:
    """One task on one model; its charts are appended to the list that the page's script draws from."""
    names, slot, drawn = shared
    task, model = (text(name) for name in key)
    figures = []
    for chart in (*charts(ordered, names, slot), *tuning.charts(ordered, names, slot)):
        figures.append(_figure(chart, len(drawn)))
        drawn.append({"data": chart.traces, "layout": chart.layout})
    warnings = "".join(f"<li>{warning}" for warning in words.warnings(ordered))
    rests = "".join(f"<li>{sentence}" for sentence in words.rests_on(ordered, names))
    return f"""<section id="s{index}" aria-labelledby="h{index}">
<h2 id="h{index}">{task} <span>on {model}</span></h2>
<p class="answer">{words.answer(ordered, names)}</p>
<ul class="rests">{rests}</ul>
{f'<div class="warning" role="note"><h3>These rows may not compare</h3><ul>{warnings}</ul></div>' if warnings else ""}
{table(ordered, names, slot)}
<div class="figures">{"".join(figures)}</div>
{details(ordered, names)}
</section>"""


def _figure(chart: Chart, number: int) -> str:
    height = chart.layout.get("height", 340)
    kind = ' class="wide-figure"' if chart.wide else ""
    return (
        f"<figure{kind}><figcaption><b>{chart.title}</b> {chart.note}</figcaption>"
        f'<div class="chart" data-chart="{number}" style="height:{height}px" role="img" aria-label="{chart.title}. '
        f'{chart.note} The figures are in the table."></div></figure>'
    )


def _how_to_read() -> str:
    rows = "".join(f"<dt>{text(name)}<dd>{text(meaning)}" for name, meaning in words.HOW_TO_READ)
    return f'<section><h2>How to read it</h2><dl class="terms">{rows}</dl></section>'


def _environment(records: Sequence[Record]) -> str:
    facts = words.environments(records)
    if not facts:
        return ""
    rows = "".join(
        f"<dt>{text(name)}<dd>{' <b>or</b> '.join(text(value) for value in values[:12])}"
        for name, values in facts.items()
    )
    return f'<section><h2>Environment</h2><dl class="terms">{rows}</dl></section>'
