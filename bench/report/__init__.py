"""One HTML file that answers "which method should I use?", readable without a network or a server."""

from __future__ import annotations

from pathlib import Path

from bench.record import Record


def build(records: list[Record], out: Path, title: str | None = None, folder: Path | None = None) -> Path:
    """Write the report of some records to one self-contained HTML file, whole or not at all.

    Args:
        records: as the store returns them, of any tasks, models and seeds; may be empty.
        out: the file to write; its folder is made when it is not there.
        title: the heading; without one, the tasks and models are named.
        folder: the store's folder, whose predictions pair the methods; without it they are not paired.

    Returns:
        ``out``.

    Raises:
        OSError: when the file cannot be written.
    """
    from bench.report.page import document
    from bench.store import write_atomically

    out = Path(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(out, document(records, title, folder).encode("utf-8"))
    return out
