"""A request in a TOML file: the same words as the flags of ``bench run``, options of methods in tables."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.core.errors import RequestError, unknown
from bench.core.options import comma_list


@dataclass(frozen=True)
class Plan:
    """What a plan file asks for.

    Attributes:
        requests: the values that flags would have given, once per experiment.
        methods: every method named anywhere in the file.
    """

    requests: list[dict[str, Any]]
    methods: frozenset[str]


def read(path: Path, known: Mapping[str, type], whole: frozenset[str], chosen: Sequence[str]) -> Plan:
    """Read a plan file.

    Keys are flag names with ``_`` or ``-``; lists may be TOML lists or texts with commas. ``[set.lora]`` with
    ``rank = 4`` is ``--set lora.rank=4``, ``[set.lora.train]`` with ``steps = 200`` changes one method's training.
    ``[experiment.NAME]`` holds the same keys for one experiment, over the shared ones at the top.

    Args:
        path: the TOML file.
        known: names of the flags → ``list`` for those that are given as comma-separated text, else another type.
        whole: the flags that hold for the whole command and so stand at the top alone.
        chosen: names of the experiments to return; empty: all.

    Raises:
        RequestError: when the file cannot be read, is not TOML, or has a key that no flag has.
    """
    raw = _load(path)
    wrong: list[str] = []
    tables = raw.pop("experiment", {})
    if not isinstance(tables, dict) or not all(isinstance(table, dict) for table in tables.values()):
        raise RequestError(
            f"Plan file {path}: write experiments as [experiment.NAME] with one KEY = VALUE a line.",
            code="invalid-value",
        )
    wrong += [
        unknown("experiment", name, tables).within(f"Plan file {path}: ") for name in chosen if name not in tables
    ]
    shared = _values(raw, known, f"Plan file {path}", wrong)
    found = []
    for name in chosen or tables:
        where = f"Plan file {path}, experiment {name}"
        own = _values(tables.get(name, {}), known, where, wrong)
        wrong += [f"{where}: {key} holds for all experiments: write it at the top." for key in own if key in whole]
        sets = [*shared.get("set", []), *own.get("set", [])]
        found.append({**_without(shared, own), **own, "set": sets, "experiment": name})
    if wrong:
        raise RequestError(wrong, code="invalid-value")
    named = [
        {*comma_list(values.get("methods"))}
        for values in (shared, *(_values(table, known, "", []) for table in tables.values()))
    ]
    return Plan(found or [shared], frozenset().union(*named))


def _load(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise RequestError(f"Plan file {path} cannot be read: {error}", code="not-found") from error
    except tomllib.TOMLDecodeError as error:
        raise RequestError(f"Plan file {path} is not valid TOML: {error}", code="damaged") from error


def _without(shared: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """The shared values but for what an experiment says in another way: steps instead of epochs."""
    other = {"steps": "epochs", "epochs": "steps"}
    return {name: value for name, value in shared.items() if other.get(name) not in own}


def relevant(sets: Sequence[str], values: Mapping[str, Any], named: frozenset[str]) -> list[str]:
    """The options in a plan without those of methods that the plan names and this request leaves out."""
    left_out = named - {*comma_list(values.get("methods"))}
    return [text for text in sets if text.partition("=")[0].partition(".")[0].strip() not in left_out]


def _values(raw: Mapping[str, Any], known: Mapping[str, type], where: str, wrong: list[str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in raw.items():
        name = key.replace("-", "_")
        if name == "set":
            found["set"] = _sets(value, where, wrong)
        elif name not in known:
            wrong.append(unknown("key", key, {*known, "set", "experiment"}).within(f"{where}: "))
        elif known[name] is bool and not isinstance(value, bool):
            wrong.append(f"{where}: {key} is true or false, without quotes.")
        elif known[name] is str and not isinstance(value, str | int | float):
            wrong.append(f"{where}: {key} is one value, not {type(value).__name__}.")
        else:
            found[name] = _text(value) if known[name] is list else value
    return found


def _sets(tables: Any, where: str, wrong: list[str]) -> list[str]:
    if not isinstance(tables, dict) or not all(isinstance(table, dict) for table in tables.values()):
        wrong.append(f"{where}: write options as [set.METHOD] with one OPTION = VALUE a line.")
        return []
    found = []
    for owner, table in tables.items():
        for option, value in table.items():
            inner = value.items() if isinstance(value, dict) else [("", value)]
            found += [f"{owner}.{option}{f'.{name}' if name else ''}={_text(part)}" for name, part in inner]
    return found


def _text(value: Any) -> str:
    if isinstance(value, list):
        nested = any(isinstance(item, list) for item in value)  # several values of an option that is a list
        return ("|" if nested else ",").join(_text(item) for item in value)
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)
