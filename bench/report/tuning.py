"""What the report says and draws of tuning: score against learning rate, and that a winner is the best of several."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bench import units
from bench.record import Record, tuned
from bench.report.charts import INKS, Chart, Trace
from bench.report.escape import plot, text


def sentence(done: Sequence[Record]) -> str | None:
    """How the runs were tuned, as HTML; None when none was."""
    said = tuned(done)
    return None if said is None else text(said)


def charts(ordered: Sequence[Record], names: Mapping[str, str], slot: Mapping[str, int]) -> list[Chart]:
    """One chart per tuned number: every trial's dev score against it, one line per configuration."""
    searches = _searches(ordered)
    options = dict.fromkeys(option for run in searches for option in run["tuning"]["options"])
    return [chart for option in options if (chart := _chart(option, searches, names, slot)).traces]


def _searches(ordered: Sequence[Record]) -> list[Record]:
    """One run of every search: those of other seeds tell the same trials."""
    found: dict[str, Record] = {}
    for run in ordered:
        if (run.get("tuning") or {}).get("trials"):
            found.setdefault(run["spec"]["tuning"]["group"], run)
    return list(found.values())


def _chart(option: str, searches: Sequence[Record], names: Mapping[str, str], slot: Mapping[str, int]) -> Chart:
    score = next((run["main_score"] for run in searches if run["main_score"]), "score")
    scale = 100.0 if units.is_share(score) else 1.0
    traces = []
    for run in searches:
        points = sorted(
            (trial[option], scale * trial["dev_score"], trial)
            for trial in run["tuning"]["trials"]
            if isinstance(trial.get(option), int | float) and trial["dev_score"] is not None
        )
        if points:
            traces.append(_trace(option, run, points, (names[run["run_id"]], slot[run["spec"]["method"]["name"]])))
    word = "learning rate" if option == "lr" else option
    title = f"Dev score against {plot(word)}"
    counts = sorted({run["tuning"]["best_of"] for run in searches})
    of = f"best of {counts[0]}" if len(counts) == 1 else f"best of {counts[0]} to {counts[-1]}"
    note = f"Trials on the dev split, {of}: the large mark was chosen, open marks were stopped early."
    unit = ", %" if units.is_share(score) else ""
    layout = {
        "xaxis": {"title": {"text": plot(word)}, "type": "log", "tickformat": "~g", "dtick": 1},
        "yaxis": {"title": {"text": f"dev {plot(score)}{unit}"}},
        "showlegend": True,
    }
    return Chart(title, note, traces, layout)


def _trace(option: str, run: Record, points: Sequence[tuple[Any, float, Any]], who: tuple[str, int]) -> Trace:
    label, number = who
    chosen = (run["tuning"]["chosen"] or {}).get(option)
    return {
        "type": "scatter",
        "mode": "lines+markers",
        "name": plot(label, 26),
        "x": [value for value, _, _ in points],
        "y": [score for _, score, _ in points],
        "hovertext": [plot(f"{label}, {trial['status']}, {trial['steps']} steps") for _, _, trial in points],
        "hovertemplate": "%{hovertext}<br>%{x:.3~g} · %{y:.4~g}<extra></extra>",
        "line": {"width": 1},
        "marker": {
            "symbol": ["circle" if trial["status"] == "ok" else "circle-open" for _, _, trial in points],
            "size": [13 if value == chosen else 7 for value, _, _ in points],
        },
        "meta": {"ink": f"m{number % INKS}"},
    }
