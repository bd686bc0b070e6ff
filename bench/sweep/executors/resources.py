"""The resources a run requests from a cluster: GPUs, cores, and memory as ``bench plan`` estimates it."""

from __future__ import annotations

import dataclasses
import functools
import json
from pathlib import Path
from typing import Any

from bench.core import options, registry
from bench.core.errors import RequestError
from bench.models import loading
from bench.training.job import Job

# Python with torch, transformers and datasets loaded takes 0.5 GiB; tokenised data and buffers come on top.
PROCESS_BYTES = 1_500_000_000


@dataclasses.dataclass(frozen=True)
class Needs:
    """Resources of one run.

    Attributes:
        cpus: cores, which are its threads too.
        memory_bytes: of the host. On the CPU the planned peak and the process; with a GPU the model's weights, which
            pass through the host, and the process. None where the planner cannot estimate it.
    """

    gpus: int
    cpus: int
    memory_bytes: int | None


def needs(job: Job, cpus: int) -> Needs:
    """Plan a run at its batch size and its longest possible rows."""
    spec = job.spec
    kept = {part: spec[part] for part in ("method", "task", "model", "train")}
    memory = _memory(json.dumps(kept, sort_keys=True), job.mirror)
    return Needs(int(spec["train"]["device"] == "cuda"), cpus, None if memory is None else memory + PROCESS_BYTES)


@functools.cache
def _memory(text: str, mirror: str | None) -> int | None:
    from bench.planner.meta_model import Shape
    from bench.planner.plan_config import Setting
    from bench.planner.planner import Planner

    spec: dict[str, Any] = json.loads(text)
    name, train = spec["method"]["name"], spec["train"]
    given = {option: value for option, value in spec["method"].items() if option != "name"}
    method = options.build(registry.method_entry(name).value, given, name)
    where = Path(mirror) if mirror else None
    source = loading.resolve(spec["model"]["name"], loading.Loading.of(spec["model"]), where)
    head, labels = spec["task"]["form"]["model_kind"], tuple(spec["task"].get("labels", ()))
    config = loading.configuration(source, head, labels)
    setting = Setting(
        batch_size=train["batch_size"],
        max_length=min(train["max_length"], getattr(config, "max_position_embeddings", train["max_length"])),
        precision="bf16-autocast" if train["precision"] != "fp32" else "fp32",
        device="cpu",
        gradient_checkpointing=train["gradient_checkpointing"],
    )
    try:
        plan = Planner(Shape(source, head, labels, config), method, setting).plan()
    except RequestError:
        return None  # a method that needs real weights: no estimate rather than a wrong one
    return plan.total * 4 if train["device"] == "cuda" else plan.needed_bytes
