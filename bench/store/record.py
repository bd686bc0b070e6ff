"""The record of one run: its skeleton, whether it is whole, and what people call it.

``record.schema.json`` is the contract. Records are plain dictionaries, so that a script that reads the
files needs nothing of this package.
"""

from __future__ import annotations

import functools
import json
import math
import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from importlib.resources import files
from typing import Any

from bench.store import validation

SCHEMA = 1

Record = dict[str, Any]

SPLIT = ("weights", "gradients", "optimizer", "activations", "other")
PHASES = ("loaded", "forward", "backward", "step", "evaluation", "initialization")

_TYPES: dict[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "boolean": (bool,),
    "null": (type(None),),
}


def blank(spec: Mapping[str, Any], run_id: str) -> Record:
    """Return the record of a run of which nothing has been measured: every key is there, every value null.

    Its status is ``interrupted``, which stays true should nobody fill it in; ``created_at`` is now.

    Args:
        spec: what was asked for, as in the contract's ``spec``.
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


@functools.cache
def schema() -> dict[str, Any]:
    """The JSON Schema of a record, as a dictionary."""
    text = files("bench.store").joinpath("record.schema.json").read_text(encoding="utf-8")
    loaded: dict[str, Any] = json.loads(text)
    return loaded


def problems(record: object) -> list[str]:
    """What keeps a value read from a file from being a record: one line per fault, empty when it is one.

    Follows ``record.schema.json``, with two differences: names that the schema does not know are let through,
    so that a later version's extra fields do not make a record unreadable, and numbers must be finite.
    """
    if _whole()(record):
        return []
    return faults_by(record, schema(), "record") or ["record is not plain JSON"]


@functools.cache
def _whole() -> validation.Check:
    return validation.compiled(schema(), schema()["$defs"])


def faults_by(value: object, rule: Mapping[str, Any], name: str) -> list[str]:
    """What keeps a value from following a JSON Schema (the keywords that ours use), one line per fault."""
    return list(_faults(value, rule, name))


def _faults(value: object, rule: Mapping[str, Any], where: str) -> Iterator[str]:
    """Check a value against the part of JSON Schema that our schema uses."""
    if "$ref" in rule:
        rule = schema()["$defs"][rule["$ref"].rsplit("/", 1)[-1]]
    kinds = rule.get("type", ())
    kinds = (kinds,) if isinstance(kinds, str) else kinds
    if kinds and not any(_is(value, kind) for kind in kinds):
        yield f"{where} is {_shown(value)}, not {' or '.join(kinds)}"
    elif "const" in rule and value != rule["const"]:
        yield f"{where} is {_shown(value)}, not {rule['const']}"
    elif "enum" in rule and value not in rule["enum"]:
        yield f"{where} is {_shown(value)}, not one of {', '.join(map(str, rule['enum']))}"
    elif isinstance(value, str):
        if not re.search(rule.get("pattern", ""), value) or len(value) < rule.get("minLength", 0):
            yield f"{where} is {_shown(value)}, which does not fit {rule.get('pattern', 'a name')}"
    elif isinstance(value, int | float) and not isinstance(value, bool):
        if not -math.inf < value < math.inf or value < rule.get("minimum", -math.inf):
            yield f"{where} is {value}, which is not finite or too small"
    elif isinstance(value, list):
        items = rule.get("items", {})
        if items.get("type") == "number" and _all_amounts(value):
            return  # step times: hundreds of numbers a record, thousands of records a folder
        for index, item in enumerate(value):
            yield from _faults(item, items, f"{where}[{index}]")
    elif isinstance(value, dict):
        yield from _member_faults(value, rule, where)


def _member_faults(value: Mapping[str, Any], rule: Mapping[str, Any], where: str) -> Iterator[str]:
    for name in rule.get("required", ()):
        if name not in value:
            yield f"{where}.{name} is missing"
    extra = rule.get("additionalProperties", {})
    known = rule.get("properties", {})
    for name, member in value.items():
        below = known.get(name, extra if isinstance(extra, dict) else {})
        yield from _faults(member, below, f"{where}.{name}")


def _all_amounts(values: list[Any]) -> bool:
    """Whether all are finite numbers from 0 up, told quickly; a wrong one is then looked for one by one."""
    plain = set(map(type, values)) <= {int, float}
    return plain and (not values or (min(values) >= 0 and sum(values) < math.inf))


def _is(value: object, kind: str) -> bool:
    if kind in _TYPES:
        return isinstance(value, _TYPES[kind])
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return kind == "number" or isinstance(value, int) or value.is_integer()


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 40 else text[:37] + "…"


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
    """Whether other runs were at work on the machine while speeds were measured, which slows them."""
    there = record["environment"]
    return bool((there.get("workers") or 1) > 1 or there.get("gpu_shared"))


def provenance_key(spec: Mapping[str, Any]) -> tuple[Any, ...]:
    """What decides a run's score beside its settings: fingerprints of data and weights, versions of the code.

    Runs that differ in it are not seeds of one configuration.
    """
    code = spec.get("code") or {}
    versions = tuple(code.get(part) for part in ("method", "task", "harness"))
    return (spec["task"].get("fingerprint"), spec["model"].get("fingerprint"), *versions)


PASS = "pass"
