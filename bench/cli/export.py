"""``bench export``: a saved adapter in a format that others read."""

from __future__ import annotations

import argparse

import transformers

from bench.cli import output
from bench.models import export, saved_adapter


def run(arguments: argparse.Namespace) -> int:
    """Do the command."""
    folder = export.find(arguments.which, arguments.out)
    transformers.logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    transformers.utils.logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    trust = [name for name in saved_adapter.GRANTS if getattr(arguments, name)]
    tuned = saved_adapter.load(folder, model=arguments.model, plugins=arguments.plugin, keep_original=True, trust=trust)
    export.export(tuned, arguments.format, arguments.to)
    output.line(f"{arguments.format}: {arguments.to}")
    return 0
