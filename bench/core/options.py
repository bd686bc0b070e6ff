"""Turn the text of ``--set lora.rank=4`` or ``--steps 200`` into typed, checked values of a documented dataclass."""

from __future__ import annotations

import dataclasses
import math
import re
import types
import typing
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from bench.core.errors import Fault, RequestError, fault, unknown
from bench.core.protocols import Limits, option

_NAMES = {bool: "true/false", str: "text", int: "int", float: "float"}
_WORDS = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}


@dataclasses.dataclass(frozen=True)
class Option:
    """One option of a dataclass.

    Attributes:
        metavar: what the help calls the value of the option's flag; None: it has no flag of its own.
        repeated: whether the flag is given once per item, so that commas in an item mean nothing.
    """

    name: str
    type: Any
    default: Any
    limits: Limits
    metavar: str | None = None
    repeated: bool = False

    @property
    def flag(self) -> str:
        """The option as a flag: ``--batch-size``."""
        return f"--{self.name.replace('_', '-')}"

    @property
    def type_name(self) -> str:
        """The type in words: int, float, true/false, text, list."""
        if _is_tuple(self.type):
            return "list"
        inner, optional = _unwrap(self.type)
        return _NAMES[inner] + (" or none" if optional else "")


def flag(default: Any, help: str, metavar: str = "", *, repeated: bool = False, **limits: Any) -> Any:
    """Declare a dataclass field that has a flag of its own.

    Args:
        default, help, limits: as ``bench.core.protocols.option`` takes them.
        metavar: what the help calls the value.
        repeated: the flag is given once per item of the list.
    """
    metadata = {**option(default, help, **limits).metadata, "metavar": metavar, "repeated": repeated}
    return dataclasses.field(default=default, metadata=metadata)


def options(cls: type) -> dict[str, Option]:
    """The options of a dataclass in the order of its definition."""
    hints = typing.get_type_hints(cls)
    found = {}
    for field in dataclasses.fields(cls):
        if field.init:
            limits = field.metadata.get("limits", Limits(""))
            default = None if field.default is dataclasses.MISSING else field.default
            shape = field.metadata.get("metavar"), field.metadata.get("repeated", False)
            found[field.name] = Option(field.name, hints[field.name], default, limits, *shape)
    return found


def flags(*classes: type) -> dict[str, Option]:
    """The options of some dataclasses that have a flag of their own."""
    return {name: found for cls in classes for name, found in options(cls).items() if found.metavar is not None}


def check_types(cls: type) -> None:
    """Raise TypeError for an option whose type no text can be turned into; says which there are."""
    for one in options(cls).values():
        inner = _element(one.type) if _is_tuple(one.type) else _unwrap(one.type)[0]
        if inner not in _NAMES:
            raise TypeError(
                f"option {one.name} of {cls.__name__} is of a type that cannot be set ({one.type}): use bool, "
                "str, int, float, one of them or None, or tuple[int, ...] and its like; a choice is a str with "
                "bench.option(…, choices=(…))"
            )


def build(cls: type, given: Mapping[str, Any], where: str) -> Any:
    """Make an instance of a dataclass from texts or values.

    Args:
        cls: a dataclass whose fields are declared with ``bench.core.protocols.option``.
        given: option name → text from the command line, or a value of the right type.
        where: what the options belong to, for messages (``lora``, ``train``).

    Raises:
        RequestError: with one message per mistake: unknown names, texts that do not parse, values out of bounds.
    """
    wrong: list[Fault] = []
    values = converted(options(cls), given, where, wrong)
    if wrong:
        raise RequestError(wrong)
    try:
        return cls(**values)
    except ValueError as error:
        raise RequestError(f"{where}: {error}", code="invalid-value") from error


def converted(
    known: Mapping[str, Option], given: Mapping[str, Any], where: str | None, wrong: list[Fault], of: str | None = None
) -> dict[str, Any]:
    """The given options, each converted to its type; adds a message for each that is unknown or does not fit.

    Args:
        where: what stands before an option's dot (``lora``, ``task``), for messages; None: they are flags.
        of: what the options belong to, where that is not ``where``.
    """
    values = {}
    for name, value in given.items():
        if name not in known:
            wrong.append(unknown(f"option of {of or where}", name, known))
            continue
        try:
            if where is None and isinstance(value, str) and not value.strip(" ,"):
                raise ValueError("is empty")
            values[name] = convert(known[name], value)
        except ValueError as error:
            label = known[name].flag if where is None else f"{where}.{name}"
            reason = error.args[0]
            fitting = reason if isinstance(reason, Fault) else fault(str(reason), "invalid-value")
            wrong.append(fitting.within(f"{label}: "))
    return values


def comma_list(text: Any) -> tuple[str, ...]:
    """The parts of a comma-separated text or of a list, each once, without empty ones; nothing for None."""
    return tuple(dict.fromkeys(_parts(text)))


def _parts(text: Any) -> list[str]:
    several = isinstance(text, Iterable) and not isinstance(text, str)
    parts = list(text) if several else str("" if text is None else text).split(",")
    return [str(part).strip() for part in parts if str(part).strip()]


def convert(option: Option, value: Any) -> Any:
    """Convert text or a value to the option's type and check its limits; ValueError says what is wrong."""
    if _is_tuple(option.type):
        items = [value] if option.repeated and isinstance(value, str | Path) else value
        element = _element(option.type)
        parsed: Any = tuple(_scalar(element, part) for part in _parts(items))
        if option.limits.choices:
            for part in parsed:
                _check_choice(part, option.limits.choices)
        return parsed
    inner, optional = _unwrap(option.type)
    if value is None or (isinstance(value, str) and value.strip().lower() == "none" and optional):
        if not optional:
            raise ValueError("needs a value")
        return None
    parsed = _scalar(inner, value)
    limits = option.limits
    if limits.choices:
        _check_choice(parsed, limits.choices)
    if isinstance(parsed, int | float) and not isinstance(parsed, bool):
        if limits.low is not None and parsed < limits.low:
            raise ValueError(f"is {value}, but must be at least {limits.low:g}")
        if limits.high is not None and parsed > limits.high:
            raise ValueError(f"is {value}, but must be at most {limits.high:g}")
    return parsed


def is_list(option: Option) -> bool:
    """Whether commas in the option's text separate the items of one value."""
    return _is_tuple(option.type)


def _check_choice(value: Any, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(unknown("value", str(value), choices))


def _scalar(kind: type, value: Any) -> Any:
    text = str(value).strip()
    if kind is bool:
        if text.lower() not in _WORDS:
            raise ValueError(f"'{text}' is neither true nor false")
        return _WORDS[text.lower()]
    if kind in (str, Path):
        return kind(text)
    return whole_number(text) if kind is int else _number(text)


def whole_number(text: str) -> int:
    """A whole number in decimal digits, at most 63 bits; ValueError says what is wrong."""
    if not re.fullmatch(r"[+-]?[0-9]+", text):
        raise ValueError(f"'{_shortened(text)}' is not a whole number")
    if len(text) > 20 or not -(2**63) <= int(text) < 2**63:
        raise ValueError(f"'{_shortened(text)}' is too large: at most {2**63 - 1}")
    return int(text)


def _shortened(text: str) -> str:
    return text if len(text) <= 40 else f"{text[:39]}…"


def _number(text: str) -> float:
    try:
        number = float(text) if text.isascii() and "_" not in text else None
    except ValueError:
        number = None
    if number is None:
        raise ValueError(f"'{_shortened(text)}' is not a number")
    if not math.isfinite(number):
        raise ValueError(f"'{_shortened(text)}' is not finite")
    return number


def _is_tuple(kind: Any) -> bool:
    return typing.get_origin(kind) is tuple


def _element(kind: Any) -> Any:
    """int of ``tuple[int, ...]``; tuple itself where its elements are not all of one type."""
    inner = [part for part in typing.get_args(kind) if part is not Ellipsis]
    return inner[0] if len(set(inner)) == 1 else tuple


def _unwrap(kind: Any) -> tuple[type, bool]:
    """Split ``int | None`` into (int, True); a plain type into (type, False)."""
    if isinstance(kind, types.UnionType) or typing.get_origin(kind) is typing.Union:
        inner = [part for part in typing.get_args(kind) if part is not type(None)]
        return inner[0], True
    return kind, False
