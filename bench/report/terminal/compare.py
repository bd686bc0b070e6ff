"""The comparison as tables in the terminal: a row for each configuration, a column for each metric."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import TYPE_CHECKING

from bench.analysis.compare_folders import Comparison, Row
from bench.analysis.compare_metric import BETTER, WORSE, Change
from bench.core import formatting
from bench.report import compare_text
from bench.report.terminal import grid

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

_STYLES = {BETTER: "green", WORSE: "bold red"}


def render(comparison: Comparison, console: Console) -> None:
    """Print the tables, what changed in words, and what the comparison rests on."""
    from rich.text import Text

    console.print(Text(f"A = {formatting.clean(comparison.names[0])}\nB = {formatting.clean(comparison.names[1])}\n"))
    for (task, model), members in groupby(comparison.rows, key=lambda row: (row.task, row.model)):
        rows = list(members)
        shown, hidden = _columns(rows, console.width)
        console.print(Text(f"{formatting.clean(task)} on {formatting.clean(model)}, change from A to B", style="bold"))
        heads = ["method", *map(formatting.clean, shown.values())]
        grid.show(console, heads, [_cells(row, list(shown)) for row in rows])
        if hidden:
            console.print(Text(f"Left out at this width: {', '.join(hidden)}.", style="dim"))
        console.print()
    if not comparison.rows:
        console.print(Text("The two folders have no run in common.", style="bold red"))
    marked = comparison.marked
    if comparison.rows:
        console.print(Text("Beyond noise:" if marked else compare_text.unmoved(comparison), style="bold"))
    for row, change in marked:
        console.print(
            Text(f"  {formatting.clean(compare_text.sentence(row, change))}", style=_STYLES.get(change.mark, ""))
        )
    for remark in compare_text.remarks(comparison):
        console.print(Text(formatting.clean(remark), style="yellow"))
    if comparison.rows:
        console.print(Text(compare_text.method(comparison), style="dim"))


def _columns(rows: list[Row], width: int) -> tuple[dict[str, str], list[str]]:
    """The columns that fit, name → head, and the heads of those that do not."""
    heads = {change.metric.key: change.metric.title for row in rows for change in row.changes}
    wide = {
        name: max(len(head), *(len(_cell(row, name)) for row in rows)) if rows else 0 for name, head in heads.items()
    }
    label = grid.label_width(["method", *(row.label for row in rows)])
    hidden: list[str] = []
    for name in reversed(list(heads)[1:]):
        if label + sum(wide[kept] + 2 for kept in heads if kept not in hidden) <= width:
            break
        hidden.append(name)
    return {n: h for n, h in heads.items() if n not in hidden}, [heads[n] for n in heads if n in hidden]


def _cells(row: Row, shown: Sequence[str]) -> list[Text]:
    from rich.text import Text

    cells = [Text(formatting.clean(row.label))]
    for name in shown:
        change = _find(row, name)
        cells.append(Text(_cell(row, name), style=_STYLES.get(change.mark, "bold") if change and change.mark else ""))
    return cells


def _find(row: Row, name: str) -> Change | None:
    return next((change for change in row.changes if change.metric.key == name), None)


def _cell(row: Row, name: str) -> str:
    change = _find(row, name)
    return formatting.DASH if change is None else compare_text.cell(change)
