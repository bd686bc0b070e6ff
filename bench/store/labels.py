"""Labels of runs: what tells two configurations apart, and how models, seeds and tuned values are named."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from bench.core import code_fingerprint
from bench.core.train_config import LATER
from bench.store.record import Record, main_value, scored

_MOST_CHOSEN = 8  # tuned values that a sentence names


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
        " ".join([record["spec"]["method"]["name"], *(f"{key}={format_value(value)}" for key, value in values.items())])
        for record in found
        if (values := (record.get("tuning") or {}).get("chosen"))
    )
    return said + (f" Chosen: {', '.join(chosen)}." if chosen and len(chosen) <= _MOST_CHOSEN else "")


def group(record: Mapping[str, Any]) -> tuple[str, str]:
    """What may be compared: runs of one task on one model, as (task, model)."""
    return record["spec"]["task"]["name"], model_title(record["spec"]["model"])


def model_title(model: Mapping[str, Any]) -> str:
    """What to call a specification's model: its name, and how it is quantised."""
    return " ".join(str(model[part]) for part in ("name", "quantize") if model.get(part))


def mixed(records: Iterable[Mapping[str, Any]]) -> dict[str, list[str]]:
    """``data``, ``model weights`` and ``harness code`` → their fingerprints, where compared runs have several."""
    specs = [record["spec"] for record in records]
    found = {
        what: sorted({spec[part]["fingerprint"] for spec in specs} - {None})
        for part, what in (("task", "data"), ("model", "model weights"))
    }
    found["harness code"] = sorted({spec["code"].get("harness") or "not recorded" for spec in specs})
    return {what: prints for what, prints in found.items() if len(prints) > 1}


def of_another_version(records: Iterable[Mapping[str, Any]]) -> str | None:
    """One sentence about runs that other code than the installed made; None when there are none."""
    codes = [record["spec"]["code"].get("harness") for record in records]
    older = sum(code != code_fingerprint.harness() for code in codes)
    if not older:
        return None
    runs = f"{older} of {len(codes)} runs were" if len(codes) > 1 else "This run was"
    return f"{runs} made by another version of tunebench's code; the same command makes them again with this one."


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
        parts = (f"{key}={format_value(there.get(key))}" for key in apart[name])
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
        options[name].append(with_tuned_marked(spec, "method"))
        options[(name, *group(record))].append(with_tuned_marked(spec, "train"))
    apart = {key: differing(settings) for key, settings in options.items()}
    found = {}
    for record in records:
        spec = record["spec"]
        name = spec["method"]["name"]
        parts = {key: with_tuned_marked(spec, "method").get(key) for key in apart[name]}
        for key in apart[(name, *group(record))]:
            if key in spec["train"] or key not in LATER:
                parts.setdefault(key, with_tuned_marked(spec, "train").get(key))
        found[record["run_id"]] = " ".join([name, *(f"{key}={format_value(value)}" for key, value in parts.items())])
    return found


def with_tuned_marked(spec: Mapping[str, Any], part: str) -> dict[str, Any]:
    """A part of a specification with ``tuned`` for what was tuned: its value follows from the search."""
    tuned = (spec.get("tuning") or {}).get("options", ())
    return {key: "tuned" if key in tuned else value for key, value in spec[part].items()}


def differing(settings: Sequence[Mapping[str, Any]]) -> list[str]:
    """The names whose values are not the same in all of the settings."""
    names = dict.fromkeys(name for setting in settings for name in setting)
    return [name for name in names if len({repr(setting.get(name)) for setting in settings}) > 1]


def format_value(value: Any) -> str:
    """An option's value as ``--set`` takes it: true, none, 0.001, query,value."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if value is None:
        return "none"
    if isinstance(value, float):
        short = f"{value:.6g}"
        return short if float(short) == value else repr(value)
    if isinstance(value, list | tuple):
        return ",".join(map(format_value, value))
    return str(value)
