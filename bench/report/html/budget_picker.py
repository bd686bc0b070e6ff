"""What fits: the best configuration under a limit of GPU memory and a minimum of throughput, chosen by two sliders."""

from __future__ import annotations

from typing import Any

from bench.analysis.measures import THROUGHPUT
from bench.core import formatting
from bench.report.html.chart_base import INKS, Scene
from bench.report.html.escape import text
from bench.store.record import Record

_STEPS = 200


def need(record: Record) -> tuple[float | None, str]:
    """Bytes that a GPU must have for a run to train, and what they are: reserved where that was measured.

    Reserved memory is what the CUDA allocator held; a tracked peak counts tensors alone, so that a GPU must have
    more than that for the allocator and the CUDA context.
    """
    memory = record["memory"]
    if memory["reserved_peak_bytes"] is not None:
        return memory["reserved_peak_bytes"], "reserved"
    return memory["train_peak_bytes"], "tensors"


def candidates(scene: Scene) -> list[dict[str, Any]]:
    """The scored configurations whose memory is known, best first, as the page's script takes them."""
    found = []
    for one in scene.configurations:
        needs = [(size, how) for run in one.done if (size := need(run)[0]) for how in [need(run)[1]]]
        if not needs or one.score is None:
            continue
        size, how = max(needs)
        metric = one.first["main_score"]
        found.append(
            {
                "label": one.label,
                "run": one.first["run_id"],
                "ink": f"m{scene.slot[one.method] % INKS}",
                "score": f"{metric} {formatting.score(metric, one.score, one.margin)}",
                "group": one.group,
                "bytes": size,
                "how": how,
                "rate": one.of(THROUGHPUT),
                "doubt": bool(one.doubts),
            }
        )
    return found


def panel(scene: Scene, number: int) -> tuple[str, list[dict[str, Any]]]:
    """The sliders' HTML and the data they choose from; empty with fewer than two candidates.

    Args:
        scene: the runs of one task and model.
        number: the section's, for ids.
    """
    found = candidates(scene)
    if len(found) < 2:
        return "", []
    kinds = {candidate["how"] for candidate in found}
    if kinds == {"reserved"}:
        basis = "Memory is what the CUDA allocator reserved at the training peak; add the CUDA context (about 0.5 GB)."
    elif kinds == {"tensors"}:
        basis = (
            "Memory is what tensors hold at the training peak. A GPU needs more than that: what the allocator "
            "reserves in addition, and the CUDA context (about 0.5 GB)."
        )
    else:
        basis = "Memory is what was reserved on CUDA, and where only tensors were counted, what they hold."
    ends = f'min="0" max="{_STEPS}" step="1"'
    rate = (
        f'<label for="fr{number}">training speed at least</label>'
        f'<input type="range" id="fr{number}" data-fits="rate" {ends} value="0"><output for="fr{number}"></output>'
        if any(candidate["rate"] for candidate in found)
        else ""
    )
    html = (
        f'<div class="fits" data-section="{number}" role="group" aria-labelledby="fh{number}">'
        f'<h3 id="fh{number}">What fits?</h3>'
        f'<div class="sliders"><label for="fm{number}">training memory up to</label>'
        f'<input type="range" id="fm{number}" data-fits="memory" {ends} value="{_STEPS}">'
        f'<output for="fm{number}"></output>{rate}</div>'
        f'<p class="choice" aria-live="polite"></p><p class="note">{text(basis)}</p></div>'
    )
    return html, found
