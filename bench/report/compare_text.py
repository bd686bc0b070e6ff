"""How a change is written, in the terminal and on the page alike."""

from __future__ import annotations

from bench.analysis.compare_folders import Comparison, Row
from bench.analysis.compare_metric import Change
from bench.analysis.measures import EXACT, RATIO, REFERENCE, SCORE, SPEED
from bench.core import formatting


def cell(change: Change) -> str:
    """The change with its standard error: ``−3.3 ± 0.6``, ``+12.0 %``, ``=``; a star marks what is beyond noise."""
    if change.change is None:
        return formatting.DASH if change.before == change.after else "new" if change.before in (None, 0) else "gone"
    star = " *" if change.mark else ""
    if change.metric.noise == EXACT and change.change == 0:
        return "="
    scale, digits, unit = _scale(change)
    noise = "" if not change.noise else f" ± {change.noise * scale:.{digits}f}"
    return f"{change.change * scale:+.{digits}f}{noise}{unit}{star}".replace("-", "−")


def _scale(change: Change) -> tuple[float, int, str]:
    """Factor, digits and unit of a change: points of a share, percent of anything that is not a score."""
    if change.metric.noise != SCORE:
        return 100.0, 1, " %"
    return (100.0, 1, "") if formatting.is_share(change.metric.key) else (1.0, 3, "")


def sentence(row: Row, change: Change) -> str:
    """A marked change in words."""
    before, after = change.metric.text(change.before), change.metric.text(change.after)
    if before == after and change.metric.noise == EXACT and change.before is not None and change.after is not None:
        before, after = f"{change.before:,.0f}", f"{change.after:,.0f}"
    values = f"{before} → {after}"
    moved = cell(change).removesuffix(" *")
    if formatting.is_share(change.metric.key):
        moved += " points"
    why = change.test if change.p_holm is None else f"{change.test}, p {p_value(change.p_holm, '= ')} corrected"
    where = f"{row.label} ({row.task} on {row.model})"
    return f"{where}: {change.metric.title} {values} ({moved}), {change.mark}; {why}{_machine(row, change)}"


def _machine(row: Row, change: Change) -> str:
    """The change of the reference work, for a time that depends on the machine."""
    told = [c.change for c in row.changes if c.metric.key == REFERENCE and c.change is not None]
    if change.metric.noise != SPEED or change.metric.key == RATIO or not told:
        return ""
    return f"; the machine's reference work took {told[0] * 100:+.0f} %".replace("-", "−")


def p_value(p: float, equals: str = "") -> str:
    """A p-value: two digits, never 0; ``equals`` precedes an exact one."""
    return "< 0.0001" if p < 1e-4 else f"{equals}{p:.2g}"


def method(comparison: Comparison) -> str:
    """What a mark means."""
    return (
        f"* beyond noise: two-sided tests, error rate {comparison.alpha:g} over all {comparison.tests} tests together "
        "(Holm); counts and bytes have no noise. ± is one standard error of the change."
    )


def unmoved(comparison: Comparison) -> str:
    """What to say where no value changed: less, where runs are missing or did not finish."""
    if any(comparison.missing) or any(row.unfinished for row in comparison.rows):
        return "Of the values that both have, none changed beyond its noise; runs are missing or did not finish."
    return "Nothing changed beyond its noise."


def remarks(comparison: Comparison) -> list[str]:
    """What limits the comparison: missing runs, unfinished runs, and what the two folders rest on."""
    said = []
    for side, other, names in (("A", "B", comparison.missing[0]), ("B", "A", comparison.missing[1])):
        said += [f"Only in {side}, missing in {other}: {name}." for name in names]
    for row in comparison.rows:
        where = f"{row.label} ({row.task} on {row.model})"
        said += [f"Did not finish: {where}, {what}." for what in row.unfinished]
        if row.seeds[0] != row.seeds[1] and all(row.seeds):
            listed = [", ".join(map(str, seeds)) for seeds in row.seeds]
            common = set(row.seeds[0]) & set(row.seeds[1])
            how = "those in both were compared" if common else "none in common, so nothing could be paired"
            said.append(f"Other seeds: {where}, A {listed[0]}; B {listed[1]}; {how}.")
    said += [f"Not the same: {difference}." for difference in comparison.differences]
    return [*said, *comparison.notes]
