"""Flags of a command from the fields of dataclasses, and back: what was given, by name."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from bench.core import options
from bench.core.options import Option


def add(group: Any, *classes: type) -> None:
    """Give a parser or a group of flags one flag per field that has one; none has a default of its own, so that only
    what was given is in the result."""
    for option in options.flags(*classes).values():
        shape: dict[str, Any] = {"action": "store_true", "default": None}
        if option.type is not bool:
            shape = {"action": "append" if option.repeated else "store", "metavar": option.metavar}
        group.add_argument(option.flag, help=_help(option).replace("%", "%%"), **shape)


def _help(option: Option) -> str:
    default = option.default
    if default in (None, False, ()) or "(default" in option.limits.help:
        return option.limits.help
    return f"{option.limits.help} (default: {','.join(default) if isinstance(default, tuple) else default})"


def plugin(group: Any) -> None:
    """The flag ``--plugin`` of commands that have no request."""
    group.add_argument(
        "--plugin", action="append", type=Path, default=[], metavar="FILE", help="load methods and tasks from a file"
    )


def given(arguments: argparse.Namespace, *classes: type) -> dict[str, Any]:
    """The values of the flags of some dataclasses that were given, by name."""
    return {name: value for name in options.flags(*classes) if (value := getattr(arguments, name)) is not None}
