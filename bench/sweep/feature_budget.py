"""Before anything runs: can the features of the frozen backbones be kept, and is there room for them?"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from bench.core import formatting
from bench.core.environment import cache_folder
from bench.core.errors import Fault, RequestError, fault
from bench.core.protocols import AlreadyTrained
from bench.core.quiet import quiet
from bench.models import loading
from bench.models.frozen_backbone import Stored
from bench.sweep.expand import RunSpec
from bench.sweep.request import Execution
from bench.training.prepare import cached_rows, plan_run, read_data
from bench.training.shared.feature_cache import only_reader, refuse, room

_VALUE_BYTES = 4  # fp32, as autocast's residual streams are too; a run knows better


@dataclass
class Survey:
    """What runs with ``cache_trunk`` would keep; no weights are read for it.

    Texts are tokenised for it, as they are before a run, which then finds them in the token cache.
    """

    execution: Execution
    _stores: dict[str, list[Stored]] = field(default_factory=dict)
    _lengths: dict[str, list[int]] = field(default_factory=dict)

    def check(self, specs: Sequence[RunSpec]) -> list[str]:
        """A sentence for each different amount.

        Raises:
            RequestError: with every method whose features cannot be kept, else with every amount that is too large.
        """
        asked = [spec for spec in specs if spec.spec["train"].get("cache_trunk")]
        self._check_methods(asked)
        said: dict[str, None] = {}
        wrong: dict[Fault, None] = {}
        for spec in asked:
            if not (stores := self._stores[_shape(spec)]):
                continue
            lengths = self._lengths_of(spec)
            per_token, once = (sum(one.width for one in stores if one.tokens is kind) for kind in (True, False))
            size = _VALUE_BYTES * (per_token * sum(lengths) + once * len(lengths))
            what = f"{len(lengths):,} examples of {spec.task.name} ({spec.source.name}, {spec.method.name})"
            try:
                refuse(size, self.execution.cache_bytes, what)
                room(cache_folder(), size)
            except RequestError as error:
                wrong.update(dict.fromkeys(error.messages))
            said[f"--cache-trunk: the features of {what} take {formatting.size(size)} on the disk"] = None
        if wrong:
            raise RequestError(list(wrong))
        return list(said)

    def _check_methods(self, asked: Sequence[RunSpec]) -> None:
        wrong: dict[str, None] = {}
        able: dict[str, None] = {}
        for spec in asked:
            try:
                stores = self._stores.setdefault(_shape(spec), _stored(spec))
                able |= dict.fromkeys([spec.method.name] if stores else [])
            except ValueError as error:
                wrong[str(error)] = None
        if wrong:
            hint = f" Say it for those that can: --set {next(iter(able))}.train.cache_trunk=true." if able else ""
            raise RequestError([fault(f"--cache-trunk: {why}.{hint}", "unsupported") for why in wrong])

    def _lengths_of(self, spec: RunSpec) -> list[int]:
        """Tokens of every row that a run keeps."""
        key = json.dumps([spec.spec["task"], spec.spec["model"], spec.spec["train"] | {"lr": None}, spec.spec["seed"]])
        if key not in self._lengths:
            with quiet():
                plan = plan_run(self.execution.job(spec.run_id, spec.spec), lambda _: None)
                kept = cached_rows(plan, read_data(plan, torch.device("cpu")))
            self._lengths[key] = [length for data, rows in kept for length in data.lengths[rows].tolist()]
        return self._lengths[key]


def _shape(spec: RunSpec) -> str:
    """What a method's readers depend on."""
    form = spec.spec["task"]["form"]["model_kind"]
    return json.dumps([spec.spec["method"], spec.spec["model"], form, len(spec.task.labels)])


def _stored(spec: RunSpec) -> list[Stored]:
    """What a run keeps of an example; nothing where only the run itself can say."""
    if isinstance(spec.method, AlreadyTrained):
        raise ValueError(f"{spec.method.name}: nothing is trained, so there is one pass alone")
    backbone = loading.sketch(spec.source, spec.spec["task"]["form"]["model_kind"], spec.task.labels)
    try:
        with torch.random.fork_rng():
            module = spec.method.attach(backbone)
    except Exception:
        return []  # said where methods are checked; or a plugin needs real weights to attach, and its run will say
    return list(only_reader(module, spec.method.name)[1].stores.values())
