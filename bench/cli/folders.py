"""What several commands do with a folder of records: read it, write a file next to it, describe its methods."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from bench.cli import output
from bench.core.errors import RequestError
from bench.core.files import write_output
from bench.report.inputs import Extras
from bench.store.record import Record
from bench.store.store import Store


def records(folder: Path, some: bool = False) -> list[Record]:
    """The records of a folder; files that cannot be read are named on stderr.

    Args:
        some: refuse a folder without records.

    Raises:
        RequestError: when it is no folder of records.
    """
    check(folder)
    found, warnings = Store(folder).records()
    output.notes(warnings)
    if some and not found:
        raise RequestError(f"{folder} holds no records: {folder / 'runs'} is empty.", code="no-records")
    return found


def check(folder: Path) -> None:
    """Raise RequestError for a folder that has no place for records."""
    if (folder / "runs").is_dir():
        return
    if folder.name == "runs" and folder.is_dir():
        raise RequestError(f"{folder} is inside a folder of records: name {folder.parent}.", code="no-records")
    what = f"holds no records: there is no folder {folder / 'runs'}" if folder.exists() else "does not exist"
    raise RequestError(f"{folder} {what}. bench run --out {folder} makes one.", code="no-records")


def write(path: Path, data: bytes, flag: str) -> None:
    """Write a file that a flag named, whole or not at all.

    Raises:
        RequestError: when it cannot be written, or is the record of a run.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_output(path, data)
    except OSError as error:
        raise RequestError(f"{flag}: {path} cannot be written: {error.strerror}.", code="not-written") from error


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
        output.notes(f"{message} The report does without it." for message in error.messages)
        return Extras(title, folder)
