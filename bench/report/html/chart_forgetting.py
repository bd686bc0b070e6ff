"""What tuning cost the base model: its loss on other text before and after, where that was measured."""

from __future__ import annotations

from statistics import fmean

from bench.analysis.configurations import Configuration
from bench.report.html.chart_base import LONGEST_LABEL, Chart, Scene, Trace, look, rows_axis
from bench.report.html.escape import plot

_MOST_BARS = 40


def rise(one: Configuration) -> float | None:
    """Mean over the seeds of the tuned model's loss minus the base model's; None where it was not measured."""
    rises = []
    for run in one.done:
        found = run.get("forgetting") or {}
        base, tuned = found.get("base_loss"), found.get("tuned_loss")
        if base is not None and tuned is not None:
            rises.append(float(tuned) - float(base))
    return fmean(rises) if rises else None


def chart(scene: Scene) -> Chart:
    """One bar per configuration, best score first."""
    known = [(one, change) for one in scene.configurations if (change := rise(one)) is not None]
    note = "Rise of the loss per token on other text than the task's, tuned minus base model; 0 forgets nothing."
    if len(known) > _MOST_BARS:
        note += f" The best {_MOST_BARS} of {len(known)} configurations."
        known = known[:_MOST_BARS]
    traces: list[Trace] = []
    for method, number in scene.slot.items():
        rows = [index for index, (one, _) in enumerate(known) if one.method == method]
        if rows:
            traces.append(
                {
                    "type": "bar",
                    "orientation": "h",
                    "name": plot(method, LONGEST_LABEL),
                    "y": rows,
                    "x": [known[index][1] for index in rows],
                    "hovertext": [plot(known[index][0].label) for index in rows],
                    "hovertemplate": "%{hovertext}<br>%{x:+.4f} nats per token<extra></extra>",
                    "meta": {"ink": look(number)["meta"]["ink"]},
                }
            )
    layout = {
        "barmode": "overlay",
        "bargap": 0.4,
        "height": 120 + 30 * len(known),
        "showlegend": False,
        "xaxis": {"title": {"text": "nats per token"}},
        "yaxis": rows_axis([one.label for one, _ in known]),
    }
    return Chart("forgetting", "Forgetting", note, traces, layout)
