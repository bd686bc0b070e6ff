"""All charts of one task and model, in the order in which they answer questions."""

from __future__ import annotations

from collections.abc import Sequence

from bench.report import capacity, curves, forgetting, memory, pareto, rates, tuning
from bench.report.chart import Chart, Scene, look
from bench.report.published import Figure


def charts(scene: Scene, published: Sequence[Figure] = ()) -> list[Chart]:
    """The charts of one task and model, without those for which nothing was measured.

    Args:
        scene: the runs, best first.
        published: figures of the same model and task that others have published.
    """
    looks = {name: look(number) for name, number in scene.slot.items()}
    drawn = [
        pareto.chart(scene),
        capacity.chart(scene, [figure for figure in published if not figure.average]),
        rates.chart(scene),
        *tuning.charts(scene),
        Chart("memory", "What the training peak consists of", *memory.split(scene.setups), wide=True),
        Chart("phases", "Peak memory over phases", *memory.phases(scene.setups, looks)),
        *curves.charts(scene),
        forgetting.chart(scene),
    ]
    return [chart for chart in drawn if chart.traces]
