"""Lines on the terminal: without control characters, which names from files and data may hold."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterable

from bench.core import formatting


def note(text: str) -> None:
    """Write a message for the user to stderr."""
    sys.stderr.write(f"bench: {formatting.clean(text)}\n")


def notes(texts: Iterable[str]) -> None:
    """Write several messages."""
    for text in texts:
        note(text)


def line(text: str) -> None:
    """Write a line of the command's result to stdout."""
    sys.stdout.write(f"{formatting.clean(text)}\n")


def replace_unprintable() -> None:
    """Write a replacement for characters that the terminal's encoding lacks, instead of failing."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
