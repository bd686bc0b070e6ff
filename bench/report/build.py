"""One HTML file that answers "which method should I use?", readable without a network or a server."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

from bench.report.html.method_pages import About
from bench.store.record import Record


@dataclasses.dataclass(frozen=True)
class Extras:
    """What a report shows beyond the records.

    Attributes:
        title: the heading; without one, the tasks and models are named.
        folder: the store's, for the predictions that methods are compared by; without it nothing is paired.
        about: explanations of methods by name (``bench.cli.describe.about``); a method without one is described by its
            records.
        live: the state of the folder that a served page shows, and looks for changes of; None in a file.
    """

    title: str | None = None
    folder: Path | None = None
    about: Mapping[str, About] = dataclasses.field(default_factory=dict)
    live: str | None = None


def build(records: list[Record], out: Path, extras: Extras | None = None) -> Path:
    """Write the report of some records to one self-contained HTML file, whole or not at all.

    Args:
        records: as the store returns them, of any tasks, models and seeds; may be empty.
        out: the file to write; its folder is made when it is not there.
        extras: title, predictions and explanations.

    Returns:
        ``out``.

    Raises:
        OSError: when the file cannot be written.
        RequestError: when it is the record of a run.
    """
    from bench.report.html.page import document
    from bench.store.store import write_output

    out = Path(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    write_output(out, document(records, extras or Extras()).encode("utf-8"))
    return out
