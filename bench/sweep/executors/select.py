"""Where runs are done: on this machine, on a Ray cluster, or on Slurm."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Self

from bench.core.errors import Fault, RequestError, fault
from bench.sweep import plan_snapshot
from bench.sweep.executors.base import Executor
from bench.sweep.executors.local import Pool, cores
from bench.sweep.request import Execution, RunRequest


class WorkerPrewarm:
    """Starts the worker of this machine while the request is still being checked: both import torch meanwhile.

    Nothing is started where runs are done on a cluster, where there is one core only, or where every run of the same
    request is recorded already. A context manager: a worker that was not taken ends with it.

    Args:
        requests: one per experiment.
    """

    def __init__(self, requests: Sequence[RunRequest]) -> None:
        first = requests[0]
        self._wanted = not first.elsewhere and cores() > 1 and not plan_snapshot.answered(first.out, requests)
        self._pool: Pool | None = None

    def __enter__(self) -> Self:
        self._pool = Pool(1) if self._wanted else None
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool is not None:
            self._pool.abandon()

    def take(self, workers: int) -> Pool:
        """The prewarmed worker, or a new one."""
        pool, self._pool = self._pool or Pool(workers), None
        pool.slots = workers
        return pool


def opener(execution: Execution, prewarmed: WorkerPrewarm | None = None) -> Callable[[], Executor]:
    """What opens the executor that a request names.

    Args:
        prewarmed: the local worker that was started already.

    Raises:
        RequestError: with everything that is wrong with the executor's parameters.
    """
    kind, wrong = execution.executor, list[Fault]()
    for flag, given, owners in (
        ("address", execution.address is not None, ("ray",)),
        ("cluster", bool(execution.cluster), ("slurm",)),
        ("cpus", execution.cpus != 1, ("ray", "slurm")),
    ):
        if given and kind not in owners:
            wrong.append(fault(f"--{flag} is for --executor {' or '.join(owners)}.", "conflict"))
    parameters = {}
    for item in execution.cluster:
        name, equals, value = item.partition("=")
        if not equals or not name.isidentifier():
            wrong.append(
                fault(f"--cluster {item}: write it as NAME=VALUE, for example partition=gpu.", "invalid-value")
            )
        elif name == "time" and not value.isdigit():
            wrong.append(fault(f"--cluster {item}: time is a whole number of minutes.", "invalid-value"))
        parameters[name] = value
    if wrong:
        raise RequestError(wrong)
    workers = execution.workers

    def open_ray() -> Executor:
        from bench.sweep.executors.ray import RayExecutor

        return RayExecutor(execution.address, workers, execution.cpus)

    def open_slurm() -> Executor:
        from bench.sweep.executors.slurm import SlurmExecutor

        return SlurmExecutor(execution.out, workers, execution.cpus, parameters)

    def open_local() -> Executor:
        return Pool(workers or 1) if prewarmed is None else prewarmed.take(workers or 1)

    return {"ray": open_ray, "slurm": open_slurm, "local": open_local}[kind]
