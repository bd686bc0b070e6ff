"""The result of a check for people: what moved, by how much, against what noise; failures first."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from bench.analysis.regression_check import BETTER, MISSING, NEW, REGRESSION, SAME, SKIPPED, Finding, Result
from bench.core import formatting

if TYPE_CHECKING:
    from rich.console import Console

_STYLES = {REGRESSION: "bold red", MISSING: "bold red", BETTER: "green", SKIPPED: "yellow", NEW: "cyan"}
_ORDER = (REGRESSION, MISSING, SKIPPED, BETTER, NEW)


def headline(result: Result) -> str:
    """One sentence: whether the check passes."""
    counted = Counter(finding.verdict for finding in result.findings)
    failed = len(result.failures)
    compared = (SAME, BETTER, REGRESSION)
    runs = len({(finding.label, finding.where) for finding in result.findings if finding.verdict in compared})
    many = f"{runs} configuration{'s' if runs != 1 else ''}"
    looked = f"{sum(counted[verdict] for verdict in compared)} values of {many} compared"
    if not failed:
        return f"PASS: {looked}, none worse than its noise allows."
    worse, missing = counted[REGRESSION], counted[MISSING]
    said = [f"{worse} worse"] if worse else []
    said += [f"{missing} missing"] if missing else []
    return f"FAIL: {', '.join(said)} ({looked})."


def render(result: Result, console: Console, everything: bool = False) -> None:
    """Print a line for each finding, failures first, then the headline; what stayed the same only when asked."""
    from rich.text import Text

    for note in result.notes:
        console.print(Text(formatting.clean(note), style="dim"))
    order = (*_ORDER, SAME) if everything else _ORDER
    chosen = [finding for verdict in order for finding in result.findings if finding.verdict == verdict]
    for finding in chosen:
        console.print(Text(f"{finding.verdict:<12}  ", style=_STYLES.get(finding.verdict, "")) + Text(line(finding)))
    console.print(Text(headline(result), style="bold"))


def line(finding: Finding) -> str:
    """A finding in one line."""
    return formatting.clean(f"{finding.label} ({finding.where})  {finding.measure}: {finding.said}")
