"""What a run answered on each validation example, read back from its parquet file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bench.analysis import samples
from bench.analysis.samples import Array, Sample
from bench.store.store import Store


class Unpaired(ValueError):
    """Why two runs cannot be compared example by example, in one sentence."""


@dataclass(frozen=True)
class Answers:
    """What a run answered, n examples in row order.

    Attributes:
        predictions, references: (n,) each. Where a run is scored by likelihood alone, nothing was predicted and the
            references are the numbers of tokens.
        losses, tokens: (n,) mean negative log-likelihood of each example and its number of tokens, or None.
        texts: (n,) where a long text is several examples the number of the text that each is of, or None.
    """

    predictions: Array
    references: Array
    losses: Array | None = None
    tokens: Array | None = None
    texts: Array | None = None

    def sample(self, score: str) -> Sample:
        """The run's sample by a score; raises ``scores.Undefined`` where that cannot be computed again."""
        if score in (samples.LOSS, samples.PERPLEXITY) and self.losses is not None and self.tokens is not None:
            return samples.of_tokens(score, self.losses, self.tokens, self.texts)
        return samples.sample(score, self.predictions, self.references)


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
    needed, optional = ["row", "prediction", "reference"], [samples.LOSS, "tokens", "text"]
    try:
        there = set(pq.read_schema(path).names)
        table = pq.read_table(path, columns=needed + [name for name in optional if name in there])
        columns = {name: _values(table[name]) for name in table.column_names}
    except FileNotFoundError as error:
        raise Unpaired(f"its predictions are not there ({path.name})") from error
    except (OSError, ValueError, KeyError, pa.ArrowException) as error:
        raise Unpaired(f"its predictions cannot be read ({path.name}: {type(error).__name__})") from error
    order = np.argsort(columns["row"], kind="stable")
    if len(order) == 0 or not np.array_equal(columns["row"][order], np.arange(len(order))):
        raise Unpaired(f"its predictions are not one for each example ({path.name})")
    losses, tokens, texts = (columns[name][order] if name in columns else None for name in optional)
    references = columns["reference"][order]
    if tokens is not None and all(value is None for value in references):
        references = tokens  # language modelling: the same blocks have as many tokens
    return Answers(columns["prediction"][order], references, losses, tokens, texts)


def _values(column: Any) -> Array:
    """A column as an array: of numbers, or of Python objects (texts, lists, nothing)."""
    import pyarrow as pa

    if pa.types.is_integer(column.type) or pa.types.is_floating(column.type) or pa.types.is_boolean(column.type):
        return np.asarray(column.to_numpy())
    values = np.empty(len(column), dtype=object)
    values[:] = column.to_pylist()
    return values


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
