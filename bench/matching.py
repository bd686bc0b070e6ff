"""Which runs of two folders are the same run: by what they are, not by the code, machine or day that made them.

A configuration is a method with its options, a task, a model and the trainer's settings; its runs differ in the seed.
Code versions, fingerprints and the device are left out: those are what a comparison is about, and are said beside it.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from bench.record import Record, labels, shown

_LEFT_OUT = {"device"}  # settings of the trainer that say where, not what

Settings = dict[str, str]


@dataclasses.dataclass(frozen=True)
class Setup:
    """One configuration and its runs.

    Attributes:
        label: what to call it beside the others: ``lora rank=8``.
        task, model: names; a local folder is called by its last part, which does not change with the machine.
        runs: record by seed.
    """

    label: str
    task: str
    model: str
    runs: Mapping[int, Record]

    @property
    def where(self) -> str:
        """``TASK on MODEL``."""
        return f"{self.task} on {self.model}"


@dataclasses.dataclass(frozen=True)
class Match:
    """Two sides put beside each other.

    Attributes:
        pairs: configurations that both sides have.
        only_first, only_second: those that one side lacks.
        notes: options that only one side knows and that were not looked at, and runs that are there twice.
    """

    pairs: list[tuple[Setup, Setup]]
    only_first: list[Setup]
    only_second: list[Setup]
    notes: list[str]


def match(first: Sequence[Record], second: Sequence[Record]) -> Match:
    """Put the runs of two sides beside each other.

    An option that one side's version of a method does not know yet is not looked at, unless it tells two runs of
    the other side apart; it is named in the notes.

    Args:
        first, second: records, or whatever has a ``run_id`` and a ``spec``.
    """
    ignored = {name: _one_sided(name, first, second) for name in _methods(first) & _methods(second)}
    names = _labels([*first, *second])
    twice: list[str] = []
    sides = [_gather(records, ignored, (names, twice)) for records in (first, second)]
    notes = [
        f"{method}: only one side knows {', '.join(sorted(dropped))}; not looked at when matching."
        for method, dropped in sorted(ignored.items())
        if dropped
    ]
    one, other = sides
    return Match(
        pairs=[(setup, other[key]) for key, setup in one.items() if key in other],
        only_first=[setup for key, setup in one.items() if key not in other],
        only_second=[setup for key, setup in other.items() if key not in one],
        notes=[*notes, *dict.fromkeys(twice)],
    )


def model_name(spec: Mapping[str, Any]) -> str:
    """A model's name that holds on another machine: a folder's own, without where it lies."""
    source = str(spec["model"]["source"])
    return source.removeprefix("folder:") if source.startswith("folder:") else str(spec["model"]["name"])


def settings(spec: Mapping[str, Any]) -> Settings:
    """What a configuration is, flat: ``method.rank`` → ``8``; seed, code and fingerprints left out."""
    parts = {"method": spec["method"], "train": spec["train"]}
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
    return sorted({shown(value) for value in values if value is not None})


def _fingerprints(records: Sequence[Record], part: str) -> dict[str, list[str]]:
    found: dict[str, set[str]] = {}
    for record in records:
        name = model_name(record["spec"]) if part == "model" else str(record["spec"]["task"]["name"])
        found.setdefault(name, set()).add(str(record["spec"][part].get("fingerprint"))[:12])
    return {name: sorted(values) for name, values in sorted(found.items())}


def _methods(records: Sequence[Record]) -> set[str]:
    return {record["spec"]["method"]["name"] for record in records}


def _one_sided(method: str, first: Sequence[Record], second: Sequence[Record]) -> frozenset[str]:
    """The settings of a method that only one side knows, when leaving them out tells no fewer runs apart."""
    sides = [[settings(r["spec"]) for r in side if r["spec"]["method"]["name"] == method] for side in (first, second)]
    known = [{name for flat in side for name in flat} for side in sides]
    dropped = frozenset(known[0] ^ known[1])
    for side in sides:
        if len({_key(flat, dropped) for flat in side}) < len({_key(flat, frozenset()) for flat in side}):
            return frozenset()
    return dropped


def _key(flat: Settings, dropped: frozenset[str]) -> str:
    return json.dumps({name: value for name, value in flat.items() if name not in dropped}, sort_keys=True)


def _labels(records: Sequence[Record]) -> dict[str, str]:
    """Labels by run id, of the records without what is left out of the comparison."""
    bare = []
    for record in records:
        spec = record["spec"]
        train = {name: value for name, value in spec["train"].items() if name not in _LEFT_OUT}
        model = {**spec["model"], "name": model_name(spec)}
        bare.append({"run_id": record["run_id"], "spec": {**spec, "train": train, "model": model}})
    return labels(bare)


def _gather(
    records: Sequence[Record], ignored: Mapping[str, frozenset[str]], told: tuple[Mapping[str, str], list[str]]
) -> dict[str, Setup]:
    """Setups by key, in the order of task, model and label; of two records of one seed the later one counts.

    Args:
        told: labels by run id, and the notes, to which those on runs that are there twice are added.
    """
    names, notes = told
    found: dict[str, dict[int, Record]] = {}
    for record in sorted(records, key=lambda record: str(record.get("created_at") or "")):
        flat = settings(record["spec"])
        key = _key(flat, ignored.get(record["spec"]["method"]["name"], frozenset()))
        runs, seed = found.setdefault(key, {}), record["spec"]["seed"]
        if seed in runs:  # made by another version of the code, or on another device
            where = f"{names[record['run_id']]} ({record['spec']['task']['name']} on {model_name(record['spec'])})"
            notes.append(f"{where}, seed {seed}, is there more than once; the latest counts.")
        runs[seed] = record
    made = {}
    for key, runs in found.items():
        one = next(iter(runs.values()))
        spec = one["spec"]
        made[key] = Setup(names[one["run_id"]], spec["task"]["name"], model_name(spec), dict(sorted(runs.items())))
    return dict(sorted(made.items(), key=lambda item: (item[1].task, item[1].model, item[1].label)))
