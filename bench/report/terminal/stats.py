"""What ``bench stats`` prints: scores, pairs, sample sizes needed, several tasks, Pareto fronts; or JSON."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean, stdev
from typing import TYPE_CHECKING, Any

from bench.analysis import pscp
from bench.analysis.analysis import Analysis, Summary, over_tasks, rows
from bench.analysis.configurations import Configuration, Group, Pair
from bench.analysis.measures import TRAINED
from bench.core import formatting
from bench.report.terminal import grid
from bench.store.record import Record, main_value

if TYPE_CHECKING:
    from rich.console import Console


def show(records: Sequence[Record], analysis: Analysis, console: Console, weights: pscp.Weights | None) -> None:
    """Print everything; ``weights`` adds PSCP."""
    from bench.report.terminal.comparison_table import render

    render(records, console, analysis)
    for group in analysis.groups:
        _pairs(group, analysis, console)
        if group.front:
            front = ", ".join(group.front)
            _say(console, f"Pareto front of score, peak memory, throughput and trained parameters: {front}.")
        if weights is not None:
            _penalised(group, weights, console)
    for summary in over_tasks(analysis):
        _summary(summary, analysis, console)


def _pairs(group: Group, analysis: Analysis, console: Console) -> None:
    tested = [pair for pair in group.pairs if pair.comparison is not None]
    if tested:
        _say(console, f"\nPairs, {formatting.clean(group.task)} on {formatting.clean(group.model)}", style="bold")
        by = "by points" if formatting.is_share(group.score) else "by"
        heads = ["better", "than", by, f"{100 * (1 - analysis.alpha):g} % interval", "p", "p Holm"]
        heads += ["p baseline"] if group.baseline else []
        heads += ["", "min. diff.", "seeds", "examples"]
        ordered = sorted(tested, key=lambda pair: group.baseline not in (pair.first, pair.second))
        _grid(console, heads, [_pair(pair, group) for pair in ordered], labels=2)
        _say(console, _legend(tested, group, analysis.alpha), style="dim")
    reasons: dict[str, list[str]] = {}
    for pair in group.pairs:
        if pair.comparison is None:
            reasons.setdefault(pair.reason, []).append(f"{pair.first} and {pair.second}")
    for reason, who in reasons.items():
        shown = "; ".join(who[:3]) + (f" and {len(who) - 3} more pairs" if len(who) > 3 else "")
        _say(console, f"! not compared: {shown}: {reason}", style="yellow")
    for note in group.notes:
        _say(console, f"! {note}", style="yellow")


def _pair(pair: Pair, group: Group) -> list[str]:
    found, settling = pair.comparison, pair.settling
    if found is None:
        raise ValueError("a pair that was not compared has no row")
    sign = 1 if group.higher_is_better else -1
    low, high = sorted((sign * found.low, sign * found.high))
    cells = [pair.first, pair.second, points(group.score, sign * found.difference)]
    cells += [
        f"{points(group.score, low)} to {points(group.score, high)}",
        p_value(found.p_value),
        p_value(pair.p_holm),
    ]
    if group.baseline:
        cells.append(p_value(pair.p_baseline))
    if settling is None:
        return [*cells, "different", "", "", ""]
    seeds = _needed(settling.seeds) if found.seeds > 1 else formatting.DASH
    shows = formatting.DASH if settling.detectable is None else points(group.score, settling.detectable).lstrip("+")
    return [*cells, "tied", shows, seeds, _needed(settling.examples)]


def _legend(tested: Sequence[Pair], group: Group, alpha: float) -> str:
    tests = sorted({pair.comparison.test for pair in tested if pair.comparison})
    many = "pair" if len(tested) == 1 else f"{len(tested)} pairs"
    said = f"Tests: {', '.join(tests)}. p Holm is corrected over the {many} of this table"
    said += ", p baseline over those with the baseline alone" if group.baseline else ""
    said += f"; tied: p Holm above {alpha:g}."
    if any(pair.settling for pair in tested):
        said += " min. diff.: minimum detectable difference (80 % power); seeds, examples: needed to"
        said += " detect the observed difference (none: no number is enough)."
    runs = {c.label: len(c.done) for c in group.configurations}
    fewer = [
        f"{pair.first} and {pair.second} ({pair.comparison.seeds})"
        for pair in tested
        if pair.comparison and pair.comparison.seeds < max(runs[pair.first], runs[pair.second])
    ]
    if fewer:
        more = f" and {len(fewer) - 3} more" if len(fewer) > 3 else ""
        said += f" Compared over the seeds that both have, fewer than one of them has: {', '.join(fewer[:3])}{more}."
    if any(pair.comparison and pair.comparison.seeds == 1 for pair in tested):
        said += " One seed: trained models were compared, not methods."
    return said


def _penalised(group: Group, weights: pscp.Weights, console: Console) -> None:
    found = {c.label: value for c in group.configurations if (value := penalised(c, group, weights)) is not None}
    missing = [c.label for c in group.configurations if c.label not in found]
    if found:
        listed = sorted(found.items(), key=lambda item: -item[1])
        scale = 100.0 if formatting.is_share(group.score) else 1.0
        said = ", ".join(f"{label} {scale * value:.4g}" for label, value in listed)
        _say(console, f"PSCP (β {weights.beta:g}): {said}.")
    if missing:
        _say(console, f"PSCP has no value for {', '.join(missing)}: a cost was not measured, or lower is better.")


def penalised(configuration: Configuration, group: Group, weights: pscp.Weights) -> float | None:
    """PSCP of a configuration; None where it is not defined or something was not measured."""
    score = None if configuration.estimate is None else configuration.estimate.mean
    trained, peak = configuration.of(TRAINED), configuration.peak
    flops, base = (_mean_flops(configuration, name) for name in ("inference_flops", "base_inference_flops"))
    if score is None or score < 0 or not group.higher_is_better:
        return None
    if trained is None or peak is None or flops is None or base is None:
        return None
    return pscp.pscp(score, trained, flops - base, peak, weights)


def _mean_flops(configuration: Configuration, name: str) -> int | None:
    known = [value for run in configuration.measured if (value := (run.get("compute") or {}).get(name)) is not None]
    return round(fmean(known)) if known else None


def _summary(summary: Summary, analysis: Analysis, console: Console) -> None:
    tasks = ", ".join(map(formatting.clean, summary.tasks))
    _say(console, f"\n{len(summary.tasks)} tasks on {formatting.clean(summary.model)}: {tasks}", style="bold")
    if summary.rows:
        heads = ["method", "average rank", summary.head, f"± {100 * (1 - analysis.alpha):g} %", "front"]
        table = [
            [row.label, f"{row.average_rank:.2f}", summary.written(row.average),
             "" if row.half is None else summary.written(row.half), "yes" if row.label in summary.front else ""]
            for row in summary.rows
        ]  # fmt: skip
        _grid(console, heads, table, labels=1)
        if summary.scale is not None:
            front = "front: not beaten in average score, peak memory, throughput and parameters at once."
            _say(console, front, style="dim")
        if summary.note:
            _say(console, summary.note, style="dim")
    for label, lacking in summary.incomplete.items():
        _say(console, f"! {label} is not averaged: no score on {', '.join(lacking)}", style="yellow")


def document(analysis: Analysis, weights: pscp.Weights | None) -> dict[str, Any]:
    """Everything as plain values for JSON; scores and differences in the score's own unit, differences first minus
    second."""
    pairs = rows(analysis)
    return {
        "alpha": analysis.alpha,
        "baseline": analysis.baseline,
        "groups": [
            {
                "task": group.task,
                "model": group.model,
                "score": group.score,
                "higher_is_better": group.higher_is_better,
                "configurations": [_plain(c, group, analysis.alpha, weights) for c in group.configurations],
                "pairs": [row for row in pairs if (row["task"], row["model"]) == (group.task, group.model)],
                "front": list(group.front),
                "notes": list(group.notes),
            }
            for group in analysis.groups
        ],
        "over_tasks": [
            {
                "model": summary.model,
                "tasks": list(summary.tasks),
                "rows": [vars(row) for row in summary.rows],
                "front": list(summary.front),
                "incomplete": {label: list(tasks) for label, tasks in summary.incomplete.items()},
            }
            for summary in over_tasks(analysis)
        ],
    }


def _plain(c: Configuration, group: Group, alpha: float, weights: pscp.Weights | None) -> dict[str, Any]:
    found = c.estimate
    made = {
        "label": c.label,
        "method": c.method,
        "seeds": list(c.seeds),
        "lost": c.lost_seeds,
        "mean": found and found.mean,
        "half_interval": c.half(alpha),
        "covers": c.covers,
        "half_interval_over_seeds": found and found.half_over_seeds(alpha),
        "sd_over_seeds": stdev(float(main_value(run) or 0.0) for run in c.done) if len(c.done) > 1 else None,
        "group": c.group or None,
        "tied_with": group.tied(c.label),
        "unpaired": c.unpaired or None,
    }
    return made if weights is None else made | {"pscp": penalised(c, group, weights)}


def points(name: str | None, value: float) -> str:
    """A signed difference of two scores: ``+2.1`` points of a percentage, else ``+0.021``."""
    return f"{100 * value:+.1f}" if formatting.is_share(name) else f"{value:+.3f}"


def p_value(value: float | None) -> str:
    """A p-value as people read it: ``0.031``, ``<0.001``."""
    if value is None:
        return formatting.DASH
    return "<0.001" if value < 0.0005 else f"{value:.3f}"


def _needed(number: int | None) -> str:
    return "none" if number is None else f"{number:,}"


def _grid(console: Console, heads: Sequence[str], rows: Sequence[Sequence[str]], labels: int) -> None:
    from rich.text import Text

    grid.show(console, heads, [[Text(formatting.clean(cell)) for cell in row] for row in rows], labels)


def _say(console: Console, line: str, style: str = "") -> None:
    from rich.text import Text

    console.print(Text(formatting.clean(line), style=style))
