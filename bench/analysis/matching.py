"""Which runs of two folders are the same run: by what they are, not by the code, machine or day that made them.

A configuration is a method with its options, a task with its own, a model and how it is quantised, and the trainer's
settings; its runs differ in the seed.
Code versions, fingerprints and the device are left out: those are what a comparison is about, and are listed with it.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from bench.analysis.configurations import Configuration, newest
from bench.store.labels import format_value, groups, labels, model_title
from bench.store.record import Record

_LEFT_OUT = {"device"}  # settings of the trainer that say where, not what

Settings = dict[str, str]
_Owner = tuple[str, str]  # method or task, and its name


@dataclasses.dataclass(frozen=True)
class Match:
    """The matched configurations of two sides.

    Attributes:
        pairs: configurations that both sides have.
        only_first, only_second: those that one side lacks.
        notes: options that only one side knows and that were not looked at, and runs that are there twice.
    """

    pairs: list[tuple[Configuration, Configuration]]
    only_first: list[Configuration]
    only_second: list[Configuration]
    notes: list[str]


def match(first: Sequence[Record], second: Sequence[Record]) -> Match:
    """Match the runs of two sides.

    An option that one side's version of a method or task does not know yet is not looked at, unless it tells two
    runs of the other side apart; it is named in the notes.

    Args:
        first, second: records, or whatever has a ``run_id`` and a ``spec``.
    """
    ignored = _one_sided(first, second)
    names = _names([*first, *second])
    twice: list[str] = []
    sides = [_gather(records, ignored, (names, twice)) for records in (first, second)]
    notes = [
        f"{name}: only one side knows {', '.join(sorted(dropped))}; not looked at when matching."
        for (_, name), dropped in sorted(ignored.items())
        if dropped
    ]
    one, other = sides
    return Match(
        pairs=[(mine, other[key]) for key, mine in one.items() if key in other],
        only_first=[mine for key, mine in one.items() if key not in other],
        only_second=[theirs for key, theirs in other.items() if key not in one],
        notes=[*notes, *dict.fromkeys(twice)],
    )


def model_name(spec: Mapping[str, Any]) -> str:
    """A model's name that holds on another machine (a folder's own, without where it lies), and its quantisation."""
    source = str(spec["model"]["source"])
    name = source.removeprefix("folder:") if source.startswith("folder:") else str(spec["model"]["name"])
    return model_title({**spec["model"], "name": name})


def settings(spec: Mapping[str, Any]) -> Settings:
    """What a configuration is, flat: ``method.rank`` → ``8``; seed, code and fingerprints left out."""
    parts = {"method": spec["method"], "train": spec["train"], "task": spec["task"].get("options") or {}}
    flat = {
        f"{part}.{name}": json.dumps(value, sort_keys=True)
        for part, members in parts.items()
        for name, value in members.items()
        if not (part == "train" and name in _LEFT_OUT)
    }
    return flat | {"task": str(spec["task"]["name"]), "model": model_name(spec)}


def differences(first: Sequence[Record], second: Sequence[Record]) -> list[str]:
    """What the two sides rest on that is not the same: stack, device, data, model weights; one sentence each."""
    said = []
    for name in ("device", "device_name", "threads", "cores", "system", "python", "torch", "transformers", "tokenizers",
                 "datasets", "numpy", "tunebench", "git_commit"):  # fmt: skip
        values = [_values(record["environment"].get(name) for record in side) for side in (first, second)]
        if values[0] != values[1] and all(values):
            said.append(f"{name.replace('_', ' ')}: {' or '.join(values[0])} → {' or '.join(values[1])}")
    for part, what in (("task", "data"), ("model", "weights")):
        found = [_fingerprints(side, part) for side in (first, second)]
        said += [
            f"{what} of {name}: {' or '.join(before)} → {' or '.join(found[1][name])}"
            for name, before in found[0].items()
            if name in found[1] and found[1][name] != before
        ]
    return said


def _values(values: Iterable[Any]) -> list[str]:
    return sorted({format_value(value) for value in values if value is not None})


def _fingerprints(records: Sequence[Record], part: str) -> dict[str, list[str]]:
    found: dict[str, set[str]] = {}
    for record in records:
        name = model_name(record["spec"]) if part == "model" else str(record["spec"]["task"]["name"])
        found.setdefault(name, set()).add(str(record["spec"][part].get("fingerprint"))[:12])
    return {name: sorted(values) for name, values in sorted(found.items())}


def _one_sided(first: Sequence[Record], second: Sequence[Record]) -> dict[_Owner, frozenset[str]]:
    """For each method and task of both sides the settings that only one side knows."""
    sides = [[record["spec"] for record in side] for side in (first, second)]
    owners = [{owner for spec in side for owner in _owners(spec)} for side in sides]
    return {owner: _dropped(owner, sides) for owner in owners[0] & owners[1]}


def _owners(spec: Mapping[str, Any]) -> tuple[_Owner, _Owner]:
    """Whose settings a run has: its method's (the trainer's among them) and its task's."""
    return ("method", spec["method"]["name"]), ("task", spec["task"]["name"])


def _dropped(owner: _Owner, sides: Sequence[Sequence[Mapping[str, Any]]]) -> frozenset[str]:
    """The settings that only one side knows, when leaving them out tells no fewer runs apart."""
    flat = [[settings(spec) for spec in side if owner in _owners(spec)] for side in sides]
    known = [
        {name for one in side for name in one if name.startswith("task.") == (owner[0] == "task")} for side in flat
    ]
    dropped = frozenset(known[0] ^ known[1])
    for side in flat:
        if len({_key(one, dropped) for one in side}) < len({_key(one, frozenset()) for one in side}):
            return frozenset()
    return dropped


def _key(flat: Settings, dropped: frozenset[str]) -> str:
    return json.dumps({name: value for name, value in flat.items() if name not in dropped}, sort_keys=True)


def _names(records: Sequence[Record]) -> dict[str, tuple[str, str]]:
    """Label and task by run id, of the records without what is left out of the comparison."""
    bare = []
    for record in records:
        spec = record["spec"]
        train = {name: value for name, value in spec["train"].items() if name not in _LEFT_OUT}
        model = {"name": model_name(spec)}
        task = {**spec["task"], "options": spec["task"].get("options") or {}}
        bare.append({"run_id": record["run_id"], "spec": {**spec, "train": train, "model": model, "task": task}})
    tasks = {record["run_id"]: task for (task, _), members in groups(bare).items() for record in members}
    return {run_id: (label, tasks[run_id]) for run_id, label in labels(bare).items()}


def _gather(
    records: Sequence[Record],
    ignored: Mapping[_Owner, frozenset[str]],
    named: tuple[Mapping[str, tuple[str, str]], list[str]],
) -> dict[str, Configuration]:
    """Configurations by key, in the order of task, model and label: the runs on the data, weights and code of the
    newest one, and of two records of one seed the later.

    Args:
        named: labels and tasks by run id, and the notes, to which those on left out runs are added.
    """
    names, notes = named
    found: dict[str, list[Record]] = {}
    for record in records:
        dropped = [ignored.get(owner, frozenset()) for owner in _owners(record["spec"])]
        found.setdefault(_key(settings(record["spec"]), frozenset().union(*dropped)), []).append(record)
    made = {}
    for key, every in found.items():
        kept = newest(every)
        runs = {record["spec"]["seed"]: record for record in kept}
        label, task = names[kept[-1]["run_id"]]
        ordered = tuple(run for _, run in sorted(runs.items()))
        configuration = Configuration(label, task, model_name(kept[-1]["spec"]), ordered)
        where = f"{label} ({configuration.where})"
        if older := len(every) - len(kept):
            count = "1 older run" if older == 1 else f"{older} older runs"
            notes.append(f"{where}: {count} of other data, weights or code left out.")
        for seed in runs:  # on another device, for example
            if sum(record["spec"]["seed"] == seed for record in kept) > 1:
                notes.append(f"{where}, seed {seed}, is there more than once; the latest counts.")
        made[key] = configuration
    return dict(sorted(made.items(), key=lambda item: (item[1].task, item[1].model, item[1].label)))
