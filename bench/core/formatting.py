"""Formats numbers for the terminal and the report.

Megabytes are 10⁶ bytes. What was not measured is a dash.
"""

from __future__ import annotations

import re

DASH = "–"

# Scores between 0 and 1 that are written as percentages; others (correlations, errors, perplexity) are not.
_SHARES = ("accuracy", "f1", "precision", "recall", "exact_match", "auc", "em")
_CORRELATIONS = ("matthews", "pearson", "spearman", "correlation")

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def is_share(score: str | None) -> bool:
    """Whether a score of this name is written as a percentage."""
    return score is not None and any(part in score.lower().replace(" ", "_") for part in _SHARES)


def is_correlation(score: str | None) -> bool:
    """Whether a score of this name is a correlation, from -1 to 1."""
    return score is not None and any(part in score.lower().replace(" ", "_") for part in _CORRELATIONS)


def score(name: str | None, value: float | None, stderr: float | None = None) -> str:
    """A score with its standard error: ``85.7 ± 1.2 %`` or ``0.512 ± 0.021``."""
    if value is None:
        return DASH
    scale, digits, unit = (100.0, 1, " %") if is_share(name) else (1.0, 3, "")
    error = "" if stderr is None else f" ± {stderr * scale:.{digits}f}"
    return f"{value * scale:.{digits}f}{error}{unit}"


def gap(name: str | None, value: float) -> str:
    """A difference of two scores: ``2.1 points`` of a percentage, else ``0.021``."""
    return f"{abs(value) * 100:.1f} points" if is_share(name) else f"{abs(value):.3f}"


def megabytes(size: float | None) -> str:
    """Bytes as a number of megabytes: ``1,204``, ``92.9``, ``0.4``."""
    return DASH if size is None else f"{size / 1e6:,.{0 if abs(size) >= 99.95e6 else 1}f}"


def significant(value: float | None, digits: int = 3) -> str:
    """A number with so many significant digits, whole numbers in full: ``0.0512``, ``5.12``, ``51,234``."""
    if value is None:
        return DASH
    if value == 0:
        return "0"
    if abs(value) >= 10 ** (digits - 1):
        return f"{value:,.0f}"
    text = f"{value:.{digits}g}"
    return text if "e" not in text else f"{value:.1e}"


def size(number: float | None) -> str:
    """A size in bytes with its unit: ``812 B``, ``37.4 kB``, ``4.29 MB``, ``1.2 GB``."""
    return DASH if number is None else _scaled(number, ("B", "kB", "MB", "GB", "TB"))


def count(number: float | None) -> str:
    """A short count: ``770``, ``74.5 k``, ``22.6 M``, ``3.21 G``."""
    return DASH if number is None else _scaled(number, ("", "k", "M", "G", "T")).rstrip()


def _scaled(number: float, units: tuple[str, ...]) -> str:
    place = 0
    while abs(number) >= 999.5 and place + 1 < len(units):
        number, place = number / 1000, place + 1
    return f"{number:.3g} {units[place]}"


def percent(value: float | None) -> str:
    """A percentage of parameters with three digits: ``100 %``, ``0.327 %``."""
    return DASH if value is None else f"{value:.3g} %"


def duration(seconds: float | None) -> str:
    """Seconds as ``4.2 s``, ``3 min 20 s`` or ``2 h 05 min``."""
    if seconds is None:
        return DASH
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def clean(text: str) -> str:
    """Text without control and direction characters, which could rewrite a terminal's lines or a page's order."""
    return _CONTROL.sub("�", text.replace("\r\n", "\n"))


def first_line(text: str | None) -> str:
    """The first line of an error that is not empty."""
    lines = [line.strip() for line in clean(text or "").splitlines() if line.strip()]
    return lines[0] if lines else ""
