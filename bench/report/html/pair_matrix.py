"""Every pair of configurations: the difference on the same examples, and whether it is more than noise."""

from __future__ import annotations

from bench.analysis.configurations import Group, Pair
from bench.core import formatting
from bench.report.html.chart_base import Scene
from bench.report.html.escape import text
from bench.report.html.power_notes import sentences

_MOST = 14  # rows and columns: what a page is wide enough for


def panel(scene: Scene) -> str:
    """A table of row minus column; empty where no two configurations could be compared."""
    group = scene.group
    if not any(pair.comparison for pair in group.pairs):
        return ""
    names = [one.label for one in group.configurations if one.done]
    compared = {name for pair in group.pairs if pair.comparison for name in (pair.first, pair.second)}
    shown = [name for name in names if name in compared][:_MOST]
    heads = "".join(f'<th scope="col"><span>{text(name)}</span></th>' for name in shown)
    rows = "".join(
        f'<tr><th scope="row">{text(row)}</th>{"".join(_cell(scene, group, row, column) for column in shown)}</tr>'
        for row in shown
    )
    tests = sorted({pair.comparison.test for pair in group.pairs if pair.comparison})
    unit = "points" if formatting.is_share(scene.score_name) else text(scene.score_name or "score")
    note = (
        f"Row minus column, in {unit}, on the same examples; ± is half of a 95 % interval. Bold: "
        f"significantly different ({', '.join(map(text, tests))}; Holm's correction over all pairs)."
    )
    if len(compared) > _MOST:
        note += f" The best {_MOST} of {len(compared)}."
    return (
        f'<div class="matrix"><h3>Paired comparison</h3><p class="note">{note}</p><div class="wide" tabindex="0" '
        f'role="region" aria-label="Paired comparison"><table><thead><tr><td></td>{heads}</tr></thead>'
        f"<tbody>{rows}</tbody></table></div>{_settling(group)}</div>"
    )


def _settling(group: Group) -> str:
    said = "".join(f"<li>{text(sentence)}" for sentence in sentences(group))
    return f"<h4>Sample size needed to separate the ties with the best</h4><ul>{said}</ul>" if said else ""


def _cell(scene: Scene, group: Group, row: str, column: str) -> str:
    if row == column:
        return '<td class="same">·</td>'
    pair = group.pair(row, column)
    if pair is None or pair.comparison is None:
        reason = f' title="{text(pair.reason)}"' if pair and pair.reason else ""
        return f"<td{reason}>{formatting.DASH}</td>"
    found = pair.comparison
    sign = 1 if pair.first == row else -1
    difference, half = sign * found.difference, (found.high - found.low) / 2
    better = (difference > 0) != scene.lower
    kind = ("better" if better else "worse") if pair.different else "level"
    said = f"{_signed(scene, difference)} <small>± {_plain(scene, half)}</small>"
    return f'<td class="{kind}" title="{text(_told(pair))}">{f"<b>{said}</b>" if pair.different else said}</td>'


def _told(pair: Pair) -> str:
    p = pair.p_holm
    words = "significantly different" if pair.different else "not significantly different"
    return f"{words}, p {p:.2g} after Holm's correction" if p is not None else words


def _signed(scene: Scene, value: float) -> str:
    return f"{scene.score_scale * value:+.{_digits(scene)}f}".replace("-", "−")


def _plain(scene: Scene, value: float) -> str:
    return f"{scene.score_scale * value:.{_digits(scene)}f}"


def _digits(scene: Scene) -> int:
    return 1 if formatting.is_share(scene.score_name) else 3
