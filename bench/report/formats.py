"""The comparison table outside HTML: Markdown and LaTeX for people, CSV and JSON for programs.

Markdown and LaTeX have one table per task and model, written as in the report, and below it what its values mean and
which to treat with caution: a table is pasted elsewhere alone. CSV and JSON have one flat list of configurations with
plain numbers, whose units are in the names; what was not measured is empty or null.
"""

from __future__ import annotations

import csv
import io
import json
import math
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from bench.analysis.analysis import Analysis, analyse
from bench.analysis.configurations import ALPHA, Configuration
from bench.analysis.measures import MEASURES, Measure, measured
from bench.core import formatting
from bench.report.html.chart_base import Scene, scenes
from bench.report.html.reproduce_command import reproduce
from bench.report.terminal.comparison_table import doubts, meanings
from bench.store.record import Record

FORMATS = ("md", "csv", "json", "latex")


def write(records: Sequence[Record], kind: str, analysis: Analysis | None = None) -> str:
    """The table of some records as text that ends with a newline.

    Args:
        records: of any tasks and models.
        kind: one of ``FORMATS``.
        analysis: of these records; without it, nothing is paired.
    """
    found = scenes(records, analysis or analyse(records, None))
    return {"md": _markdown, "csv": _csv, "json": _json, "latex": _latex}[kind](found)


def _flat(found: Sequence[Scene]) -> list[dict[str, Any]]:
    """One row per configuration, with plain numbers."""
    return [_row(one) for scene in found for one in scene.configurations]


def _row(one: Configuration) -> dict[str, Any]:
    spec = one.runs[0]["spec"]
    seeds = sorted({run["spec"]["seed"] for run in one.runs})
    return {
        "task": spec["task"]["name"],
        "model": spec["model"]["name"],
        "label": one.label,
        "method": one.method,
        "status": one.status,
        "runs": len(one.runs),
        "runs_lost": len(one.lost),
        "score_name": one.first["main_score"],
        "score": one.score,
        "score_margin": one.margin,
        "rank_group": one.group or None,
        **{measure.key: _number(one.of(measure)) for measure in MEASURES},
        "lr": spec["train"]["lr"],
        "seeds": ",".join(map(str, seeds)),
        "checks_failed": "; ".join(f"{name}: {why}" for name, why in one.doubts.items()),
        "error": next((formatting.first_line(run["error"]) for run in one.lost if run["error"]), None),
        "command": reproduce(spec, seeds),
    }


def _number(value: float | None) -> float | int | None:
    return int(value) if value is not None and value == math.floor(value) else value


def _csv(found: Sequence[Scene]) -> str:
    rows = _flat(found)
    out = io.StringIO()
    if rows:
        writer = csv.DictWriter(out, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows({name: _harmless(value) for name, value in row.items()} for row in rows)
    return out.getvalue()


def _harmless(value: Any) -> Any:
    """A text that a spreadsheet would take for a formula, with an apostrophe before it."""
    if not isinstance(value, str):
        return value
    shown = formatting.clean(value)
    formula = shown.lstrip()[:1] in ("=", "+", "-", "@") or shown[:1] in ("\t", "\r", "\n")
    return f"'{shown}" if formula else shown


def _json(found: Sequence[Scene]) -> str:
    return json.dumps(_flat(found), indent=1, ensure_ascii=True, allow_nan=False) + "\n"


def _cells(scene: Scene, one: Configuration, columns: Sequence[Measure]) -> Iterator[str]:
    """A row for people: label, runs, score, rank group, measures, checks."""
    yield one.label
    yield (f"{len(one.done)} of {len(one.runs)}" if one.lost and one.done else str(len(one.runs)))
    share = formatting.is_share(scene.score_name)
    if one.score is None:
        yield one.status
    else:
        written = formatting.score(scene.score_name, one.score, one.margin)
        yield written.removesuffix(" %") if share else written
    if any(other.group for other in scene.configurations):
        yield one.group or formatting.DASH
    for column in columns:
        yield column.show(one.of(column))
    yield (f"{len(one.doubts)} failed" if one.doubts else "passed" if one.first["checks"] else formatting.DASH)


def _heads(scene: Scene, columns: Sequence[Measure]) -> list[str]:
    share = " %" if formatting.is_share(scene.score_name) else ""
    heads = ["method", "runs", f"{scene.score_name or 'score'}{share}"]
    heads += ["group"] if any(one.group for one in scene.configurations) else []
    return [*heads, *(f"{column.head} {column.unit}".strip() for column in columns), "checks"]


def _markdown(found: Sequence[Scene]) -> str:
    parts = []
    for scene in found:
        columns = measured(scene.shown)
        rows = [
            _heads(scene, columns),
            *(list(_cells(scene, one, columns)) for one in scene.configurations),
        ]
        lines = [f"| {' | '.join(_in_markdown(cell) for cell in row)} |" for row in rows]
        rule = "|" + "|".join("---" if index == 0 else "--:" for index in range(len(rows[0]))) + "|"
        notes = "".join(f"\n- {_in_markdown(note)}" for note in _notes(scene))
        table = "\n".join([f"### {_title(scene, _in_markdown)}", "", lines[0], rule, *lines[1:]])
        parts.append(f"{table}\n{notes}" if notes else table)
    return "\n\n".join(parts) + "\n" if parts else "No runs yet.\n"


def _notes(scene: Scene) -> list[str]:
    """The notes below a scene's table."""
    meant = meanings(scene.shown, scene.group, ALPHA)
    said = [*doubts(scene.shown, scene.names), *meant]
    return [note.removeprefix("! ").removeprefix("* ") for note in said]  # there the mark is in the table too


def _title(scene: Scene, escape: Callable[[str], str]) -> str:
    return f"{escape(scene.task)} on {escape(scene.model)}"


def _in_markdown(words: str) -> str:
    """Words on one line in which nothing is markup or HTML."""
    shown = " ".join(formatting.clean(words).split())
    return re.sub(r"([\\`*_\[\]<>|#&~$])", r"\\\1", shown)


def _latex(found: Sequence[Scene]) -> str:
    parts = ["% needs \\usepackage{booktabs}"]
    for scene in found:
        columns = measured(scene.shown)
        heads = _heads(scene, columns)
        lines = [" & ".join(_in_latex(cell) for cell in _cells(scene, one, columns)) for one in scene.configurations]
        parts += [
            "\\begin{table}",
            f"\\caption{{{_title(scene, _in_latex)}}}",
            f"\\begin{{tabular}}{{l{'r' * (len(heads) - 1)}}}",
            "\\toprule",
            " & ".join(map(_in_latex, heads)) + r" \\",
            "\\midrule",
            *(f"{line} \\\\" for line in lines),
            "\\bottomrule",
            "\\end{tabular}",
            *(f"\\par\\footnotesize {_in_latex(note)}" for note in _notes(scene)),
            "\\end{table}",
        ]
    return "\n".join(parts) + "\n"


_LATEX = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#", "%": r"\%", "_": r"\_",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$", formatting.DASH: "--", "…": r"\ldots{}",
    "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}",
}  # fmt: skip


def _in_latex(words: str) -> str:
    return "".join(_LATEX.get(sign, sign) for sign in " ".join(formatting.clean(words).split()))
