"""All tasks of a model together: average score, average rank, and which configurations nothing beats throughout."""

from __future__ import annotations

from collections.abc import Sequence

from bench.analysis.across_tasks import Overall
from bench.analysis.analysis import Analysis, Summary, over_tasks
from bench.report.html.escape import text
from bench.report.html.layout import plain_table
from bench.report.html.notes import brief, join

_MOST = 40


def section(analysis: Analysis, figures: Sequence[str]) -> str:
    """The heatmaps' figures and a table for every model; empty where no model ran on two tasks."""
    summaries = over_tasks(analysis)
    if not figures and not summaries:
        return ""
    tables = "".join(_table(summary, len(summaries) > 1) for summary in summaries if summary.rows)
    charts = f'<div class="figures">{"".join(figures)}</div>'
    return f'<section id="across"><h2>Across tasks</h2>{_answer(summaries)}{charts}{tables}</section>'


def _answer(summaries: Sequence[Summary]) -> str:
    """Who ranks best on average, for every model; ranks say nothing of how far apart scores are: the sections do."""
    said = []
    for summary in summaries:
        if len(summary.rows) > 1:
            best, second = summary.rows[:2]
            on = f" on {text(summary.model)}" if len(summaries) > 1 else ""
            said.append(
                f"<b>{text(best.label)}</b> has the best average rank over {len(summary.tasks)} tasks{on}: "
                f"{best.average_rank:.2f}, before <b>{text(second.label)}</b> with {second.average_rank:.2f}."
            )
    tail = " Significance per task: see below." if said else ""
    return f'<p class="answer">{" ".join(said)}{tail}</p>' if said else ""


def _average(summary: Summary, row: Overall) -> str:
    half = "" if row.half is None else f" ± {summary.written(row.half)}"
    return f"{summary.written(row.average)}{half}"


def _table(summary: Summary, several: bool) -> str:
    shown = summary.rows[:_MOST]
    heads = ("configuration", "average rank", summary.head, "on the front of score, memory, throughput, parameters")
    rows = [
        (
            text(row.label),
            f"{row.average_rank:.2f}",
            text(_average(summary, row)),
            "yes" if row.label in summary.front else "",
        )
        for row in shown
    ]
    on = f" on {text(summary.model)}" if several else ""
    note = f"Over {', '.join(map(text, summary.tasks))}; only what has a score on all of them."
    if summary.note:
        note += f" {text(summary.note)}"
    if len(summary.rows) > _MOST:
        note += f" The best {_MOST} of {len(summary.rows)}."
    if summary.incomplete:
        note += f" Left out: {join(brief(summary.incomplete))}."
    return f'<h3>On average{on}</h3><p class="note">{note}</p>{plain_table(heads, rows, "Averages over tasks")}'
