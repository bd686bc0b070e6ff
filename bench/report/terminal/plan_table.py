"""Plans as a table in the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from bench.core import formatting
from bench.planner.suggestions import sentence
from bench.store.record import SPLIT

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

Row = Mapping[str, Any]

_WIDEST = 1_000  # columns of a console on which any table fits


def render(rows: Sequence[dict[str, Any]], console: Console) -> None:
    """Print a table per model, the assumptions above it and what would make a method fit below it.

    Where the console is too narrow for all columns, the split of the peak has a table of its own.
    """
    from rich.text import Text

    for model in dict.fromkeys(row["model"] for row in rows):
        mine = [row for row in rows if row["model"] == model]
        console.print(Text(formatting.clean(f"{model}: {assumptions(mine[0])}")))
        budget = mine[0]["budget_bytes"] is not None
        last = ["phase", "reserved", *(["fits", "max batch", "max length"] if budget else [])]
        whole = _table(mine, ["method", "trainable", "peak", *SPLIT, *last])
        if _width(whole, console) <= console.width:
            console.print(whole)
        else:
            for table in (_table(mine, ["method", "trainable", "peak", *last]), _table(mine, ["of the peak", *SPLIT])):
                table.width = _width(table, console)  # wider than the console where it must be: then lines wrap whole
                console.print(table, crop=False, no_wrap=True, overflow="ignore")
        for row in mine:
            if row["fits"] is False:
                console.print(Text(formatting.clean(sentence(row, mine))))
    console.print(Text(notes(rows[0]), style="dim"))


def _width(table: Table, console: Console) -> int:
    return console.measure(table, options=console.options.update(width=_WIDEST)).maximum


def _table(rows: Sequence[Row], columns: Sequence[str]) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in columns:
        left = name in ("method", "of the peak", "phase")
        table.add_column(name, justify="left" if left else "right", no_wrap=True, overflow="crop")
    for row in rows:
        cells = _cells(row)
        table.add_row(*[Text(formatting.clean(cells[name])) for name in columns])
    return table


def _cells(row: Row) -> dict[str, str]:
    cells = {
        "method": row["label"],
        "of the peak": row["label"],
        "trainable": formatting.count(row["trainable"]),
        "peak": formatting.size(row["peak_bytes"]),
    }
    cells |= {part: formatting.size(row["peak"][part]) for part in SPLIT}
    cells |= {"phase": row["phase"], "reserved": formatting.size(row["reserved_bytes"])}
    if row["budget_bytes"] is not None:
        cells |= {"fits": "yes" if row["fits"] else "no"}
        cells |= {"max batch": _number(row["max_batch_size"]), "max length": _number(row["max_length"])}
    return cells


def _number(value: int | None) -> str:
    return formatting.DASH if value is None else f"{value:,}"


def assumptions(row: Row) -> str:
    """What a plan assumes, in one line."""
    setting = row["setting"]
    if row["kind"] == "image-classification":
        text = f"{setting['batch_size']} images"
    else:
        text = f"{setting['batch_size']} rows of {setting['max_length']} tokens"
    if row["kind"] == "seq2seq":
        text += f" with targets of {setting['target_length'] or setting['max_length']}"
    rules = f"{setting['device']} rules"
    if setting["device"] == "cuda":
        rules += " (Hopper)" if setting["gpu"] == "hopper" else " (non-Hopper)"
    words = [text, row["kind"], setting["precision"], setting["optimizer"], rules]
    if setting["grad_accum"] > 1:
        words.append(f"{setting['grad_accum']} passes a step")
    if setting["gradient_checkpointing"]:
        words.append("gradient checkpointing")
    if setting["dropout"] is not None:
        words.append(f"dropout {setting['dropout']:g}")
    if setting["attention"] != "auto":
        words.append(f"{setting['attention']} attention")
    if setting["keep_outputs"]:
        words.append("outputs kept")
    if row["budget_bytes"] is not None:
        words.append(f"budget {formatting.size(row['budget_bytes'])}")
    return ", ".join(words)


def notes(row: Row) -> str:
    """How to read the values."""
    peak = "in one training step, or in an evaluation of as many rows where that takes more (phase)"
    if row["setting"]["device"] == "cpu":
        return (
            f"1 GB = 10^9 bytes. Peak: the tensors {peak}, as bench run measures them on CPU, whose own "
            "evaluations take train.eval_batch_size rows."
        )
    return (
        f"1 GB = 10^9 bytes. Peak: what the CUDA allocator hands out {peak}, cuBLAS workspaces included. "
        "Reserved: what it takes from the device, simulated. A method fits when reserved and 0.54 GB for the "
        "CUDA context are within the budget."
    )
