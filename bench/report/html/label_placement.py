"""Where to write the names of a few points in a scatter chart so that they do not cover each other."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

# The narrowest chart, on a phone, in pixels: what does not collide there collides nowhere.
_WIDTH, _HEIGHT = 290.0, 260.0
_LETTER, _LINE, _GAP, _POINT = 6.6, 15.0, 9.0, 7.0

_SIDES = (
    "middle right",
    "top center",
    "bottom center",
    "middle left",
    "top right",
    "bottom right",
    "top left",
    "bottom left",
)

_Box = tuple[float, float, float, float]  # left, top, right, bottom, in pixels


def place(
    points: Sequence[tuple[float, float]],
    names: Sequence[str],
    errors: Sequence[float],
    stairs: Sequence[tuple[float, float]] = (),
) -> list[str]:
    """Choose plotly's ``textposition`` for every point, one after the other, the least crowded side each.

    Args:
        points: (x, y) as shares of the axes, 0 to 1, y upwards.
        names: the text at each point.
        errors: half the height of each point's error bar, as a share of the y axis.
        stairs: corners of a line that goes right, then up or down, to each next one; text keeps off it.
    """
    at = [(x * _WIDTH, (1 - y) * _HEIGHT) for x, y in points]
    taken: list[_Box] = [(x - _POINT, y - _POINT, x + _POINT, y + _POINT) for x, y in at]
    taken += [(x - 3, y - tall * _HEIGHT, x + 3, y + tall * _HEIGHT) for (x, y), tall in zip(at, errors, strict=True)]
    for (x, y), (next_x, next_y) in itertools.pairwise((x * _WIDTH, (1 - y) * _HEIGHT) for x, y in stairs):
        taken.append((x, y - 2, next_x, y + 2))
        taken.append((next_x - 2, min(y, next_y), next_x + 2, max(y, next_y)))
    chosen = []
    for (x, y), name in zip(at, names, strict=True):
        boxes = [_box(side, x, y, len(name) * _LETTER) for side in _SIDES]
        costs = [_cost(box, taken) for box in boxes]
        best = costs.index(min(costs))
        chosen.append(_SIDES[best])
        taken.append(boxes[best])
    return chosen


def _box(side: str, x: float, y: float, width: float) -> _Box:
    vertical, horizontal = side.split()
    top = {"top": y - _GAP - _LINE, "middle": y - _LINE / 2, "bottom": y + _GAP}[vertical]
    left = {"left": x - _GAP - width, "center": x - width / 2, "right": x + _GAP}[horizontal]
    return left, top, left + width, top + _LINE


def _cost(box: _Box, others: Sequence[_Box]) -> float:
    """Pixels covered twice, and pixels outside the chart, which count more: cut text cannot be read at all."""
    left, top, right, bottom = box
    inside = max(0.0, min(right, _WIDTH) - max(left, 0.0)) * max(0.0, min(bottom, _HEIGHT) - max(top, 0.0))
    covered = sum(
        max(0.0, min(right, other[2]) - max(left, other[0])) * max(0.0, min(bottom, other[3]) - max(top, other[1]))
        for other in others
    )
    return covered + 4 * ((right - left) * (bottom - top) - inside)
