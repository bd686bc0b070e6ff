"""What a run answered to each validation example, as a parquet file next to its record."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def write_predictions(path: Path, columns: Mapping[str, Any]) -> None:
    """One row per validation example, in its order: its number and the given columns; written atomically."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = len(next(iter(columns.values())))
    table = pa.table(
        {
            "row": pa.array(range(rows), pa.int32()),
            **{name: pa.array(values) for name, values in columns.items()},
        }
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(f".{uuid.uuid4().hex}.partial")  # two processes may do the same run
    try:
        pq.write_table(table, unfinished)
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)
