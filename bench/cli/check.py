"""``bench check``: compare a folder's runs with a baseline; exit code 1 when something got worse or is missing."""

from __future__ import annotations

import argparse
import sys

from rich.console import Console

from bench.analysis import baseline, regression_check
from bench.cli import folders
from bench.core.errors import ErrorCollector, fault
from bench.report import github, junit
from bench.report.terminal import check


def run(arguments: argparse.Namespace) -> int:
    """Do the command."""
    errors = ErrorCollector()
    known = errors.attempt(lambda: baseline.read(arguments.baseline))
    records = errors.attempt(lambda: folders.records(arguments.folder, some=True))
    if arguments.junit is not None and arguments.junit.resolve() == arguments.baseline.resolve():
        errors.messages.append(fault(f"--junit: {arguments.junit} is the baseline; choose another file.", "conflict"))
    errors.stop()
    result = regression_check.check(known, records)
    if arguments.junit is not None:
        folders.write(arguments.junit, junit.document(result), "--junit")
    check.render(result, Console(soft_wrap=True), everything=arguments.all)
    if arguments.github or github.wanted():
        sys.stdout.write("".join(f"{line}\n" for line in github.workflow_commands(result)))
    return int(bool(result.failures))
