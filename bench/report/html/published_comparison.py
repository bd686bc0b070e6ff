"""Published results next to the runs' own, each with its source and how its setting differs."""

from __future__ import annotations

from collections.abc import Sequence

from bench.analysis.configurations import Configuration
from bench.analysis.measures import PEAK, TRAINED, Measure
from bench.core import formatting
from bench.report.html.chart_base import Scene
from bench.report.html.escape import text
from bench.report.html.layout import plain_table
from bench.report.published import Figure


def panel(scene: Scene, figures: Sequence[Figure]) -> str:
    """A table per source, folded away; empty without figures."""
    by_source: dict[str, list[Figure]] = {}
    for figure in figures:
        by_source.setdefault(figure.source, []).append(figure)
    return "".join(_source(scene, source, found) for source, found in by_source.items())


def _source(scene: Scene, source: str, figures: Sequence[Figure]) -> str:
    average = any(figure.average for figure in figures)
    score = f"{scene.score_name or 'score'}{', average' if average else ''}"
    heads = ("method", f"{score} there", "here", "trained there", "here", "peak there", "here")
    table = plain_table([text(head) for head in heads], [_row(scene, figure) for figure in figures])
    differs = "".join(
        f"<li>{text(said)}" for said in dict.fromkeys(note for figure in figures for note in figure.differs)
    )
    return (
        f'<details class="published"><summary><b>Published results</b> <span>{text(source)}</span></summary>'
        f"<p>Another setting, so no test of these runs:</p><ul>{differs}</ul>{table}</details>"
    )


def _row(scene: Scene, figure: Figure) -> list[str]:
    ours = next(
        (one for one in scene.configurations if one.method == figure.method and one.score is not None),
        None,
    )
    cells = (
        figure.method,
        _score(scene, figure.score),
        _score(scene, None if figure.average or ours is None else ours.score),
        formatting.count(figure.trainable),
        formatting.count(_of(ours, TRAINED)),
        formatting.size(figure.train_peak_bytes),
        formatting.size(_of(ours, PEAK)),
    )
    return [text(cell) for cell in cells]


def _of(one: Configuration | None, measure: Measure) -> float | None:
    return None if one is None else one.of(measure)


def _score(scene: Scene, value: float | None) -> str:
    return formatting.score(scene.score_name, value)
