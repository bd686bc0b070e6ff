"""peft's configuration fields (github.com/huggingface/peft) as options for ``--set``: simple values only."""

from __future__ import annotations

import dataclasses
import enum
import types
import typing
from collections.abc import Mapping
from typing import Any

# Fields of every configuration about an adapter's origin, not its training.
_HIDDEN = frozenset(
    ("task_type", "peft_type", "auto_mapping", "peft_version", "base_model_name_or_path", "revision", "inference_mode")
)
_NUMBERS = (bool, int, float)
_WORDS = {"true": True, "false": False, "none": None}


@dataclasses.dataclass(frozen=True)
class Field:
    """One option made from a field of a configuration class.

    Attributes:
        name: peft's name.
        type: for ``bench.core.options``: bool, int, float, str, ``X | None``, or ``tuple[str, ...]`` for lists.
        default: peft's own, in that type.
        help: the first sentence of peft's.
        choices: accepted words; empty where peft does not list them.
        item: type of a list's items, or None.
        text: whether a list may also be one text (a pattern, ``all-linear``).
        switch: whether a text also means true, false or none.
    """

    name: str
    type: Any
    default: Any
    help: str
    choices: tuple[str, ...] = ()
    item: type | None = None
    text: bool = False
    switch: bool = False

    def native(self, value: Any) -> Any:
        """The value in peft's type."""
        if self.item is not None:
            if self.text and value == ("all-linear",):
                return "all-linear"
            return [self.item(part) for part in value] or None
        return _WORDS.get(value.lower(), value) if self.switch and isinstance(value, str) else value


def fields_of(config: type, needed: Mapping[str, Any]) -> tuple[list[Field], list[str]]:
    """Options for the fields of a configuration class, and the names of fields without one.

    Args:
        needed: defaults for required fields whose own default is None.
    """
    hints = typing.get_type_hints(config)
    options, left_out = [], []
    for field in dataclasses.fields(config):
        if field.name in _HIDDEN or not field.init:
            continue
        default = field.default
        if default is dataclasses.MISSING:
            default = None if field.default_factory is dataclasses.MISSING else field.default_factory()
        if default is None:
            default = needed.get(field.name)
        option = _field(field.name, hints[field.name], default, _sentence(field.metadata.get("help", "")))
        if option is None:
            left_out.append(field.name)
        else:
            options.append(option)
    return options, left_out


def _field(name: str, hint: Any, default: Any, help: str) -> Field | None:
    """An option for a type hint, or None when no part of it is simple."""
    parts = _parts(hint)
    items = [typing.get_args(part) for part in parts if typing.get_origin(part) is list]
    simple = [item[0] for item in items if item and item[0] in (int, float, str)]
    words = [part for part in parts if part is str or _is_words(part)]
    numbers = [kind for kind in _NUMBERS if kind in parts]
    if simple:
        given = () if default is None else (default,) if isinstance(default, str | int) else tuple(map(str, default))
        return Field(name, tuple[str, ...], tuple(map(str, given)), help, item=simple[0], text=str in parts)
    if words and numbers in ([], [bool]):
        default = default.value if isinstance(default, enum.Enum) else default
        kind = str if isinstance(default, str | bool) else str | None
        default = str(default).lower() if isinstance(default, bool) else default
        choices = () if numbers or len(words) > 1 else _choices(words[0])
        return Field(name, kind, default, help, choices, switch=bool(numbers))
    if numbers and not words:
        number: Any = numbers[-1]
        optional = default is None or type(None) in parts
        return Field(name, number | None if optional else number, default, help)
    return None


def _parts(hint: Any) -> tuple[Any, ...]:
    """The members of a union, or the hint itself."""
    origin = typing.get_origin(hint)
    if origin is typing.Union or origin is types.UnionType:
        return tuple(inner for part in typing.get_args(hint) for inner in _parts(part))
    return (hint,)


def _is_words(part: Any) -> bool:
    return typing.get_origin(part) is typing.Literal or (isinstance(part, type) and issubclass(part, enum.Enum))


def _choices(part: Any) -> tuple[str, ...]:
    if part is str:
        return ()
    if typing.get_origin(part) is typing.Literal:
        return tuple(str(word) for word in typing.get_args(part))
    return tuple(str(member.value) for member in part)


def _sentence(text: Any) -> str:
    """The first sentence of a help text, on one line; some of peft's are a tuple of one by mistake."""
    line = " ".join(" ".join(map(str, text) if isinstance(text, tuple) else (text,)).split())
    return line.split(". ")[0].removesuffix(".")
