"""Groups runs that can share one frozen backbone: they differ only in method options, seed and learning rate."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Sequence

from bench.core.protocols import SharesBackbone
from bench.sweep.expand import RunSpec

MOST = 8  # runs of a bundle: each has its own side network, gradients and optimizer in memory


def bundled(waiting: Sequence[RunSpec], slots: int) -> list[list[RunSpec]]:
    """The runs in the plan's order, those that share a backbone at the place of the first of them.

    Args:
        slots: bundles in parallel; runs that share a backbone are spread evenly over them.
    """
    groups: dict[str, list[RunSpec]] = defaultdict(list)
    for spec in waiting:
        groups[_key(spec) or spec.run_id].append(spec)
    found = []
    for group in groups.values():
        bundles = max(math.ceil(len(group) / MOST), min(slots, len(group) // 2), 1)
        size = math.ceil(len(group) / bundles)
        found += [group[start : start + size] for start in range(0, len(group), size)]
    return found


def _key(spec: RunSpec) -> str | None:
    """Equal for runs that share model, task and batch order; None for a run that must be alone.

    Trials may be pruned one by one, cached features (``cache_trunk``) save the backbone's pass already, and compiled
    code does not run in several threads.
    """
    plain = spec.spec
    if not (isinstance(spec.method, SharesBackbone) and spec.method.shares_trunk) or "tuning" in plain:
        return None
    if plain["train"].get("cache_trunk") or plain["train"].get("compile"):
        return None
    train = {name: value for name, value in plain["train"].items() if name != "lr"}
    train["data_seed"] = plain["seed"] if train.get("data_seed") is None else train["data_seed"]
    rest = {name: value for name, value in plain.items() if name not in ("method", "train", "seed")}
    return json.dumps([plain["method"]["name"], train, rest], sort_keys=True)
