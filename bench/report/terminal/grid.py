"""A table in the terminal: labels fold, numbers never do."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from bench.core import formatting

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

_LABEL_LEAST = 14  # a label folds below this many characters


def width(cells: Sequence[str]) -> int:
    """Characters of the longest line."""
    return max(len(line) for cell in cells for line in cell.split("\n"))


def label_width(labels: Sequence[str]) -> int:
    """The least width of a column of labels under its head."""
    return min(_LABEL_LEAST, width([formatting.clean(label) for label in labels]))


def show(console: Console, heads: Sequence[str], rows: Sequence[Sequence[Text]], labels: int = 1) -> None:
    """Print a table; one that is wider than the console wraps by whole lines.

    Args:
        console: where to.
        heads: of the columns, of one or more lines; they end on the same line.
        rows: cells are Text, as names and errors may hold what rich would read as markup.
        labels: how many of the first columns are labels.
    """
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1), show_edge=False, pad_edge=False, collapse_padding=True)
    tallest = max(head.count("\n") for head in heads)
    least = -2
    for index, head in enumerate(heads):
        column = [head, *(row[index].plain for row in rows)]
        shown = Text("\n" * (tallest - head.count("\n")) + head)
        wide = label_width(column) if index < labels else width(column)
        if index < labels:
            table.add_column(shown, overflow="fold", min_width=wide)
        else:
            table.add_column(shown, justify="right", no_wrap=True, min_width=wide)
        least += wide + 2
    for row in rows:
        table.add_row(*row)
    if least > console.width:
        table.width = least
    console.print(table, crop=False, no_wrap=True, overflow="ignore")
