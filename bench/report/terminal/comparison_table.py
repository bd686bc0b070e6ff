"""The comparison as a data frame and as a table in the terminal."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from statistics import median
from typing import TYPE_CHECKING, Any

from bench.analysis.measures import BY_KEY, MEASURES
from bench.core import formatting
from bench.report.terminal import grid
from bench.store.labels import groups, labels, mixed, model_title, of_another_version, ranked, tuned
from bench.store.record import SPLIT, Record, check_names, failed_checks, had_concurrent_runs, main_value, scored

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import Console
    from rich.text import Text

    from bench.analysis.analysis import Analysis
    from bench.analysis.configurations import Configuration, Group
    from bench.analysis.measures import Measure

# Of the catalogue of measures, in the frame's order; units are in the names.
_FRAME = (
    *("trainable", "total", "trainable_percent", "checkpoint_bytes", "train_peak_bytes"),
    *(f"{part}_bytes" for part in SPLIT),
    *("reserved_peak_bytes", "inference_peak_bytes", "train_samples_per_second", "train_tokens_per_second"),
    *("inference_samples_per_second", "inference_latency_ms"),
    *("merged_inference_samples_per_second", "merged_inference_latency_ms"),
    *("train_seconds", "eval_seconds", "total_seconds"),
)
_SETTINGS = ("steps", "lr")
_COUNTS = ("trainable", "total", "steps")


def frame(records: Sequence[Record]) -> pd.DataFrame:
    """Return one row per run: by task and model, best score first in its direction, unscored runs last.

    Columns, in this order (what was not measured is missing, NaN or NA):

    - ``label``, ``method``, ``task``, ``model``, ``seed``, ``status``
    - ``score`` (the value to rank by), ``score_name``, ``stderr``, and every score as ``score.<name>``
    - ``trainable``, ``total`` (parameters), ``trainable_percent``, ``checkpoint_bytes``
    - ``train_peak_bytes`` and its split ``weights_bytes``, ``gradients_bytes``, ``optimizer_bytes``,
      ``activations_bytes``, ``other_bytes``; ``reserved_peak_bytes``, ``inference_peak_bytes``
    - ``train_samples_per_second``, ``train_tokens_per_second``, ``inference_samples_per_second``,
      ``inference_latency_ms``, the same two ``merged_…`` (weights folded into the base), ``train_seconds``,
      ``eval_seconds``, ``total_seconds``, ``steps``, ``lr``
    - ``checks_failed`` (text, empty when none did), ``run_id``, and every hyper-parameter as ``method.<option>``
    """
    import pandas as pd

    names = labels(records)
    ordered = [record for members in groups(records).values() for record in ranked(members)]
    scores = sorted({name for record in ordered for name in record["scores"]})
    hyper = sorted({name for record in ordered for name in record["spec"]["method"]} - {"name"})
    columns: dict[str, list[Any]] = {
        "label": [names[record["run_id"]] for record in ordered],
        "method": [record["spec"]["method"]["name"] for record in ordered],
        "task": [record["spec"]["task"]["name"] for record in ordered],
        "model": [model_title(record["spec"]["model"]) for record in ordered],
        "seed": [record["spec"]["seed"] for record in ordered],
        "status": [record["status"] for record in ordered],
        "score": [main_value(record) for record in ordered],
        "score_name": [record["main_score"] for record in ordered],
        "stderr": [record["stderr"] for record in ordered],
        **{f"score.{name}": [record["scores"].get(name) for record in ordered] for name in scores},
        **{key: [BY_KEY[key].of(record) for record in ordered] for key in _FRAME},
        **{name: [record["spec"]["train"][name] for record in ordered] for name in _SETTINGS},
        "checks_failed": [
            "; ".join(f"{name}: {why}" for name, why in failed_checks(record).items()) for record in ordered
        ],
        "run_id": [record["run_id"] for record in ordered],
        **{f"method.{name}": [record["spec"]["method"].get(name) for record in ordered] for name in hyper},
    }
    whole = {name for name in columns if name in _COUNTS or name.endswith("_bytes")}
    numbers = {"score", "stderr", *(f"score.{name}" for name in scores), *_FRAME, *_SETTINGS} - whole
    whole |= {f"method.{name}" for name in hyper if _whole(columns[f"method.{name}"])}
    made = {
        name: pd.Series(values, dtype="Int64" if name in whole else "float64" if name in numbers else None)
        for name, values in columns.items()
    }
    return pd.DataFrame(made)


def _whole(values: Sequence[Any]) -> bool:
    return all(value is None or (isinstance(value, int) and not isinstance(value, bool)) for value in values)


@dataclasses.dataclass(frozen=True)
class _Column:
    """A column of the terminal table: up to three header lines, and how a configuration fills a cell."""

    head: str
    cell: Callable[[Configuration], str]
    priority: int = 0  # 0 is always shown; where the width does not do, the highest rank goes first


def _column(measure: Measure) -> _Column:
    """A column of the catalogue; a star marks speeds that concurrent runs lowered."""
    is_speed = measure.over is median

    def cell(row: Configuration) -> str:
        value = row.of(measure)
        star = "*" if is_speed and value is not None and had_concurrent_runs(row.first) else ""
        return measure.show(value) + star

    return _Column(measure.narrow_head, cell, measure.priority or 0)


_CHECKS_PRIORITY = 6
CONCURRENT = "* measured with concurrent runs: other runs were active on this machine, which lowers speeds."


def render(records: Sequence[Record], console: Console, analysis: Analysis | None = None) -> None:
    """Print one table per task and model, best score first: a row for each configuration, its seeds together.

    Below it: what its intervals cover, failed checks and lost runs. On a narrow console the columns of least
    weight are left out and named; score, memory and parameters stay.

    Args:
        records: also those of failed runs.
        analysis: of these records; without it, runs are not paired and there are no groups.
    """
    from rich.text import Text

    from bench.analysis.analysis import analyse

    if not records:
        console.print("No runs yet.")
        return
    names = labels(records)
    members = groups(records)
    for group in (analysis or analyse(records, None)).groups:
        alpha = analysis.alpha if analysis else 0.05
        columns, hidden = _choose(group, alpha, console.width)
        console.print(Text(f"\n{formatting.clean(group.task)} on {formatting.clean(group.model)}", style="bold"))
        heads = ["method", *(column.head for column in columns)]
        grid.show(console, heads, [_cells(row, columns) for row in group.configurations])
        shown = {run["run_id"] for row in group.configurations for run in row.runs}
        there = [run for run in members[(group.task, group.model)] if run["run_id"] in shown]
        for line in doubts(there, names):
            console.print(Text(line, style="yellow"))
        for line in meanings(there, group, alpha):
            console.print(Text(line, style="dim"))
        if hidden:
            console.print(Text(f"Left out at this width: {', '.join(hidden)}.", style="dim"))


def meanings(records: Sequence[Record], group: Group, alpha: float) -> list[str]:
    """What one must know to read a group's table, in sentences: how values were chosen, speeds taken, ± and letters."""
    concurrent = [CONCURRENT] if any(had_concurrent_runs(record) for record in records) else []
    return [*filter(None, [tuned(records)]), *concurrent, *covered(group, alpha)]


def covered(group: Group, alpha: float) -> list[str]:
    """What a group's intervals and letters mean, in sentences."""
    from bench.analysis import configurations

    said = {
        configurations.BOTH: "seeds and test examples",
        configurations.EXAMPLES: "test examples only (one seed, so no seed variance)",
        configurations.SEEDS: "seeds only (the same test examples)",
    }
    found = list(dict.fromkeys(c.covers for c in group.configurations if c.covers))
    lines = []
    if found:
        over = ", or ".join(said[cover] for cover in found)
        lines.append(f"± is half a {100 * (1 - alpha):g} % interval over {over}.")
    if any(c.group for c in group.configurations):
        lines.append("Methods that share a letter do not differ significantly (pairs: bench stats).")
    return lines


def _choose(group: Group, alpha: float, width: int) -> tuple[list[_Column], list[str]]:
    """Choose a group's columns for a width; also the headers of those left out."""
    head = formatting.clean(group.score or "score")
    unit = ("% " if formatting.is_share(head) else "") + ("↑" if group.higher_is_better else "↓")
    columns = [_Column(f"{head}\n{unit}", lambda row: _score(row, alpha))]
    rows = group.configurations
    if any(row.group for row in rows):
        columns.append(_Column("group", lambda row: row.group or formatting.DASH))
    if any(len(row.done) + row.lost_seeds > 1 for row in rows):
        columns.insert(0, _Column("seeds", _seeds))
    columns += [_column(measure) for measure in MEASURES if measure.priority is not None]
    columns.append(_Column("checks", _checks, _CHECKS_PRIORITY))
    label = grid.label_width(["method", *(row.label for row in rows)])
    wide = {column.head: grid.width([column.head, *map(column.cell, rows)]) + 2 for column in columns}
    hidden: list[str] = []
    while label + sum(wide[column.head] for column in columns) > width:
        last = max(columns, key=lambda column: column.priority)
        if last.priority == 0:
            break
        columns.remove(last)
        hidden.insert(0, last.head.replace("-\n", "").replace("\n", " "))
    return columns, hidden


def _cells(row: Configuration, columns: Sequence[_Column]) -> list[Text]:
    """A row's cells; Text throughout, because names and errors may hold what rich would read as markup."""
    from rich.text import Text

    doubtful = "" if row.done else "red"
    cells = [Text(formatting.clean(row.label), style=doubtful)]
    for column in columns:
        text = column.cell(row)
        style = "yellow" if text.endswith("!") else doubtful
        cells.append(Text(text, style=style))
    return cells


def _score(row: Configuration, alpha: float) -> str:
    if row.estimate is None:
        return str(row.first["status"]) if row.first["status"] != "ok" else formatting.DASH
    text = formatting.score(row.first["main_score"], row.estimate.mean, row.half(alpha)).removesuffix(" %")
    return text + (" !" if any(map(failed_checks, row.measured)) else "  ")


def _seeds(row: Configuration) -> str:
    total = len(row.done) + row.lost_seeds
    return f"{len(row.done)} of {total}" if row.lost else str(total)


def _checks(row: Configuration) -> str:
    passed, failed = check_names(row.measured)
    if failed:
        return f"{len(failed)} fail !"
    return f"{len(passed)} pass" if any(run["checks"] for run in row.measured) else formatting.DASH


def doubts(ordered: Sequence[Record], names: Mapping[str, str]) -> list[str]:
    """The warnings of a table, a sentence each: failed checks, runs without a score, data or weights that differ.

    Args:
        ordered: the records of one task and model.
        names: their labels, by run id.
    """
    found: dict[str, list[str]] = {}
    for record in ordered:
        who = f"{names[record['run_id']]} (seed {record['spec']['seed']})"
        for name, why in failed_checks(record).items():
            found.setdefault(f"check failed, {name}: {formatting.first_line(why)}", []).append(who)
        if not scored(record):
            reason = formatting.first_line(record["error"]) or "no reason was recorded"
            said = "its main score is NaN" if record["status"] == "ok" else f"{record['status']}: {reason}"
            found.setdefault(said, []).append(who)
    lines = [f"! {', '.join(who)}: {what}" for what, who in found.items()]
    for what, prints in mixed(ordered).items():
        lines.append(f"! rows mix {len(prints)} versions of the {what} ({', '.join(prints)}) and do not compare")
    if (version := of_another_version(ordered)) is not None:
        lines.append(f"! {version}")
    return [formatting.clean(line) for line in lines]
