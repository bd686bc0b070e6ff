"""The first stage of a run: its data, and the pretrained model with the method attached."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from bench.core import environment, options, registry, task_options
from bench.core.errors import RequestError
from bench.core.protocols import AlreadyTrained, Batch, CountsParameters, DataInitialized, Method, Task
from bench.core.train_config import TrainSettings
from bench.data.encoding import Rows
from bench.models import loading as models
from bench.models.backbone import Backbone, count, recompute_activations, trainable
from bench.models.checkpoint import original_tensors
from bench.models.inference import Engine, padding_of
from bench.tasks.formulations import select
from bench.tasks.formulations.base import Formulation, FormulationContext
from bench.training import checks, flops, run_data
from bench.training.forgetting import Forgetting
from bench.training.job import Job
from bench.training.memory import gpu_is_busy, measure_call
from bench.training.run_batches import Batches
from bench.training.run_data import Data
from bench.training.shared import feature_cache
from bench.training.shared.shared_run import SingleRun
from bench.training.storage_tracker import Peak

Emit = Callable[[dict[str, Any]], None]
Facts = dict[str, Any]  # members of a record, some of them by part: {"checks": {"loss finite": "pass"}}


@dataclass(frozen=True)
class RunPlan:
    """A job's specification as objects, made without reading data or weights.

    Attributes:
        trains: False where the method is already trained and only scored.
        trial: whether the run is a trial, scored on its dev rows.
        sharing: how it shares a frozen backbone with other runs, or not.
    """

    job: Job
    emit: Emit
    method: Method
    task: Task
    settings: TrainSettings
    source: models.ModelSource
    seed: int
    trains: bool
    trial: bool
    sharing: SingleRun

    @property
    def formulation(self) -> dict[str, Any]:
        """The formulation of the task in the specification."""
        chosen: dict[str, Any] = self.job.spec["task"]["form"]
        return chosen

    def phase(self, name: str, **more: Any) -> None:
        """Report that a phase begins."""
        self.emit({"event": "phase", "name": name, **more})


@dataclass(frozen=True)
class RunData:
    """The task's rows, encoded for the model."""

    engine: Engine
    form: Formulation
    rows: Data
    batches: Batches
    facts: Facts
    context: FormulationContext

    @property
    def check_rows(self) -> Rows:
        """The evaluation rows whose outputs the checks compare."""
        validation = self.rows.validation
        return validation.take(range(min(_CHECK_ROWS, len(validation))))

    @property
    def rows_before_training(self) -> Rows:
        """The checks' rows whose outputs are computed before training too."""
        rows = self.check_rows
        return rows if self.form.reads_untrained else rows.take(range(min(_ROWS_TO_SEE_A_CHANGE, len(rows))))


@dataclass(frozen=True)
class Attached:
    """A pretrained model with the method attached, on the device.

    Attributes:
        originals: the backbone's pretrained tensors by id, which a checkpoint need not hold.
        packed: parameters hidden in the packed values of a quantised base.
        expected: trainable parameters by the method's formula; None without one.
    """

    module: nn.Module
    backbone: Backbone
    originals: Mapping[int, Tensor]
    packed: int
    expected: int | None


@dataclass(frozen=True)
class Prepared:
    """A module that is ready to train.

    Attributes:
        declared: names of the trainable parameters.
        frozen_digests: SHA-256 of each frozen parameter.
        initial_digests: SHA-256 of each trainable parameter, initialised.
        initialization: memory peak of a data-dependent initialisation; None without one.
        forgetting: has the base model's loss on a general text; None where it is not requested.
    """

    module: nn.Module
    originals: Mapping[int, Tensor]
    declared: frozenset[str]
    frozen_digests: dict[str, str]
    initial_digests: dict[str, str]
    initialization: Peak | None
    forgetting: Forgetting | None
    facts: Facts


_CHECK_ROWS = 64
_ROWS_TO_SEE_A_CHANGE = 16  # enough to see whether training changed the outputs


def plan_run(job: Job, emit: Emit, sharing: SingleRun | None = None) -> RunPlan:
    """Build the objects of the specification.

    Raises:
        RequestError: when the model's weights are no longer those of the specification.
    """
    registry.load([Path(plugin) for plugin in job.plugins])
    spec = job.spec
    name = spec["method"]["name"]
    chosen = {option: value for option, value in spec["method"].items() if option != "name"}
    method: Method = options.build(registry.method_entry(name).value, chosen, name)
    mirror = Path(job.mirror) if job.mirror else None
    source = models.resolve(spec["model"]["name"], models.Loading.of(spec["model"]), mirror)
    if source.fingerprint != spec["model"]["fingerprint"]:
        raise RequestError("The model changed while the run was waiting; start it again.", code="conflict")
    return RunPlan(
        job=job,
        emit=emit,
        method=method,
        task=task_options.rebuild(spec["task"], run_data.source_of(job)),
        settings=options.build(TrainSettings, spec["train"], "train"),
        source=source,
        seed=spec["seed"],
        trains=not isinstance(method, AlreadyTrained),
        trial=run_data.is_trial(job),
        sharing=sharing or SingleRun(),
    )


def describe_environment(plan: RunPlan) -> Facts:
    """Set the number of threads, and describe the environment of the run."""
    if plan.job.threads:
        torch.set_num_threads(plan.job.threads)
    return {
        "environment": {
            **environment.describe(plan.settings.device),
            "workers": plan.job.workers,
            "gpu_shared": gpu_is_busy(torch.device(plan.settings.device)),
        }
    }


def read_data(plan: RunPlan, device: torch.device) -> RunData:
    """Read and encode the task's rows; no weights are read."""
    tokenizer = models.tokenizer(plan.source) if select.reads_text(plan.task) else None
    engine = Engine(device, plan.settings.precision, padding_of(tokenizer))
    context = FormulationContext(engine, plan.settings, tokenizer, models.configuration(plan.source))
    form = select.make(plan.formulation, plan.task, plan.source, context)
    load = partial(run_data.load, plan.job, plan.task, form, plan.settings)
    rows: Data = plan.sharing.once("data", load)
    sizes = {
        f"{name}_{what}": value
        for name, part in (("train", rows.train), ("validation", rows.validation))
        for what, value in (("rows", len(part)), ("cut", getattr(part, "cut", 0)))
    }
    facts = {
        "dev_score": dict(zip(("name", "higher_is_better"), form.dev, strict=True)),
        "data": sizes | {"max_length": context.longest},
    }
    batches = Batches(engine, rows.train, rows.validation, plan.settings, plan.seed)
    return RunData(engine, form, rows, batches, facts, context)


def cached_rows(plan: RunPlan, data: RunData) -> list[tuple[Rows, list[int]]]:
    """The rows by split whose features ``cache_trunk`` keeps."""
    rows = data.rows
    return feature_cache.parts(rows.train, rows.dev, data.batches.rows(), plan.settings, plan.formulation)


def prepare(plan: RunPlan, data: RunData) -> Prepared:
    """Load the model, attach the method, initialise it and count its parameters.

    Raises:
        ValueError: when the method cannot apply to the model, or leaves nothing to train.
    """
    forgetting = None
    if plan.settings.forgetting is not None:
        forgetting = Forgetting.on(plan.settings.forgetting, run_data.source_of(plan.job), data.context)
    base: dict[str, int | None] = {}

    def on_base_model(model: nn.Module) -> None:
        if forgetting is not None:
            forgetting.before(model)
        base["base_inference_flops"] = flops.of_inference(model, data.batches.longest())

    attached = attach(plan, data, plan.seed, on_base_model)
    declared = frozenset(trainable(attached.module))
    if not declared and plan.trains:
        raise ValueError(f"method '{plan.method.name}' left nothing to train")
    peak = None
    if isinstance(plan.method, DataInitialized):
        plan.phase("initialising")
        peak = _initialize(plan.method, attached.module, data)
    counts, formula = _parameters(attached)
    return Prepared(
        module=attached.module,
        originals=attached.originals,
        declared=declared,
        frozen_digests=checks.digests(checks.frozen(attached.module)),
        initial_digests=checks.digests(trainable(attached.module)) if plan.trains else {},
        initialization=peak,
        forgetting=forgetting,
        facts={"compute": base, "parameters": counts, "checks": {"count equals formula": formula}},
    )


def attach(
    plan: RunPlan, data: RunData, seed: int, on_base_model: Callable[[nn.Module], None] = lambda _: None
) -> Attached:
    """A fresh pretrained model with the method attached, on the device, from a seed.

    Args:
        on_base_model: called with the model on the device before the method is attached.
    """
    seed_everything(seed)
    head, engine = plan.formulation["model_kind"], data.engine
    backbone = models.load(plan.source, head, plan.task.labels)
    if engine.padding:
        models.pad_with(backbone.model, engine.padding["input_ids"])
    backbone.model.to(engine.device)
    on_base_model(backbone.model)
    originals = original_tensors(backbone)
    shape = backbone
    if plan.source.loading.quantize:  # its tensors' shapes are those of the packed values
        shape = models.sketch(plan.source, head, plan.task.labels)
    packed = count(list(shape.model.parameters())) - count(list(backbone.model.parameters()))
    expected = plan.method.trainable_count(shape) if isinstance(plan.method, CountsParameters) else None
    module = plan.method.attach(backbone).to(engine.device)
    if plan.settings.gradient_checkpointing:
        recompute_activations(backbone.model)
    return Attached(module, backbone, originals, packed, expected)


def _initialize(method: DataInitialized, module: nn.Module, data: RunData) -> Peak | None:
    """Initialise a method on the training rows one by one; returns the memory peak of the longest row."""
    lengths = data.rows.train.lengths
    taken: list[int] = []

    def longest() -> Iterator[Batch]:
        taken.append(int(lengths.argmax()))
        yield data.batches.of(taken[-1:])

    peak = measure_call(module, "initialization", lambda: method.initialize(module, longest()))
    rows = islice(data.batches.training(batch_size=1), len(lengths))
    method.initialize(module, (batch for batch, _ in rows))
    return peak if taken else None  # with some options a method reads no rows


def _parameters(attached: Attached) -> tuple[Facts, str]:
    """The record's counts, and whether the trainable ones equal the method's formula."""
    trained = count(list(trainable(attached.module).values()))
    total = count(list(attached.module.parameters())) + attached.packed
    counts = {
        "trainable": trained,
        "total": total,
        "trainable_percent": 100 * trained / total,
        "expected_trainable": attached.expected,
    }
    return counts, checks.count_matches(trained, attached.expected)


def seed_everything(seed: int) -> None:
    """Seed Python's, NumPy's and torch's generators."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
