"""What was asked of a folder, kept beside its records: every run of the plan, resolved."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.core.environment import versions
from bench.core.files import write_atomically

if TYPE_CHECKING:
    from bench.sweep.expand import RunSpec
    from bench.sweep.tuning_group import Group

SCHEMA = 1
_NOT_ASKED = ("act", "parser", "quiet", "json", "dry_run")  # they change nothing that is run


def write(
    folder: Path, asked: Sequence[Mapping[str, Any]], specs: Sequence[RunSpec], groups: Sequence[Group] = ()
) -> Path:
    """Write ``folder/plans/<hash>.json``, whole or not at all; the same plan has the same name.

    Args:
        asked: the flags, once per experiment.
        specs: the runs they expand to.
        groups: the configurations to tune, whose runs follow from their trials.

    Raises:
        OSError: when the disk does not take it.
    """
    plan = {
        "schema": SCHEMA,
        "bench": versions()["tunebench"],
        "asked": [_plain(values) for values in asked],
        "runs": [{"run_id": spec.run_id, "spec": spec.spec} for spec in specs],
        "tuned": [
            {"group": group.key, "trials": group.budget, "seeds": group.seeds, "spec": group.base.spec}
            for group in groups
        ],
    }
    data = json.dumps(plan, ensure_ascii=False, allow_nan=False, indent=1).encode()
    path = folder / "plans" / f"{hashlib.sha256(data).hexdigest()[:16]}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, data)
    return path


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """Flags as JSON holds them."""
    found = {}
    for name, value in values.items():
        if name not in _NOT_ASKED:
            found[name] = [str(item) for item in value] if isinstance(value, list | tuple) else value
            if isinstance(value, Path):
                found[name] = str(value)
    return found


def answered(folder: Path, asked: Sequence[Mapping[str, Any]]) -> bool:
    """Whether the last plan of a folder was this one and left a record of every run: there may be nothing to do."""
    plan = latest(folder)
    if plan is None or plan["tuned"] or any(values.get("fresh") for values in asked):
        return False
    there = {path.stem for path in (folder / "runs").glob("*.json")}
    return plan.get("asked") == [_plain(values) for values in asked] and all(
        isinstance(run, dict) and run.get("run_id") in there for run in plan["runs"]
    )


def latest(folder: Path) -> dict[str, Any] | None:
    """The plan that was started last in a folder, or None; files that are not plans are passed over."""
    found = sorted((folder / "plans").glob("*.json"), key=lambda path: path.stat().st_mtime_ns, reverse=True)
    for path in found:
        try:
            plan = json.loads(path.read_bytes())
        except ValueError:
            continue
        if isinstance(plan, dict) and plan.get("schema") == SCHEMA and {"runs", "tuned"} <= plan.keys():
            return plan
    return None
