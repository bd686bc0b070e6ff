"""Where runs are done, from the flags: on this machine, on a Ray cluster, or on Slurm."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from bench.core.errors import RequestError, fault, unknown
from bench.sweep import plan_snapshot
from bench.sweep.executors.base import Executor
from bench.sweep.executors.local import Pool, cores

EXECUTORS = ("local", "ray", "slurm")


class WorkerPrewarm:
    """The worker of this machine, started while the request is still being checked: both import torch meanwhile.

    Nothing is started where runs are done elsewhere, where a core would have to be shared with the check, or where
    the same request was answered in this folder before. A context manager: what was not taken ends with it.

    Args:
        asked: the flags, once per experiment.
        folder: the store's.
    """

    def __init__(self, asked: Sequence[Mapping[str, Any]], folder: Path) -> None:
        here = str(asked[0].get("executor", "local")) == "local"
        self._wanted = here and cores() > 1 and not plan_snapshot.answered(folder, asked)
        self._pool: Pool | None = None

    def __enter__(self) -> Self:
        self._pool = Pool(1) if self._wanted else None
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool is not None:
            self._pool.abandon()

    def take(self, workers: int) -> Pool:
        """The worker that waits, or a new one."""
        pool, self._pool = self._pool or Pool(workers), None
        pool.slots = workers
        return pool


def opener(
    values: Mapping[str, Any], workers: int | None, folder: Path, ahead: WorkerPrewarm | None = None
) -> Callable[[], Executor]:
    """What opens the executor that the flags name.

    Args:
        values: flags by name: ``executor``, ``address``, ``cpus``, ``cluster``.
        workers: parallel runs; None: not given.
        folder: the store's.
        ahead: the local worker that was started already.

    Raises:
        RequestError: with everything that is wrong with them.
    """
    kind, wrong = str(values.get("executor", "local")), []
    if kind not in EXECUTORS:
        wrong.append(unknown("executor", kind, EXECUTORS).within("--executor: "))
    for flag, owners in (("address", ("ray",)), ("cluster", ("slurm",)), ("cpus", ("ray", "slurm"))):
        if flag in values and kind in EXECUTORS and kind not in owners:
            wrong.append(fault(f"--{flag} is for --executor {' or '.join(owners)}.", "conflict"))
    text = str(values.get("cpus", 1))
    cpus = int(text) if text.isdigit() else 0
    if cpus < 1:
        wrong.append(fault(f"--cpus: '{text}' is not a whole number of at least 1.", "invalid-value"))
    parameters = {}
    for item in values.get("cluster", ()):
        name, equals, value = str(item).partition("=")
        if not equals or not name.isidentifier():
            wrong.append(
                fault(f"--cluster {item}: write it as NAME=VALUE, for example partition=gpu.", "invalid-value")
            )
        elif name == "time" and not value.isdigit():
            wrong.append(fault(f"--cluster {item}: time is a whole number of minutes.", "invalid-value"))
        parameters[name] = value
    if wrong:
        raise RequestError(wrong, code="invalid-value")
    if kind == "ray":
        return lambda: _ray(values.get("address"), workers, cpus)
    if kind == "slurm":
        return lambda: _slurm(folder, workers, cpus, parameters)
    return lambda: ahead.take(workers or 1) if ahead is not None else Pool(workers or 1)


def _ray(address: Any, workers: int | None, cpus: int) -> Executor:
    from bench.sweep.executors.ray import RayExecutor

    return RayExecutor(None if address is None else str(address), workers, cpus)


def _slurm(folder: Path, workers: int | None, cpus: int, parameters: Mapping[str, str]) -> Executor:
    from bench.sweep.executors.slurm import SlurmExecutor

    return SlurmExecutor(folder, workers, cpus, parameters)
