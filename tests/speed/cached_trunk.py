"""A side network and a head with and without --cache-trunk: step times from the second epoch on.

    python tests/speed/cached_trunk.py                  lst and head, MiniLM on demo/docstrings (a quiet machine)
    BENCH_DATA=… python tests/speed/cached_trunk.py --task glue/rte --train-size 500
    python tests/speed/cached_trunk.py --epochs 2 --train-size 128   while others work

Each pair of runs alternates and is repeated; the table has the medians. ``wanted``: lst at least 3 times faster.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from bench.core import formatting

_NO_CACHE, _CACHE = (), ("--cache-trunk", "--cache-limit", "20GB")


def record(method: str, out: Path, chosen: argparse.Namespace, flags: tuple[str, ...], home: Path) -> dict[str, Any]:
    """The record of one run in a process of its own."""
    command = [
        sys.executable, "-P", "-m", "bench", "run", "--quiet", "--methods", method, "--task", chosen.task, "--model",
        chosen.model, "--epochs", str(chosen.epochs), "--batch-size", str(chosen.batch_size), "--eval-size", "64",
        "--max-length", str(chosen.max_length), "--set", "train.dev_size=0", "--out", str(out), *flags,
    ]  # fmt: skip
    if chosen.train_size:
        command += ["--train-size", str(chosen.train_size)]
    done = subprocess.run(command, stdout=subprocess.PIPE, env={**os.environ, "XDG_CACHE_HOME": str(home)})
    if done.returncode not in (0, 1):
        raise SystemExit(done.returncode)
    (path,) = (out / "runs").glob("[!.]*.json")
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    if found["status"] != "ok":
        raise SystemExit(f"{method}: {found['error']}")
    return found


def later_seconds(found: dict[str, Any]) -> float:
    """Mean seconds of a step from the second epoch on."""
    rows = found["data"]["train_rows"]
    first = math.ceil(rows / found["spec"]["train"]["batch_size"])
    return statistics.mean(found["speed"]["step_seconds"][first:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", default="lst,head")
    parser.add_argument("--task", default="demo/docstrings")
    parser.add_argument("--model", default="minilm")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--max-length", type=int, default=128)
    parser.add_argument("--train-size", type=int, default=0)
    parser.add_argument("--repeats", type=int, default=1)
    chosen = parser.parse_args()
    table = Table(title=f"{chosen.model} on {chosen.task}, {chosen.epochs} epochs, batches of {chosen.batch_size}")
    for name in ("method", "trunk runs, s/step", "kept, s/step", "ratio", "fill, s", "size", "peak MB", "kept, peak MB",
                 "loss differs by"):  # fmt: skip
        table.add_column(name, justify="left" if name == "method" else "right")
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        for method in chosen.methods.split(","):
            pairs = []
            for number in range(chosen.repeats):
                place = folder / method / str(number)
                without = record(method, place / "without", chosen, _NO_CACHE, folder / "home")
                pairs.append((without, record(method, place / "with", chosen, _CACHE, folder / "home")))
            table.add_row(method, *_cells(pairs))
    Console(width=140).print(table)


def _cells(pairs: list[tuple[dict[str, Any], dict[str, Any]]]) -> list[str]:
    without, kept = (statistics.median(later_seconds(pair[place]) for pair in pairs) for place in (0, 1))
    filled = pairs[0][1]["trunk_cache"]
    losses = zip(pairs[0][0]["curve"], pairs[0][1]["curve"], strict=True)
    return [
        f"{without:.4f}",
        f"{kept:.4f}",
        f"{without / kept:.2f}",
        f"{filled['fill_seconds']:.1f}",
        formatting.size(filled["bytes"]),
        *(formatting.megabytes(found["memory"]["train_peak_bytes"]) for found in pairs[0]),
        f"{max(abs(one['loss'] - other['loss']) for one, other in losses):.1e}",
    ]


if __name__ == "__main__":
    main()
