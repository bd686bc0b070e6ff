"""``bench report`` and ``bench view``: check the request, then write or serve."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from bench.core.errors import RequestError, unknown
from bench.report.inputs import Extras
from bench.store.record import Record
from bench.store.store import Store

IMAGE_FORMATS = ("png", "svg")


def report(arguments: argparse.Namespace) -> int:
    """Write the HTML file, or the table in another format, and pictures with --images."""
    from bench.analysis.analysis import analyse
    from bench.report import formats
    from bench.report.build import build

    wrong = _wrong(arguments, formats.FORMATS)
    if wrong:
        raise RequestError(wrong, code="invalid-value")
    found = records(arguments.folder)
    analysis = analyse(found, arguments.folder)
    target: Path = arguments.html or arguments.folder / "report.html"
    if arguments.format:
        _table(formats.write(found, arguments.format, analysis), arguments.to)
    if not arguments.format or arguments.html:
        try:
            shown = extras(found, arguments.folder, arguments.plugin, arguments.title)
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


def view(arguments: argparse.Namespace) -> int:
    """Serve the report until Ctrl-C."""
    from bench.report import serve

    def read() -> tuple[list[Record], Extras]:
        found = records(arguments.folder)
        return found, extras(found, arguments.folder, arguments.plugin, arguments.title)

    _refuse_other_folders(arguments.folder)
    page = serve.Page(arguments.folder, read)
    server = serve.listen(page, arguments.host, _port(arguments.port))
    try:
        sys.stdout.write(f"Report of {arguments.folder}: {server.url}  (Ctrl-C ends)\n")
        sys.stdout.flush()
        page.html()  # made once, and what is wrong with the folder is reported at once
        server.run(open_browser=not arguments.no_browser)
    except KeyboardInterrupt:
        sys.stderr.write("\nbench: no longer served.\n")
    finally:
        server.close()
    return 0


def extras(found: list[Record], folder: Path, plugins: Sequence[Path], title: str | None = None) -> Extras:
    """What a report of a folder shows beyond its records.

    The methods are explained by their code; where an installed plugin is broken, the report does without.

    Raises:
        RequestError: when one of ``plugins`` cannot be imported.
    """
    if not found:
        return Extras(title, folder)
    from bench.cli import describe

    try:
        return Extras(title, folder, describe.about({run["spec"]["method"]["name"] for run in found}, plugins))
    except RequestError as error:
        if plugins:
            raise
        sys.stderr.write("".join(f"bench: {message} The report does without it.\n" for message in error.messages))
        return Extras(title, folder)


def records(folder: Path) -> list[Record]:
    """The records of a folder; says on stderr what could not be read.

    Raises:
        RequestError: when it holds none.
    """
    _refuse_other_folders(folder)
    found, warnings = Store(folder).records()
    for warning in warnings:
        sys.stderr.write(f"bench: {warning}\n")
    return found


def _refuse_other_folders(folder: Path) -> None:
    if not (folder / "runs").is_dir():
        if folder.name == "runs" and folder.is_dir():
            raise RequestError(f"{folder} is inside a folder of records: name {folder.parent}.", code="no-records")
        raise RequestError(f"{folder} holds no records: there is no folder {folder / 'runs'}.", code="no-records")


def _wrong(arguments: argparse.Namespace, formats: tuple[str, ...]) -> list[str]:
    wrong = []
    if arguments.title is not None and arguments.format and not arguments.html:
        wrong.append("--title is the heading of the HTML file, and --format alone writes none: add --html FILE.")
    if arguments.format is not None and arguments.format not in formats:
        wrong.append(unknown("format", arguments.format, formats).within("--format: "))
    if arguments.to and not arguments.format:
        wrong.append("--to is for --format md, csv, json or latex; the HTML file's place is --html FILE.")
    if arguments.image_format is not None and arguments.image_format not in IMAGE_FORMATS:
        wrong.append(unknown("format", arguments.image_format, IMAGE_FORMATS).within("--image-format: "))
    if arguments.image_format and not arguments.images:
        wrong.append("--image-format says how to write --images DIR, which is not there.")
    return wrong


def _table(written: str, to: Path | None) -> None:
    from bench.core.files import write_output

    if to is None:
        sys.stdout.write(written)
        return
    try:
        to.parent.mkdir(parents=True, exist_ok=True)
        write_output(to, written.encode("utf-8"))
    except OSError as error:
        raise RequestError(f"The table cannot be written to {to}: {error.strerror}.", code="not-written") from error
    sys.stdout.write(f"Table: {to}\n")


def _port(given: str | None) -> int | None:
    if given is None:
        return None
    if not given.isascii() or not given.isdigit() or not 0 <= int(given) <= 65_535:
        raise RequestError(
            f"--port: '{given}' is not a port: a whole number from 0 (any free one) to 65535.", code="invalid-value"
        )
    return int(given)
