"""The record of one run: its skeleton, whether it is whole, and what people call it.

``record.schema.json`` is the contract. Records are plain dictionaries, so that a script that reads the
files needs nothing of this package.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

from bench.store.schema import SCHEMA, schema

Record = dict[str, Any]

SPLIT = ("weights", "gradients", "optimizer", "activations", "other")
PASS = "pass"
PHASES = ("loaded", "forward", "backward", "step", "evaluation", "initialization")


def blank(spec: Mapping[str, Any], run_id: str) -> Record:
    """Return the record of a run without measurements: every key is there, every value null.

    Its status is ``interrupted``, until a result is filled in; ``created_at`` is now.

    Args:
        spec: the specification, as in the contract's ``spec``.
        run_id: 16 hex digits, the hash of the canonical spec.
    """
    return {
        "schema": SCHEMA,
        "run_id": run_id,
        "status": "interrupted",
        "error": None,
        "traceback": None,
        "spec": json.loads(json.dumps(spec)),
        "scores": {},
        "main_score": None,
        "higher_is_better": None,
        "stderr": None,
        "parameters": _nulls("parameters"),
        "memory": {
            **_nulls("memory"),
            "train_peak": dict.fromkeys(SPLIT),
            "phases": dict.fromkeys(PHASES),
        },
        "speed": _nulls("speed"),
        "trunk_cache": None,
        "compute": _nulls("compute"),
        "shared": None,
        "curve": [],
        "checks": {},
        "predictions": None,
        "adapter": None,
        "environment": {},
        "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _nulls(part: str) -> dict[str, Any]:
    return dict.fromkeys(schema()["properties"][part]["properties"])


def main_value(record: Mapping[str, Any]) -> float | None:
    """The score to rank by, or None when there is none."""
    name = record["main_score"]
    value: float | None = None if name is None else record["scores"].get(name)
    return value


def without_weights(record: Mapping[str, Any]) -> int | None:
    """Bytes of the training peak beyond the weights: what a method can change."""
    peak, weights = record["memory"]["train_peak_bytes"], record["memory"]["train_peak"]["weights"]
    return None if peak is None or weights is None else peak - weights


def failed_checks(record: Mapping[str, Any]) -> dict[str, str]:
    """The checks that failed, with the reason each gave."""
    return {
        name: result.removeprefix("fail: ") for name, result in record["checks"].items() if result.startswith("fail")
    }


def check_names(records: Iterable[Mapping[str, Any]]) -> tuple[set[str], set[str]]:
    """The checks that passed in some run and failed in none, and those that failed in any."""
    runs = list(records)
    failed = {name for run in runs for name in failed_checks(run)}
    return {name for run in runs for name, result in run["checks"].items() if result == PASS} - failed, failed


def scored(record: Mapping[str, Any]) -> bool:
    """Whether a run finished with a score to rank by."""
    return record["status"] == "ok" and main_value(record) is not None


def is_trial(spec: Mapping[str, Any]) -> bool:
    """Whether a run is a trial: it does not see the validation split."""
    return (spec.get("tuning") or {}).get("trial") is not None


def pruned(record: Mapping[str, Any]) -> bool:
    """Whether a trial was stopped because it was behind."""
    return bool((record.get("tuning") or {}).get("pruned"))


def had_concurrent_runs(record: Mapping[str, Any]) -> bool:
    """Whether other runs were active on the machine while speeds were measured, which slows them."""
    there = record["environment"]
    return bool((there.get("workers") or 1) > 1 or there.get("gpu_shared"))


def provenance_key(spec: Mapping[str, Any]) -> tuple[Any, ...]:
    """What a run's score depends on besides its settings: fingerprints of data and weights, versions of the code.

    Runs that differ in it are not seeds of one configuration.
    """
    code = spec.get("code") or {}
    versions = tuple(code.get(part) for part in ("method", "task", "harness"))
    return (spec["task"].get("fingerprint"), spec["model"].get("fingerprint"), *versions)
