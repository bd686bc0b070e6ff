"""Methods over their seeds, and every pair of them: what can be told apart, and what would settle the rest."""

from __future__ import annotations

from collections.abc import Sequence

from bench import units
from bench.report.escape import text
from bench.statistics.analysis import Group, Pair
from bench.statistics.printed import p_value, points
from bench.table import covered

_MOST_ROWS = 20  # of the matrix, best first
_MOST_TIES = 5


def section(group: Group, alpha: float) -> str:
    """The configurations' table and the matrix of pairs; empty where fewer than two have a score."""
    if sum(bool(c.runs) for c in group.configurations) < 2:
        return ""
    notes = [text(line).replace("bench stats", "<code>bench stats</code>") for line in covered(group, alpha)]
    parts = [_scores(group, alpha), _matrix(group), *(f'<p class="note">{note}</p>' for note in notes)]
    settling = _settling(group)
    if settling:
        parts.append(f"<h3>What would settle a tie with the best</h3><ul>{''.join(settling)}</ul>")
    reasons = sorted({pair.reason for pair in group.pairs if pair.reason})
    parts += [f'<p class="note">Not compared: {text(reason)}.</p>' for reason in reasons[:_MOST_TIES]]
    parts += [f'<p class="note">{text(note)}.</p>' for note in group.notes]
    return f'<div class="pairs"><h3>Told apart, or tied</h3>{"".join(parts)}</div>'


def _scores(group: Group, alpha: float) -> str:
    scored = [c for c in group.configurations if c.runs]
    rows = []
    for c in scored[:_MOST_ROWS]:
        value = units.score(group.score, c.estimate.mean if c.estimate else None, c.half(alpha))
        tied = ", ".join(group.tied(c.label)[:_MOST_TIES]) + (" …" if len(group.tied(c.label)) > _MOST_TIES else "")
        seeds = f"{len(c.runs)} of {len(c.runs) + c.lost}" if c.lost else str(len(c.runs))
        cells = (seeds, value, c.group or units.DASH, tied or units.DASH)
        rows.append(
            f'<tr><th scope="row">{text(c.label)}</th>{"".join(f"<td>{text(cell)}</td>" for cell in cells)}</tr>'
        )
    heads = ("method", "seeds", f"{group.score or 'score'}, {100 * (1 - alpha):g} % interval", "group", "tied with")
    best = f", the best {_MOST_ROWS} of {len(scored)}" if len(scored) > _MOST_ROWS else ""
    return _table(f"Scores over seeds{best}", heads, rows)


def _matrix(group: Group) -> str:
    """Row minus column, the better one first in both; a difference that stands out is bold."""
    shown = [c.label for c in group.configurations if c.runs][:_MOST_ROWS]
    if not any(pair.comparison for pair in group.pairs):
        return ""
    pairs = {frozenset((pair.first, pair.second)): pair for pair in group.pairs}
    rows = []
    for one in shown:
        cells = "".join(f"<td>{_cell(pairs.get(frozenset((one, other))), one, group.score)}</td>" for other in shown)
        rows.append(f'<tr><th scope="row">{text(one)}</th>{cells}</tr>')
    unit = " in points" if units.is_share(group.score) else ""
    return _table(f"Row minus column{unit}; bold: told apart", ("", *shown), rows)


def _cell(pair: Pair | None, row: str, score: str | None) -> str:
    if pair is None or pair.comparison is None:
        return units.DASH
    sign = 1 if pair.first == row else -1
    found = pair.comparison
    low, high = sorted((sign * found.low, sign * found.high))
    value = points(score, sign * found.difference)
    said = f"{points(score, low)} to {points(score, high)}, p {p_value(pair.p_holm)} after Holm, {found.test}"
    shown = f"<b>{text(value)}</b>" if pair.different else text(value)
    return f'<span title="{text(said)}">{shown}</span>'


def _settling(group: Group) -> list[str]:
    best = next((c.label for c in group.configurations if c.runs), "")
    ties = [pair for pair in group.pairs if best in (pair.first, pair.second) and pair.settling]
    return [f"<li>{text(sentence(pair, group))}" for pair in ties[:_MOST_TIES]]


def sentence(pair: Pair, group: Group) -> str:
    """What it would take to tell a tied pair apart, in words."""
    found, settling = pair.comparison, pair.settling
    if found is None or settling is None:
        raise ValueError("a pair that is settled, or was not compared, has nothing to settle")
    seen = f"{pair.first} and {pair.second} differ by {units.gap(group.score, found.difference)}"
    if settling.detectable is None:
        return f"{seen}: they never disagreed."
    shows = f"this comparison finds {units.gap(group.score, settling.detectable)} four times in five"
    ways = [
        f"{number:,} {what}"
        for number, what in ((settling.seeds, "seeds"), (settling.examples, "examples"))
        if number is not None
    ]
    if ways:
        return f"{seen}; {shows}. To find a difference as small as the one seen takes {' or '.join(ways)} in all."
    return f"{seen}; {shows}. Neither more seeds nor more examples alone would find one as small as the one seen."


def _table(caption: str, heads: Sequence[str], rows: Sequence[str]) -> str:
    cells = "".join(f'<th scope="col">{text(head)}</th>' for head in heads)
    return (
        f'<div class="wide" tabindex="0" role="region" aria-label="{text(caption)}"><table class="plain">'
        f"<caption>{text(caption)}</caption><thead><tr>{cells}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
    )
