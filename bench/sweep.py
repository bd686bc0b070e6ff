"""Do the runs of a plan that are not there yet, each in its own process, and keep every record that is made."""

from __future__ import annotations

import copy
import os
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from bench.checks import seeds_differ
from bench.job import Job
from bench.pool import Pool, WorkerDied
from bench.record import Record, blank
from bench.specs import RunSpec
from bench.store import Store

_AGAIN = ("interrupted",)  # statuses that count as not done


class Watcher(Protocol):
    """What shows a sweep's progress to a person."""

    def started(self, run_id: str, spec: dict[str, Any]) -> None: ...

    def event(self, run_id: str, message: dict[str, Any]) -> None: ...

    def finished(self, record: Record) -> None: ...


@dataclass(frozen=True)
class Options:
    """How a sweep is carried out; none of it changes a result.

    Attributes:
        workers: runs at once.
        save: keep the tuned weights.
        fresh: do finished runs again.
        retry_failed: do failed and out-of-memory runs again.
    """

    workers: int = 1
    save: bool = False
    fresh: bool = False
    retry_failed: bool = False
    plugins: tuple[Path, ...] = ()
    mirror: Path | None = None


@dataclass
class Sweep:
    """A plan at work on a store."""

    specs: list[RunSpec]
    store: Store
    options: Options
    watcher: Watcher
    active: dict[str, int | None] = field(default_factory=dict)  # run id → its GPU, where several run at once

    def missing(self) -> list[RunSpec]:
        """The runs of the plan that are not there, in the plan's order."""
        records = {record["run_id"]: record for record in self.store.records()[0]}
        return [spec for spec in self.specs if self.options.fresh or not self._done(records.get(spec.run_id))]

    def _done(self, record: Record | None) -> bool:
        if record is None or record["status"] in _AGAIN:
            return False
        if record["status"] in ("failed", "oom") and self.options.retry_failed:
            return False
        return not (self.options.save and record["status"] == "ok" and record["adapter"] is None)

    def run(self) -> None:
        """Do every missing run; another process's runs are left to it and waited for.

        Raises:
            KeyboardInterrupt: after the runs at work were ended and recorded as interrupted.
        """
        waiting = self.missing()
        while waiting:
            waiting = self._round(waiting)

    def _round(self, waiting: list[RunSpec]) -> list[RunSpec]:
        """Do what can be claimed; returns what another process holds, once it is free again."""
        held: list[RunSpec] = []
        # The pool ends first: a claim is given up only when nobody writes for it any more.
        with ExitStack() as claims, Pool() as pool:
            free = {spec.run_id: claims.enter_context(ExitStack()) for spec in waiting}
            queue = list(waiting)
            try:
                while queue or self.active:
                    while queue and len(self.active) < self.options.workers:
                        self._start(pool, queue.pop(0), free, held)
                    self._listen(pool, free)
            except KeyboardInterrupt:
                self._interrupted()
                raise
            except WorkerDied as death:
                for run_id in list(self.active):
                    self._finish(pool, run_id, pool.result(run_id) or self._lost(run_id, f"{death}"), free)
                return queue + held
        for spec in held:
            while not self.store.wait(spec.run_id, 3600):
                continue
        return [spec for spec in held if not self._done(self.store.read(spec.run_id))]

    def _start(self, pool: Pool, spec: RunSpec, free: dict[str, ExitStack], held: list[RunSpec]) -> None:
        run_id = spec.run_id
        if not free[run_id].enter_context(self.store.claim(run_id)):
            held.append(spec)
            return
        if not self.options.fresh and self._done(self.store.read(run_id)):
            free[run_id].close()  # another process finished it meanwhile
            return
        self.active[run_id] = self._gpu(spec)
        self.watcher.started(run_id, spec.spec)
        pool.submit(self._job(spec), self.active[run_id])

    def _job(self, spec: RunSpec) -> Job:
        workers = self.options.workers
        return Job(
            run_id=spec.run_id,
            spec=spec.spec,
            plugins=tuple(str(plugin.resolve()) for plugin in self.options.plugins),
            mirror=str(self.options.mirror.resolve()) if self.options.mirror else None,
            predictions=str(self.store.predictions_path(spec.run_id).resolve()),
            adapter=str(self.store.adapter_path(spec.run_id).resolve()) if self.options.save else None,
            workers=workers,
            threads=max(1, (os.cpu_count() or 1) // workers) if workers > 1 else None,
        )

    def _gpu(self, spec: RunSpec) -> int | None:
        """The GPU of the next run when several run at once; None leaves the choice to torch."""
        if spec.spec["train"]["device"] != "cuda" or self.options.workers == 1:
            return None
        import torch

        taken = Counter(self.active.values())
        return min(range(torch.cuda.device_count()), key=lambda gpu: taken[gpu])

    def _listen(self, pool: Pool, free: dict[str, ExitStack]) -> None:
        for message in pool.events(0.5):
            run_id = message.pop("run_id", None)
            if run_id not in self.active:
                continue
            if message["event"] == "exit":
                record = pool.result(run_id) or self._lost(run_id, _death(message["code"]), pool.log_tail(run_id))
                self._finish(pool, run_id, record, free)
            else:
                self.watcher.event(run_id, message)

    def _lost(self, run_id: str, why: str, log: str | None = None) -> Record:
        """The record of a run whose process left none; without a log it is the worker that died, and it counts as
        interrupted: the same command does it again."""
        record = blank(self._spec(run_id), run_id)
        record["status"] = "interrupted" if log is None else "failed"
        record["error"], record["traceback"] = why, log or None
        return record

    def _finish(self, pool: Pool, run_id: str, record: Record, free: dict[str, ExitStack]) -> None:
        if record["status"] == "ok":
            record["checks"]["seeds differ"] = self._seeds(record)
        try:
            self.store.write(record)
        except ValueError as error:  # a plugin put something into it that no record can hold
            record = self._lost(run_id, str(error), log="")
            self.store.write(record)
        del self.active[run_id]
        free[run_id].close()
        self.watcher.finished(record)

    def _seeds(self, record: Record) -> str:
        """Compare with the records of the same run under other seeds."""
        twins = {}
        for spec in self.specs:
            if spec.spec["seed"] != record["spec"]["seed"] and _but_seed(spec.spec) == _but_seed(record["spec"]):
                other = self.store.read(spec.run_id)
                if other is not None and other["status"] == "ok":
                    twins[spec.spec["seed"]] = other["parameters"]["trained_sha256"]
        return seeds_differ(record["parameters"]["trained_sha256"], twins)

    def _spec(self, run_id: str) -> dict[str, Any]:
        return next(spec.spec for spec in self.specs if spec.run_id == run_id)

    def _interrupted(self) -> None:
        for run_id in self.active:
            there = self.store.read(run_id)
            if there is None or there["status"] in _AGAIN:  # what is done again keeps its earlier record
                self.store.write(self._lost(run_id, "stopped by the user; the same command starts it again"))
        self.active.clear()


def _but_seed(spec: dict[str, Any]) -> dict[str, Any]:
    rest = copy.copy(spec)
    rest.pop("seed")
    return rest


def _death(code: int) -> str:
    if code == -9:
        return "its process was killed (signal 9): by someone, or by the kernel because memory ran out"
    return f"its process died from signal {-code}" if code < 0 else f"its process ended with exit code {code}"
