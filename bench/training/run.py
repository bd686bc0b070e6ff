"""One run in this process, in stages: prepare, measure, train, evaluate, verify; returns its record."""

from __future__ import annotations

import tempfile
import time
import traceback
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from bench.models import compile
from bench.store.record import PASS, Record, blank
from bench.training import checks
from bench.training.evaluate import describe_adapter, evaluate, verify, verify_reload
from bench.training.job import Job
from bench.training.measure import Measured, cache_features, measure, trainer_of
from bench.training.memory import out_of_memory
from bench.training.prepare import (
    Emit,
    Facts,
    Prepared,
    RunData,
    RunPlan,
    describe_environment,
    plan_run,
    prepare,
    read_data,
    seed_everything,
)
from bench.training.run_record import Progress
from bench.training.shared import feature_cache
from bench.training.shared.lockstep import Member
from bench.training.shared.shared_run import SharedRun
from bench.training.trainer import TrainResult


@dataclass(frozen=True)
class Trained:
    """The result of the training stage."""

    result: TrainResult
    facts: Facts


def execute(job: Job, emit: Emit, member: Member | None = None) -> Record:
    """Do a run and return its record; running out of memory and failures are recorded too.

    Args:
        emit: takes the run's events.
        member: this run among those that are trained together over one frozen backbone; None: it runs alone.
    """
    progress = Progress(blank(job.spec, job.run_id))
    try:
        run(plan_run(job, emit, None if member is None else SharedRun(member)), progress)
    except KeyboardInterrupt:  # stopped between two steps
        progress.interrupted()
    except Exception as error:  # the sweep goes on: the error is in the record
        progress.failed(error, "oom" if out_of_memory(error) else "failed", traceback.format_exc())
    return progress.record


def run(plan: RunPlan, progress: Progress) -> None:
    """Do the stages and add their results to the record."""
    begun, compiled = time.perf_counter(), compile.seconds()
    progress.add(describe_environment(plan))
    plan.phase("loading")
    data = read_data(plan, torch.device(plan.settings.device))
    progress.add(data.facts)
    prepared = prepare(plan, data)
    progress.add(prepared.facts)
    set_up = time.perf_counter()
    cache, facts = cache_features(plan, data, prepared)
    progress.add(facts)
    cached = time.perf_counter()
    measured = measure(plan, data, prepared, cache)
    progress.add(measured.facts)
    probed = time.perf_counter()
    trained = train(plan, data, prepared, measured, progress)
    progress.add(trained.facts)
    end_of_training = time.perf_counter()
    diverged = trained.result.diverged
    if diverged is None and not plan.trial:
        evaluated = evaluate(plan, data, prepared)
        progress.add(evaluated.facts)
        if not evaluated.result.finite:
            diverged = trained.result.scored_step
        else:
            with tempfile.TemporaryDirectory() as temporary:
                folder = Path(plan.job.adapter or temporary)
                verified = verify(plan, data, prepared, measured, evaluated.result, folder)
                progress.add(verified.facts)
                progress.add(describe_adapter(plan, progress.record))
                del prepared, measured  # the trained module's memory, before another one is loaded
                progress.add(verify_reload(plan, data, verified))
    ended = time.perf_counter()
    seconds = {
        "setup_seconds": set_up - begun,
        "eval_seconds": trained.result.dev_seconds + (ended - end_of_training),
        "total_seconds": ended - begun,
    }
    progress.add({"speed": plan.sharing.durations(seconds)})
    if plan.settings.compile:
        progress.add({"speed": {"compile_seconds": compile.seconds() - compiled}})
    progress.finished(diverged, plan.method.lr)
    plan.phase("done", probe_seconds=probed - cached)


def train(plan: RunPlan, data: RunData, prepared: Prepared, measured: Measured, progress: Progress) -> Trained:
    """Train the module; points of the curve are added to the record as they come."""
    if not plan.trains:
        return Trained(TrainResult(), {})
    evaluate = None if data.rows.dev is None else partial(data.form.dev_score, prepared.module, data.rows.dev)
    seed_everything(plan.seed)
    steps, begun = plan.settings.steps, time.perf_counter()

    def report(point: dict[str, Any]) -> None:
        progress.reached(point)
        plan.emit({"event": "step", "steps": steps, "seconds": time.perf_counter() - begun, **point})

    with feature_cache.fed(prepared.module, measured.cache), plan.sharing.feeding(prepared.module):
        trainer = trainer_of(plan, data, prepared)
        result = trainer.fit(data.batches.training(), evaluate, data.form.dev[1], report)
    found = {"loss finite": PASS if result.diverged is None else f"fail: at step {result.diverged}"}
    if result.diverged is None and not plan.trial:
        found["every tensor is trained"] = checks.all_trained(
            result.without_gradient, prepared.initial_digests, prepared.module, len(result.step_seconds)
        )
    facts: Facts = {
        "curve": result.curve,
        "main_score": plan.task.main_score,
        "higher_is_better": plan.task.higher_is_better,
        "speed": plan.sharing.training_speed(result),
        "checks": found,
    }
    return Trained(result, facts)
