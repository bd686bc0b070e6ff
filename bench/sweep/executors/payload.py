"""One run in a process on another machine: what Ray and Slurm send there and bring back."""

from __future__ import annotations

import dataclasses
import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench.training.events import Emitter
from bench.training.job import Job

Files = dict[str, bytes]


def pack(job: Job) -> str:
    """A job as JSON text, with its plugins' source: the other machine need not have those files."""
    plugins = [(Path(path).name, Path(path).read_text(encoding="utf-8")) for path in job.plugins]
    return json.dumps({"job": dataclasses.asdict(job), "plugins": plugins})


def perform(
    packed: str, send: Callable[[dict[str, Any]], None], stopped: Callable[[], bool], cpus: int
) -> tuple[str, Files, Files]:
    """Do a packed job in this process.

    Args:
        packed: from ``pack``.
        send: takes progress messages.
        stopped: whether the run should stop.
        cpus: cores it may use.

    Returns:
        The record as JSON text, the predictions file and the adapter's files by name (each empty without them).
    """
    os.environ |= {"TOKENIZERS_PARALLELISM": "false", "TRANSFORMERS_VERBOSITY": "error"}
    from bench.training.run import execute

    order = json.loads(packed)
    with tempfile.TemporaryDirectory(prefix="tunebench-") as made:
        folder = Path(made)
        plugins = []
        for number, (name, source) in enumerate(order["plugins"]):
            path = folder / f"plugin{number}" / Path(name).name
            path.parent.mkdir()
            path.write_text(source, encoding="utf-8")
            plugins.append(str(path))
        job = Job(**{**order["job"], "plugins": tuple(plugins)})
        job = dataclasses.replace(
            job,
            predictions=str(folder / "predictions.parquet"),
            adapter=str(folder / "adapter") if job.adapter else None,
            threads=cpus,
            workers=max(1, (os.cpu_count() or 1) // cpus) if job.spec["train"]["device"] == "cpu" else 1,
        )
        record = execute(job, Emitter(send, stopped))
        return json.dumps(record), _files(folder, "*.parquet"), _files(folder / "adapter", "*")


def _files(folder: Path, pattern: str) -> Files:
    return {path.name: path.read_bytes() for path in folder.glob(pattern) if path.is_file()}


def unpack(job: Job, predictions: Files, adapter: Files) -> None:
    """Write the files of a run to the places its job names."""
    from bench.core.files import write_atomically

    for target, files in ((Path(job.predictions).parent, predictions), (Path(job.adapter or ""), adapter)):
        for name, data in files.items():
            target.mkdir(parents=True, exist_ok=True)
            write_atomically(target / (Path(job.predictions).name if files is predictions else Path(name).name), data)
