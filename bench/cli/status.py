"""``bench status``: progress of a sweep."""

from __future__ import annotations

import argparse

from bench.cli import output
from bench.sweep.status import look


def run(arguments: argparse.Namespace) -> int:
    """Do the command."""
    found = look(arguments.folder)
    output.notes(found.warnings)
    for line in found.lines():
        output.line(line)
    return 0
