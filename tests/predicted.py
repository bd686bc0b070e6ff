"""Synthetic records with per-example predictions, for tests of what compares them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from bench.store.store import Store
from tests import factories


def answered(folder: Path, record: dict[str, Any], right: Sequence[bool] | np.ndarray) -> dict[str, Any]:
    """Put a two-class record into a store whose predictions are right on the given examples; returns the record."""
    references = np.arange(len(right)) % 2
    write(folder, record, np.where(right, references, 1 - references), references)
    score = float(np.mean(right))
    record["scores"] = {"accuracy": score}
    record["stderr"] = (score * (1 - score) / len(right)) ** 0.5
    store = Store(folder)
    store.prepare()
    store.write(record)
    return record


def write(folder: Path, record: dict[str, Any], predictions: np.ndarray, references: np.ndarray) -> None:
    """Write a predictions file as a run does."""
    path = Store(folder).predictions_path(record["run_id"])
    path.parent.mkdir(parents=True, exist_ok=True)
    logits = [[0.0, 1.0]] * len(references)
    columns = {"row": np.arange(len(references), dtype=np.int32), "prediction": predictions, "reference": references}
    pq.write_table(pa.table({**columns, "logits": logits}), path)


def sweep(
    folder: Path, methods: dict[str, float], seeds: int = 3, n: int = 400, **options: Any
) -> list[dict[str, Any]]:
    """Methods that are right on the given shares of the same examples, hard ones hard for all, over seeds."""
    rng = np.random.default_rng(0)
    hard = rng.random(n)
    made = []
    for method, share in methods.items():
        for seed in range(seeds):
            right = 0.8 * hard + 0.2 * rng.random(n) < share
            made.append(answered(folder, factories.record(method, seed=seed, **options), right))
    return made


def likelihoods(folder: Path, record: dict[str, Any], losses: np.ndarray, tokens: np.ndarray) -> dict[str, Any]:
    """Put a language-modelling record into a store: nothing is predicted, each block has a loss and its tokens."""
    loss = float((losses * tokens).sum() / tokens.sum())
    record |= {"scores": {"perplexity": float(np.exp(loss)), "loss": loss}, "main_score": "perplexity"}
    record |= {"higher_is_better": False, "stderr": 0.1}
    path = Store(folder).predictions_path(record["run_id"])
    path.parent.mkdir(parents=True, exist_ok=True)
    nothing = pa.nulls(len(losses), pa.string())
    columns = {"row": np.arange(len(losses), dtype=np.int32), "prediction": nothing, "reference": nothing}
    pq.write_table(pa.table({**columns, "score": losses, "loss": losses, "tokens": tokens}), path)
    return record
