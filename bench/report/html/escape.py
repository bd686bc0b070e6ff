"""Text from records on its way into a page: names, paths and errors are shown, never interpreted."""

from __future__ import annotations

import html
import json
import math
import re
from typing import Any

from bench.core.formatting import clean

_IN_SCRIPT = {ord(sign): f"\\u{ord(sign):04x}" for sign in "<>&\u2028\u2029"}
_LONE = re.compile(r"[\ud800-\udfff]")


def text(value: object) -> str:
    """Escape a value for HTML text and for attribute values in double quotes."""
    return html.escape(_LONE.sub("�", clean(str(value))), quote=True)


def plot(value: object, longest: int = 60) -> str:
    """Escape a value for plotly, whose text fields read a little HTML (``<b>``, ``<a href>``, entities)."""
    shown = " ".join(_LONE.sub("�", clean(str(value))).split())
    if len(shown) > longest:
        shown = shown[: longest - 1] + "…"
    return html.escape(shown, quote=False)


def script_json(value: Any) -> str:
    """JSON for a script element: nothing in it can end the element or start a comment."""
    return json.dumps(_plain(value), ensure_ascii=False, allow_nan=False, separators=(",", ":")).translate(_IN_SCRIPT)


def _plain(value: Any) -> Any:
    """Clean texts and round floats to what a chart can show, which halves the file; what is not finite becomes null."""
    if isinstance(value, str):
        return _LONE.sub("�", clean(value))
    if isinstance(value, float):
        return float(f"{value:.5g}") if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _plain(member) for key, member in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(member) for member in value]
    return value
