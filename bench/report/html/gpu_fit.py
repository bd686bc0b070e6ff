"""Which GPUs a configuration's training fits: a table over the usual sizes of memory."""

from __future__ import annotations

from bench.core import formatting
from bench.report.html.budget_picker import need
from bench.report.html.chart_base import Scene
from bench.report.html.escape import text
from bench.report.html.layout import plain_table

SIZES_GB = (8, 16, 24, 40, 80)
GB = 10**9  # bytes, as bench plan --budget counts; cards sold as so many have a little more, or less
CONTEXT_BYTES = 1 << 29  # the CUDA context of one process, modules and handles; stated, as bench plan does

_MOST_ROWS = 60


def panel(scene: Scene) -> str:
    """The table, folded away: one row for each configuration, best first; empty where no memory was measured."""
    rows, kinds = [], set()
    for one in scene.configurations:
        needs = [(size, how) for run in one.runs if (size := need(run)[0]) for how in [need(run)[1]]]
        if needs:
            size, how = max(needs)
            kinds.add(how)
            rows.append(_row(one.label, size + CONTEXT_BYTES, how))
    if not rows:
        return ""
    left = f" The best {_MOST_ROWS} of {len(rows)} configurations." if len(rows) > _MOST_ROWS else ""
    heads = ["method", "needs", *(f"{size} GB" for size in SIZES_GB)]
    return (
        f'<details class="gpus"><summary><b>Fits in {" / ".join(map(str, SIZES_GB))} GB?</b></summary>'
        f"<p>{_basis(kinds)}{left}</p>{plain_table(heads, rows[:_MOST_ROWS])}</details>"
    )


def _row(label: str, needed: float, how: str) -> list[str]:
    least = "≥ " if how == "tensors" else ""
    fits = ("yes" if needed <= size * GB else "no" for size in SIZES_GB)
    return [text(label), f"{least}{formatting.size(needed)}", *fits]


def _basis(kinds: set[str]) -> str:
    context = f"{CONTEXT_BYTES / 1e9:.2f} GB for the CUDA context"
    if kinds == {"reserved"}:
        reserved = "what the CUDA allocator reserved at the training peak"
        return f"At the batch of these runs: {reserved}, and {context}. A GB is 10⁹ bytes."
    said = "where it was counted on a CPU (≥), the allocator needs more than that: bench plan simulates it"
    return f"At the batch of these runs: what the training peak holds, and {context}; {said}. A GB is 10⁹ bytes."
