"""Changes that make a method fit a budget; each is planned, not guessed."""

from __future__ import annotations

import dataclasses
from typing import Any

from bench.core import formatting
from bench.core.errors import RequestError
from bench.planner.meta_model import Shape
from bench.planner.planner import Plan, Planner


def alternatives(model: Shape, plan: Plan, budget: int, most_rows: int | None) -> list[dict[str, Any]]:
    """Changes of the setting, the smallest first, each with the bytes it needs; the search ends at the first that fits.

    Args:
        model: the model.
        plan: a plan that does not fit.
        budget: bytes.
        most_rows: the largest batch that fits without other changes; 0 for none, None without training.

    Returns:
        Entries ``{"change", "needed_bytes", "fits"}``.
    """
    setting = plan.setting
    tried: list[dict[str, Any]] = []
    if most_rows:
        tried.append(_entry(model, plan, budget, {"batch_size": most_rows}))
    weights = plan.phases["loaded"].total_bytes if "loaded" in plan.phases else plan.peak.total_bytes
    if weights <= budget and not setting.gradient_checkpointing:
        tried.append(_entry(model, plan, budget, {"gradient_checkpointing": True}))
        if not tried[-1]["fits"] and not most_rows and setting.batch_size > 1:
            tried.append(_entry(model, plan, budget, {"gradient_checkpointing": True, "batch_size": 1}))
    frozen_bf16 = 2 * (plan.total - plan.trainable)  # the least that bf16 weights take
    wide = setting.precision in ("fp32", "bf16-autocast")
    if wide and frozen_bf16 <= budget and not any(entry["fits"] for entry in tried):
        tried.append(_entry(model, plan, budget, {"precision": "bf16"}))
        if not tried[-1]["fits"]:
            smallest = {"precision": "bf16", "gradient_checkpointing": True, "batch_size": 1}
            tried.append(_entry(model, plan, budget, smallest))
    return tried


def _entry(model: Shape, plan: Plan, budget: int, changes: dict[str, Any]) -> dict[str, Any]:
    setting = dataclasses.replace(plan.setting, **changes)
    try:
        planned = Planner(model, plan.method, setting).plan()
    except RequestError as error:  # some models cannot recompute activations
        return {"change": flags(changes), "needed_bytes": None, "fits": False, "why": error.messages[0]}
    return {"change": flags(changes), "needed_bytes": planned.needed_bytes, "fits": planned.fits(budget), "why": None}


def flags(changes: dict[str, Any]) -> str:
    """Changes of a setting as flags of the command line."""
    words = []
    for name, value in changes.items():
        flag = "--" + name.replace("_", "-")
        words.append(flag if value is True else f"{flag} {value}")
    return " ".join(words)


def sentence(row: dict[str, Any], rows: list[dict[str, Any]]) -> str:
    """The sentence below the table about a method that does not fit, from rows of ``--json``."""
    budget = row["budget_bytes"]
    begin = (
        f"{row['label']} on {row['model']} needs {formatting.size(row['needed_bytes'])} of {formatting.size(budget)}"
    )
    if row["weights_alone"]:
        begin += f"; its weights alone take {formatting.size(row['phases']['loaded']['split']['weights'])}"
    fitting = [entry for entry in row["advice"] if entry["fits"]]
    others = [other for other in rows if other["model"] == row["model"] and other["fits"]]
    options = [f"{entry['change']} ({formatting.size(entry['needed_bytes'])})" for entry in fitting]
    options += [f"{other['label']} instead ({formatting.size(other['needed_bytes'])})" for other in others]
    if options:
        return f"{begin}. It fits with {', or '.join(options)}."
    tried = [f"{entry['change']} ({formatting.size(entry['needed_bytes'])})" for entry in row["advice"]]
    return begin + (f". Nothing that was tried fits: {', '.join(tried)}." if tried else ".")
