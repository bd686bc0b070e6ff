"""The comparison as one self-contained HTML file in the report's style; nothing in it runs."""

from __future__ import annotations

from itertools import groupby

from bench.analysis.compare_folders import Comparison, Row
from bench.analysis.compare_metric import BETTER, WORSE, Change
from bench.core import formatting
from bench.report import compare_text
from bench.report.html.escape import text
from bench.report.html.layout import page

_STYLE = """
.answer { margin-top: 1.5rem; }
thead th:nth-child(2), thead th:last-child { text-align: left; }
td.worse { color: var(--bad); font-weight: 600; }
td.better { font-weight: 600; }
td.changed { font-weight: 600; }
td.words { text-align: left; white-space: normal; min-width: 9rem; color: var(--muted); }
tbody tr.first th, tbody tr.first td { border-top: 1px solid var(--ink); }
"""


_HEADS = ("method", "metric", "A", "B", "change", "p, corrected", "test")
_CAPTION = "Means over the seeds compared; scores change in their own unit or in points, the rest in percent."


def document(comparison: Comparison) -> str:
    """The whole page as HTML."""
    remarks = "".join(f"<li>{text(remark)}" for remark in compare_text.remarks(comparison))
    sections = "\n".join(
        _section(task, model, list(rows))
        for (task, model), rows in groupby(comparison.rows, key=lambda row: (row.task, row.model))
    )
    beside = f'<div class="warning" role="note"><h3>Notes</h3><ul>{remarks}</ul></div>'
    named = f"<p>A: {text(comparison.names[0])}<br>B: {text(comparison.names[1])}</p>"
    tested = f"<p>{text(compare_text.method(comparison))}</p>" if comparison.rows else ""
    parts = [_answer(comparison), beside if remarks else "", sections, tested]
    return page("What changed from A to B", named, "\n".join(filter(None, parts)), style=_STYLE)


def _answer(comparison: Comparison) -> str:
    if not comparison.rows:
        return '<p class="answer">The two folders have no run in common.</p>'
    if not comparison.marked:
        return f'<p class="answer">{text(compare_text.unmoved(comparison))}</p>'
    said = "".join(f"<li>{text(compare_text.sentence(row, change))}" for row, change in comparison.marked)
    return f'<p class="answer">Changed beyond noise:</p><ul class="rests">{said}</ul>'


def _section(task: str, model: str, rows: list[Row]) -> str:
    head = "".join(f'<th scope="col">{name}' for name in _HEADS)
    body = "".join(_line(row, change, index == 0) for row in rows for index, change in enumerate(row.changes))
    return f"""<section>
<h2>{text(task)} <span>on {text(model)}</span></h2>
<div class="wide"><table>
<caption>{_CAPTION}</caption>
<thead><tr>{head}</thead>
<tbody>{body}</tbody>
</table></div>
</section>"""


def _line(row: Row, change: Change, first: bool) -> str:
    mark = change.mark if change.mark in (BETTER, WORSE) else "changed" if change.mark else ""
    word = f" {mark}" if mark else ""
    p = formatting.DASH if change.p_holm is None else compare_text.p_value(change.p_holm)
    return (
        f'<tr{" class=first" if first else ""}><th scope="row">{text(row.label)}'
        f'<td class="words" title="{text(change.metric.key)}">{text(change.metric.title)}'
        f"<td>{text(change.metric.text(change.before))}<td>{text(change.metric.text(change.after))}"
        f'<td class="{mark}">{text(compare_text.cell(change))}{word}<td>{text(p)}'
        f'<td class="words">{text(change.test)}</tr>'
    )
