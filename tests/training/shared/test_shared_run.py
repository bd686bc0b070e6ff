"""Runs that are trained together over one frozen trunk give what they give by themselves."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch

from bench.core import options
from bench.core.train_config import TrainSettings
from bench.store.store import Store
from bench.store.validation import problems
from bench.sweep import expand
from bench.sweep.executors.local import Pool
from bench.sweep.grouping import MOST, bundled
from bench.sweep.request import Execution, RunRequest
from bench.sweep.scheduler import Sweep
from bench.training.job import Job
from bench.training.prepare import plan_run, read_data
from bench.training.run import execute
from bench.training.shared.lockstep import Lockstep, Member
from tests import tiny, writers
from tests.sweep.test_scheduler import start, whole_records
from tests.training import fakes

Record = dict[str, Any]
Emit = Callable[[dict[str, Any]], None]


def expanded(model: Path, *sets: str, seeds: Sequence[str] = ("0",), **train: str) -> list[expand.RunSpec]:
    settings = {"steps": "10", "batch_size": "8", "device": "cpu", "max_length": "24", **train}
    request = RunRequest(
        methods=("lst",),
        task=("tiny/mood",),
        model=(str(model),),
        seeds=tuple(seeds),
        set=(*sets, "train.dev_size=8", "train.evaluations=2"),
        train=settings,
        plugin=(tiny.TASK,),
    )
    return expand.expand(request)


def job(spec: expand.RunSpec, out: Path, save: bool = False) -> Job:
    store = Store(out)
    store.prepare()
    adapter = str(store.adapter_path(spec.run_id)) if save else None
    return Job(spec.run_id, spec.spec, (str(tiny.TASK),), None, str(store.predictions_path(spec.run_id)), adapter)


def together(jobs: Sequence[Job], emits: Sequence[Emit] = ()) -> tuple[list[Record], list[Member]]:
    """Do runs in lockstep in this process: their records in order, and what each asked for."""
    found: dict[str, Record] = {}
    members: list[Member] = []

    def act(one: Job, emit: Emit, member: Member) -> None:
        members.append(member)
        found[one.run_id] = execute(one, emit, member)

    emits = emits or [lambda _: None] * len(jobs)
    Lockstep([partial(act, one, emit) for one, emit in zip(jobs, emits, strict=True)], torch.device("cpu")).run()
    return [found[one.run_id] for one in jobs], members


def assert_same(shared: Record, alone: Record, folders: tuple[Path, Path]) -> None:
    """Bit by bit: scores, curve, weights, predictions, and what was measured of the configuration."""
    assert (shared["status"], shared["error"]) == (alone["status"], alone["error"]) == ("ok", None), shared["traceback"]
    for part in ("run_id", "scores", "stderr", "curve", "parameters", "memory", "compute", "checks", "data"):
        assert shared[part] == alone[part], part
    first, second = (pq.read_table(folder / shared["predictions"]) for folder in folders)
    assert first.equals(second)


def assert_honest(record: Record, runs: int) -> None:
    """Speed is from the own probe, and what the joint run cannot tell is null."""
    assert problems(record) == [] and record["shared"] == {"runs": runs}
    speed = record["speed"]
    assert all(speed[f"{part}_seconds"] is None for part in ("setup", "train", "eval", "total"))
    assert len(speed["step_seconds"]) == 6 and speed["warmup_steps"] == 2 and len(speed["reference_step_seconds"]) == 24
    for name in ("train_samples_per_second", "inference_samples_per_second", "inference_latency_ms"):
        assert speed[name] > 0


VARIED = ("lst.reduction=2,4", "lst.lr=0.003,0.01", "train.data_seed=0")


@pytest.mark.parametrize("family", ["bert", "llama", "t5"])
def test_each_equals_its_separate_run(family: str, tmp_path: Path) -> None:
    with tiny.registry_restored():
        make = tiny.model_folder if family == "bert" else writers.folder
        everything = expanded(make(tmp_path / family, family), *VARIED, seeds=("0", "1"))
        chosen = [everything[index] for index in (0, 7)]
        records, members = together([job(spec, tmp_path / "shared") for spec in chosen])
        alone = [execute(job(spec, tmp_path / "alone"), lambda _: None) for spec in chosen]
    assert len({record["parameters"]["trained_sha256"] for record in records}) == len(chosen)
    for one, other in zip(records, alone, strict=True):
        assert_same(one, other, (tmp_path / "shared", tmp_path / "alone"))
        assert_honest(one, len(chosen))
        assert other["shared"] is None and other["speed"]["total_seconds"] > 0
    readings = {member.readings for member in members}
    assert len(readings) == 1, "all asked for the same"
    assert sum(member.passes for member in members) == readings.pop(), "the trunk ran once for all of them"


def test_other_batch_orders_and_other_layers_come_out_right(tmp_path: Path) -> None:
    """Seeds with their own order, and readers of other blocks: each gets its own readings."""
    with tiny.registry_restored():
        model = tiny.model_folder(tmp_path / "bert")
        chosen = [*expanded(model, seeds=("0", "1")), *expanded(model, "lst.layers=0")]
        records, members = together([job(spec, tmp_path / "shared") for spec in chosen])
        for spec, record in list(zip(chosen, records, strict=True))[1:]:
            alone = execute(job(spec, tmp_path / "alone"), lambda _: None)
            assert_same(record, alone, (tmp_path / "shared", tmp_path / "alone"))
    first, second, third = members
    assert third.passes == third.readings, "it reads other blocks"
    assert first.readings - 10 <= first.passes + second.passes - 10 <= first.readings, "training batches are its own"
    assert second.passes <= 10, "dev and validation batches are shared"


def test_what_befalls_one_run_befalls_no_other(tmp_path: Path) -> None:
    """One raises in training, one is told to stop, one diverges, one is out of memory before it begins."""

    def at(step: int, error: type[BaseException]) -> Emit:
        def emit(message: dict[str, Any]) -> None:
            if message.get("step") == step or (step == 0 and message.get("name") == "measuring memory"):
                raise error("on purpose")

        return emit

    with tiny.registry_restored():
        model = tiny.model_folder(tmp_path / "bert")
        chosen = expanded(model, "lst.lr=0.001,0.002,1e30,0.005,0.006")
        emits = [at(3, RuntimeError), at(5, KeyboardInterrupt), at(-1, OSError), at(0, MemoryError), at(-1, OSError)]
        jobs = [job(spec, tmp_path / "shared", save=True) for spec in chosen]
        records, _ = together(jobs, emits)
        assert [record["status"] for record in records] == ["failed", "interrupted", "diverged", "oom", "ok"]
        assert all(problems(record) == [] for record in records)
        assert len(records[1]["curve"]) == 5 and records[3]["shared"] is None
        for index in (4,):
            alone = execute(job(chosen[index], tmp_path / "alone", save=True), lambda _: None)
            assert_same(records[index], alone, (tmp_path / "shared", tmp_path / "alone"))
            ours, theirs = (
                (tmp_path / name / "adapters" / chosen[index].run_id / "adapter.safetensors")
                for name in ("shared", "alone")
            )
            assert ours.read_bytes() == theirs.read_bytes()


def test_which_runs_are_put_together(tmp_path: Path) -> None:
    with tiny.registry_restored():
        model = tiny.model_folder(tmp_path / "bert")

        def sizes(*sets: str, slots: int = 1, **rest: Any) -> list[int]:
            return [len(bundle) for bundle in bundled(expanded(model, *sets, **rest), slots)]

        four = ("0", "1", "2", "3")
        assert sizes("lst.reduction=2,4", "lst.lr=0.1,0.2") == [4]
        assert sizes(seeds=four) == [1, 1, 1, 1], "each seed has its own batch order"
        assert sizes("train.data_seed=7", seeds=four) == [4]
        assert sizes("lst.lr=0.1,0.2", seeds=four) == [2, 2, 2, 2]
        assert sizes("train.lr=0.1,0.2") == [2]
        assert sizes("train.clip=0.5,1") == sizes("train.data_seed=0,1") == [1, 1]
        assert sizes("lst.backbone_dropout=true", "lst.lr=0.1,0.2") == [1, 1], "the trunk's dropout differs"
        assert MOST == 8
        nine = "lst.lr=" + ",".join(f"0.{digit}" for digit in range(1, 10))
        assert sizes(nine) == [5, 4]
        assert sizes("lst.lr=0.1,0.2,0.3,0.4", slots=2) == [2, 2]
        assert sizes("lst.lr=0.1,0.2,0.3", slots=2) == [3], "a bundle of one saves nothing"
        order = [
            spec.run_id for bundle in bundled(expanded(model, "train.data_seed=7", seeds=four), 1) for spec in bundle
        ]
        assert order == [spec.run_id for spec in expanded(model, "train.data_seed=7", seeds=four)]
        (trial,) = expanded(model)
        trial.spec["tuning"] = {"trial": 0}
        assert bundled([trial, *expanded(model, "lst.lr=0.1,0.2")], 1)[0] == [trial]


def test_the_batch_order_is_a_setting_that_old_runs_do_not_have(tmp_path: Path) -> None:
    with tiny.registry_restored():
        model = tiny.model_folder(tmp_path / "bert")
        (plain,), (chosen,) = expanded(model), expanded(model, "train.data_seed=0")
        (none,) = expanded(model, "train.data_seed=none")
        assert "data_seed" not in plain.spec["train"] and none.run_id == plain.run_id != chosen.run_id
        for spec, value in ((plain, None), (chosen, 0)):
            assert options.build(TrainSettings, spec.spec["train"], "train").data_seed == value
        (moved,) = expanded(model, "train.data_seed=5")
        orders = []
        for spec in (plain, chosen, moved):
            data = read_data(plan_run(job(spec, tmp_path), lambda _: None), torch.device("cpu"))
            orders.append(list(islice(data.batches.rows(), 6)))
    assert orders[0] == orders[1] != orders[2], "seed 0's own order is that of data_seed 0"


class Together(fakes.Fake):
    """A fake executor that can do runs together."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.bundles: list[list[str]] = []

    def submit(self, job: Job) -> None:
        self.submit_together([job])

    def submit_together(self, jobs: Sequence[Job]) -> None:
        self.bundles.append([job.run_id for job in jobs])
        for one in jobs:
            super().submit(one)


def sweep(store: Store, runs: list[expand.RunSpec], executor: fakes.Fake, **changes: Any) -> None:
    from bench.sweep.progress import Silent

    Sweep(runs, store, Execution(**changes), Silent(), lambda: executor).run()


def test_a_sweep_puts_together_what_is_missing_and_does_a_full_run_alone_again(tmp_path: Path) -> None:
    """Out of memory with concurrent runs may only mean that the others took it."""
    store = Store(tmp_path / "out")
    store.prepare()
    with tiny.registry_restored():
        runs = expanded(tiny.model_folder(tmp_path / "bert"), "lst.lr=0.1,0.2,0.3,0.4")
    ids = [run.run_id for run in runs]

    def outcome(one: Job) -> Record | None:
        crowded = one.run_id == ids[1] and len(executor.bundles) == 1
        record = fakes.record(one)
        return record | ({"status": "oom", "shared": {"runs": 3}} if crowded else {})

    sweep(store, runs[3:], alone := Together(fakes.record))
    assert alone.bundles == [ids[3:]]
    executor = Together(outcome)
    sweep(store, runs, executor)
    assert executor.bundles == [ids[:3], [ids[1]]]
    assert {record["status"] for record in store.records()[0]} == {"ok"}
    sweep(store, runs, separate := Together(fakes.record), fresh=True, no_share=True)
    assert separate.bundles == [[run_id] for run_id in ids]
    sweep(store, runs, other := fakes.Fake(fakes.record), fresh=True)
    assert other.submitted == ids, "an executor that cannot do runs together gets them one by one"


def test_the_command_shares_by_itself(tiny_model: Path, mirror: Path, tmp_path: Path) -> None:
    arguments = ["--methods", "lst", "--set", "lst.reduction=2", "--set", "train.data_seed=0", "--seeds", "0,1"]
    arguments += ["--task", "glue/sst2", "--steps", "8", "--set", "train.evaluations=1", "--model", str(tiny_model)]
    command = [sys.executable, "-m", "bench", "run", *arguments, "--out", str(tmp_path / "out")]
    output, progress = start(command, mirror, tmp_path).communicate(timeout=180)
    found = [json.loads(path.read_text()) for path in sorted(whole_records(tmp_path / "out"))]
    assert [record["shared"] for record in found] == [{"runs": 2}] * 2, progress
    assert progress.count("trained together with 1 other\n") == 2 and "Report:" in output
    assert "pass" in {record["checks"]["seeds differ"] for record in found}


@pytest.mark.parametrize("given", [{}, {"no_share": True}])
def test_sharing_is_turned_off_by_flag_and_plan_file(given: dict[str, Any], tmp_path: Path) -> None:
    from bench.sweep import plan_file

    plan = tmp_path / "plan.toml"
    plan.write_text('methods = "lst"\ntask = "glue/sst2"\n' + "no-share = true\n" * bool(given))
    (from_plan,) = plan_file.requests(plan, {}, ())
    for request in (RunRequest.build({"methods": "lst", "task": "glue/sst2", **given}), from_plan):
        assert request.no_share is bool(given)


def test_killed_and_stopped_bundles(tmp_path: Path) -> None:
    """In the real worker: what was over is kept. The kernel kills the process: the rest left nothing. Told to stop:
    each of the rest leaves a record of how far it came."""
    with tiny.registry_restored():
        chosen = expanded(tiny.model_folder(tmp_path / "bert"), "lst.lr=1e30,0.002,0.003", steps="20000")
    jobs = [job(spec, tmp_path / "out") for spec in chosen]
    over, *rest = [one.run_id for one in jobs]
    with Pool() as pool:
        for kill in (True, False):
            pool.submit_together(jobs)
            assert _exits(pool, {over}) == {over: 0}
            lost = pool.result(over)
            assert lost is not None and lost["status"] == "diverged" and lost["shared"] == {"runs": 3}
            if kill:
                os.kill(_child(pool._process.pid), signal.SIGKILL)
            else:
                pool.stop(rest)
            codes = _exits(pool, set(rest))
            records = [pool.result(run_id) for run_id in rest]
            if kill:
                assert set(codes.values()) == {-signal.SIGKILL} and records == [None, None]
                pool.events(5)  # the process's last word about the run that was over
                continue
            assert set(codes.values()) == {0}
            assert [record and record["status"] for record in records] == ["interrupted"] * 2
            assert all(record and "after step" in record["error"] for record in records)


def _exits(pool: Pool, wanted: set[str]) -> dict[str, int]:
    """The exit codes of runs, once all of them are over."""
    found: dict[str, int] = {}
    deadline = time.monotonic() + 120
    while not wanted <= found.keys():
        assert time.monotonic() < deadline, found
        found |= {one["run_id"]: one["code"] for one in pool.events(1) if one["event"] == "exit"}
    return {run_id: found[run_id] for run_id in wanted}


def _child(worker: int) -> int:
    """The one process that a worker has."""
    listed = subprocess.run(["ps", "-ww", "-eo", "pid,ppid"], capture_output=True, text=True, check=True).stdout
    (found,) = [int(line.split()[0]) for line in listed.splitlines()[1:] if int(line.split()[1]) == worker]
    return found
