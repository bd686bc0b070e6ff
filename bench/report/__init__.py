"""One HTML file that answers "which method should I use?", readable without a network or a server."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from bench.record import Record

if TYPE_CHECKING:
    from bench.report.about import About


def build(
    records: list[Record], out: Path, title: str | None = None, about: Mapping[str, About] | None = None
) -> Path:
    """Write the report of some records to one self-contained HTML file, whole or not at all.

    Args:
        records: as the store returns them, of any tasks, models and seeds; may be empty.
        out: the file to write; its folder is made when it is not there.
        title: the heading; without one, the tasks and models are named.
        about: explanations of the methods by name (``bench.explain.about``); a method without one is described
            by its records.

    Returns:
        ``out``.

    Raises:
        OSError: when the file cannot be written.
    """
    from bench.report.page import Extras, document
    from bench.store import write_atomically

    out = Path(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(out, document(records, Extras(title, about or {})).encode("utf-8"))
    return out
