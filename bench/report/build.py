"""One HTML file that answers "which method should I use?", readable without a network or a server."""

from __future__ import annotations

from pathlib import Path

from bench.report.inputs import Extras
from bench.store.record import Record


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
    from bench.core.files import write_output
    from bench.report.html.page import document

    out = Path(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    write_output(out, document(records, extras or Extras()).encode("utf-8"))
    return out
