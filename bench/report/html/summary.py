"""The answer in one paragraph: what scores best or is tied for it, and what the leaner ones give up for how much.

All of it is HTML; numbers stay on one line with their units.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from bench.analysis.configurations import Configuration
from bench.core import formatting
from bench.report.html.chart_base import Scene
from bench.report.html.escape import text
from bench.report.html.notes import join

_MOST_TRADES = 5
_MOST_TIED = 4
_LONGEST = 60  # characters of a label in a sentence
_UNIT = re.compile(r"(?<=[\d±]) (?=[%±\d]|[kMGT]?B\b|points)")


def answer(scene: Scene) -> str:
    """Which configuration is best or which are tied, and what each leaner one gives up."""
    return _UNIT.sub("\u00a0", _answer(scene))


def _answer(scene: Scene) -> str:
    ordered = [one for one in scene.configurations if one.score is not None]
    if not ordered:
        return "No run finished with a score, so there is no answer yet."
    best = ordered[0]
    metric, over = text(scene.score_name), f" (mean of {len(best.done)} seeds)" if len(best.done) > 1 else ""
    value = text(formatting.score(scene.score_name, best.score, best.margin))
    if len(ordered) == 1:
        need = f", with {formatting.size(best.peak)} at the training peak" if best.peak else ""
        return f"Only <b>{_name(best)}</b> has a score: {metric} {value}{over}{need}."
    tied = [one for one in ordered[1:] if _tied(scene, best, one)]
    if tied:
        names = [f"<b>{_name(best)}</b>", *_first(tied)]
        said = [f"{join(names)} show no significant difference: {metric} {value}{over} for <b>{_name(best)}</b>."]
    else:
        said = [f"<b>{_name(best)}</b> scores best: {metric} {value}{over}."]
    better = [one for one in ordered[1:] if _better(scene, one, best)]
    if better:
        those = join(_first(better))
        verb = "scores" if len(better) == 1 else "score"
        said.append(
            f"<strong>But over the seeds that both have, {those} {verb} better</strong>: give all the same seeds."
        )
    if best.doubts:
        said.append("<strong>Treat that score with caution: a check failed.</strong>")
    said.append(
        _trades(
            scene,
            best,
            (tied, [one for one in ordered[1:] if one not in (*tied, *better)]),
        )
    )
    return " ".join(said)


def _better(scene: Scene, one: Configuration, other: Configuration) -> bool:
    """Whether a paired test finds one better than another."""
    pair = scene.group.pair(one.label, other.label)
    return pair is not None and pair.different and pair.first == one.label


def _tied(scene: Scene, best: Configuration, other: Configuration) -> bool:
    """Whether a paired test does not tell two apart; where nothing is paired, whether their intervals allow it.

    The second is the cautious bound of independent scores: methods that see the same examples differ by less chance.
    """
    pair = scene.group.pair(best.label, other.label)
    if pair is not None and pair.comparison is not None:
        return not pair.different
    margin = _margin(scene, best, other)
    return margin is not None and abs((best.score or 0.0) - (other.score or 0.0)) <= margin


def _margin(scene: Scene, best: Configuration, other: Configuration) -> float | None:
    """Half of the 95 % interval of a difference: paired where the same examples were scored."""
    pair = scene.group.pair(best.label, other.label)
    if pair is not None and pair.comparison is not None:
        return (pair.comparison.high - pair.comparison.low) / 2
    if best.margin is None or other.margin is None:
        return None
    return math.hypot(best.margin, other.margin)


def _trades(scene: Scene, best: Configuration, rest: tuple[Sequence[Configuration], Sequence[Configuration]]) -> str:
    """How much memory the best takes, which of the tied takes least, and what each leaner one gives up for how much.

    Args:
        scene: for units and paired intervals.
        best: what all shares and differences are relative to.
        rest: those tied with it, and the others, each best score first.
    """
    if best.peak is None:
        return ""
    tied, others = rest
    leanest = min(
        (one for one in (best, *tied) if one.peak),
        key=lambda one: one.peak or 0.0,
    )
    front, least = [], leanest.peak or 0.0
    for one in others:  # in order of score, so whatever needs less than all before it is on the front
        if one.peak is not None and one.peak < least:
            front.append(one)
            least = one.peak
    peak = formatting.size(best.peak)
    if leanest is not best:
        share = f"{100 * (leanest.peak or 0.0) / best.peak:.0f} %"
        of = f"{share} of <b>{_name(best)}</b>'s {peak}"
        first = f"Of these, <b>{_name(leanest)}</b> needs the least memory, {of}"
    elif not front:
        return f"It also needs the least memory: {peak} at the training peak."
    else:
        first = f"<b>{_name(best)}</b> peaks at {peak} in training"
    kept = front if len(front) <= _MOST_TRADES else [*front[: _MOST_TRADES - 1], front[-1]]
    parts = []
    for index, one in enumerate(kept):
        share = f"{100 * (one.peak or 0) / best.peak:.0f} %"
        verb, of = ("gives up ", " of that") if index == 0 else ("", "")
        parts.append(f"<b>{_name(one)}</b> {verb}{_lost(scene, best, one)} for {share}{of}")
    return f"{first}; {join(parts)}." if parts else f"{first}."


def _first(tied: Sequence[Configuration]) -> list[str]:
    """The best few, and how many are left."""
    rest = len(tied) - _MOST_TIED
    return [f"<b>{_name(one)}</b>" for one in tied[:_MOST_TIED]] + ([f"{rest} more"] if rest > 0 else [])


def _cut(one: Configuration) -> str:
    return one.label if len(one.label) <= _LONGEST else one.label[: _LONGEST - 1] + "…"


def _name(one: Configuration) -> str:
    return text(_cut(one))


def _lost(scene: Scene, best: Configuration, one: Configuration) -> str:
    """``2.1 ± 0.6 points``, or ``0.021 ± 0.006``."""
    lost = abs((best.score or 0.0) - (one.score or 0.0))
    margin = _margin(scene, best, one)
    if margin is None:
        return formatting.gap(scene.score_name, lost)
    if formatting.is_share(scene.score_name):
        return f"{100 * lost:.1f} ± {100 * margin:.1f} points"
    return f"{lost:.3f} ± {margin:.3f}"
