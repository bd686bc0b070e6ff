"""The runs of one configuration as one record: its scores and speeds averaged over seeds, its largest memory peak."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from bench.record import Record, scored

_PARTS = ("scores", "parameters", "speed", "compute")


def averaged(runs: Sequence[Record]) -> Record:
    """A record with the mean of every number over the runs with a score, or over all when none has one.

    Memory is that of the run with the largest peak, for that must fit. A number that some runs lack is the mean over
    the others. Words are the first run's; a check that failed in any
    run has failed; ``stderr`` is the mean over the seeds.
    """
    used = [run for run in runs if scored(run)] or list(runs)
    made: Record = copy.deepcopy({name: value for name, value in used[0].items() if name != "curve"}) | {"curve": []}
    for part in _PARTS:
        if part in made:
            made[part] = _mean([run[part] for run in used if part in run])
    highest = max(used, key=lambda run: run["memory"]["train_peak_bytes"] or run["memory"]["inference_peak_bytes"] or 0)
    made["memory"] = copy.deepcopy(highest["memory"])
    made["stderr"] = _mean([run["stderr"] for run in used])
    for run in used:
        for name, result in run["checks"].items():
            if result.startswith("fail") or name not in made["checks"]:
                made["checks"][name] = result
    return made


def _mean(values: Sequence[Any]) -> Any:
    known = [value for value in values if value is not None]
    if not known:
        return None
    if all(isinstance(value, Mapping) for value in known):
        names = dict.fromkeys(name for value in known for name in value)
        return {name: _mean([value.get(name) for value in known]) for name in names}
    if all(isinstance(value, int | float) and not isinstance(value, bool) for value in known):
        mean = fmean(known)
        same_kind = all(isinstance(value, int) for value in known)
        return round(mean) if same_kind else mean
    return copy.deepcopy(known[0])
