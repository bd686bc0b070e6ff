"""The worker that starts while a request is checked: used when there is something to do, gone when there is not."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bench.core.errors import RequestError
from bench.sweep import plan_snapshot
from bench.sweep.executors import select
from bench.sweep.executors.local import Pool
from bench.sweep.executors.select import WorkerPrewarm
from bench.sweep.request import RunRequest


class Waiting:
    """A pool that counts itself."""

    made: list[Waiting]

    def __init__(self, workers: int) -> None:
        self.slots, self.ended = workers, False
        self.made.append(self)

    def abandon(self) -> None:
        self.ended = True


@pytest.fixture
def pools(monkeypatch: pytest.MonkeyPatch) -> list[Waiting]:
    Waiting.made = []
    monkeypatch.setattr(select, "Pool", Waiting)
    monkeypatch.setattr(select, "cores", lambda: 2)
    return Waiting.made


def planned(folder: Path, requests: list[RunRequest], *run_ids: str) -> None:
    runs: Any = [SimpleNamespace(run_id=run_id, spec={}) for run_id in run_ids]
    plan_snapshot.write(folder, requests, runs)
    (folder / "runs").mkdir(exist_ok=True)


def test_the_first_sweep_takes_it_and_a_second_gets_a_new_one(pools: list[Waiting], tmp_path: Path) -> None:
    with WorkerPrewarm([RunRequest(out=tmp_path)]) as prewarmed:
        open_executor = select.opener(RunRequest(out=tmp_path, workers=3), prewarmed)
        first, second = open_executor(), open_executor()
    assert [first, second] == pools and [pool.slots for pool in pools] == [3, 3]
    assert not any(pool.ended for pool in pools)


def test_what_was_not_taken_ends_also_on_an_error(pools: list[Waiting], tmp_path: Path) -> None:
    with pytest.raises(RequestError), WorkerPrewarm([RunRequest(out=tmp_path)]):
        raise RequestError("wrong")
    assert [pool.ended for pool in pools] == [True]


@pytest.mark.parametrize("executor", ["ray", "slurm"])
def test_other_executors_get_none(executor: str, pools: list[Waiting], tmp_path: Path) -> None:
    with WorkerPrewarm([RunRequest(out=tmp_path, executor=executor)]):
        assert pools == []


def test_one_core_is_left_to_the_check(pools: list[Waiting], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(select, "cores", lambda: 1)
    with WorkerPrewarm([RunRequest(out=tmp_path)]) as prewarmed:
        assert pools == [] and prewarmed.take(2).slots == 2


def test_a_request_that_was_answered_before_starts_none(pools: list[Waiting], tmp_path: Path) -> None:
    request = RunRequest(methods=("lora",), quiet=True, out=tmp_path)
    planned(tmp_path, [request], "a" * 16, "b" * 16)
    for name in ("a" * 16, "b" * 16):
        with WorkerPrewarm([request]):
            pass
        assert len(pools) == ("ab".index(name[0]) + 1)  # one record is missing still
        (tmp_path / "runs" / f"{name}.json").touch()
    for changes in ({"methods": ("lora", "lst")}, {"fresh": True}):
        with WorkerPrewarm([dataclasses.replace(request, **changes)]):
            pass
    assert len(pools) == 4
    with WorkerPrewarm([dataclasses.replace(request, quiet=False)]):
        assert len(pools) == 4


def test_a_wrong_request_ends_the_worker_and_a_dry_run_has_none(pools: list[Waiting], bench_here: Any) -> None:
    wrong = bench_here("run", "--methods", "lorra", "--task", "glue/sst2")
    assert wrong.returncode == 2 and "Did you mean 'lora'" in wrong.stderr
    assert [pool.ended for pool in pools] == [True]
    bench_here("run", "--methods", "lorra", "--task", "glue/sst2", "--dry-run")
    assert len(pools) == 1


def test_a_worker_at_its_imports_ends_at_once() -> None:
    pool = Pool(1)
    folder, begun = Path(pool._folder.name), time.perf_counter()
    pool.abandon()
    assert pool._process.poll() is not None and not folder.exists()
    assert time.perf_counter() - begun < 2
