"""The last stages of a run: score the trained module, and verify that the method did what it claims."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from bench.core.protocols import Mergeable
from bench.models import saved_adapter
from bench.models.backbone import trainable
from bench.models.checkpoint import load_state, save_state, saved_state
from bench.store.predictions import write_predictions
from bench.store.record import Record
from bench.tasks.formulations.base import EvalResult
from bench.training import checks
from bench.training.measure import Measured
from bench.training.prepare import Facts, Prepared, RunData, RunPlan, attach

Array = np.ndarray[Any, Any]

_TOLERANCE = {"fp32": 1e-4, "bf16": 5e-2, "fp16": 1e-2}


@dataclass(frozen=True)
class Evaluated:
    """Scores on the validation rows.

    Attributes:
        result: of the validation split; its ``finite`` is False where the model's outputs are NaN or infinite.
    """

    result: EvalResult
    facts: Facts


@dataclass(frozen=True)
class Verified:
    """Checks of the trained module.

    Attributes:
        weights: the file of the tuned weights.
        outputs: of the trained module for the checks' rows.
        declared: names of the trained parameters.
    """

    weights: Path
    outputs: Array
    declared: frozenset[str]
    facts: Facts


def evaluate(plan: RunPlan, data: RunData, prepared: Prepared) -> Evaluated:
    """Score the validation split and the task's further ones; writes the per-example predictions."""
    plan.phase("scoring")
    module, form, rows = prepared.module, data.form, data.rows
    with plan.sharing.feeding(module):
        result = form.evaluate(module, rows.validation)
        if not result.finite:
            return Evaluated(result, {})
        scores = {name: value if value is None else float(value) for name, value in result.scores.items()}
        for name, others in rows.others.items():
            more = form.evaluate(module, others).scores
            scores |= {f"{score}_{name}": value for score, value in more.items()}
    rate = plan.sharing.inference_rate(form, module, rows.validation, result, plan.settings.eval_batch_size)
    facts: Facts = {
        "scores": scores,
        "main_score": plan.task.main_score,
        "higher_is_better": plan.task.higher_is_better,
        "stderr": result.stderr,
        "speed": {
            "inference_samples_per_second": rate,
            "inference_latency_ms": data.engine.latency_ms(module, rows.validation),
        },
    }
    write_predictions(Path(plan.job.predictions), result.columns)
    facts["predictions"] = f"predictions/{plan.job.run_id}.parquet"
    if prepared.forgetting is not None:
        facts["forgetting"] = prepared.forgetting.after(module)
    return Evaluated(result, facts)


def verify(
    plan: RunPlan,
    data: RunData,
    prepared: Prepared,
    measured: Measured,
    result: EvalResult,
    folder: Path,
) -> Verified:
    """Run the checks, save the tuned weights, and merge where the method can.

    Merging changes the module; nothing else reads it afterwards.

    Args:
        folder: for the weights.
    """
    module, form = prepared.module, data.form

    def outputs(rows: Any) -> Array:
        with plan.sharing.feeding(module):
            return form.outputs(module, rows)

    answers = outputs(data.check_rows)
    state = saved_state(module, prepared.originals)
    found = {
        "only declared parameters moved": checks.frozen_unchanged(prepared.declared, prepared.frozen_digests, module)
    }
    facts: Facts = {"checks": found, "parameters": {}}
    if plan.trains:
        facts["parameters"]["trained_sha256"] = checks.digest(trainable(module))
        # In a batch of the same rows as before training, where those were only a few.
        same = answers if form.reads_untrained else outputs(data.rows_before_training)
        found["trained differs from untrained"] = checks.trained_differs(measured.untrained, same)
    before = measured.untrained if plan.trains and form.reads_untrained else None
    name, answer = form.check_learned(before, answers, result)
    found[name] = answer
    weights = folder / saved_adapter.WEIGHTS
    facts["parameters"]["checkpoint_bytes"] = save_state(weights, state)
    if isinstance(plan.method, Mergeable) and plan.source.loading.quantize:
        found["merged equals unmerged"] = "skip: the base is quantised, weights cannot be merged into it"
    elif isinstance(plan.method, Mergeable):
        found["merged equals unmerged"], facts["speed"] = _merge(plan, data, plan.method, module, answers)
    return Verified(weights, answers, prepared.declared, facts)


def describe_adapter(plan: RunPlan, record: Record) -> Facts:
    """Write the description of the saved weights next to them; the record's path of the adapter."""
    facts = {"adapter": f"adapters/{plan.job.run_id}"}
    if plan.job.adapter:
        saved_adapter.write(Path(plan.job.adapter), record | facts)
    return facts if plan.job.adapter else {}


def verify_reload(plan: RunPlan, data: RunData, verified: Verified) -> Facts:
    """Load the saved weights into a fresh pretrained model, which must give the outputs of the trained one.

    All of the checks' rows in one batch: the outputs of an int8 base depend on the other rows.
    """
    fresh = attach(plan, data, plan.seed + 1)
    head_parameters = {id(parameter) for parameter in fresh.backbone.head_parameters}
    head = {name for name, value in fresh.module.named_parameters() if id(value) in head_parameters}
    found = {}
    if head and plan.trains and verified.declared - head:
        load_state(verified.weights, fresh.module, head)
        found["more than the head is used"] = checks.more_than_head(
            data.form.outputs(fresh.module, data.check_rows), verified.outputs
        )
    load_state(verified.weights, fresh.module)
    outputs = data.form.outputs(fresh.module, data.check_rows)
    found["save and load reproduces"] = checks.reload_reproduces(
        verified.outputs, outputs, _TOLERANCE[plan.settings.precision]
    )
    return {"checks": found}


def _merge(plan: RunPlan, data: RunData, method: Mergeable, module: nn.Module, trained: Array) -> tuple[str, Facts]:
    """Merge the tuned weights into the base; the result of the merge check, and the merged module's speed.

    Args:
        trained: outputs of the checks' rows before merging.
    """
    try:
        merged = method.merge(module)
    except ValueError as error:  # settings that the method cannot merge
        return f"skip: {error}", {}
    except Exception as error:  # of a plugin: the run keeps its score, only this check fails
        return f"fail: merge raised {type(error).__name__}: {error}", {}
    if not isinstance(merged, nn.Module):
        return f"fail: merge returned {type(merged).__name__}, not a module", {}
    validation = data.rows.validation
    outputs = data.form.outputs(merged, data.check_rows)
    seconds = data.form.time_inference(merged, validation)
    speed = {
        "merged_inference_samples_per_second": len(validation) / seconds,
        "merged_inference_latency_ms": data.engine.latency_ms(merged, validation),
    }
    return checks.merge_equivalent(trained, outputs, _TOLERANCE[plan.settings.precision]), speed
