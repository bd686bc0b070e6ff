"""``bench report``: one HTML file, or a table in another format, from a folder of records."""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path

from bench.cli import folders, output
from bench.core.errors import Fault, RequestError, fault, unknown

IMAGE_FORMATS = ("png", "svg")


def run(arguments: argparse.Namespace) -> int:
    """Write the HTML file, or the table in another format, and pictures with --images."""
    from bench.analysis.analysis import analyse
    from bench.report import formats
    from bench.report.build import build

    wrong = _wrong(arguments, formats.FORMATS)
    if wrong:
        raise RequestError(wrong)
    found = folders.records(arguments.folder)
    analysis = analyse(found, arguments.folder)
    target: Path = arguments.html or arguments.folder / "report.html"
    if arguments.format:
        table = formats.write(found, arguments.format, analysis)
        if arguments.to is None:
            sys.stdout.write(table)
        else:
            folders.write(arguments.to, table.encode(), "--to")
            output.line(f"Table: {arguments.to}")
    if not arguments.format or arguments.html:
        try:
            shown = folders.extras(found, arguments.folder, arguments.plugin, arguments.title)
            path = build(found, target, replace(shown, analysis=analysis))
        except OSError as error:
            raise RequestError(
                f"The report cannot be written to {target}: {error.strerror}.", code="not-written"
            ) from error
        (sys.stderr if arguments.format else sys.stdout).write(f"Report: {path}\n")
    if arguments.images:
        from bench.report import image_export

        written = image_export.write(found, arguments.images, arguments.image_format or "png", analysis)
        (sys.stderr if arguments.format else sys.stdout).write(f"Images: {len(written)} in {arguments.images}\n")
    return 0


def _wrong(arguments: argparse.Namespace, formats: tuple[str, ...]) -> list[Fault]:
    wrong = []
    if arguments.title is not None and arguments.format and not arguments.html:
        why = "--title is the heading of the HTML file, and --format alone writes none: add --html FILE."
        wrong.append(fault(why, "conflict"))
    if arguments.format is not None and arguments.format not in formats:
        wrong.append(unknown("format", arguments.format, formats).within("--format: "))
    if arguments.to and not arguments.format:
        why = "--to is for --format md, csv, json or latex; the HTML file's place is --html FILE."
        wrong.append(fault(why, "conflict"))
    if arguments.image_format is not None and arguments.image_format not in IMAGE_FORMATS:
        wrong.append(unknown("format", arguments.image_format, IMAGE_FORMATS).within("--image-format: "))
    if arguments.image_format and not arguments.images:
        wrong.append(fault("--image-format is the format of --images DIR, which is not given.", "missing"))
    return wrong
