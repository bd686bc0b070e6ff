"""Runs as jobs of a Slurm cluster, through submitit: nodes share the store's disk.

A run's order, progress, stop mark and record are small files below ``cluster/`` in the output folder. submitit
pickles the call it submits for its own job; nothing it pickles is read here.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Self

from bench.core.errors import RequestError
from bench.core.files import write_atomically
from bench.store.record import Record
from bench.sweep.executors import payload
from bench.sweep.executors.resources import needs
from bench.training.job import Job

IN_FLIGHT = 256
HOURS = 24  # a job's limit unless --cluster time=… says otherwise
_LATE_SECONDS = 15.0  # how long a network disk may take to show a file that is there
_END_SECONDS = 5.0  # how long jobs that are over may take to leave
_POLL_SECONDS = 0.2


def perform(base: str, cpus: int) -> None:
    """What runs on a node: read the order ``base.order``, leave ``base.record`` and what belongs to it."""
    path = Path(base)
    asked = [0.0, 0.0]  # when the stop mark was looked for last, and whether it was there

    def stopped() -> bool:
        if time.monotonic() - asked[0] > _POLL_SECONDS:
            asked[:] = [time.monotonic(), float(path.with_suffix(".stop").exists())]
        return bool(asked[1])

    with path.with_suffix(".events").open("a", encoding="utf-8") as events:

        def send(message: dict[str, Any]) -> None:
            events.write(json.dumps(message) + "\n")
            events.flush()

        packed = path.with_suffix(".order").read_text(encoding="utf-8")
        record, predictions, adapter = payload.perform(packed, send, stopped, cpus)
    order = json.loads(packed)["job"]
    payload.unpack(Job(**{**order, "plugins": tuple(order["plugins"])}), predictions, adapter)
    write_atomically(path.with_suffix(".record"), record.encode())


@dataclasses.dataclass
class _Running:
    job: Job
    handle: Any
    read: int = 0  # bytes of its events seen so far
    over: float | None = None  # when submitit first said that it is over


class SlurmExecutor:
    """An ``Executor`` on Slurm.

    Args:
        folder: the store's, which every node sees at the same path.
        slots: jobs submitted at most at once; None: as many as there are.
        cpus: cores of one run.
        parameters: further ones of Slurm, such as partition, account, time (minutes).
        cluster: which of submitit's clusters; ``local`` runs jobs on this machine.

    Raises:
        RequestError: when submitit or Slurm is not there, or a parameter is not known.
    """

    def __init__(
        self, folder: Path, slots: int | None = None, cpus: int = 1, parameters: Mapping[str, str] | None = None,
        cluster: str = "slurm",
    ) -> None:  # fmt: skip
        try:
            import submitit
        except ImportError:
            raise RequestError("--executor slurm needs submitit: pip install 'tunebench[slurm]'") from None
        self.slots, self._cpus = slots or IN_FLIGHT, cpus
        self._folder = (folder / "cluster").resolve()
        self._given = {"time": str(60 * HOURS), **(parameters or {})}
        self._running: dict[str, _Running] = {}
        self._ending: list[Any] = []  # jobs that left their record and only have to leave
        try:
            self._executor = submitit.AutoExecutor(folder=self._folder / "logs", cluster=cluster)
            self._parameters({})
        except (RuntimeError, ValueError, NameError, TypeError) as error:
            raise RequestError(f"--executor slurm: {str(error).strip().splitlines()[0]}") from error

    def _parameters(self, more: dict[str, Any]) -> None:
        minutes = int(self._given["time"])
        rest = {f"slurm_{name}": value for name, value in self._given.items() if name != "time"}
        self._executor.update_parameters(timeout_min=minutes, cpus_per_task=self._cpus, **rest, **more)

    def __enter__(self) -> Self:
        self._folder.mkdir(parents=True, exist_ok=True)
        return self

    def __exit__(self, *_: object) -> None:
        for running in self._running.values():
            running.handle.cancel()
            self._ending.append(running.handle)
        deadline = time.monotonic() + _END_SECONDS
        while not all(handle.done() for handle in self._ending) and time.monotonic() < deadline:
            time.sleep(_POLL_SECONDS)

    def submit(self, job: Job) -> None:
        """Write a run's order and submit its job with what it needs."""
        base = self._folder / job.run_id
        self._clean(job.run_id)
        write_atomically(base.with_suffix(".order"), payload.pack(job).encode())
        wanted = needs(job, self._cpus)
        more: dict[str, Any] = {"name": f"tunebench-{job.run_id}", "gpus_per_node": wanted.gpus}
        if wanted.memory_bytes is not None:
            more["mem_gb"] = max(1, -(-wanted.memory_bytes // 1_000_000_000))
        self._parameters(more)
        self._running[job.run_id] = _Running(job, self._executor.submit(perform, str(base), wanted.cpus))

    def events(self, timeout: float) -> list[dict[str, Any]]:
        """New lines of the runs' progress files, and an ``exit`` for each that is over."""
        deadline = time.monotonic() + timeout
        while True:
            found = [message for run_id in list(self._running) for message in self._look(run_id)]
            if found or time.monotonic() >= deadline:
                return found
            time.sleep(_POLL_SECONDS)

    def _look(self, run_id: str) -> list[dict[str, Any]]:
        running, base = self._running[run_id], self._folder / run_id
        left = base.with_suffix(".record").exists()
        found = self._progress(running, base.with_suffix(".events"))
        if not left and running.over is None and running.handle.done():
            running.over = time.monotonic()
        late = running.over is not None and time.monotonic() - running.over > _LATE_SECONDS
        if left or late:
            why = "" if left else f"its Slurm job {running.handle.job_id} ended as {running.handle.state}"
            found.append({"run_id": run_id, "event": "exit", "code": int(not left), "why": why})
            self._ending.append(self._running.pop(run_id).handle)
        return found

    def _progress(self, running: _Running, path: Path) -> list[dict[str, Any]]:
        with contextlib.suppress(FileNotFoundError), path.open("rb") as file:
            file.seek(running.read)
            whole, newline, _ = file.read().rpartition(b"\n")
            running.read += len(whole) + len(newline)
            return [{"run_id": running.job.run_id, **json.loads(line)} for line in whole.splitlines()]
        return []

    def result(self, run_id: str) -> Record | None:
        """The record a run left; its small files are removed."""
        path = (self._folder / run_id).with_suffix(".record")
        record: Record | None = json.loads(path.read_bytes()) if path.is_file() else None
        self._clean(run_id)
        return record

    def log_tail(self, run_id: str) -> str:
        """Where submitit keeps what a job printed."""
        return f"see {self._folder / 'logs'}"

    def stop(self, run_ids: Iterable[str]) -> None:
        """Leave a mark that runs look for after every step."""
        for run_id in run_ids:
            (self._folder / run_id).with_suffix(".stop").touch()

    def _clean(self, run_id: str) -> None:
        for suffix in (".order", ".events", ".stop", ".record"):
            (self._folder / run_id).with_suffix(suffix).unlink(missing_ok=True)
