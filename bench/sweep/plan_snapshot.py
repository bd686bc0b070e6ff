"""The requests made of a folder, kept beside its records, with every run they expand to."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.core.environment import versions
from bench.core.files import write_atomically

if TYPE_CHECKING:
    from bench.sweep.expand import RunSpec
    from bench.sweep.request import RunRequest
    from bench.sweep.tuning_group import Group

SCHEMA = 1


def write(folder: Path, requests: Sequence[RunRequest], specs: Sequence[RunSpec], groups: Sequence[Group] = ()) -> Path:
    """Write ``folder/plans/<hash>.json``, whole or not at all; the same plan has the same name.

    Args:
        requests: one per experiment.
        specs: the runs they expand to.
        groups: the configurations to tune, whose runs follow from their trials.

    Raises:
        OSError: when the disk does not take it.
    """
    plan = {
        "schema": SCHEMA,
        "bench": versions()["tunebench"],
        "asked": [request.plain() for request in requests],
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


def answered(folder: Path, requests: Sequence[RunRequest]) -> bool:
    """Whether the latest plan of a folder is this one and every run of it has a record: there may be nothing to do."""
    plan = latest(folder)
    if plan is None or plan["tuned"] or any(request.fresh for request in requests):
        return False
    recorded = {path.stem for path in (folder / "runs").glob("*.json")}
    return plan.get("asked") == [request.plain() for request in requests] and all(
        isinstance(run, dict) and run.get("run_id") in recorded for run in plan["runs"]
    )


def latest(folder: Path) -> dict[str, Any] | None:
    """The latest plan of a folder, or None; files that are not plans are ignored."""
    found = sorted((folder / "plans").glob("*.json"), key=lambda path: path.stat().st_mtime_ns, reverse=True)
    for path in found:
        try:
            plan = json.loads(path.read_bytes())
        except ValueError:
            continue
        if isinstance(plan, dict) and plan.get("schema") == SCHEMA and {"runs", "tuned"} <= plan.keys():
            return plan
    return None
