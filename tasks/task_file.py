"""A task in a TOML file, ``--task mytask.toml``: its data and options.

The keys are ``data`` and the options of ``--set task.…``; paths are relative to the file.
"""

from __future__ import annotations

import dataclasses
import tomllib
from pathlib import Path
from typing import Any

from bench.core import options, task_options
from bench.core.errors import RequestError, faults, unknown
from bench.core.protocols import Task
from bench.core.registry import register_opener
from bench.data import custom_splits
from bench.tasks.custom import CustomTask


def open_task(name: str) -> Task | None:
    """The task of a TOML file; None for other names.

    Raises:
        RequestError: with everything that is wrong in the file.
    """
    if not name.lower().endswith(".toml"):
        return None
    path = Path(name).expanduser()
    found = _read(path)
    data = found.pop("data", None)
    empty = CustomTask(name=name, dataset="", help=f"your own data, {name}")
    known = task_options.declared(empty)
    wrong = [problem for key, value in found.items() if (problem := _problem(known, key, value))]
    if not isinstance(data, str):
        wrong.append('say where the rows are: data = "reviews.csv", or "hub:owner/name:config".')
    if wrong or not isinstance(data, str):
        raise RequestError(faults([f"Task file {name}: {problem}" for problem in wrong], "invalid-data"))
    where = data if data.startswith(custom_splits.HUB) else str(path.parent / Path(data).expanduser())
    given = {key: _value(known[key], value) for key, value in found.items()}
    return task_options.changed(dataclasses.replace(empty, dataset=where), given)


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise RequestError(
            f"Task file {path} cannot be read: {getattr(error, 'strerror', None) or error}.", code="not-found"
        ) from error
    except tomllib.TOMLDecodeError as error:
        raise RequestError(f"Task file {path} is not valid TOML: {error}.", code="damaged") from error


def _problem(known: dict[str, options.Option], key: str, value: Any) -> str | None:
    """What is wrong with a key and its value; None where nothing is."""
    if key not in known:
        return unknown("key", key, {*known, "data"})
    if isinstance(value, dict):
        return f"{key} is one value or a list, not a table."
    if isinstance(value, list) and not options.is_list(known[key]):
        return f"{key} is one value, not a list."
    try:
        options.convert(known[key], _value(known[key], value))
    except ValueError as error:
        return f"{key}: {error}"
    return None


def _value(option: options.Option, value: Any) -> Any:
    """A text given for a list is its only item, with its commas."""
    return [value] if options.is_list(option) and not isinstance(value, list) else value


register_opener(open_task)
