"""Runs on other machines come back as the same records: a Ray cluster that loses a node, and Slurm's local stand-in."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest

from bench.store.store import Store
from bench.store.validation import problems
from bench.sweep.executors import resources as needing
from bench.sweep.progress import Silent
from bench.sweep.request import Execution
from bench.sweep.scheduler import Sweep
from bench.training.job import Job
from tests import tiny
from tests.conftest import Bench

ROOT = Path(__file__).parents[3]


@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="needs the extra ray")
def test_a_sweep_on_ray_survives_the_loss_of_a_node() -> None:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "tests.sweep.ray_node_loss"],
        capture_output=True, text=True, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "3 of 3 runs ok; the second node was killed mid-run" in done.stdout


@pytest.fixture
def place(tmp_path: Path) -> Any:
    with tiny.place(tmp_path) as made:
        yield made


def slurm(store: Store, slots: int | None = None) -> Any:
    pytest.importorskip("submitit")
    from bench.sweep.executors.slurm import SlurmExecutor

    return SlurmExecutor(store.folder, slots, cluster="local")


def reap(executor: Any) -> None:
    """Wait for the processes of submitit's stand-in, which it leaves to the garbage collector."""
    for handle in executor._ending:
        handle._process.wait(60)


def test_slurm_jobs_leave_the_records_that_local_runs_leave(
    place: tiny.Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    (spec,) = place.specs("head")
    here = place.run("head", save=True)
    store = Store(tmp_path / "slurm")
    store.prepare()
    messages: list[Any] = []
    watcher = Silent()
    watcher.event = lambda run_id, message: messages.append(message)  # type: ignore[method-assign]
    options = Execution(plugin=(tiny.TASK,), save=True)
    executor = slurm(store)
    Sweep([spec], store, options, watcher, lambda: executor).run()
    reap(executor)
    (record,) = store.records()[0]
    assert record["scores"] == here["scores"] and record["run_id"] == here["run_id"]
    assert record["parameters"]["trained_sha256"] == here["parameters"]["trained_sha256"]
    assert record["environment"]["threads"] == 1
    assert store.predictions_path(spec.run_id).is_file()
    assert (store.adapter_path(spec.run_id) / "adapter.safetensors").is_file()
    assert any(message["event"] == "step" for message in messages)
    assert [path.name for path in (store.folder / "cluster").iterdir()] == ["logs"], "its small files are removed"


def test_slurm_jobs_stop_when_asked_and_lost_ones_are_named(
    place: tiny.Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setattr("bench.sweep.executors.slurm._LATE_SECONDS", 0.5)
    first, second = (place.specs("head", seed=seed, steps=200_000)[0] for seed in (0, 1))
    store = Store(tmp_path / "slurm")
    store.prepare()
    executor = slurm(store)
    killed: list[str] = []

    class Meddler(Silent):
        def event(self, run_id: str, message: dict[str, Any]) -> None:
            if message["event"] == "step" and run_id == first.run_id and not killed:
                killed.append(run_id)
                launcher = psutil.Process(int(executor._running[run_id].handle.job_id))
                for process in (*launcher.children(recursive=True), launcher):  # its child would train on alone
                    process.kill()
            if message["event"] == "step" and run_id == second.run_id:
                os.kill(os.getpid(), signal.SIGINT)

    sweep = Sweep([first, second], store, Execution(plugin=(tiny.TASK,)), Meddler(), lambda: executor)
    with pytest.raises(KeyboardInterrupt):
        executor.slots = 1
        sweep.run()
    reap(executor)
    found = {record["run_id"]: record for record in store.records()[0]}
    assert found[first.run_id]["status"] == "failed" and "Slurm job" in found[first.run_id]["error"]
    assert found[second.run_id]["status"] == "interrupted" and "after step" in found[second.run_id]["error"]
    assert all(problems(record) == [] for record in found.values())


def test_a_run_asks_for_what_the_planner_says(place: tiny.Place) -> None:
    (spec,) = place.specs("lora", max_length=7)  # every row has seven tokens
    job = Job(spec.run_id, spec.spec, (), None, "p", None)
    asked = needing.needs(job, cpus=2)
    measured = place.run("lora", max_length=7)["memory"]["train_peak_bytes"]
    assert (asked.gpus, asked.cpus) == (0, 2)
    assert asked.memory_bytes is not None
    assert measured <= asked.memory_bytes - needing.PROCESS_BYTES <= 1.1 * measured
    on_gpu = json.loads(json.dumps(spec.spec))
    on_gpu["train"]["device"] = "cuda"
    assert needing.needs(Job(spec.run_id, on_gpu, (), None, "p", None), cpus=1).gpus == 1


def test_what_a_run_asks_for_follows_the_form_of_its_task(tmp_path: Path) -> None:
    with tiny.place(tmp_path, "gpt2") as place:
        sizes = {}
        for form in ("head", "words"):
            (spec,) = place.specs("lora", sets=[f"task.form={form}"])
            assert (asked := needing.needs(Job(spec.run_id, spec.spec, (), None, "p", None), cpus=1).memory_bytes)
            sizes[spec.spec["task"]["form"]["model_kind"]] = asked
    assert len(sizes) == 2 and len(set(sizes.values())) == 2, "a language model's logits take room"


@pytest.mark.parametrize(
    ("extra", "code", "part"),
    [
        (["--executor", "rai"], "unknown-value", "'ray'"),
        (["--address", "auto"], "conflict", "--executor ray"),
        (["--cluster", "partition=x"], "conflict", "--executor slurm"),
        (["--executor", "slurm", "--cluster", "gpu"], "invalid-value", "NAME=VALUE"),
        (["--executor", "slurm", "--cluster", "time=long"], "invalid-value", "minutes"),
        (["--executor", "ray", "--cpus", "0"], "invalid-value", "--cpus: is 0"),
    ],
)
def test_wrong_requests_teach(bench_here: Bench, tiny_model: Path, extra: list[str], code: str, part: str) -> None:
    done = bench_here("run", "--methods", "head", "--task", "glue/sst2", "--model", tiny_model, *extra)
    assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr
    assert f"[{code}]" in done.stderr and part in done.stderr, done.stderr


def test_slurm_that_is_not_there_is_said(bench_here: Bench, tiny_model: Path) -> None:
    pytest.importorskip("submitit")
    done = bench_here("run", "--methods", "head", "--task", "glue/sst2", "--model", tiny_model, "--executor", "slurm")
    assert done.returncode == 2 and "--executor slurm: Could not detect" in done.stderr, done.stderr
