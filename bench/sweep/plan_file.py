"""Requests in a TOML file: the names of the flags of ``bench run`` as keys, options of methods in tables."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.core import options
from bench.core.errors import Fault, RequestError, fault, unknown
from bench.core.options import comma_list
from bench.core.train_config import TrainSettings
from bench.sweep.request import Execution, RunRequest

_EITHER = {"steps": "epochs", "epochs": "steps"}  # one given in a narrower place replaces the other


def requests(path: Path, flags: Mapping[str, Any], chosen: Sequence[str]) -> list[RunRequest]:
    """Read a plan file: one request per experiment, with the command's flags over it.

    Keys are flag names with ``_`` or ``-``; lists may be TOML lists or texts with commas. ``[set.lora]`` with
    ``rank = 4`` is ``--set lora.rank=4``, ``[set.lora.train]`` with ``steps = 200`` changes one method's training.
    ``[experiment.NAME]`` holds the same keys for one experiment, over the shared ones at the top.

    Args:
        path: the TOML file.
        flags: the command's own, by name.
        chosen: names of the experiments to return; empty: all.

    Raises:
        RequestError: when the file cannot be read, is not TOML, has a key that no flag has, or an unfit value.
    """
    tables = _load(path)
    experiments = tables.pop("experiment", {})
    if not isinstance(experiments, dict) or not all(isinstance(table, dict) for table in experiments.values()):
        raise RequestError(
            f"Plan file {path}: write experiments as [experiment.NAME] with one KEY = VALUE a line.",
            code="invalid-value",
        )
    place = f"Plan file {path}"
    wrong: list[Fault] = [
        unknown("experiment", name, experiments).within(f"{place}: ") for name in chosen if name not in experiments
    ]
    shared = _values(tables, place, wrong)
    own = {
        name: _values(table, f"{place}, experiment {name}", wrong)
        for name, table in experiments.items()
        if not chosen or name in chosen
    }
    wrong += [
        fault(f"{place}, experiment {name}: {key} holds for all experiments: write it at the top.", "conflict")
        for name, values in own.items()
        for key in values
        if key in options.flags(Execution)
    ]
    if wrong:
        raise RequestError(wrong)
    named = {method for values in (shared, *own.values()) for method in comma_list(values.get("methods"))}
    found = []
    for name, values in own.items() or [(None, {})]:
        merged = {**_without_other(shared, values), **values, "set": [*shared.get("set", []), *values.get("set", [])]}
        try:
            found.append(RunRequest.build(_with_flags(merged, flags, path, named), name))
        except RequestError as error:
            wrong += [message.within(f"experiment {name}: " if name else "") for message in error.messages]
    if wrong:
        raise RequestError(wrong)
    return found


def _with_flags(plan: dict[str, Any], flags: Mapping[str, Any], path: Path, named: set[str]) -> dict[str, Any]:
    """An experiment's values with the command's flags over them.

    Args:
        named: every method named anywhere in the file.
    """
    values = {**_without_other(plan, flags), **flags}
    if "plugin" in plan and "plugin" not in flags:
        values["plugin"] = [path.parent / name for name in comma_list(plan["plugin"])]
    if "cluster" in values:
        values["cluster"] = comma_list(values["cluster"])
    if "ranks" in plan and "ranks" not in flags and "methods" in flags and not _any_swept(values):
        del values["ranks"]  # the plan's, for methods that are not run
    left_out = named - {*comma_list(values.get("methods"))}
    relevant = [text for text in plan["set"] if text.partition("=")[0].partition(".")[0].strip() not in left_out]
    return {**values, "set": [*relevant, *flags.get("set", [])]}


def _without_other(shared: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """The shared values without what is given in another way: steps instead of epochs."""
    return {name: value for name, value in shared.items() if _EITHER.get(name) not in own}


def _any_swept(values: Mapping[str, Any]) -> bool:
    """Whether ``--ranks`` concerns one of the methods, as far as they are known."""
    from bench.core import registry

    registry.load([Path(plugin) for plugin in values.get("plugin", ())])
    known = registry.methods()
    return any(name not in known or known[name].swept is not None for name in comma_list(values["methods"]))


def _load(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise RequestError(f"Plan file {path} cannot be read: {error}", code="not-found") from error
    except tomllib.TOMLDecodeError as error:
        raise RequestError(f"Plan file {path} is not valid TOML: {error}", code="damaged") from error


def _values(table: Mapping[str, Any], place: str, wrong: list[Fault]) -> dict[str, Any]:
    """The values of one table by flag name; adds a message for each key that no flag has and each type that is off."""
    known = options.flags(RunRequest, TrainSettings)
    values: dict[str, Any] = {}
    for key, value in table.items():
        name = key.replace("-", "_")
        if name == "set":
            values["set"] = _sets(value, place, wrong)
        elif name not in known:
            wrong.append(unknown("key", key, {*known, "experiment"}).within(f"{place}: "))
        elif options.is_list(known[name]):
            values[name] = _text(value)
        elif known[name].type is bool and not isinstance(value, bool) and name not in options.flags(TrainSettings):
            wrong.append(fault(f"{place}: {key} is true or false, without quotes.", "invalid-value"))
        elif not isinstance(value, str | int | float):
            wrong.append(fault(f"{place}: {key} is one value, not {type(value).__name__}.", "invalid-value"))
        else:
            values[name] = value
    return values


def _sets(tables: Any, place: str, wrong: list[Fault]) -> list[str]:
    if not isinstance(tables, dict) or not all(isinstance(table, dict) for table in tables.values()):
        wrong.append(fault(f"{place}: write options as [set.METHOD] with one OPTION = VALUE a line.", "invalid-value"))
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
