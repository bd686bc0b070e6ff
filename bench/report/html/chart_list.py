"""All charts of one task and model, in the order in which they answer questions."""

from __future__ import annotations

from collections.abc import Sequence

from bench.report.html import (
    chart_capacity,
    chart_curves,
    chart_forgetting,
    chart_learning_rate,
    chart_memory,
    chart_pareto,
    chart_tuning,
)
from bench.report.html.chart_base import Chart, Scene, look
from bench.report.published import Figure


def charts(scene: Scene, published: Sequence[Figure] = ()) -> list[Chart]:
    """The charts of one task and model, without those for which nothing was measured.

    Args:
        scene: the runs, best first.
        published: published results for the same model and task.
    """
    looks = {name: look(number) for name, number in scene.slot.items()}
    drawn = [
        chart_pareto.chart(scene),
        chart_capacity.chart(scene, [figure for figure in published if not figure.average]),
        chart_learning_rate.chart(scene),
        *chart_tuning.charts(scene),
        Chart("memory", "What the training peak consists of", *chart_memory.split(scene.configurations), wide=True),
        Chart("phases", "Peak memory over phases", *chart_memory.phases(scene.configurations, looks)),
        *chart_curves.charts(scene),
        chart_forgetting.chart(scene),
    ]
    return [chart for chart in drawn if chart.traces]
