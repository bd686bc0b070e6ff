"""Fair tuning: every method the same number of trials on the dev split, then the winner on the seeds.

A trial is a run of its own, scored on the dev split alone. Which values trial n tries follows from the trials before
it, so the trials' records are all that has to be kept: a sweep that was killed, or a second one on the same folder,
comes to the same trials and does none of them twice. Optuna samples and prunes (Akiba et al., arXiv 1907.10902).
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Sequence
from typing import Any

from bench.core import options, registry
from bench.core.errors import RequestError, unknown
from bench.core.protocols import AlreadyTrained
from bench.data.sampling import hold_out
from bench.store.record import Record, pruned
from bench.sweep import tuning_sampler
from bench.sweep.expand import Request, RunSpec
from bench.sweep.search_space import Space, TuneTarget, spaces
from bench.sweep.tuning_group import Group

PRUNERS = ("median", "halving", "none")
Read = Callable[[RunSpec], Record | None]


@dataclasses.dataclass(frozen=True)
class Search:
    """What ``--tune`` asked for.

    Attributes:
        wishes: options to tune, with a range where one was given.
        trials: how many values each configuration may try; None: the size of the grid, or 6.
        prune: what stops a trial early.
    """

    wishes: tuple[TuneTarget, ...]
    trials: int | None
    prune: str


class Tuner:
    """Tells a sweep which trials to do next, when to stop one, and which runs the winners make."""

    def __init__(self, groups: Sequence[Group]) -> None:
        self.groups = list(groups)
        self._by_key = {group.key: group for group in self.groups}

    def open(self, read: Read) -> list[RunSpec]:
        """What can be done now: the next trial of each configuration, or its final runs; done ones are left out."""
        return [spec for group in self.groups for spec in self._next(group, read)]

    def after(self, spec: RunSpec, read: Read) -> list[RunSpec]:
        """What can be done once this trial is over."""
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
        """The runs of a configuration's winner, on every seed; empty while trials are missing."""
        if len(group.history) < group.budget:
            return []
        best = group.best()
        values = {} if best is None else group.values(group.trials[best])
        return [group.run(values, seed, None) for seed in group.seeds]

    def ahead(self, read: Read) -> list[RunSpec]:
        """Every trial and final run that is still to come; defaults stand for values that are not chosen yet."""
        found = []
        for group in self.groups:
            finals = self.finals(group) or [group.run({}, seed, None) for seed in group.seeds]
            trials = [group.run({}, group.base.spec["seed"], n) for n in range(len(group.history), group.budget)]
            found += [*trials, *(spec for spec in finals if read(spec) is None)]
        return found

    def prune(self, spec: RunSpec, points: Sequence[tuple[int, float]]) -> bool:
        """Whether a trial is so much behind the earlier ones that it should stop.

        Args:
            spec: the trial.
            points: step and dev score of its evaluations so far.
        """
        group = self._by_key[spec.spec["tuning"]["group"]]
        return tuning_sampler.behind(group, spec.spec["tuning"]["trial"], group.values(spec), points)

    def failure_reason(self, spec: RunSpec) -> str | None:
        """Why a final run need not be tried: no trial got as far as a score."""
        tuning = spec.spec.get("tuning")
        if tuning is None or tuning["trial"] is not None:
            return None
        group = self._by_key[tuning["group"]]
        if group.best() is not None:
            return None
        first = group.history[0]
        return f"none of {group.budget} trials has a dev score; the first one: {first['status']}, {first['error']}"

    def summary(self, spec: RunSpec) -> dict[str, Any] | None:
        """What a final run's record says of the trials; None for others."""
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


def search(tune: Sequence[str], trials: Any, prune: Any, request: Request) -> Search | None:
    """What the flags ask for, or None without ``--tune``.

    Raises:
        RequestError: with everything that is wrong with them.
    """
    wrong, wishes, number = [], [], None
    for text in tune:
        try:
            wishes.append(TuneTarget.parse(text))
        except RequestError as error:
            wrong += error.messages
    if not tune:
        given = [flag for flag, value in (("--trials", trials), ("--prune", prune)) if value is not None]
        wrong += [f"{flag} says how to tune: say with --tune what, for example --tune lr." for flag in given]
    if trials is not None:
        number = int(trials) if str(trials).isdigit() else 0
        wrong += [] if number > 0 else [f"--trials: '{trials}' is not a whole number of at least 1."]
    if prune is not None and prune not in PRUNERS:
        wrong.append(f"--prune: {unknown('pruner', str(prune), PRUNERS)}")
    wrong += [f"--tune {wish.text}: {clash} sets it already." for wish in wishes for clash in _clashes(wish, request)]
    if wrong:
        raise RequestError(wrong)
    if wishes:
        tuning_sampler.load()
    return Search(tuple(wishes), number, prune or "median") if wishes else None


def _clashes(wish: TuneTarget, request: Request) -> list[str]:
    """The flags that give a tuned option a value."""
    found = ["--lr"] if wish.option == "lr" and request.train.get("lr") is not None else []
    for text in request.sets:
        owner, _, option = text.partition("=")[0].strip().partition(".")
        mine = wish.owner in (None, owner) and owner in request.methods and option == wish.option
        if mine or (owner == "train" and option == wish.option == "lr"):
            found.append(f"--set {text}")
    swept = {getattr(registry.methods().get(name), "swept", None) for name in request.methods}
    if request.ranks and wish.option in swept:
        found.append("--ranks")
    return found


def groups(wanted: Search, specs: Sequence[RunSpec]) -> tuple[list[RunSpec], list[Group]]:
    """Split the runs of a request into those that are not tuned and the configurations that are.

    Raises:
        RequestError: when an option cannot be tuned, or there is no dev split to tune on.
    """
    wrong: list[str] = []
    names = {spec.method.name for spec in specs}
    for wish in wanted.wishes:
        if wish.owner is not None and wish.owner not in names:
            wrong.append(f"--tune {wish.text}: {unknown('method of this run', wish.owner, names)}")
        elif not any(wish.option in options.options(type(spec.method)) for spec in specs if wish.concerns(spec.method)):
            known = {name for spec in specs for name in options.options(type(spec.method))}
            wrong.append(f"--tune {wish.text}: {unknown('option', wish.option, known)}")
    plain: list[RunSpec] = []
    found: dict[str, Group] = {}
    for spec in specs if not wrong else ():
        try:
            chosen = {} if isinstance(spec.method, AlreadyTrained) else spaces(spec.method, wanted.wishes)
            if not chosen:
                plain.append(spec)
                continue
            group = _group(spec, chosen, wanted)
            key = json.dumps([part for name, part in spec.spec.items() if name != "seed"])
            found.setdefault(key, group).seeds.append(spec.spec["seed"])
        except RequestError as error:
            wrong += [message for message in error.messages if message not in wrong]
    if not wrong and not found:
        wrong.append("--tune: nothing of this request is trained.")
    if wrong:
        raise RequestError(wrong)
    return plain, list(found.values())


def _group(spec: RunSpec, chosen: dict[str, Space], wanted: Search) -> Group:
    if not hold_out(spec.spec["task"]["train_rows"], spec.spec["train"]["dev_size"])[1]:
        raise RequestError(f"--tune: {spec.task.name} has no dev split to tune on (train.dev_size, at least 10 rows).")
    size = 1
    for space in chosen.values():
        size = size * len(space.values) if space.values and size else 0
    if size and wanted.trials is not None and wanted.trials != size:
        raise RequestError(
            f"--trials {wanted.trials}: the grid of {spec.method.name} has {size} values, and each is tried once. "
            "Leave --trials out, or give a range (LOW:HIGH)."
        )
    return Group(spec, [], chosen, size or wanted.trials or 6, wanted.prune)
