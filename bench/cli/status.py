"""``bench status``: progress of a sweep."""

from __future__ import annotations

import argparse
import sys

from bench.sweep.status import look


def run(arguments: argparse.Namespace) -> int:
    """Do the command."""
    found = look(arguments.folder)
    for warning in found.warnings:
        sys.stderr.write(f"bench: {warning}\n")
    for line in found.lines():
        sys.stdout.write(f"{line}\n")
    return 0
