"""Fair tuning: every method gets the same number of trials on the dev split, then the winner is run on the seeds.

A trial is a run of its own, scored only on the dev split. The values of trial n follow from the trials before it, so
that the trials' records are all that has to be kept: a sweep that was killed, or a second one on the same folder, makes
the same trials and repeats none. Optuna samples and prunes (Akiba et al., arXiv 1907.10902).
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from bench.core import options, registry
from bench.core.errors import Fault, RequestError, fault, unknown
from bench.core.protocols import AlreadyTrained
from bench.data.sampling import hold_out
from bench.store.record import Record, is_trial, pruned
from bench.sweep import tuning_sampler
from bench.sweep.expand import RunSpec
from bench.sweep.request import RunRequest
from bench.sweep.search_space import Space, TuneTarget, spaces
from bench.sweep.tuning_group import Group

Read = Callable[[RunSpec], Record | None]


@dataclasses.dataclass(frozen=True)
class Search:
    """What ``--tune`` searches.

    Attributes:
        targets: options to tune, with a range where one was given.
        trials: how many values each configuration may try; None: the size of the grid, or 6.
        prune: what stops a trial early.
    """

    targets: tuple[TuneTarget, ...]
    trials: int | None
    prune: str


class Tuner:
    """Says which trials to do next, when to stop one, and which runs the winners make."""

    def __init__(self, groups: Sequence[Group]) -> None:
        self.groups = list(groups)
        self._by_key = {group.key: group for group in self.groups}
        self._points: dict[str, list[tuple[int, float]]] = {}  # step and dev score of running trials, by run
        self._stopped: set[str] = set()

    def open(self, read: Read) -> list[RunSpec]:
        """What can run now: the next trial of each configuration, or its final runs, without finished ones."""
        return [spec for group in self.groups for spec in self._next(group, read)]

    def after(self, spec: RunSpec, read: Read) -> list[RunSpec]:
        """What can run once this trial is finished."""
        tuning = spec.spec.get("tuning")
        if tuning is None or tuning["trial"] is None:
            return []
        return self._next(self._by_key[tuning["group"]], read)

    def _next(self, group: Group, read: Read) -> list[RunSpec]:
        group.history = []
        for number in range(group.budget):
            if number == len(group.trials):
                group.trials.append(group.run(tuning_sampler.sample(group, number), group.base.spec["seed"], number))
            record = read(group.trials[number])
            if record is None:
                return [group.trials[number]]
            group.history.append(record)
        return [spec for spec in self.finals(group) if read(spec) is None]

    def finals(self, group: Group) -> list[RunSpec]:
        """The runs of a configuration's winner on every seed; empty while trials are missing."""
        if len(group.history) < group.budget:
            return []
        best = group.best()
        values = {} if best is None else group.values(group.trials[best])
        return [group.run(values, seed, None) for seed in group.seeds]

    def ahead(self, read: Read) -> list[RunSpec]:
        """Every pending trial and final run, with defaults for values that are not chosen yet."""
        found = []
        for group in self.groups:
            finals = self.finals(group) or [group.run({}, seed, None) for seed in group.seeds]
            trials = [group.run({}, group.base.spec["seed"], n) for n in range(len(group.history), group.budget)]
            found += [*trials, *(spec for spec in finals if read(spec) is None)]
        return found

    def prunes(self, spec: RunSpec, event: Mapping[str, Any]) -> bool:
        """Take in an event of a run; whether it is a trial so far behind the earlier ones that it should stop now."""
        if event.get("dev_score") is None or not is_trial(spec.spec):
            return False
        points = self._points.setdefault(spec.run_id, [])
        points.append((event["step"], event["dev_score"]))
        if event["step"] == event["steps"] or spec.run_id in self._stopped:
            return False
        group = self._by_key[spec.spec["tuning"]["group"]]
        if tuning_sampler.behind(group, spec.spec["tuning"]["trial"], group.values(spec), points):
            self._stopped.add(spec.run_id)
            return True
        return False

    def complete(self, spec: RunSpec, record: Record) -> None:
        """Write into a record what tuning adds to it: of a final run its trials, of a pruned trial that it was."""
        if (summary := self._summary(spec)) is not None:
            record["tuning"] = summary
        if spec.run_id in self._stopped and record["status"] == "interrupted":
            record |= {"tuning": {"pruned": True}, "error": "pruned: its dev score was behind earlier trials"}

    def failure_reason(self, spec: RunSpec) -> str | None:
        """Why a final run would fail: no trial has a dev score; None where one has."""
        tuning = spec.spec.get("tuning")
        if tuning is None or tuning["trial"] is not None:
            return None
        group = self._by_key[tuning["group"]]
        if group.best() is not None:
            return None
        first = group.history[0]
        return f"none of {group.budget} trials has a dev score; the first one: {first['status']}, {first['error']}"

    def _summary(self, spec: RunSpec) -> dict[str, Any] | None:
        """The trials, for a final run's record; None for other runs."""
        tuning = spec.spec.get("tuning")
        if tuning is None or tuning["trial"] is not None:
            return None
        group = self._by_key[tuning["group"]]
        best = group.best()
        trials = [
            {
                **group.values(trial),
                "dev_score": group.dev(record),
                "steps": len(record["speed"]["step_seconds"] or record["curve"]),
                "status": "pruned" if pruned(record) else record["status"],
                "run_id": trial.run_id,
            }
            for trial, record in zip(group.trials, group.history, strict=True)
        ]
        chosen = None if best is None else group.values(group.trials[best])
        return {"best_of": group.budget, "options": list(group.spaces), "chosen": chosen, "trials": trials}


def search(request: RunRequest) -> Search | None:
    """What a request tunes, or None without ``--tune``.

    Raises:
        RequestError: with everything that is wrong with it.
    """
    wrong, targets = [], []
    for text in request.tune:
        try:
            targets.append(TuneTarget.parse(text))
        except RequestError as error:
            wrong += error.messages
    if not request.tune:
        given = [flag for flag, value in (("--trials", request.trials), ("--prune", request.prune)) if value]
        wrong += [
            fault(f"{flag} says how to tune: say with --tune what, for example --tune lr.", "missing") for flag in given
        ]
    wrong += [
        fault(f"--tune {target.text}: {clash} sets it already.", "conflict")
        for target in targets
        for clash in _clashes(target, request)
    ]
    if wrong:
        raise RequestError(wrong)
    if targets:
        tuning_sampler.load()
    return Search(tuple(targets), request.trials, request.prune or "median") if targets else None


def _clashes(target: TuneTarget, request: RunRequest) -> list[str]:
    """The flags that set a tuned option."""
    found = ["--lr"] if target.option == "lr" and request.train.get("lr") is not None else []
    for text in request.option_texts:
        owner, _, option = text.partition("=")[0].strip().partition(".")
        mine = target.owner in (None, owner) and owner in request.method_names and option == target.option
        if mine or (owner == "train" and option == target.option == "lr"):
            found.append(f"--set {text}")
    swept = {getattr(registry.methods().get(name), "swept", None) for name in request.method_names}
    if request.ranks and target.option in swept:
        found.append("--ranks")
    return found


def groups(wanted: Search, specs: Sequence[RunSpec]) -> tuple[list[RunSpec], list[Group]]:
    """Split the runs of a request into those that are not tuned and the configurations that are.

    Raises:
        RequestError: when an option cannot be tuned, or there is no dev split to tune on.
    """
    wrong: list[Fault] = []
    names = {spec.method.name for spec in specs}
    for target in wanted.targets:
        if target.owner is not None and target.owner not in names:
            wrong.append(unknown("method of this run", target.owner, names).within(f"--tune {target.text}: "))
        elif not any(
            target.option in options.options(type(spec.method)) for spec in specs if target.concerns(spec.method)
        ):
            known = {name for spec in specs for name in options.options(type(spec.method))}
            wrong.append(unknown("option", target.option, known).within(f"--tune {target.text}: "))
    plain: list[RunSpec] = []
    found: dict[str, Group] = {}
    for spec in specs if not wrong else ():
        try:
            chosen = {} if isinstance(spec.method, AlreadyTrained) else spaces(spec.method, wanted.targets)
            if not chosen:
                plain.append(spec)
                continue
            group = _group(spec, chosen, wanted)
            key = json.dumps([part for name, part in spec.spec.items() if name != "seed"])
            found.setdefault(key, group).seeds.append(spec.spec["seed"])
        except RequestError as error:
            wrong += [message for message in error.messages if message not in wrong]
    if not wrong and not found:
        wrong.append(fault("--tune: nothing of this request is trained.", "unsupported"))
    if wrong:
        raise RequestError(wrong)
    return plain, list(found.values())


def _group(spec: RunSpec, chosen: dict[str, Space], wanted: Search) -> Group:
    if not hold_out(spec.spec["task"]["train_rows"], spec.spec["train"]["dev_size"])[1]:
        raise RequestError(
            f"--tune: {spec.task.name} has no dev split to tune on (train.dev_size, at least 10 rows).",
            code="unsupported",
        )
    size = 1
    for space in chosen.values():
        size = size * len(space.values) if space.values and size else 0
    if size and wanted.trials is not None and wanted.trials != size:
        raise RequestError(
            f"--trials {wanted.trials}: the grid of {spec.method.name} has {size} values, and each is tried once. "
            "Leave --trials out, or give a range (LOW:HIGH).",
            code="too-large",
        )
    return Group(spec, [], chosen, size or wanted.trials or 6, wanted.prune)
