"""The JSON Schema of a record."""

from __future__ import annotations

import functools
import json
from importlib.resources import files
from typing import Any

SCHEMA = 1  # the format's number, in every record


@functools.cache
def schema() -> dict[str, Any]:
    """The JSON Schema of a record, as a dictionary."""
    text = files("bench.store").joinpath("record.schema.json").read_text(encoding="utf-8")
    loaded: dict[str, Any] = json.loads(text)
    return loaded
