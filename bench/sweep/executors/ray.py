"""Runs as tasks of a Ray cluster (Moritz et al., arXiv 1712.05889): Ray places them and repeats those of lost nodes.

Each task has a process of its own, asks for its GPU, cores and planned memory, and returns its record to the driver,
which alone writes the store. Only JSON text and file contents cross, in Ray's own transport.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from typing import Any, Self

from bench.core.errors import RequestError
from bench.store.record import Record
from bench.sweep.executors import payload
from bench.sweep.executors.resources import needs
from bench.training.job import Job

RETRIES = 3  # times Ray starts a run again whose node or process was lost
IN_FLIGHT = 256  # runs handed to Ray at most at once; it queues what does not fit


class _Mailbox:
    """An actor on the driver's machine: runs leave their progress here and learn whether to stop."""

    def __init__(self) -> None:
        self.messages: list[dict[str, Any]] = []
        self.stopped: set[str] = set()

    def post(self, run_id: str, message: dict[str, Any]) -> bool:
        self.messages.append({"run_id": run_id, **message})
        return run_id in self.stopped

    def take(self) -> list[dict[str, Any]]:
        taken, self.messages = self.messages, []
        return taken

    def stop(self, run_ids: list[str]) -> None:
        self.stopped |= set(run_ids)


def _perform(packed: str, run_id: str, mailbox: Any, cpus: int) -> tuple[str, payload.Files, payload.Files]:
    """What runs on a node."""
    import ray

    told = [False]

    def send(message: dict[str, Any]) -> None:
        told[0] = ray.get(mailbox.post.remote(run_id, message)) or told[0]

    context = ray.get_runtime_context()
    send({"event": "place", "node": context.get_node_id(), "name": "queued"})
    return payload.perform(packed, send, lambda: told[0], cpus)


class RayExecutor:
    """An ``Executor`` on a Ray cluster.

    Args:
        address: of the cluster (``auto``, ``HOST:PORT``, ``ray://…``); None starts Ray on this machine.
        slots: runs in flight at most; None: as many as there are.
        cpus: cores of one run.

    Raises:
        RequestError: when Ray is not installed or the cluster does not answer.
    """

    def __init__(self, address: str | None = None, slots: int | None = None, cpus: int = 1) -> None:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        try:
            import ray
        except ImportError:
            raise RequestError("--executor ray needs Ray: pip install 'tunebench[ray]'") from None
        self._ray: Any = ray
        self.slots, self._cpus = slots or IN_FLIGHT, cpus
        self._ours = not self._ray.is_initialized()
        if self._ours:
            quiet = {"logging_level": "ERROR", "log_to_driver": False}
            try:
                self._ray.init(address=address, **quiet)
            except (ConnectionError, ValueError, RuntimeError) as error:
                first = str(error).strip().splitlines()[0]
                raise RequestError(f"--address {address}: the Ray cluster does not answer ({first}).") from error
        here = self._ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(
            self._ray.get_runtime_context().get_node_id(), soft=False
        )
        actor = self._ray.remote(num_cpus=0, scheduling_strategy=here)(_Mailbox)
        self._mailbox = actor.remote()
        self._jobs: dict[Any, Job] = {}
        self._records: dict[str, Record] = {}
        self._begun: set[str] = set()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for reference in self._jobs:
            self._ray.cancel(reference, force=True)
        self._ray.kill(self._mailbox)
        if self._ours:
            self._ray.shutdown()

    def submit(self, job: Job) -> None:
        """Hand a run to Ray with what it needs."""
        wanted = needs(job, self._cpus)
        fresh = self._ray.remote(max_calls=1)(_perform)  # a process of its own for every run
        task = fresh.options(
            num_cpus=wanted.cpus,
            num_gpus=wanted.gpus,
            memory=wanted.memory_bytes,
            max_retries=RETRIES,
            name=f"tunebench {job.run_id}",
        )
        self._jobs[task.remote(payload.pack(job), job.run_id, self._mailbox, wanted.cpus)] = job

    def events(self, timeout: float) -> list[dict[str, Any]]:
        """Progress, and an ``exit`` for each run whose task is over; what it brought is written first."""
        over, _ = self._ray.wait(list(self._jobs), timeout=timeout) if self._jobs else ([], [])
        found: list[dict[str, Any]] = self._ray.get(self._mailbox.take.remote())
        for reference in over:
            job = self._jobs.pop(reference)
            why, again = "", False
            try:
                record, predictions, adapter = self._ray.get(reference)
                payload.unpack(job, predictions, adapter)
                self._records[job.run_id] = json.loads(record)
            except self._ray.exceptions.TaskCancelledError:
                why, again = "taken out of Ray's queue; the same command starts it again", True
            except self._ray.exceptions.RayError as error:
                why = f"Ray lost it, also after {RETRIES} retries: {str(error).strip().splitlines()[0]}"
            found.append({"run_id": job.run_id, "event": "exit", "code": int(bool(why)), "why": why, "again": again})
        self._begun |= {message["run_id"] for message in found}
        return found

    def result(self, run_id: str) -> Record | None:
        """The record a run returned."""
        return self._records.pop(run_id, None)

    def log_tail(self, run_id: str) -> str:
        """Ray keeps the logs of its processes itself."""
        return f"see the logs of Ray's task 'tunebench {run_id}'"

    def stop(self, run_ids: Iterable[str]) -> None:
        """Tell running tasks to stop; those that wait in Ray's queue are taken out of it."""
        wanted = set(run_ids)
        self._ray.get(self._mailbox.stop.remote(list(wanted)))
        for reference, job in self._jobs.items():
            if job.run_id in wanted - self._begun:
                self._ray.cancel(reference)
