"""One tuned configuration: its trials, the best of them, and the runs of the winner."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from typing import Any

from bench.store.record import Record
from bench.sweep.expand import RunSpec
from bench.sweep.search_space import Space


@dataclasses.dataclass
class Group:
    """One tuned configuration: a method with its other options on a task and a model.

    Attributes:
        base: the run with default values and the first seed, which trials are trained with.
        seeds: of the winner's runs.
        trials: specifications of the trials known so far, in order.
        history: the records of finished ones.
    """

    base: RunSpec
    seeds: list[int]
    spaces: dict[str, Space]
    budget: int
    prune: str
    trials: list[RunSpec] = dataclasses.field(default_factory=list)
    history: list[Record] = dataclasses.field(default_factory=list)

    @property
    def key(self) -> str:
        """16 hex digits that identify the configuration and the search."""
        rest = {name: part for name, part in self.base.spec.items() if name not in ("seed", "method", "train")}
        for part in ("method", "train"):
            tuned = self.spaces if part == "method" else {"lr"} & self.spaces.keys()  # a method's, not the trainer's
            rest[part] = {name: value for name, value in self.base.spec[part].items() if name not in tuned}
        text = json.dumps([rest, self._search()], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def _search(self) -> dict[str, Any]:
        ranges = {name: space.plain() for name, space in self.spaces.items()}
        return {"options": ranges, "trials": self.budget, "prune": self.prune, "seed": self.base.spec["seed"]}

    def run(self, values: Mapping[str, Any], seed: int, trial: int | None) -> RunSpec:
        """The run with these values: a trial, or (``trial`` None) a final run, scored on the validation split."""
        method: Any = dataclasses.replace(self.base.method, **values)  # type: ignore[type-var]
        spec = {
            **self.base.spec,
            "method": {**self.base.spec["method"], **values},
            "train": {**self.base.spec["train"], "lr": method.lr},
            "seed": seed,
            "tuning": {"group": self.key, **self._search(), "trial": trial},
        }
        return dataclasses.replace(self.base, spec=spec, method=method)

    def values(self, trial: RunSpec) -> dict[str, Any]:
        """The tuned options of a trial."""
        return {name: trial.spec["method"][name] for name in self.spaces}

    @property
    def higher_is_better(self) -> bool:
        """The direction of the dev score, which is not always the main score (it is the loss where answers are
        generated): that of the trials' records, else the task's."""
        directions = [record["dev_score"]["higher_is_better"] for record in self.history if record.get("dev_score")]
        return bool(directions[0]) if directions else self.base.task.higher_is_better

    def dev(self, record: Mapping[str, Any]) -> float | None:
        """The dev score of a trial: that of the checkpoint which would be scored."""
        scores = [point["dev_score"] for point in record["curve"] if point["dev_score"] is not None]
        if not scores:
            return None
        if self.base.spec["train"]["checkpoint"] == "last":
            return float(scores[-1])
        return float((max if self.higher_is_better else min)(scores))

    def best(self) -> int | None:
        """The number of the best trial, the earliest of equals, or None when none has a score."""
        sign = 1 if self.higher_is_better else -1
        scored = [(sign * score, -number) for number, record in enumerate(self.history)
                  if record["status"] == "ok" and (score := self.dev(record)) is not None]  # fmt: skip
        return -max(scored)[1] if scored else None
