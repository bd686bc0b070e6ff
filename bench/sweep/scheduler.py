"""Do the missing runs of a plan, each in its own process, and store their records."""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

from bench.core.errors import RequestError
from bench.store.record import Record, blank, is_trial, pruned
from bench.store.store import Store
from bench.sweep.executors.base import Executor, RunsTogether, WorkerDied
from bench.sweep.expand import RunSpec
from bench.sweep.grouping import bundled
from bench.sweep.interrupts import Interrupts
from bench.sweep.progress import Watcher
from bench.sweep.request import Execution
from bench.sweep.tuning import Tuner
from bench.training.checks import seeds_differ
from bench.training.job import Job

_POLL_SECONDS = 0.5  # how long Ctrl-C may wait to be noticed
_NOT_DONE = ("interrupted",)  # statuses


@dataclass
class Sweep:
    """Does the runs of a plan whose records are missing in a store.

    Attributes:
        open_executor: opens what carries out the runs.
        tuner: the configurations that are tuned; their trials go to the folder ``tuning`` below the store's.
    """

    specs: list[RunSpec]
    store: Store
    execution: Execution
    watcher: Watcher
    open_executor: Callable[[], Executor]
    tuner: Tuner = field(default_factory=lambda: Tuner(()))
    active: dict[str, RunSpec] = field(default_factory=dict)
    did: set[str] = field(default_factory=set)  # finished by this sweep, with whatever status
    _claims: dict[str, ExitStack] = field(default_factory=dict)
    _bundle: dict[str, str] = field(default_factory=dict)  # active run → the first run of its process
    _alone: set[str] = field(default_factory=set)  # ran out of memory with concurrent runs

    @property
    def trials(self) -> Store:
        """Where the trials' records are."""
        return Store(self.store.folder / "tuning")

    def missing(self) -> list[RunSpec]:
        """The runs of the plan that have no record and can run now, in the plan's order."""
        plain = [spec for spec in self.specs if self._read(spec) is None]
        return [spec for spec in (*plain, *self.tuner.open(self._read)) if spec.run_id not in self.did]

    def _read(self, spec: RunSpec) -> Record | None:
        """The record of a run that counts as done, else None."""
        try:
            record = self._of(spec).read(spec.run_id)
        except RequestError:
            return None  # damaged: the store has set it aside
        if spec.run_id in self.did:
            return record if record is not None and (record["status"] not in _NOT_DONE or pruned(record)) else None
        return record if not self.execution.fresh and self._done(record) else None

    def _of(self, spec: RunSpec) -> Store:
        return self.trials if is_trial(spec.spec) else self.store

    def ahead(self, missing: list[RunSpec]) -> list[RunSpec]:
        """Every pending run, trials included, with default values for what tuning has not chosen yet."""
        tuned = [spec for spec in missing if "tuning" in spec.spec]
        return [spec for spec in missing if spec not in tuned] + self.tuner.ahead(self._read)

    def wanted(self) -> list[RunSpec]:
        """The runs of the request, those of winners as far as they are known."""
        return [*self.specs, *(spec for group in self.tuner.groups for spec in self.tuner.finals(group))]

    def _done(self, record: Record | None) -> bool:
        if record is None or (record["status"] in _NOT_DONE and not pruned(record)):
            return False
        if record["status"] in ("failed", "oom") and self.execution.retry_failed:
            return False
        missing = self.execution.save and record["status"] == "ok" and record["adapter"] is None
        return is_trial(record["spec"]) or not missing

    def run(self) -> None:
        """Do every missing run, and wait for those that another process does.

        Raises:
            KeyboardInterrupt: after Ctrl-C, once active runs have finished their step and are recorded; after a second
                one at once.
        """
        with Interrupts() as interrupts:
            while waiting := self.missing():
                self._round(waiting, interrupts)

    def _round(self, waiting: list[RunSpec], interrupts: Interrupts) -> None:
        """Do the runs that can be claimed, and wait for those of another process."""
        held: list[RunSpec] = []
        # The executor ends first: a claim is released only when no process writes its record any more.
        with ExitStack() as claims, self.open_executor() as executor:
            queue = self._bundled(waiting, executor)
            try:
                while (queue and not interrupts.count) or self.active:
                    while queue and len(set(self._bundle.values())) < executor.slots and not interrupts.count:
                        self._start(executor, queue.pop(0), claims, held)
                    if interrupts.pressed():
                        self.watcher.stopping()
                        executor.stop(self.active)
                    queue += [[spec] for spec in self._listen(executor)]
            except KeyboardInterrupt:
                self._interrupted()
                raise
            except WorkerDied as death:
                for run_id in list(self.active):
                    self._finish(run_id, executor.result(run_id) or self._lost(run_id, f"{death}"))
        if interrupts.count:
            raise KeyboardInterrupt
        for spec in held:
            while not self._of(spec).wait(spec.run_id, _POLL_SECONDS):
                if interrupts.count:
                    raise KeyboardInterrupt

    def _bundled(self, waiting: list[RunSpec], executor: Executor) -> list[list[RunSpec]]:
        """The runs in the plan's order, grouped where one process does several."""
        if self.execution.no_share or not isinstance(executor, RunsTogether):
            return [[spec] for spec in waiting]
        alone = [[spec] for spec in waiting if spec.run_id in self._alone]
        return bundled([spec for spec in waiting if spec.run_id not in self._alone], executor.slots) + alone

    def _start(self, executor: Executor, bundle: list[RunSpec], claims: ExitStack, held: list[RunSpec]) -> None:
        jobs = [self._job(spec) for spec in bundle if self._claimed(spec, claims, held)]
        self._bundle |= {job.run_id: jobs[0].run_id for job in jobs}
        if len(jobs) > 1 and isinstance(executor, RunsTogether):
            executor.submit_together(jobs)
        else:
            for job in jobs:
                executor.submit(job)

    def _claimed(self, spec: RunSpec, claims: ExitStack, held: list[RunSpec]) -> bool:
        """Claim a run; whether this sweep does it now."""
        run_id, claim = spec.run_id, claims.enter_context(ExitStack())
        if not claim.enter_context(self._of(spec).claim(run_id)):
            held.append(spec)
            return False
        if self._read(spec) is not None:
            claim.close()  # another process finished it meanwhile
            return False
        self.active[run_id], self._claims[run_id] = spec, claim
        self.watcher.started(run_id, spec.spec)
        if (why := self.tuner.failure_reason(spec)) is not None:
            self._finish(run_id, self._lost(run_id, why, log=""))
            return False
        return True

    def _job(self, spec: RunSpec) -> Job:
        predictions, adapter = (path(spec.run_id) for path in (self.store.predictions_path, self.store.adapter_path))
        keep = self.execution.save and not is_trial(spec.spec)
        return self.execution.job(
            spec.run_id, spec.spec, str(predictions.resolve()), str(adapter.resolve()) if keep else None
        )

    def _listen(self, executor: Executor) -> list[RunSpec]:
        """Handle the executor's events; returns the runs that can start because of them."""
        new: list[RunSpec] = []
        for message in executor.events(_POLL_SECONDS):
            run_id = message.pop("run_id", None)
            if run_id not in self.active:
                continue
            spec = self.active[run_id]
            if message["event"] == "exit":
                log = None if message.get("again") else executor.log_tail(run_id)
                record = executor.result(run_id) or self._lost(
                    run_id, message["why"], log, message.get("killed", False)
                )
                if record["status"] == "oom" and record["shared"]:
                    self._put_back(run_id)
                    continue
                self._finish(run_id, record)
                new += [after for after in self.tuner.after(spec, self._read) if after.run_id not in self.did]
            else:
                self.watcher.event(run_id, message)
                if self.tuner.prunes(spec, message):
                    executor.stop([run_id])
        return new

    def _lost(self, run_id: str, why: str, log: str | None = None, killed: bool = False) -> Record:
        """The record of a run whose process left none. Without a log the worker died; such a run, and one whose process
        was killed from outside, counts as interrupted: the same command repeats it."""
        record = blank(self.active[run_id].spec, run_id)
        record["status"] = "interrupted" if log is None or killed else "failed"
        record["error"], record["traceback"] = why, log or None
        return record

    def _finish(self, run_id: str, record: Record) -> None:
        spec = self.active[run_id]
        if record["status"] == "ok" and not is_trial(spec.spec):
            record["checks"]["seeds differ"] = self._seeds(record)
        self.tuner.complete(spec, record)
        if record["status"] not in _NOT_DONE or self._replaceable(spec):
            try:
                self._of(spec).write(record)
            except ValueError as error:  # it holds a plugin's value that is not JSON
                record = self._lost(run_id, str(error), log="")
                self._of(spec).write(record)
        del self.active[run_id]
        self._bundle.pop(run_id, None)
        self.did.add(run_id)
        self._claims.pop(run_id).close()
        self.watcher.finished(record)

    def _put_back(self, run_id: str) -> None:
        """Repeat a run alone: concurrent runs may have taken the memory it lacked."""
        self._alone.add(run_id)
        del self.active[run_id], self._bundle[run_id]
        self._claims.pop(run_id).close()

    def _replaceable(self, spec: RunSpec) -> bool:
        """Whether the record of an interrupted run may be written: it must not replace a finished one."""
        there = self._of(spec).read(spec.run_id)
        return there is None or there["status"] in _NOT_DONE

    def _seeds(self, record: Record) -> str:
        """The check that other seeds of the run gave other weights."""
        twins = {}
        for spec in self.wanted():
            if spec.spec["seed"] != record["spec"]["seed"] and _but_seed(spec.spec) == _but_seed(record["spec"]):
                other = self.store.read(spec.run_id)
                if other is not None and other["status"] == "ok":
                    twins[spec.spec["seed"]] = other["parameters"]["trained_sha256"]
        return seeds_differ(record["parameters"]["trained_sha256"], twins)

    def _interrupted(self) -> None:
        """Record active runs as interrupted."""
        for run_id, spec in self.active.items():
            if self._replaceable(spec):
                self._of(spec).write(self._lost(run_id, "stopped by the user; the same command starts it again"))
        self.active.clear()
        self._bundle.clear()


def _but_seed(spec: dict[str, Any]) -> dict[str, Any]:
    rest = copy.copy(spec)
    rest.pop("seed")
    return rest
