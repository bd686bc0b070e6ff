"""A JSON Schema as one function that says yes or no: thousands of records are checked while a person waits.

Covers the part of JSON Schema that ``record.schema.json`` uses, plus: numbers must be finite, and names that the
schema does not know are let through. Whoever wants to know what is wrong asks ``bench.store.record.problems``.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from typing import Any

Check = Callable[[Any], bool]

_KINDS: dict[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "boolean": (bool,),
    "null": (type(None),),
    "integer": (int,),
    "number": (int, float),
}


def compiled(rule: Mapping[str, Any], definitions: Mapping[str, Any]) -> Check:
    """Turn a schema into a function of a value as ``json.loads`` gives it.

    Args:
        rule: the schema, or a part of it.
        definitions: what ``#/$defs/NAME`` refers to.
    """
    if "$ref" in rule:
        rule = definitions[rule["$ref"].rsplit("/", 1)[-1]]
    if "const" in rule or "enum" in rule:
        allowed = rule["enum"] if "enum" in rule else [rule["const"]]
        return lambda value: value in allowed and not isinstance(value, bool)  # to Python, True is 1
    kinds = rule.get("type", tuple(_KINDS))
    kinds = (kinds,) if isinstance(kinds, str) else kinds
    types = frozenset(kind for name in kinds for kind in _KINDS[name])
    if "integer" in kinds:
        types |= {float}  # 3.0 is an integer too
    found = _inner(rule, definitions, whole="integer" in kinds and "number" not in kinds)
    inner = {kind: check for kind, check in found.items() if kind in types}
    if not inner:
        return lambda value: type(value) in types
    if len(types) == 1:
        ((kind, check),) = inner.items()
        return lambda value: type(value) is kind and check(value)
    return lambda value: (kind := type(value)) in types and (kind not in inner or inner[kind](value))


def _inner(rule: Mapping[str, Any], definitions: Mapping[str, Any], whole: bool) -> dict[type, Check]:
    """What a value must be beyond its type, by type."""
    low = rule.get("minimum", -math.inf)
    found: dict[type, Check] = {
        float: lambda value: low <= value < math.inf and value > -math.inf and (not whole or value.is_integer()),
        list: _items(rule.get("items", {}), definitions),
        dict: _members(rule, definitions),
    }
    if "minimum" in rule:
        found[int] = lambda value: value >= low
    if "pattern" in rule or "minLength" in rule:
        fits, least = re.compile(rule.get("pattern", "")).search, rule.get("minLength", 0)
        found[str] = lambda value: fits(value) is not None and len(value) >= least
    return found


def _items(rule: Mapping[str, Any], definitions: Mapping[str, Any]) -> Check:
    check = compiled(rule, definitions) if rule else _finite
    if rule.get("type") != "number":
        return lambda values: all(map(check, values))
    low = rule.get("minimum", -math.inf)

    def amounts(values: list[Any]) -> bool:  # step times: hundreds of numbers a record
        if not set(map(type, values)) <= {int, float}:
            return False
        return not values or (min(values) >= low and sum(values) < math.inf) or all(map(check, values))

    return amounts


def _members(rule: Mapping[str, Any], definitions: Mapping[str, Any]) -> Check:
    required = frozenset(rule.get("required", ()))
    known = {name: compiled(member, definitions) for name, member in rule.get("properties", {}).items()}
    extra = rule.get("additionalProperties")
    other = compiled(extra, definitions) if isinstance(extra, dict) else _finite

    def check(value: dict[str, Any]) -> bool:
        if not value.keys() >= required:
            return False
        for name, member in value.items():
            if not known.get(name, other)(member):
                return False
        return True

    return check


def _finite(value: Any) -> bool:
    """Whether all numbers in a value of any kind are finite."""
    kind = type(value)
    if kind is float:
        return bool(-math.inf < value < math.inf)
    if kind is dict:
        return all(map(_finite, value.values()))
    if kind is list:
        return all(map(_finite, value))
    return kind in (str, int, bool, type(None))
