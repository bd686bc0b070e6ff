"""Plans as one HTML file that needs no network: what each peak consists of, and peak over batch size × length."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path
from typing import Any

from bench.core import formatting
from bench.core.files import write_output
from bench.planner.suggestions import sentence
from bench.report.html.assets import asset, joined
from bench.report.html.chart_base import bars
from bench.report.html.escape import text
from bench.report.html.layout import Carried, page
from bench.report.terminal.plan_table import assumptions, notes
from bench.store.record import SPLIT

Row = dict[str, Any]


def write(rows: Sequence[Row], out: Path) -> None:
    """Write the page of some plans, whole or not at all.

    Args:
        rows: as ``--json`` prints them, with their ``grid``.
        out: the file.

    Raises:
        OSError: when it cannot be written.
    """
    write_output(out, document(rows).encode("utf-8"))


def document(rows: Sequence[Row]) -> str:
    """The page as HTML, with its styles, its script and plotly inside."""
    models = list(dict.fromkeys(row["model"] for row in rows))
    heading = f"Memory planned for {models[0] if len(models) == 1 else f'{len(models)} models'}"
    drawn: list[dict[str, Any]] = []
    body = "\n".join(_section(model, [row for row in rows if row["model"] == model], drawn) for model in models)
    own = files("bench.report.html").joinpath("static/plan.js").read_text(encoding="utf-8")
    script = joined((asset("theme.js"), asset("unpack.js"), own))
    made = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    how = f'<section><h2>How to read it</h2><p class="rests">{text(notes(rows[0]))}</p></section>'
    carried = Carried(script, drawn, "Charts need JavaScript; all values are in the tables.")
    return page(heading, f"<p>Planned without weights {made} by tunebench</p>", f"{body}\n{how}", carried)


def _section(model: str, rows: Sequence[Row], drawn: list[dict[str, Any]]) -> str:
    """One model; its charts are appended to the list that the page's script draws from."""
    figures = [_figure(_bars(rows), "What is needed", _said_of_bars(rows), drawn, wide=True)]
    for row in rows:
        if row.get("grid"):
            over = "batch size and length" if len(row["grid"]["lengths"]) > 1 else "batch size"
            note = f"Gigabytes needed over {over}."
            if row["budget_bytes"] is not None:
                note += f" Crossed out: more than {formatting.size(row['budget_bytes'])}."
            figures.append(_figure(_heat(row), row["label"], note, drawn))
    sentences = [sentence(row, list(rows)) for row in rows if row["fits"] is False]
    unmapped = [row["label"] for row in rows if not row.get("grid")]
    if unmapped:
        sentences.append(f"No heat map for {', '.join(unmapped)}: the operations change with the size.")
    said = "".join(f"<li>{text(line)}" for line in sentences)
    return f"""<section>
<h2>{text(model)} <span>{text(assumptions(rows[0]))}</span></h2>
{f'<ul class="rests">{said}</ul>' if said else ""}
{_table(rows)}
<div class="figures">{"".join(figures)}</div>
</section>"""


def _table(rows: Sequence[Row]) -> str:
    budget = rows[0]["budget_bytes"] is not None
    names = ["method", "trainable", "peak", *SPLIT, "phase", "reserved"]
    names += ["fits", "largest batch", "longest text"] if budget else []
    head = "".join(f'<th scope="col">{name}</th>' for name in names)
    lines = []
    for row in rows:
        cells = [formatting.count(row["trainable"]), formatting.size(row["peak_bytes"])]
        cells += [formatting.size(row["peak"][part]) for part in SPLIT]
        cells += [row["phase"], formatting.size(row["reserved_bytes"])]
        if budget:
            cells += ["yes" if row["fits"] else "no"]
            cells += [
                formatting.DASH if row[name] is None else f"{row[name]:,}" for name in ("max_batch_size", "max_length")
            ]
        body = "".join(f"<td>{text(cell)}</td>" for cell in cells)
        lines.append(f'<tr><th scope="row">{text(row["label"])}</th>{body}</tr>')
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{"".join(lines)}</tbody></table></div>'


def _figure(chart: dict[str, Any], title: str, note: str, drawn: list[dict[str, Any]], wide: bool = False) -> str:
    drawn.append(chart)
    kind = ' class="wide-figure"' if wide else ""
    height = chart["layout"]["height"]
    return (
        f"<figure{kind}><figcaption><b>{text(title)}</b> {text(note)}</figcaption>"
        f'<div class="chart" data-chart="{len(drawn) - 1}" style="height:{height}px" role="img" '
        f'aria-label="{text(title)}. {text(note)}"></div></figure>'
    )


def _said_of_bars(rows: Sequence[Row]) -> str:
    note = "Gigabytes of the peak by kind of tensor"
    if _beyond(rows):
        note += ", and what the allocator reserves beyond it with the CUDA context"
    budget = rows[0]["budget_bytes"]
    return f"{note}." if budget is None else f"{note}. The dashed line is the budget of {formatting.size(budget)}."


def _beyond(rows: Sequence[Row]) -> list[int]:
    """Bytes that are needed beyond each peak; empty where there are none, as under a CPU's rules."""
    found = [row["needed_bytes"] - row["peak_bytes"] for row in rows]
    return found if any(found) else []


def _bars(rows: Sequence[Row]) -> dict[str, Any]:
    sizes = [(part, part, [row["peak"][part] / 1e9 for row in rows]) for part in SPLIT]
    if beyond := _beyond(rows):
        sizes.append(("beyond the peak", "rule", [size / 1e9 for size in beyond]))
    traces, layout = bars(sizes, [row["label"] for row in rows], "%{x:,.3f} GB")
    layout["xaxis"]["title"] = {"text": "GB"}
    if rows[0]["budget_bytes"] is not None:
        layout["budget"] = rows[0]["budget_bytes"] / 1e9
    return {"data": traces, "layout": layout}


def _heat(row: Row) -> dict[str, Any]:
    grid, budget = row["grid"], row["budget_bytes"]
    images = row["kind"] == "image-classification"
    sizes = [[cell / 1e9 for cell in line] for line in grid["needed_bytes"]]
    shown = [
        [f"{size:.3g}" + (" ✕" if budget is not None and size * 1e9 > budget else "") for size in line]
        for line in sizes
    ]
    trace = {
        "type": "heatmap",
        "x": [str(size) for size in grid["batch_sizes"]],
        "y": ["" if images else str(length) for length in grid["lengths"]],
        "z": sizes,
        "text": shown,
        "texttemplate": "%{text}",
        "hovertemplate": f"batch %{{x}}{'' if images else ', length %{y}'}: %{{z:,.3f}} GB<extra></extra>",
        "showscale": False,
        "meta": {"ink": "activations"},
    }
    layout = {
        "height": 360,
        "xaxis": {"title": {"text": "batch size"}, "type": "category"},
        "yaxis": {"title": {"text": "" if images else "length"}, "type": "category"},
    }
    return {"data": [trace], "layout": layout}
