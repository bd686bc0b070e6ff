"""The record of one run: its skeleton, whether it is whole, and what people call it.

``record.schema.json`` is the contract. Records are plain dictionaries, so that a script that reads the
files needs nothing of this package.
"""

from __future__ import annotations

import functools
import json
import math
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from importlib.resources import files
from typing import Any

from bench.core.train_config import LATER
from bench.store import validation

SCHEMA = 1
_MOST_CHOSEN = 8  # tuned values that a sentence names

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


def tuned(records: Iterable[Mapping[str, Any]]) -> str | None:
    """One sentence on how runs were tuned ("best of 6"), with those that were not; None when none was."""
    found = list(records)
    options = {name for record in found for name in (record["spec"].get("tuning") or {}).get("options", ())}
    if not options:
        return None
    budgets = sorted({record["spec"]["tuning"]["trials"] for record in found if record["spec"].get("tuning")})
    plain = sorted({record["spec"]["method"]["name"] for record in found if not record["spec"].get("tuning")})
    words = ["learning rate" if name == "lr" else name for name in sorted(options)]
    said = f"Tuned: {', '.join(words)} is the best of {' or '.join(map(str, budgets))} on the dev split"
    said += ", the same number for every configuration" if len(budgets) == 1 else ", not the same number for all"
    said += f"; not tuned: {', '.join(plain)}." if plain else "."
    chosen = dict.fromkeys(
        f"{record['spec']['method']['name']} {' '.join(f'{key}={shown(value)}' for key, value in values.items())}"
        for record in found
        if (values := (record.get("tuning") or {}).get("chosen"))
    )
    return said + (f" Chosen: {', '.join(chosen)}." if chosen and len(chosen) <= _MOST_CHOSEN else "")


def is_trial(spec: Mapping[str, Any]) -> bool:
    """Whether a run is a trial: it does not see the validation split."""
    return (spec.get("tuning") or {}).get("trial") is not None


def pruned(record: Mapping[str, Any]) -> bool:
    """Whether a trial was stopped because it was behind."""
    return bool((record.get("tuning") or {}).get("pruned"))


def in_company(record: Mapping[str, Any]) -> bool:
    """Whether other runs were at work on the machine while speeds were measured, which slows them."""
    there = record["environment"]
    return bool((there.get("workers") or 1) > 1 or there.get("gpu_shared"))


def group(record: Mapping[str, Any]) -> tuple[str, str]:
    """What may be compared: runs of one task on one model, as (task, model)."""
    return record["spec"]["task"]["name"], model_title(record["spec"]["model"])


def model_title(model: Mapping[str, Any]) -> str:
    """What to call a specification's model: its name, and how it is quantised."""
    return " ".join(str(model[part]) for part in ("name", "quantize") if model.get(part))


def ground(spec: Mapping[str, Any]) -> tuple[Any, ...]:
    """What a run's score rests on beside its settings: fingerprints of data and weights, code of method and task.

    Runs that differ in it are not seeds of one configuration.
    """
    code = spec.get("code") or {}
    return (spec["task"].get("fingerprint"), spec["model"].get("fingerprint"), code.get("method"), code.get("task"))


def mixed(records: Iterable[Mapping[str, Any]]) -> dict[str, list[str]]:
    """``data`` and ``model weights`` → their different fingerprints, where runs that are compared have several."""
    specs = [record["spec"] for record in records]
    found = {
        what: sorted({spec[part]["fingerprint"] for spec in specs} - {None})
        for part, what in (("task", "data"), ("model", "model weights"))
    }
    return {what: prints for what, prints in found.items() if len(prints) > 1}


def groups(records: Iterable[Record]) -> dict[tuple[str, str], list[Record]]:
    """The records of every (task, model), by name; a task with several configurations is several tasks, whose names
    say what tells them apart ("glue/sst2 form=words")."""
    options: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    records = list(records)
    for record in records:
        options[group(record)[0]].append(record["spec"]["task"].get("options", {}))
    apart = {name: differing(settings) for name, settings in options.items()}
    found: dict[tuple[str, str], list[Record]] = defaultdict(list)
    for record in records:
        name, model = group(record)
        there = record["spec"]["task"].get("options", {})
        parts = (f"{key}={shown(there.get(key))}" for key in apart[name])
        found[" ".join([name, *parts]), model].append(record)
    return dict(sorted(found.items()))


def ranked(records: Iterable[Record]) -> list[Record]:
    """The records of one group, best score first in the score's direction, and what has no valid score last."""

    def key(record: Record) -> tuple[bool, float, str, int]:
        value = main_value(record)
        sign = 1.0 if record["higher_is_better"] is False else -1.0
        spec = record["spec"]
        return not scored(record), 0.0 if value is None else sign * value, spec["method"]["name"], spec["seed"]

    return sorted(records, key=key)


def labels(records: Sequence[Record]) -> dict[str, str]:
    """What to call each run: its method, and where the method has several configurations what tells them apart.

    Hyper-parameters are compared over all records of a method ("lora rank=8"), settings of the trainer over
    those of the same task and model ("lora steps=100"). Seeds are not part of a label, and neither are the values
    that tuning chose ("lora lr=tuned", where others were not tuned).

    Returns:
        Label by run id.
    """
    options: dict[Any, list[Mapping[str, Any]]] = defaultdict(list)
    for record in records:
        spec = record["spec"]
        name = spec["method"]["name"]
        options[name].append(told(spec, "method"))
        options[(name, *group(record))].append(told(spec, "train"))
    apart = {key: differing(settings) for key, settings in options.items()}
    found = {}
    for record in records:
        spec = record["spec"]
        name = spec["method"]["name"]
        parts = {key: told(spec, "method").get(key) for key in apart[name]}
        for key in apart[(name, *group(record))]:
            if key in spec["train"] or key not in LATER:
                parts.setdefault(key, told(spec, "train").get(key))
        found[record["run_id"]] = " ".join([name, *(f"{key}={shown(value)}" for key, value in parts.items())])
    return found


def told(spec: Mapping[str, Any], part: str) -> dict[str, Any]:
    """A part of a specification with ``tuned`` for what was tuned: its value follows from the search."""
    tuned = (spec.get("tuning") or {}).get("options", ())
    return {key: "tuned" if key in tuned else value for key, value in spec[part].items()}


def differing(settings: Sequence[Mapping[str, Any]]) -> list[str]:
    """The names whose values are not the same in all of the settings."""
    names = dict.fromkeys(name for setting in settings for name in setting)
    return [name for name in names if len({repr(setting.get(name)) for setting in settings}) > 1]


def shown(value: Any) -> str:
    """An option's value as ``--set`` takes it: true, none, 0.001, query,value."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if value is None:
        return "none"
    if isinstance(value, float):
        short = f"{value:.6g}"
        return short if float(short) == value else repr(value)
    if isinstance(value, list | tuple):
        return ",".join(map(shown, value))
    return str(value)
