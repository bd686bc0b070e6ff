"""A run in stages: each stage by itself, and a record that keeps what the finished ones gave."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

from bench.store.record import blank
from bench.training import run as stages
from bench.training.evaluate import evaluate, verify, verify_reload
from bench.training.job import Job
from bench.training.measure import cache_features, measure
from bench.training.prepare import Prepared, RunData, RunPlan, plan_run, prepare, read_data
from bench.training.run_record import Progress
from tests import tiny


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    with tiny.place(tmp_path_factory.mktemp("stages")) as made:
        yield made


@pytest.fixture
def job(place, tmp_path: Path) -> Job:
    (spec,) = place.specs("lora", seed=0)
    return Job(spec.run_id, spec.spec, (str(tiny.TASK),), None, str(tmp_path / "predictions.parquet"), None)


def prepared(job: Job) -> tuple[RunPlan, RunData, Prepared]:
    plan = plan_run(job, lambda message: None)
    data = read_data(plan, torch.device("cpu"))
    return plan, data, prepare(plan, data)


def test_reading_data_reads_no_weights(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.models.loading.load", lambda *arguments: pytest.fail("the model was loaded"))
    data = read_data(plan_run(job, lambda message: None), torch.device("cpu"))
    assert data.facts["data"]["train_rows"] == len(data.rows.train) > 0
    assert len(data.rows_before_training) <= len(data.check_rows)


def test_prepare_gives_a_module_with_its_counts(job: Job) -> None:
    _, _, ready = prepared(job)
    counts = ready.facts["parameters"]
    trained = sum(value.numel() for name, value in ready.module.named_parameters() if name in ready.declared)
    assert counts["trainable"] == trained == counts["expected_trainable"]
    assert ready.declared.isdisjoint(ready.frozen_digests)
    with pytest.raises(dataclasses.FrozenInstanceError):
        ready.module = None  # type: ignore[misc,assignment]


def test_measuring_leaves_the_module_as_it_was(job: Job) -> None:
    plan, data, ready = prepared(job)
    before = {name: value.clone() for name, value in ready.module.named_parameters()}
    measured = measure(plan, data, ready, cache_features(plan, data, ready)[0])
    assert measured.facts["memory"]["train_peak_bytes"] > 0 and measured.facts["compute"]["train_step_flops"] > 0
    assert all(torch.equal(value, before[name]) for name, value in ready.module.named_parameters())


def test_the_stages_by_hand_give_the_record_of_execute(job: Job, tmp_path: Path) -> None:
    plan, data, ready = prepared(job)
    measured = measure(plan, data, ready, None)
    trained = stages.train(plan, data, ready, measured, Progress(blank(job.spec, job.run_id)))
    evaluated = evaluate(plan, data, ready)
    verified = verify(plan, data, ready, measured, evaluated.result, tmp_path)
    reloaded = verify_reload(plan, data, verified)
    record = stages.execute(job, lambda message: None)
    assert record["status"] == "ok", record["traceback"]
    assert record["scores"] == evaluated.facts["scores"]
    assert [point["loss"] for point in record["curve"]] == [point["loss"] for point in trained.result.curve]
    assert record["parameters"]["trained_sha256"] == verified.facts["parameters"]["trained_sha256"]
    assert record["checks"].keys() >= {*verified.facts["checks"], *reloaded["checks"], "loss finite"}


@pytest.mark.parametrize(
    ("stage", "known"),
    [
        ("read_data", {"environment"}),
        ("prepare", {"environment", "data"}),
        ("measure", {"environment", "data", "parameters"}),
        ("train", {"environment", "data", "parameters", "memory"}),
        ("evaluate", {"environment", "data", "parameters", "memory", "curve"}),
        ("verify", {"environment", "data", "parameters", "memory", "curve", "scores"}),
        ("verify_reload", {"environment", "data", "parameters", "memory", "curve", "scores", "checkpoint"}),
    ],
)
def test_a_failing_stage_keeps_what_the_finished_ones_gave(
    stage: str, known: set[str], job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: Any) -> Any:
        raise RuntimeError(f"{stage} broke\nsecond line")

    monkeypatch.setattr(stages, stage, fail)
    record = stages.execute(job, lambda message: None)
    assert record["status"] == "failed" and record["error"] == f"RuntimeError: {stage} broke"
    assert f"in {fail.__name__}" in record["traceback"]
    there = {
        "environment": bool(record["environment"]),
        "data": "data" in record,
        "parameters": record["parameters"]["trainable"] is not None,
        "memory": record["memory"]["train_peak_bytes"] is not None,
        "curve": bool(record["curve"]),
        "scores": bool(record["scores"]),
        "checkpoint": record["parameters"]["checkpoint_bytes"] is not None,
    }
    assert {name for name, is_there in there.items() if is_there} == known


@pytest.mark.parametrize(
    ("error", "status"),
    [(torch.OutOfMemoryError("no room"), "oom"), (KeyboardInterrupt(), "interrupted"), (ValueError("x"), "failed")],
)
def test_what_ends_a_run_is_its_status(
    error: BaseException, status: str, job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    def third_step(message: dict[str, Any]) -> None:
        if message.get("event") == "step" and message["step"] == 3:
            raise error

    record = stages.execute(job, third_step)
    assert record["status"] == status
    assert "after step 3" in record["error"] or status != "interrupted"
    assert record["memory"]["train_peak_bytes"] > 0


def test_members_that_are_objects_are_merged_and_others_replaced() -> None:
    progress = Progress({"checks": {"a": "pass"}, "curve": [1], "speed": {"x": None}})
    progress.add({"checks": {"b": "skip"}, "curve": [2], "speed": {"x": 3.0}, "new": {"y": 1}})
    expected = {"checks": {"a": "pass", "b": "skip"}, "curve": [2], "speed": {"x": 3.0}, "new": {"y": 1}}
    assert progress.record == expected
