"""What a run answered on each validation example, read back from its parquet file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bench.statistics.scores import Array
from bench.store import Store


class Unpaired(ValueError):
    """Why two runs cannot be compared example by example, in one sentence."""


@dataclass(frozen=True)
class Answers:
    """Predictions and references of the examples, (n,) each, in row order."""

    predictions: Array
    references: Array


def read(record: Mapping[str, Any], folder: Path) -> Answers:
    """Read ``DIR/predictions/<run_id>.parquet``; the path in the record is not trusted.

    Args:
        record: a run with a score.
        folder: the store's folder.

    Raises:
        Unpaired: when the file is not there, damaged, or not what a run writes.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = Store(folder).predictions_path(record["run_id"])
    try:
        table = pq.read_table(path, columns=["row", "prediction", "reference"])
    except FileNotFoundError as error:
        raise Unpaired(f"its predictions are not there ({path.name})") from error
    except (OSError, ValueError, KeyError, pa.ArrowException) as error:
        raise Unpaired(f"its predictions cannot be read ({path.name}: {type(error).__name__})") from error
    rows = table["row"].to_numpy()
    if table.num_rows == 0 or len(np.unique(rows)) != len(rows) or any(column.null_count for column in table.columns):
        raise Unpaired(f"its predictions are not one for each example ({path.name})")
    order = np.argsort(rows, kind="stable")
    if not np.array_equal(rows[order], np.arange(len(rows))):
        raise Unpaired(f"its predictions lack some examples ({path.name})")
    return Answers(_values(table["prediction"])[order], _values(table["reference"])[order])


def _values(column: Any) -> Array:
    """A column as an array; texts and lists stay Python objects."""
    try:
        return np.asarray(column.to_numpy())
    except (ValueError, NotImplementedError):
        return np.array(column.to_pylist(), dtype=object)


def unlike(first: tuple[Mapping[str, Any], Any], second: tuple[Mapping[str, Any], Any]) -> str | None:
    """Why two runs, each with its references, were not scored on the same examples by one score; None if they were."""
    (one, references), (other, others) = first, second
    if one["main_score"] != other["main_score"]:
        return f"they are ranked by different scores ({one['main_score']} and {other['main_score']})"
    prints = [record["spec"]["task"]["fingerprint"] for record in (one, other)]
    if prints[0] != prints[1]:
        return f"their data differ (fingerprints {prints[0]} and {prints[1]})"
    if len(references) != len(others):
        return f"they were scored on {len(references)} and {len(others)} examples"
    if not np.array_equal(references, others):
        return "their evaluated rows differ"
    return None
