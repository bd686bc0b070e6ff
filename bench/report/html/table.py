"""The comparison table of the report: one row per configuration, its single runs beneath, and what filters it."""

from __future__ import annotations

import string
from collections.abc import Sequence

from bench.analysis.configurations import Configuration, status_of
from bench.analysis.measures import Measure, measured
from bench.core import formatting
from bench.report.html.chart_base import INKS, Scene
from bench.report.html.escape import text
from bench.store.record import Record, check_names, failed_checks, main_value, scored

_MANY_ROWS = 40  # a longer table scrolls in its own box, under its header


def table(scene: Scene, number: int) -> str:
    """One row per configuration, best first, over its seeds; each column sorts by a button in its header.

    Args:
        scene: the runs of one task and model.
        number: the section's, for ids.
    """
    made = scene.configurations
    columns = measured(scene.shown)
    seeds = any(len(one.runs) > 1 for one in made)
    groups = any(one.group for one in made)
    unit = "%" if formatting.is_share(scene.score_name) else ""
    heads = [_head("method", "", "asc", "text")]
    heads += [_head("runs", "", "desc")] if seeds else []
    heads.append(_head(scene.score_name or "score", unit, "asc" if scene.lower else "desc", now=True))
    heads += [_head("group", "", "asc")] if groups else []
    heads += [_head(column.head, column.unit, "asc" if column.least else "desc") for column in columns]
    heads.append(_head("checks", "", "desc"))
    rows = _Rows(columns, seeds, groups, scene)
    body = "\n".join(rows.body(one) for one in made)
    long = " long" if len(made) > _MANY_ROWS else ""
    count = _counted(len(made), "configuration")
    runs = f", {_counted(len(scene.shown), 'run')}" if seeds else ""
    caption = f"{count}{runs}.{' Click a heading to sort.' if len(made) > 1 else ''}"
    return (
        f"{_tools(made, number) if len(made) > 1 else ''}"
        f'<div class="wide{long}" tabindex="0" role="region" aria-label="Comparison table"><table class="runs" '
        f'id="t{number}"><caption>{caption}</caption><thead><tr>{"".join(heads)}</tr></thead>\n{body}\n</table></div>'
    )


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}{'s' if count != 1 else ''}"


def _tools(made: Sequence[Configuration], number: int) -> str:
    """What narrows the table down: words, a method, a status; single runs on request."""
    methods = sorted({one.method for one in made})
    states = sorted({status for one in made for run in one.runs for status in [status_of(run)]})
    choose = "".join(
        f'<label>{name} <select data-filter="{name}" aria-label="{name}"><option value="">all</option>'
        f"{''.join(f'<option>{text(value)}</option>' for value in values)}</select></label>"
        for name, values in (("method", methods), ("status", states))
        if len(values) > 1
    )
    several = any(len(one.runs) > 1 for one in made)
    runs = '<label><input type="checkbox" data-filter="runs"> single runs</label>' if several else ""
    return (
        f'<div class="tools" role="search" aria-label="Filter the table" data-table="t{number}">'
        f'<label>filter <input type="search" data-filter="text" autocomplete="off" spellcheck="false" '
        f'placeholder="name, option or error"></label>{choose}{runs}'
        f'<span class="count" role="status"></span></div>'
    )


def _head(name: str, unit: str, first: str, kind: str = "number", *, now: bool = False) -> str:
    sort = {"asc": "ascending", "desc": "descending"}[first] if now else "none"
    small = f" <small>{text(unit)}</small>" if unit else ""
    return (
        f'<th scope="col" aria-sort="{sort}"><button type="button" data-first="{first}" data-kind="{kind}">'
        f"{text(name)}{small}</button></th>"
    )


class _Rows:
    """Writes rows that have the same columns."""

    def __init__(self, columns: Sequence[Measure], seeds: bool, groups: bool, scene: Scene) -> None:
        self.columns, self.seeds, self.groups, self.scene = columns, seeds, groups, scene

    def body(self, one: Configuration) -> str:
        """A body of its own for each configuration, so that its runs move with it when the table is sorted."""
        states = " ".join(sorted({status_of(run) for run in one.runs}))
        runs = "".join(self._run(run) for run in one.runs) if len(one.runs) > 1 else ""
        return f'<tbody data-method="{text(one.method)}" data-status="{text(states)}">{self._row(one)}{runs}</tbody>'

    def _row(self, one: Configuration) -> str:
        number = self.scene.slot[one.method]
        cells = [
            f'<th scope="row"><button class="copy">copy</button><i class="m{number % INKS}"></i>'
            f'<a href="#r-{one.runs[0]["run_id"]}">{text(one.label)}</a></th>'
        ]
        if self.seeds:
            cells.append(_cell(len(one.runs), _more(one)))
        cells.append(_cell(one.score, _score(one)))
        if self.groups:
            cells.append(_cell(_order(one.group), text(one.group or formatting.DASH)))
        cells += [_cell(value := one.of(column), text(column.show(value))) for column in self.columns]
        cells.append(_checks(one.runs))
        state = "" if one.done else ' class="lost"'
        return f"<tr{state}>{''.join(cells)}</tr>"

    def _run(self, run: Record) -> str:
        seed = run["spec"]["seed"]
        cells = [f'<th scope="row"><a href="#r-{run["run_id"]}">seed {seed}</a></th>', "<td></td>"]
        cells.append(_cell(None, _run_score(run)))
        cells += ["<td></td>"] if self.groups else []
        cells += [_cell(None, text(column.show(column.of(run)))) for column in self.columns]
        cells.append(_checks((run,)))
        state = "one" if scored(run) else "one lost"
        return f'<tr class="{state}" hidden>{"".join(cells)}</tr>'


def _more(one: Configuration) -> str:
    if len(one.runs) == 1:
        return "1"
    return (
        f'<button type="button" class="more" aria-expanded="false" '
        f'aria-label="{len(one.runs)} runs of {text(one.label)}">{len(one.runs)}</button>'
    )


def _order(group: str) -> float | None:
    """A rank group's letters as a number to sort by: a before ab before b."""
    if not group:
        return None
    first = group.split(" ")[0]
    places = [string.ascii_letters.find(letter) + 1 or len(string.ascii_letters) + 1 for letter in first[:8]]
    return float(sum(number * 54.0**-place for place, number in enumerate(places)))


def _cell(value: float | None, shown_as: str) -> str:
    return f"<td>{shown_as}</td>" if value is None else f'<td data-v="{value:.9g}">{shown_as}</td>'


def _score(one: Configuration) -> str:
    """The score and, in the same cell, which checks failed or why there is none."""
    if one.score is None:
        return _why(one.runs[0])
    value = formatting.score(one.first["main_score"], one.score, one.margin).removesuffix(" %")
    note = _failed(sorted(one.doubts))
    if one.lost:
        lost = ", ".join(sorted({status_of(run) for run in one.lost}))
        note += f" <small><strong>{len(one.lost)} of {len(one.runs)} runs lost:</strong> {text(lost)}</small>"
    return f"<b>{text(value)}</b>{note}"


def _run_score(run: Record) -> str:
    if not scored(run):
        return _why(run)
    value = formatting.score(run["main_score"], main_value(run)).removesuffix(" %")
    return f"{text(value)}{_failed(sorted(failed_checks(run)))}"


def _why(run: Record) -> str:
    if run["status"] == "ok":
        return "<strong>no score</strong> <small>its main score is NaN</small>"
    reason = formatting.first_line(run["error"]) or "no reason was recorded"
    return f"<strong>{text(status_of(run))}</strong> <small>{text(_short(reason))}</small>"


def _failed(checks: Sequence[str]) -> str:
    return f" <small><strong>check failed:</strong> {text(_short(', '.join(checks)))}</small>" if checks else ""


def _checks(runs: Sequence[Record]) -> str:
    passed, failed = check_names(runs)
    known = any(run["checks"] for run in runs)
    said = f"<strong>{len(failed)} failed</strong>" if failed else f"{len(passed)} pass" if known else formatting.DASH
    return _cell(len(failed) if known else None, said)


def _short(line: str, most: int = 90) -> str:
    return line if len(line) <= most else line[: most - 1] + "…"
