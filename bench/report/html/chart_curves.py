"""Learning curves: a value against the optimizer step, one line per run."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

from bench.report.html.chart_base import DASHES, INKS, LONGEST_LABEL, MOST_LABELS, Chart, Scene, Trace
from bench.report.html.escape import plot
from bench.store.record import Record

_POINTS = 8_000  # over all curves of one chart: what keeps 500 runs small and quick to draw


def charts(scene: Scene) -> list[Chart]:
    """Training loss and dev score."""
    return [
        _curve(scene, "loss", "Training loss", "loss"),
        _curve(scene, "dev_score", "Dev score", *scene.dev),
    ]


def _curve(scene: Scene, value: str, title: str, axis: str, scale: float = 1.0) -> Chart:
    """One line per run, one legend entry per label, or per method where labels are many."""
    runs = [run for run in scene.shown if any(point[value] is not None for point in run["curve"])]
    labels = list(dict.fromkeys(scene.names[run["run_id"]] for run in runs))
    few = len(labels) <= MOST_LABELS
    most = max(8, _POINTS // max(1, len(runs)))
    seen: dict[str, list[str]] = {}  # labels by method, in the order of their dashes
    traces: list[Trace] = []
    for run in runs:
        method, label = run["spec"]["method"]["name"], scene.names[run["run_id"]]
        mine = seen.setdefault(method, [])
        first = label not in mine if few else not mine
        if label not in mine:
            mine.append(label)
        name = plot(label if few else method, LONGEST_LABEL)
        dash = mine.index(label) + scene.slot[method] // INKS if few else 0
        points = [(point["step"], scale * point[value]) for point in run["curve"] if point[value] is not None]
        trace = _line(scene, run, thinned(points, most)) | {"name": name, "legendgroup": name}
        trace["line"] = {"width": 2 if few else 1, "dash": DASHES[dash % len(DASHES)]}
        traces.append(trace if first else trace | {"showlegend": False})
    layout = {"xaxis": {"title": {"text": "step"}}, "yaxis": {"title": {"text": axis}}}
    return Chart(value.replace("_", "-"), title, "Per run, against the optimizer step.", traces, layout)


def _line(scene: Scene, run: Record, points: Sequence[tuple[int, float]]) -> Trace:
    steps = [step for step, _ in points]
    strides = {later - step for step, later in itertools.pairwise(steps)}
    made: Trace = {"x0": steps[0], "dx": strides.pop()} if len(strides) == 1 else {"x": steps}
    if len(points) == 1:
        made["mode"] = "markers"
    who = f"{plot(scene.names[run['run_id']])}, seed {run['spec']['seed']}"
    return made | {
        "y": [y for _, y in points],
        "meta": {"ink": f"m{scene.slot[run['spec']['method']['name']] % INKS}", "who": who},
    }


def thinned(points: Sequence[Any], most: int) -> list[Any]:
    """At most so many points at even distances, the last one always among them."""
    if len(points) <= most:
        return list(points)
    stride = math.ceil(len(points) / most)
    return [points[index] for index in range((len(points) - 1) % stride, len(points), stride)]
