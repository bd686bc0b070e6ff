"""What length-bucketed batches save: tokens that a model computes, random batches against bench's, by task.

    BENCH_DATA=MIRROR python tests/speed/padding.py [--tasks glue/sst2,glue/rte,gsm8k]

Batches of 32 over one epoch, padded to their longest row. No training; the tokenizer is MiniLM's.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np

from bench.core import registry
from bench.core.protocols import DataSource
from bench.data.encoding import encode
from bench.data.sampling import training_batches
from bench.models import loading

BATCH = 32


def lengths(name: str) -> np.ndarray[Any, Any]:
    """Tokens of each training row."""
    task = registry.task_entry(name).value
    rows = task.load(DataSource(Path(os.environ["BENCH_DATA"]))).train
    tokenizer = loading.tokenizer(loading.resolve("minilm"))
    if hasattr(task, "encode"):
        return encode(rows, task, tokenizer, 128).lengths
    texts = [f"{row['question']} {row['answer']}" for row in rows]
    return np.asarray([len(ids) for ids in tokenizer(texts, truncation=True, max_length=512)["input_ids"]])


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", default="glue/sst2,glue/rte,trec,gsm8k")
    registry.load()
    sys.stdout.write("| task | tokens of a row | random batches | bucketed batches | saved |\n|---|---|---|---|---|\n")
    for name in parser.parse_args().tasks.split(","):
        found = lengths(name)
        order = np.random.default_rng(0).permutation(len(found))
        batches = training_batches(found, BATCH, 0)
        plans = (
            [order[start : start + BATCH] for start in range(0, len(order), BATCH)],
            [next(batches) for _ in range(-(-len(found) // BATCH))],
        )
        shuffled, bucketed = (sum(len(rows) * found[rows].max() for rows in plan) / len(found) for plan in plans)
        sys.stdout.write(
            f"| {name} | {found.mean():.1f} | {shuffled:.1f} | {bucketed:.1f} | {1 - bucketed / shuffled:.0%} |\n"
        )


if __name__ == "__main__":
    main()
