"""The encoded rows of one run: training, dev and validation rows."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bench.core import task_options
from bench.core.errors import RequestError
from bench.core.protocols import DataSource, GroupedPrediction, Task
from bench.core.train_config import TrainSettings
from bench.data.encoding import Rows
from bench.data.sampling import groups_of, hold_out, subsample
from bench.tasks.formulations.base import Formulation
from bench.training.job import Job


@dataclasses.dataclass(frozen=True)
class Data:
    """Encoded rows; ``dev`` is held out of train, ``others`` has further validation splits by name."""

    train: Rows
    dev: Rows | None
    validation: Rows
    others: dict[str, Rows]


def source_of(job: Job) -> DataSource:
    """The source of a job's data."""
    return DataSource(Path(job.mirror) if job.mirror else None)


def load(job: Job, task: Task, form: Formulation, settings: TrainSettings) -> Data:
    """Load the task's splits and encode the rows that the run uses. A trial's validation rows are its dev rows.

    Raises:
        RequestError: when the data is not that of the job's specification, or no row can be encoded.
    """
    spec = job.spec
    trial = is_trial(job)
    splits = task.load(source_of(job))
    if splits.fingerprint != spec["task"]["fingerprint"]:
        raise RequestError("The data changed while the run was waiting; start it again.", code="conflict")
    groups = groups_of(splits.train, splits.group)
    train_rows, dev_rows = hold_out(len(splits.train), settings.dev_size, groups=groups)
    train_rows = subsample(train_rows, settings.train_size)
    key = f"{splits.fingerprint}|{spec['model']['fingerprint']}|{spec['code']['task']}|{task.name}"
    key += "".join(f"|{name}={value!r}" for name, value in task_options.plain(task).items())

    def encoded(dataset: Any, rows: Sequence[int], name: str) -> Rows:
        found = form.encode(_selected(dataset, rows), f"{key}|{name}|{len(dataset)}")
        if len(found) == 0:
            raise RequestError(
                f"Task '{task.name}': its {name} rows have no text of two tokens or more.", code="invalid-data"
            )
        return found

    def scored(dataset: Any, name: str) -> Rows:
        together = groups_of(dataset, task.group) if isinstance(task, GroupedPrediction) else None
        chosen = subsample(range(len(dataset)), settings.eval_size, groups=together)
        return encoded(dataset, chosen, name)

    dev = encoded(splits.train, dev_rows, "dev") if dev_rows else None
    return Data(
        encoded(splits.train, train_rows, f"train{settings.dev_size}"),
        dev,
        dev if dev is not None and trial else scored(splits.validation, "validation"),
        {} if trial else {name: scored(rows, f"validation_{name}") for name, rows in splits.others.items()},
    )


def is_trial(job: Job) -> bool:
    """Whether a job is a trial: it is scored on dev rows, and does not see the validation rows."""
    return (job.spec.get("tuning") or {}).get("trial") is not None


def _selected(dataset: Any, rows: Sequence[int]) -> Any:
    """Rows of a ``datasets.Dataset`` with our own fingerprint: the library's takes 0.3 s for 60,000 rows."""
    numbers = np.asarray(rows, dtype=np.int64).tobytes()
    name = hashlib.sha256(dataset._fingerprint.encode() + numbers).hexdigest()[:32]
    return dataset.select(rows, new_fingerprint=name)
