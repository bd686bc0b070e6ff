"""The second stage of a run, before training: cached features, operations, compilation and memory."""

from __future__ import annotations

import gc
from dataclasses import dataclass
from typing import Any

import numpy as np

from bench.models import compile
from bench.training import flops
from bench.training.memory_probe import measure as measure_memory
from bench.training.memory_probe import measure_scoring, rehearse
from bench.training.prepare import Facts, Prepared, RunData, RunPlan, cached_rows
from bench.training.shared import feature_cache
from bench.training.shared.feature_cache import FeatureCache
from bench.training.trainer import Trainer

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Measured:
    """Measurements on the untrained module.

    Attributes:
        cache: features of the frozen backbone that training reads, with ``cache_trunk``.
        untrained: outputs of ``RunData.rows_before_training``.
    """

    cache: FeatureCache | None
    untrained: Array
    facts: Facts


def trainer_of(plan: RunPlan, data: RunData, prepared: Prepared) -> Trainer:
    """A fresh trainer of the run."""
    return Trainer(prepared.module, plan.method, plan.settings, data.engine)


def cache_features(plan: RunPlan, data: RunData, prepared: Prepared) -> tuple[FeatureCache | None, Facts]:
    """With ``cache_trunk``: compute the missing features of training and dev rows."""
    if not plan.settings.cache_trunk:
        return None, {}

    def report(text: str, news: bool) -> None:
        plan.phase(text, news=news)

    report("looking for cached features", False)
    size = min(plan.settings.batch_size, plan.settings.eval_batch_size)
    need = feature_cache.Need(cached_rows(plan, data), data.engine, size, plan.job.cache_limit, report)
    cache, facts = feature_cache.keep(prepared.module, plan.method.name, prepared.frozen_digests, need)
    gc.collect()
    return cache, {"trunk_cache": facts}


def measure(plan: RunPlan, data: RunData, prepared: Prepared, cache: FeatureCache | None) -> Measured:
    """Count operations, compile where requested, measure memory, and compute the outputs that checks compare.

    A trial has only a dev score: neither its operations nor its memory are measured.
    """
    facts: Facts = {}
    if not plan.trial:
        facts["compute"] = _operations(plan, data, prepared, cache)
    if plan.settings.compile:
        _compile(plan, data, prepared)
    if not plan.trial:
        facts["memory"] = _memory(plan, data, prepared, cache)
    facts |= plan.sharing.join(plan, data, prepared)
    with plan.sharing.feeding(prepared.module):
        untrained = data.form.outputs(prepared.module, data.rows_before_training)
    return Measured(cache, untrained, facts)


def _operations(plan: RunPlan, data: RunData, prepared: Prepared, cache: FeatureCache | None) -> Facts:
    """Operations of one example's inference and of an optimizer step at the run's largest batch."""
    with data.engine.autocast():
        inference = flops.of_inference(prepared.module, data.batches.longest())
    found = {"inference_flops": inference, "inference_length": int(data.rows.validation.lengths.max())}
    if plan.trains:
        trainer, lengths = trainer_of(plan, data, prepared), data.rows.train.lengths
        rows = sorted(data.batches.extreme(), key=lambda row: -int(lengths[row]))
        with feature_cache.fed(prepared.module, cache):
            one = flops.of_training(
                prepared.module, lambda batch: trainer.backward(trainer.forward(batch)), data.batches.of, rows
            )
        found["train_step_flops"] = plan.settings.grad_accum * one
    return found


def _compile(plan: RunPlan, data: RunData, prepared: Prepared) -> None:
    """Compile for the run's largest and smallest batches, and for the largest and smallest that are scored."""
    plan.phase("compiling")
    compile.compile_in_place(prepared.module)
    trained = [data.batches.of(data.batches.extreme(pick)) for pick in (max, min)] if plan.trains else []
    rehearse(trainer_of(plan, data, prepared), trained, data.batches.scoring())


def _memory(plan: RunPlan, data: RunData, prepared: Prepared, cache: FeatureCache | None) -> Facts:
    """The peak of an optimizer step (not the first) at the run's largest batch, and of an evaluation at the largest."""
    plan.phase("measuring memory")
    scored, _ = data.batches.scoring()
    if plan.trains:
        trained = data.batches.of(data.batches.extreme())
        fed = feature_cache.fed(prepared.module, cache)
        found = measure_memory(trainer_of(plan, data, prepared), trained, scored, prepared.initialization, fed)
    else:
        found = measure_scoring(data.engine, prepared.module, scored)
    gc.collect()
    return found
