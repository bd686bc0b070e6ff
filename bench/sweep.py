"""Do the runs of a plan that are not there yet, each in its own process, and keep every record that is made."""

from __future__ import annotations

import copy
import signal
import threading
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, Self

from bench.checks import seeds_differ
from bench.executor import Executor, WorkerDied
from bench.job import Job
from bench.pool import Pool
from bench.record import Record, blank
from bench.specs import RunSpec
from bench.store import Store

_POLL_SECONDS = 0.5  # how long Ctrl-C may wait to be noticed
_AGAIN = ("interrupted",)  # statuses that count as not done


class Watcher(Protocol):
    """What shows a sweep's progress to a person."""

    def started(self, run_id: str, spec: dict[str, Any]) -> None: ...

    def event(self, run_id: str, message: dict[str, Any]) -> None: ...

    def finished(self, record: Record) -> None: ...

    def stopping(self) -> None: ...


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
    """A plan at work on a store.

    Attributes:
        open_executor: makes what carries out the runs; None: this machine, as many at once as the options say.
    """

    specs: list[RunSpec]
    store: Store
    options: Options
    watcher: Watcher
    open_executor: Callable[[], Executor] | None = None
    active: dict[str, RunSpec] = field(default_factory=dict)
    did: set[str] = field(default_factory=set)  # what this sweep is through with, however it ended

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
            KeyboardInterrupt: after Ctrl-C, once the runs at work finished their step and were recorded; after a
                second one at once.
        """
        with Interrupts() as interrupts:
            while waiting := [spec for spec in self.missing() if spec.run_id not in self.did]:
                self._round(waiting, interrupts)

    def _round(self, waiting: list[RunSpec], interrupts: Interrupts) -> None:
        """Do what can be claimed, and wait for what another process holds."""
        held: list[RunSpec] = []
        # The executor ends first: a claim is given up only when nobody writes for it any more.
        with ExitStack() as claims, (self.open_executor or self._pool)() as executor:
            free = {spec.run_id: claims.enter_context(ExitStack()) for spec in waiting}
            queue = list(waiting)
            try:
                while (queue and not interrupts.count) or self.active:
                    while queue and len(self.active) < executor.slots and not interrupts.count:
                        self._start(executor, queue.pop(0), free, held)
                    if interrupts.news():
                        self.watcher.stopping()
                        executor.stop(self.active)
                    self._listen(executor, free)
            except KeyboardInterrupt:
                self._interrupted()
                raise
            except WorkerDied as death:
                for run_id in list(self.active):
                    self._finish(run_id, executor.result(run_id) or self._lost(run_id, f"{death}"), free)
        if interrupts.count:
            raise KeyboardInterrupt
        for spec in held:
            while not self.store.wait(spec.run_id, _POLL_SECONDS):
                if interrupts.count:
                    raise KeyboardInterrupt

    def _pool(self) -> Executor:
        return Pool(self.options.workers)

    def _start(self, executor: Executor, spec: RunSpec, free: dict[str, ExitStack], held: list[RunSpec]) -> None:
        run_id = spec.run_id
        if not free[run_id].enter_context(self.store.claim(run_id)):
            held.append(spec)
            return
        if not self.options.fresh and self._done(self.store.read(run_id)):
            free[run_id].close()  # another process finished it meanwhile
            return
        self.active[run_id] = spec
        self.watcher.started(run_id, spec.spec)
        executor.submit(self._job(spec))

    def _job(self, spec: RunSpec) -> Job:
        return Job(
            run_id=spec.run_id,
            spec=spec.spec,
            plugins=tuple(str(plugin.resolve()) for plugin in self.options.plugins),
            mirror=str(self.options.mirror.resolve()) if self.options.mirror else None,
            predictions=str(self.store.predictions_path(spec.run_id).resolve()),
            adapter=str(self.store.adapter_path(spec.run_id).resolve()) if self.options.save else None,
        )

    def _listen(self, executor: Executor, free: dict[str, ExitStack]) -> None:
        for message in executor.events(_POLL_SECONDS):
            run_id = message.pop("run_id", None)
            if run_id not in self.active:
                continue
            if message["event"] == "exit":
                record = executor.result(run_id) or self._lost(run_id, message["why"], executor.log_tail(run_id))
                self._finish(run_id, record, free)
            else:
                self.watcher.event(run_id, message)

    def _lost(self, run_id: str, why: str, log: str | None = None) -> Record:
        """The record of a run whose process left none; without a log it is the worker that died, and it counts as
        interrupted: the same command does it again."""
        record = blank(self.active[run_id].spec, run_id)
        record["status"] = "interrupted" if log is None else "failed"
        record["error"], record["traceback"] = why, log or None
        return record

    def _finish(self, run_id: str, record: Record, free: dict[str, ExitStack]) -> None:
        if record["status"] == "ok":
            record["checks"]["seeds differ"] = self._seeds(record)
        if record["status"] not in _AGAIN or self._replaceable(run_id):
            try:
                self.store.write(record)
            except ValueError as error:  # a plugin put something into it that no record can hold
                record = self._lost(run_id, str(error), log="")
                self.store.write(record)
        del self.active[run_id]
        self.did.add(run_id)
        free[run_id].close()
        self.watcher.finished(record)

    def _replaceable(self, run_id: str) -> bool:
        """Whether an interrupted run may be written: what is done again keeps its earlier record."""
        there = self.store.read(run_id)
        return there is None or there["status"] in _AGAIN

    def _seeds(self, record: Record) -> str:
        """Compare with the records of the same run under other seeds."""
        twins = {}
        for spec in self.specs:
            if spec.spec["seed"] != record["spec"]["seed"] and _but_seed(spec.spec) == _but_seed(record["spec"]):
                other = self.store.read(spec.run_id)
                if other is not None and other["status"] == "ok":
                    twins[spec.spec["seed"]] = other["parameters"]["trained_sha256"]
        return seeds_differ(record["parameters"]["trained_sha256"], twins)

    def _interrupted(self) -> None:
        """Record what is stopped at once."""
        for run_id in self.active:
            if self._replaceable(run_id):
                self.store.write(self._lost(run_id, "stopped by the user; the same command starts it again"))
        self.active.clear()


class Interrupts:
    """Counts Ctrl-C while it is open: the first is only noted, the second raises KeyboardInterrupt."""

    def __init__(self) -> None:
        self.count = 0
        self._told = 0
        self._before: Any = None

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():  # elsewhere Ctrl-C is not ours to handle
            self._before = signal.signal(signal.SIGINT, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)

    def news(self) -> bool:
        """Whether there was one since the last question."""
        told, self._told = self._told, self.count
        return self._told > told

    def _note(self, *_: object) -> None:
        self.count += 1
        if self.count > 1:
            raise KeyboardInterrupt


def _but_seed(spec: dict[str, Any]) -> dict[str, Any]:
    rest = copy.copy(spec)
    rest.pop("seed")
    return rest
