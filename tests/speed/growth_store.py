"""How reading a folder of records and building its report grow with the number of records.

    python tests/speed/growth_store.py                  10, 100, 1,000 and 10,000 records

Records are made up for many methods, options, tasks and seeds; the predictions that the report pairs are written for
each. Prints a Markdown table of CPU seconds and of the exponent b in seconds = a · records^b, fitted to the largest
three sizes by least squares of the logarithms: 1 is a time that grows as the records do.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

import numpy as np

from bench.cli.folders import extras
from bench.report.build import build
from bench.report.terminal import comparison_table
from bench.store.predictions import write_predictions
from bench.store.store import Store
from bench.sweep import plan_snapshot, status
from bench.sweep.request import RunRequest
from tests import factories
from tests.speed.fits import exponent

METHODS = ("full", "lora", "lst", "head")
SEEDS = 5
EXAMPLES = 200  # predictions of a run
_OPTIONS: dict[str, list[dict[str, Any]]] = {
    "full": [{}],
    "head": [{}],
    "lora": [{"rank": rank, "alpha": float(rank)} for rank in (2, 4, 8, 16, 32)],
    "lst": [{"reduction": reduction} for reduction in (2, 4, 8, 16)],
}


def specifications(number: int) -> list[dict[str, Any]]:
    """So many different ones: every method with every option and seed on a task, then the next task."""
    found: list[dict[str, Any]] = []
    task = 0
    while len(found) < number:
        for method in METHODS:
            for options in _OPTIONS[method]:
                found += [factories.spec(method, seed, f"glue/task-{task}", **options) for seed in range(SEEDS)]
        task += 1
    return found[:number]


def filled(folder: Path, number: int) -> Store:
    """A store of that many finished runs of 100 steps, written without the checks of ``Store.write``."""
    store = Store(folder)
    store.prepare()
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 2, EXAMPLES)
    for specification in specifications(number):
        specification["train"]["steps"] = 100
        record = factories.measured(specification)
        (folder / "runs" / f"{record['run_id']}.json").write_text(json.dumps(record, indent=1))
        right = rng.random(EXAMPLES) < record["scores"]["accuracy"]
        columns = {"prediction": np.where(right, truth, 1 - truth).tolist(), "reference": truth.tolist()}
        write_predictions(folder / record["predictions"], columns)
    runs = [SimpleNamespace(run_id=path.stem, spec={}) for path in (folder / "runs").glob("*.json")]
    plan_snapshot.write(folder, [RunRequest()], runs)  # type: ignore[arg-type]
    return store


def timed(act: Callable[[], Any], repeats: int) -> float:
    """The least CPU seconds of some calls: one thread does all of it."""
    found = []
    for _ in range(repeats):
        begun = time.process_time()
        act()
        found.append(time.process_time() - begun)
    return min(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", default="10,100,1000,10000")
    chosen = parser.parse_args()
    sizes = [int(size) for size in chosen.sizes.split(",")]
    rows: dict[str, list[float]] = {"list the folder": [], "bench status": [], "table": [], "HTML report": []}
    for size in sizes:
        with tempfile.TemporaryDirectory() as made:
            store, repeats = filled(Path(made), size), 3 if size <= 1000 else 1
            records, _ = store.records()
            rows["list the folder"].append(timed(store.records, repeats))
            rows["bench status"].append(timed(lambda store=store: status.look(store.folder).lines(), repeats))
            rows["table"].append(timed(lambda records=records: comparison_table.frame(records), repeats))
            shown = extras(records, store.folder, ())
            target = Path(made) / "report.html"
            rows["HTML report"].append(
                timed(lambda records=records, target=target, shown=shown: build(records, target, shown), repeats)
            )
    head = " | ".join(f"{size:,}" for size in sizes)
    sys.stdout.write(f"| CPU seconds for … records | {head} | exponent |\n|---|{'---|' * (len(sizes) + 1)}\n")
    for name, values in rows.items():
        slope, error = exponent(sizes[-3:], values[-3:])
        figures = " | ".join(f"{value:.3g}" for value in values)
        sys.stdout.write(f"| {name} | {figures} | {slope:.2f} ± {error:.2f} |\n")


if __name__ == "__main__":
    main()
