"""The runs of one configuration as one record: mean scores and median speeds over seeds, its largest memory peak."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from statistics import fmean, median
from typing import Any

from bench.store.record import Record, scored

_PARTS = ("scores", "parameters", "speed", "compute")


def averaged(runs: Sequence[Record]) -> Record:
    """A record with the mean of every number over the runs with a score, or over all when none has one.

    Speeds are medians: one disturbed run says nothing of the others. Memory is that of the run with the largest peak,
    for that must fit. A number that some runs lack is taken over the others. Words are the first run's; a check that
    failed in any run has failed; ``stderr`` is the mean over the seeds.
    """
    used = [run for run in runs if scored(run)] or list(runs)
    made: Record = copy.deepcopy({name: value for name, value in used[0].items() if name != "curve"}) | {"curve": []}
    for part in _PARTS:
        if part in made:
            made[part] = _over([run[part] for run in used if part in run], median if part == "speed" else fmean)
    highest = max(used, key=lambda run: run["memory"]["train_peak_bytes"] or run["memory"]["inference_peak_bytes"] or 0)
    made["memory"] = copy.deepcopy(highest["memory"])
    made["stderr"] = _over([run["stderr"] for run in used], fmean)
    for run in used:
        for name, result in run["checks"].items():
            if result.startswith("fail") or name not in made["checks"]:
                made["checks"][name] = result
    return made


def _over(values: Sequence[Any], middle: Callable[[Sequence[float]], float]) -> Any:
    known = [value for value in values if value is not None]
    if not known:
        return None
    if all(isinstance(value, Mapping) for value in known):
        names = dict.fromkeys(name for value in known for name in value)
        return {name: _over([value.get(name) for value in known], middle) for name in names}
    if all(isinstance(value, int | float) and not isinstance(value, bool) for value in known):
        found = middle(known)
        return round(found) if all(isinstance(value, int) for value in known) else found
    return copy.deepcopy(known[0])
