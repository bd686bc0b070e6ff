"""One short run of each task that a mirror holds, with what no learning scores beside it, as a table.

    BENCH_DATA=MIRROR python -m tests.tasks.short_runs [NAME …]

Not part of the tests: it takes minutes. "No learning" is the commonest class of the scored rows or, where a text or
a likelihood is scored, the same model before training (LoRA at a learning rate of 0). A set whose training split is
missing is run as a file of one's own: its validation rows are split.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import pandas as pd

import bench
from bench.core import registry, task_options

_ENCODER = ("glue/cola", "glue/sst2", "glue/mrpc", "glue/rte", "glue/wnli", "glue/stsb", "superglue/cb",
            "superglue/copa", "superglue/wic", "trec", "rotten_tomatoes")  # fmt: skip
_FILES = {"glue/qnli": "nyu-mll/glue/qnli/validation", "glue/mnli": "nyu-mll/glue/mnli/validation_matched",
          "superglue/boolq": "aps/super_glue/boolq/validation"}  # fmt: skip
_FEW = {"train.evaluations": 2, "train.dev_size": 200}


def runs() -> dict[str, dict[str, Any]]:
    """The arguments of ``bench.run`` for each task."""
    encoder = {"methods": "lora", "model": "minilm", "steps": 60, "max_length": 64, "eval_size": 400, "set": _FEW}
    found = {name: encoder | {"task": name} for name in _ENCODER}
    mirror = Path(os.environ["BENCH_DATA"])
    found |= {name: encoder | {"task": str(next(mirror.glob(f"{path}-*.parquet")))} for name, path in _FILES.items()}
    found["digits"] = {"methods": "full", "model": "tiny-vit", "task": "digits", "steps": 150, "set": _FEW}
    writer = {"methods": "lora", "model": "tiny-llama", "steps": 150, "eval_size": 100, "set": _FEW}
    halves = {"task.train_split": "validation", "task.scored_split": "test"}
    found["wikitext"] = writer | {"task": "wikitext", "set": _FEW | halves}
    found["e2e_nlg"] = writer | {"task": "e2e_nlg", "set": _FEW | halves | {"task.max_new_tokens": 64}}
    more = {"train.dev_size": 16, "task.max_new_tokens": 160}
    found["gsm8k"] = writer | {"task": "gsm8k", "model": "smollm2-135m", "steps": 30, "batch_size": 8,
                               "max_length": 256, "eval_size": 16, "lr": 5e-4, "set": _FEW | more}  # fmt: skip
    return found


def unlearned(arguments: dict[str, Any], row: pd.Series, folder: str) -> float:
    """What the commonest class, or the untrained model, scores."""
    chosen = registry.task_entry(arguments["task"]).value
    task = task_options.resolved(chosen, bench.core.protocols.DataSource(Path(os.environ["BENCH_DATA"])))
    if task.kind in ("generation", "language-modelling"):
        again = bench.run(**arguments | {"steps": 1, "lr": 0.0}, out=folder, quiet=True)
        return float(again.iloc[0]["score"])
    wanted = pd.read_parquet(Path(folder) / "predictions" / f"{row['run_id']}.parquet")["reference"].tolist()
    if task.kind == "regression":
        return 0.0  # a constant is correlated with nothing
    return task.score([Counter(wanted).most_common(1)[0][0]] * len(wanted), wanted)[task.main_score]


def main(names: list[str]) -> None:
    """Print a line as each task is through."""
    registry.load()
    sys.stdout.write("| task | method, model, steps | score | trained | no learning |\n|---|---|---|---|---|\n")
    for name, arguments in runs().items():
        if names and name not in names:
            continue
        with tempfile.TemporaryDirectory() as folder:
            row = bench.run(**arguments, out=folder, quiet=True).iloc[0]
            if row["status"] != "ok":
                sys.stdout.write(f"| {name} | {row['error']} | | | |\n")
                continue
            how = f"{arguments['methods']}, {arguments['model']}, {arguments['steps']}"
            base = unlearned(arguments, row, folder)
            trained = row["score"]
        own = " (validation rows, as a file)" if name in _FILES else ""
        sys.stdout.write(f"| {name}{own} | {how} | {row['score_name']} | {trained:.3f} | {base:.3f} |\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1:])
