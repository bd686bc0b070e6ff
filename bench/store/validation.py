"""Check records and baselines against their JSON Schemas: thousands of files while a user waits."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jsonschema_rs

from bench.store.schema import schema as record_schema

_LONGEST = 120  # characters of a message; it begins with the value, which may be long


def problems(value: object, schema: Callable[[], dict[str, Any]] = record_schema, name: str = "record") -> list[str]:
    """What keeps a value from following a schema: one line per fault with its place, empty when it follows it.

    Names that the schema does not know are let through, so that a later version's additional fields do not make a
    file unreadable. NaN and infinity are no numbers.

    Args:
        value: as ``json.loads`` gives it.
        schema: gives the JSON Schema.
        name: of the whole, for the messages.
    """
    validator = _validator(schema)
    try:
        if validator.is_valid(value):
            return []
        return [
            f"{_place(name, error.instance_path)}: {_short(error.message)}" for error in validator.iter_errors(value)
        ]
    except (ValueError, TypeError) as error:  # what JSON cannot hold
        return [f"{name} is not plain JSON: {error}"]


@functools.cache
def _validator(schema: Callable[[], dict[str, Any]]) -> Any:
    return jsonschema_rs.validator_for(_open(schema()))


def _open(rule: Any) -> Any:
    """A schema that lets unknown names through."""
    if isinstance(rule, dict):
        return {key: _open(value) for key, value in rule.items() if (key, value) != ("additionalProperties", False)}
    return [_open(value) for value in rule] if isinstance(rule, list) else rule


def _place(name: str, path: list[str | int]) -> str:
    return name + "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)


def _short(message: str) -> str:
    return message if len(message) <= _LONGEST else f"…{message[-_LONGEST:]}"
