"""Do the runs of a plan that are not there yet, each in its own process, and keep every record that is made."""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.core.errors import RequestError
from bench.store.record import Record, blank, is_trial, pruned
from bench.store.store import Store
from bench.sweep.executors.base import Executor, RunsTogether, WorkerDied
from bench.sweep.expand import RunSpec
from bench.sweep.grouping import bundled
from bench.sweep.interrupts import Interrupts
from bench.sweep.progress import Watcher
from bench.sweep.tuning import Tuner
from bench.training.checks import seeds_differ
from bench.training.job import Job

_POLL_SECONDS = 0.5  # how long Ctrl-C may wait to be noticed
_AGAIN = ("interrupted",)  # statuses that count as not done


@dataclass(frozen=True)
class Options:
    """How a sweep is carried out; none of it changes a result.

    Attributes:
        workers: parallel runs, to estimate the remaining time.
        save: keep the tuned weights.
        fresh: do finished runs again.
        retry_failed: do failed and out-of-memory runs again.
        share: train runs that share a frozen trunk together, where the executor can.
        cache_limit: bytes that kept features of frozen backbones may take.
    """

    workers: int = 1
    save: bool = False
    fresh: bool = False
    retry_failed: bool = False
    share: bool = True
    plugins: tuple[Path, ...] = ()
    mirror: Path | None = None
    cache_limit: int = Job.cache_limit


@dataclass
class Sweep:
    """A plan at work on a store.

    Attributes:
        open_executor: makes what carries out the runs.
        tuner: the configurations that are tuned; their trials go to the folder ``tuning`` below the store's.
    """

    specs: list[RunSpec]
    store: Store
    options: Options
    watcher: Watcher
    open_executor: Callable[[], Executor]
    tuner: Tuner = field(default_factory=lambda: Tuner(()))
    active: dict[str, RunSpec] = field(default_factory=dict)
    did: set[str] = field(default_factory=set)  # what this sweep is through with, however it ended
    _claims: dict[str, ExitStack] = field(default_factory=dict)
    _points: dict[str, list[tuple[int, float]]] = field(default_factory=dict)  # dev scores of trials at work
    _pruned: set[str] = field(default_factory=set)
    _bundle: dict[str, str] = field(default_factory=dict)  # active runs → the first one in their process
    _alone: set[str] = field(default_factory=set)  # what ran out of memory with concurrent runs

    @property
    def trials(self) -> Store:
        """Where the trials' records are."""
        return Store(self.store.folder / "tuning")

    def missing(self) -> list[RunSpec]:
        """The runs of the plan that are not there and can be done now, in the plan's order."""
        records = {record["run_id"]: record for record in self.store.records()[0]}
        plain = [spec for spec in self.specs if self.options.fresh or not self._done(records.get(spec.run_id))]
        return [spec for spec in (*plain, *self.tuner.open(self._read)) if spec.run_id not in self.did]

    def _read(self, spec: RunSpec) -> Record | None:
        """The record of a run that counts as done, else None."""
        try:
            record = self._of(spec).read(spec.run_id)
        except RequestError:
            return None  # it was damaged, and is set aside now
        if spec.run_id in self.did:
            return record if record is not None and (record["status"] not in _AGAIN or pruned(record)) else None
        return record if not self.options.fresh and self._done(record) else None

    def _of(self, spec: RunSpec) -> Store:
        return self.trials if is_trial(spec.spec) else self.store

    def ahead(self, missing: list[RunSpec]) -> list[RunSpec]:
        """Everything still to do, trials and the runs after them with default values standing for later ones."""
        tuned = [spec for spec in missing if "tuning" in spec.spec]
        return [spec for spec in missing if spec not in tuned] + self.tuner.ahead(self._read)

    def wanted(self) -> list[RunSpec]:
        """The runs whose records answer the request, those of winners as far as they are known."""
        return [*self.specs, *(spec for group in self.tuner.groups for spec in self.tuner.finals(group))]

    def _done(self, record: Record | None) -> bool:
        if record is None or (record["status"] in _AGAIN and not pruned(record)):
            return False
        if record["status"] in ("failed", "oom") and self.options.retry_failed:
            return False
        missing = self.options.save and record["status"] == "ok" and record["adapter"] is None
        return is_trial(record["spec"]) or not missing

    def run(self) -> None:
        """Do every missing run; another process's runs are left to it and waited for.

        Raises:
            KeyboardInterrupt: after Ctrl-C, once the runs at work finished their step and were recorded; after a
                second one at once.
        """
        with Interrupts() as interrupts:
            while waiting := self.missing():
                self._round(waiting, interrupts)

    def _round(self, waiting: list[RunSpec], interrupts: Interrupts) -> None:
        """Do what can be claimed, and wait for what another process holds."""
        held: list[RunSpec] = []
        # The executor ends first: a claim is given up only when nobody writes for it any more.
        with ExitStack() as claims, self.open_executor() as executor:
            queue = self._bundled(waiting, executor)
            try:
                while (queue and not interrupts.count) or self.active:
                    while queue and len(set(self._bundle.values())) < executor.slots and not interrupts.count:
                        self._start(executor, queue.pop(0), claims, held)
                    if interrupts.news():
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
        """The runs in the plan's order, those that one process does together."""
        if not self.options.share or not isinstance(executor, RunsTogether):
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
        """Whether a run is this sweep's to do now."""
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
        keep = self.options.save and not is_trial(spec.spec)
        return Job(
            run_id=spec.run_id,
            spec=spec.spec,
            plugins=tuple(str(plugin.resolve()) for plugin in self.options.plugins),
            mirror=str(self.options.mirror.resolve()) if self.options.mirror else None,
            predictions=str(self.store.predictions_path(spec.run_id).resolve()),
            adapter=str(self.store.adapter_path(spec.run_id).resolve()) if keep else None,
            cache_limit=self.options.cache_limit,
        )

    def _listen(self, executor: Executor) -> list[RunSpec]:
        """Take in what happened; returns the runs that can be done because of it."""
        new: list[RunSpec] = []
        for message in executor.events(_POLL_SECONDS):
            run_id = message.pop("run_id", None)
            if run_id not in self.active:
                continue
            spec = self.active[run_id]
            if message["event"] == "exit":
                log = None if message.get("again") else executor.log_tail(run_id)
                record = executor.result(run_id) or self._lost(run_id, message["why"], log)
                if record["status"] == "oom" and record["shared"]:
                    self._put_back(run_id)
                    continue
                self._finish(run_id, record)
                new += [after for after in self.tuner.after(spec, self._read) if after.run_id not in self.did]
            else:
                self.watcher.event(run_id, message)
                self._judge(executor, spec, message)
        return new

    def _judge(self, executor: Executor, spec: RunSpec, message: dict[str, Any]) -> None:
        """Stop a trial that is far behind the others."""
        if message.get("dev_score") is None or not is_trial(spec.spec):
            return
        points = self._points.setdefault(spec.run_id, [])
        points.append((message["step"], message["dev_score"]))
        last = message["step"] == message["steps"]
        if not last and spec.run_id not in self._pruned and self.tuner.prune(spec, points):
            self._pruned.add(spec.run_id)
            executor.stop([spec.run_id])

    def _lost(self, run_id: str, why: str, log: str | None = None) -> Record:
        """The record of a run whose process left none; without a log it is the worker that died, and it counts as
        interrupted: the same command does it again."""
        record = blank(self.active[run_id].spec, run_id)
        record["status"] = "interrupted" if log is None else "failed"
        record["error"], record["traceback"] = why, log or None
        return record

    def _finish(self, run_id: str, record: Record) -> None:
        spec = self.active[run_id]
        if record["status"] == "ok" and not is_trial(spec.spec):
            record["checks"]["seeds differ"] = self._seeds(record)
        if (summary := self.tuner.summary(spec)) is not None:
            record["tuning"] = summary
        if run_id in self._pruned and record["status"] in _AGAIN:
            record |= {"tuning": {"pruned": True}, "error": "pruned: its dev score was behind earlier trials"}
        if record["status"] not in _AGAIN or self._replaceable(spec):
            try:
                self._of(spec).write(record)
            except ValueError as error:  # a plugin put something into it that no record can hold
                record = self._lost(run_id, str(error), log="")
                self._of(spec).write(record)
        del self.active[run_id]
        self._bundle.pop(run_id, None)
        self.did.add(run_id)
        self._claims.pop(run_id).close()
        self.watcher.finished(record)

    def _put_back(self, run_id: str) -> None:
        """Have a run done again by itself: what it lacked, the others may have taken."""
        self._alone.add(run_id)
        del self.active[run_id], self._bundle[run_id]
        self._claims.pop(run_id).close()

    def _replaceable(self, spec: RunSpec) -> bool:
        """Whether an interrupted run may be written: what is done again keeps its earlier record."""
        there = self._of(spec).read(spec.run_id)
        return there is None or there["status"] in _AGAIN

    def _seeds(self, record: Record) -> str:
        """Compare with the records of the same run under other seeds."""
        twins = {}
        for spec in self.wanted():
            if spec.spec["seed"] != record["spec"]["seed"] and _but_seed(spec.spec) == _but_seed(record["spec"]):
                other = self.store.read(spec.run_id)
                if other is not None and other["status"] == "ok":
                    twins[spec.spec["seed"]] = other["parameters"]["trained_sha256"]
        return seeds_differ(record["parameters"]["trained_sha256"], twins)

    def _interrupted(self) -> None:
        """Record what is stopped at once."""
        for run_id, spec in self.active.items():
            if self._replaceable(spec):
                self._of(spec).write(self._lost(run_id, "stopped by the user; the same command starts it again"))
        self.active.clear()
        self._bundle.clear()


def _but_seed(spec: dict[str, Any]) -> dict[str, Any]:
    rest = copy.copy(spec)
    rest.pop("seed")
    return rest
