"""``bench show``: one method, task or model in full."""

from __future__ import annotations

import argparse

from rich.console import Console

from bench.cli import describe
from bench.core.errors import RequestError
from bench.data.mirror import mirror_folder


def run(arguments: argparse.Namespace) -> int:
    """Do the command."""
    if not arguments.name.strip():
        raise RequestError("Say what to show: a method, a task or a model, such as bench show lora.", code="missing")
    describe.explain(arguments.name, arguments.plugin, Console(), mirror_folder())
    return 0
