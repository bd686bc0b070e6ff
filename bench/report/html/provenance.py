"""Where the values come from: the plan, the data and models with their versions, and the environment."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.report.html.escape import text
from bench.report.html.notes import common, environments
from bench.store.labels import format_value
from bench.store.record import Record

_MOST = 12


def sections(records: Sequence[Record], folder: Path | None) -> str:
    """Three sections; empty without records. The folder may hold the plans that were asked of it."""
    if not records:
        return ""
    specs = [record["spec"] for record in records]
    return "\n".join(
        (
            _section("Plan", _plan(specs) | _asked(records, folder)),
            _section("Data and models", _sources(specs)),
            _section("Environment", environments(records)),
        )
    )


def _section(heading: str, facts: Mapping[str, Sequence[str]]) -> str:
    if not facts:
        return ""
    rows = "".join(f"<dt>{text(name)}<dd>{_either(values)}" for name, values in facts.items())
    return f'<section><h2>{heading}</h2><dl class="terms">{rows}</dl></section>'


def _either(values: Sequence[str]) -> str:
    rest = f" <b>or</b> {len(values) - _MOST} more" if len(values) > _MOST else ""
    return " <b>or</b> ".join(text(value) for value in values[:_MOST]) + rest


def _plan(specs: Sequence[Mapping[str, Any]]) -> dict[str, list[str]]:
    """The plan as the records show it: names, seeds and the settings that all runs share."""
    shared = common([spec["train"] for spec in specs])
    listed = {
        "methods": (spec["method"]["name"] for spec in specs),
        "tasks": (spec["task"]["name"] for spec in specs),
        "models": (spec["model"]["name"] for spec in specs),
    }
    facts = {name: [", ".join(sorted(set(values)))] for name, values in listed.items()}
    facts["seeds"] = [_ranges(spec["seed"] for spec in specs)]
    facts["training"] = [", ".join(f"{name.replace('_', ' ')} {format_value(value)}" for name, value in shared.items())]
    differing = sorted({name for spec in specs for name in spec["train"]} - set(shared))
    if differing:
        facts["varies"] = [", ".join(name.replace("_", " ") for name in differing)]
    return facts


def _asked(records: Sequence[Record], folder: Path | None) -> dict[str, list[str]]:
    """The options of each plan in the folder, and how many of its runs are here; other files are skipped."""
    there = {record["run_id"] for record in records}
    found = []
    for path in sorted((folder / "plans").glob("*.json")) if folder else ():
        try:
            plan = json.loads(path.read_bytes())
            runs = [run["run_id"] for run in plan["runs"]]
            asked = [
                ", ".join(f"{name} {format_value(value)}" for name, value in flags.items()) for flags in plan["asked"]
            ]
        except (ValueError, KeyError, TypeError, AttributeError, OSError):
            continue
        # Which runs a tuning ends in is not known when its plan is kept.
        here = f" ({sum(run in there for run in runs)} of {len(runs)} runs are here)" if runs else ""
        found.append(f"{'; '.join(asked)}{here}")
    return {"command": found} if found else {}


def _ranges(numbers: Iterable[int]) -> str:
    """``0 to 4, 7``."""
    spans: list[list[int]] = []
    for number in sorted(set(numbers)):
        if spans and number == spans[-1][1] + 1:
            spans[-1][1] = number
        else:
            spans.append([number, number])
    return ", ".join(str(low) if low == high else f"{low} to {high}" for low, high in spans)


def _sources(specs: Sequence[Mapping[str, Any]]) -> dict[str, list[str]]:
    """Each task's and model's source and version: every fact of it that the records hold."""
    found: dict[str, dict[str, None]] = {}
    for part in ("task", "model"):
        for spec in specs:
            facts = {
                name: value for name, value in spec[part].items() if name != "name" and value not in (None, "", {})
            }
            said = ", ".join(f"{name} {format_value(value)}" for name, value in facts.items())
            found.setdefault(f"{part} {spec[part]['name']}", {})[said] = None
    return {name: list(values) for name, values in found.items()}
