"""A request in a TOML file: the same words as the flags of ``bench run``, options of methods in tables."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

from bench.errors import RequestError, unknown


def read(path: Path, known: dict[str, type]) -> dict[str, Any]:
    """Read a plan file into the values that flags would have given.

    Args:
        path: the TOML file. Keys are flag names with ``_`` or ``-``; lists may be TOML lists or texts with commas;
            ``[set.lora]`` with ``rank = 4`` is ``--set lora.rank=4``.
        known: names of the flags → ``list`` for those that are given as comma-separated text, else another type.

    Raises:
        RequestError: when the file cannot be read, is not TOML, or has a key that no flag has.
    """
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise RequestError(f"Plan file {path} cannot be read: {error}") from error
    except tomllib.TOMLDecodeError as error:
        raise RequestError(f"Plan file {path} is not valid TOML: {error}") from error
    found: dict[str, Any] = {}
    wrong: list[str] = []
    for key, value in raw.items():
        name = key.replace("-", "_")
        if name == "set":
            found["set"] = _sets(value, path, wrong)
        elif name not in known:
            wrong.append(f"Plan file {path}: " + unknown("key", key, {*known, "set"}))
        elif known[name] is bool and not isinstance(value, bool):
            wrong.append(f"Plan file {path}: {key} is true or false, without quotes.")
        elif known[name] is str and not isinstance(value, str | int | float):
            wrong.append(f"Plan file {path}: {key} is one value, not {type(value).__name__}.")
        else:
            found[name] = _text(value) if known[name] is list else value
    if wrong:
        raise RequestError(wrong)
    return found


def _sets(tables: Any, path: Path, wrong: list[str]) -> list[str]:
    if not isinstance(tables, dict) or not all(isinstance(table, dict) for table in tables.values()):
        wrong.append(f"Plan file {path}: write options as [set.METHOD] with one OPTION = VALUE a line.")
        return []
    return [f"{owner}.{option}={_text(value)}" for owner, table in tables.items() for option, value in table.items()]


def _text(value: Any) -> str:
    if isinstance(value, list):
        return ",".join(_text(item) for item in value)
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)
