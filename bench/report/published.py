"""Published results for a model and a task, with their source and how their setting differs from the runs'.

They are in ``results/published`` (installed as ``bench/published``): a CSV file of values and a JSON file of
the same name that says where they come from and what they were measured under.
"""

from __future__ import annotations

import csv
import dataclasses
import functools
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import bench
from bench.store.labels import format_value
from bench.store.record import Record


@dataclasses.dataclass(frozen=True)
class Figure:
    """One method's published results; None where the source gives none.

    Attributes:
        score: in the unit of a record's scores (shares of one, correlations).
        train_peak_bytes: training memory in bytes.
        trainable: parameters, as exact as the source gives them.
        average: whether the score is one over several tasks, so that it does not belong into a task's chart.
        differs: how the setting differs from the runs', in sentences.
    """

    method: str
    source: str
    score: float | None = None
    trainable: float | None = None
    train_peak_bytes: float | None = None
    average: bool = False
    differs: tuple[str, ...] = ()


def matching(records: Sequence[Record]) -> list[Figure]:
    """The published results for the model and the task of these records (all of one of each)."""
    if not records:
        return []
    spec = records[0]["spec"]
    model = str(spec["model"]["name"]).rstrip("/").split("/")[-1].lower()
    task, metric = spec["task"]["name"], next((run["main_score"] for run in records if run["main_score"]), None)
    found: list[Figure] = []
    for about, rows in _files():
        if model in about["models"]:
            differs = tuple(_differences(about, records))
            read = _by_task if "metrics" in about else _averages
            for figure, note in read(about, rows, (model, task, metric)):
                found.append(dataclasses.replace(figure, differs=(*differs, note) if note else differs))
    return found


@functools.cache
def _files() -> tuple[tuple[dict[str, Any], tuple[dict[str, str], ...]], ...]:
    """Every pair of files; none where the folder is not there, as in a partial checkout."""
    package = Path(bench.__file__).parent
    folders = (package / "published", package.parent / "results" / "published")
    folder = next((folder for folder in folders if folder.is_dir()), None)
    pairs = []
    for path in sorted(folder.glob("*.json")) if folder else ():
        about = json.loads(path.read_text(encoding="utf-8"))
        table = path.with_suffix(".csv")
        if isinstance(about, dict) and "models" in about and "source" in about and table.is_file():
            with table.open(encoding="utf-8", newline="") as file:
                pairs.append((about, tuple(csv.DictReader(file))))
    return tuple(pairs)


def _by_task(
    about: Mapping[str, Any], rows: Sequence[Mapping[str, str]], of: tuple[str, str, str | None]
) -> Iterator[tuple[Figure, str | None]]:
    """From a table with a column per task: this task's results and a note, if it is the same metric."""
    model, task, metric = of
    if about["metrics"].get(task) != metric or metric is None:
        return
    for row in rows:
        name, _, method = row["model_method"].partition(" ")
        score = _number(row.get(task.split("/")[-1]), over=100)
        if name == model and score is not None:
            method = about["methods"].get(method, method)
            figure = Figure(method, about["source"], score, _number(row.get("params_m"), 1e6))
            yield figure, about.get("task_notes", {}).get(task)


def _averages(
    about: Mapping[str, Any], rows: Sequence[Mapping[str, str]], of: tuple[str, str, str | None]
) -> Iterator[tuple[Figure, str | None]]:
    """From a table with a row per method: memory, parameters and an average over tasks, and a note."""
    if not of[1].startswith(about.get("tasks", "")):
        return
    for row in rows:
        memory = _number(row.get("train_memory_gb"), 1000 * 2**20)
        score, trainable = _number(row.get("glue_average"), over=100), _number(row.get("trainable_params"))
        figure = Figure(row["method"], about["source"], score, trainable, memory, average=True)
        yield figure, about.get("method_notes", {}).get(row["method"])


def _number(cell: str | None, times: float = 1.0, over: float = 1.0) -> float | None:
    return float(cell) * times / over if cell else None


def _differences(about: Mapping[str, Any], records: Sequence[Record]) -> Iterator[str]:
    """What the source says of its setting, and where the runs' own settings are others."""
    for name, value in about.get("setting", {}).items():
        here = {format_value(run["spec"]["train"].get(name)) for run in records}
        if here != {format_value(value)}:
            yield f"{name.replace('_', ' ')} {format_value(value)} there, {' or '.join(sorted(here))} here"
    yield from about.get("differs", ())
