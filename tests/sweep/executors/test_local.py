"""Full disks, vanished folders, dead workers, clocks that jump, disks without locks: nothing finished is lost."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from bench.store.store import Store
from bench.store.validation import problems
from bench.sweep.executors.base import WorkerDied
from bench.sweep.progress import Silent
from bench.sweep.request import Execution
from bench.sweep.scheduler import Sweep
from tests import factories
from tests.conftest import Bench
from tests.sweep.test_scheduler import command, start, whole_records
from tests.training import fakes

ROOT = Path(__file__).parents[3]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    made = Store(tmp_path / "out")
    made.prepare()
    return made


def sweep(store: Store, runs: Any, executor: Any, **options: Any) -> Sweep:
    return Sweep(runs, store, Execution(**options), Silent(), lambda: executor)


def test_kills_lose_nothing() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.sweep.kill_sweep", "--kills", "5", "--runs", "12"],
        capture_output=True, text=True, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "none lost or done twice; then complete: {'ok': 12}" in done.stdout


@pytest.fixture
def small_disk(tmp_path: Path) -> Any:
    """A disk of 256 KiB (a tmpfs, which needs root)."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = shutil.which("mount")
    options = ["-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)]
    if mount is None or subprocess.run([mount, *options], capture_output=True).returncode:
        pytest.skip("mounting a small disk needs root")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_keeps_what_is_finished_and_the_rest_can_be_done_later(small_disk: Path) -> None:
    store, runs = Store(small_disk / "out"), fakes.specs(40)
    store.prepare()
    with pytest.raises(OSError) as full:
        sweep(store, runs, fakes.Fake(fakes.record)).run()
    assert full.value.errno == errno.ENOSPC
    kept, warnings = store.records()
    assert warnings == [] and 3 < len(kept) < 40
    assert not list((store.folder / "runs").glob(".*")), "no leftovers that take room"
    subprocess.run(["mount", "-o", "remount,size=8m", str(small_disk)], check=True)
    again = fakes.Fake(fakes.record)
    sweep(store, runs, again).run()
    assert len(store.records()[0]) == 40 and len(again.submitted) == 40 - len(kept)


def test_a_full_disk_ends_the_command_with_a_sentence(
    bench_here: Bench, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: Store, record: dict[str, Any]) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Store, "write", full)
    monkeypatch.setattr("bench.sweep.executors.select.Pool", lambda workers: fakes.Fake(fakes.record))
    done = bench_here("run", "--methods", "head", "--task", "glue/sst2", "--model", tiny_model, "--quiet")
    assert done.returncode == 2 and "cannot be written any more: No space left on device" in done.stderr


def test_a_vanished_folder_ends_the_sweep_and_says_so(
    bench_here: Bench, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def vanish(job: Any) -> dict[str, Any]:
        shutil.rmtree(tmp_path / "out")
        return fakes.record(job)

    monkeypatch.setattr("bench.sweep.executors.select.Pool", lambda workers: fakes.Fake(vanish))
    done = bench_here(
        "run", "--methods", "head", "--task", "glue/sst2", "--model", tiny_model, "--quiet", "--out", "out"
    )
    assert done.returncode == 2 and "out cannot be written any more: No such file" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_worker_that_dies_costs_the_runs_it_was_doing_and_no_other(store: Store) -> None:
    runs = fakes.specs(5)

    def second_dies(job: Any) -> dict[str, Any]:
        if job.run_id == runs[1].run_id:
            raise WorkerDied("the worker process ended (exit code -9)")
        return fakes.record(job)

    sweep(store, runs, fakes.Fake(second_dies)).run()
    found = {record["spec"]["seed"]: record for record in store.records()[0]}
    assert [found[seed]["status"] for seed in range(5)] == ["ok", "interrupted", "ok", "ok", "ok"]
    assert "exit code -9" in found[1]["error"]
    again = fakes.Fake(fakes.record)
    sweep(store, runs, again).run()
    assert again.submitted == [runs[1].run_id] and store.read(runs[1].run_id)["status"] == "ok"  # type: ignore[index]


def test_the_real_worker_killed_by_the_kernel(tiny_model: Path, mirror: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    arguments = command(tiny_model, out)
    arguments[arguments.index("full,lora,head,lst")] = "head,lst"
    process = start(arguments, mirror, tmp_path)
    deadline = time.monotonic() + 120
    while not whole_records(out) and time.monotonic() < deadline:
        time.sleep(0.05)
    listed = subprocess.run(["ps", "-ww", "-eo", "pid,ppid,args"], capture_output=True, text=True, check=True).stdout
    (worker,) = [int(line.split()[0]) for line in listed.splitlines()
                 if "bench.sweep.executors.local_worker" in line and line.split()[1] == str(process.pid)]  # fmt: skip
    os.kill(worker, signal.SIGKILL)
    process.communicate(timeout=180)
    statuses = [json.loads(path.read_text())["status"] for path in whole_records(out)]
    assert len(statuses) == 4 and statuses.count("ok") >= 3


def test_failed_runs_are_kept_until_asked_for(store: Store) -> None:
    runs = fakes.specs(3)
    dying = fakes.Fake(lambda job: None if job.run_id == runs[0].run_id else fakes.record(job))
    sweep(store, runs, dying).run()
    lost = store.read(runs[0].run_id)
    assert lost is not None and lost["status"] == "failed" and lost["traceback"] == "last words"
    for retry, expected in ((False, []), (True, [runs[0].run_id])):
        again = fakes.Fake(fakes.record)
        sweep(store, runs, again, retry_failed=retry).run()
        assert again.submitted == expected


def test_ctrl_c_once_asks_runs_to_stop_and_starts_no_other(store: Store) -> None:
    runs = fakes.specs(6)

    def press(job: Any) -> dict[str, Any]:
        if len(executor.submitted) == 3:
            os.kill(os.getpid(), signal.SIGINT)
        return fakes.record(job)

    executor = fakes.Fake(press, slots=2)
    with pytest.raises(KeyboardInterrupt):
        sweep(store, runs, executor).run()
    assert len(executor.submitted) == 3 and executor.stopped == executor.submitted[2:]
    assert len(store.records()[0]) == 3, "what was at work came to its end, and nothing new was begun"
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_ctrl_c_twice_stops_at_once_and_records_it(store: Store) -> None:
    (run,) = fakes.specs(1)

    class Stubborn(fakes.Fake):
        def events(self, timeout: float) -> list[dict[str, Any]]:
            os.kill(os.getpid(), signal.SIGINT)
            return []

    with pytest.raises(KeyboardInterrupt):
        sweep(store, [run], Stubborn(fakes.record)).run()
    record = store.read(run.run_id)
    assert record is not None and record["status"] == "interrupted" and "stopped by the user" in record["error"]


def test_a_run_done_again_keeps_its_record_when_it_is_interrupted(store: Store) -> None:
    (run,) = fakes.specs(1)
    sweep(store, [run], fakes.Fake(fakes.record)).run()
    stopped = fakes.Fake(lambda job: fakes.record(job) | {"status": "interrupted"})
    sweep(store, [run], stopped, fresh=True).run()
    assert stopped.submitted == [run.run_id] and store.read(run.run_id)["status"] == "ok"  # type: ignore[index]


def test_a_stopped_run_keeps_the_curve_it_has(tmp_path: Path) -> None:
    from bench.training.job import Job
    from bench.training.run import execute
    from tests import tiny

    def third_step(message: dict[str, Any]) -> None:
        if message["event"] == "step" and message["step"] == 3:
            raise KeyboardInterrupt

    with tiny.place(tmp_path) as place:
        (spec,) = place.specs("head")
        job = Job(spec.run_id, spec.spec, (str(tiny.TASK),), None, str(tmp_path / "p.parquet"), None)
        record = execute(job, third_step)
    assert problems(record) == [] and record["status"] == "interrupted"
    assert "after step 3" in record["error"] and [point["step"] for point in record["curve"]] == [1, 2, 3]
    assert record["traceback"] is None and record["scores"] == {}


def test_clocks_that_jump_do_not_hurt(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another machine's clock is days ahead: its sweep takes our temporary file for an old leftover."""
    made = factories.record()
    rename, swept = Path.replace, []

    def swept_up(self: Path, target: Path) -> Path:
        if not swept:
            swept.append(self)
            self.unlink()
        return rename(self, target)

    monkeypatch.setattr(Path, "replace", swept_up)
    store.write(made)
    assert swept and store.read(made["run_id"]) == made
    far = time.time() + 10 * 86_400
    monkeypatch.setattr(time, "time", lambda: far)
    assert store.records() == ([made], [])
    assert store.wait(made["run_id"], 0.1)


def test_no_duration_is_taken_from_a_clock_that_can_be_set() -> None:
    for folder in ("bench", "methods", "tasks"):
        for path in (ROOT / folder).rglob("*.py"):
            if path.name != "store.py":  # ages of files, which are of that clock
                assert "time.time()" not in path.read_text(), path


def test_disks_without_locks_are_named_and_used(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    assert store.warning() is None

    def none(descriptor: int, how: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", none)
    said = store.warning()
    assert said is not None and "has no file locks (No locks available)" in said and "runs twice" in said
    runs = fakes.specs(2)
    sweep(store, runs, fakes.Fake(fakes.record)).run()
    assert len(store.records()[0]) == 2 and store.wait(runs[0].run_id, 1) and not store.held(runs[0].run_id)


def test_thousands_of_records_are_listed_in_no_time(store: Store) -> None:
    text = json.dumps(factories.record(), indent=1)
    was = json.loads(text)["run_id"]
    for number in range(2000):
        (store.folder / "runs" / f"{number:016x}.json").write_text(text.replace(was, f"{number:016x}"))
    begun = time.process_time()
    records, warnings = store.records()
    assert len(records) == 2000 and warnings == []
    assert time.process_time() - begun < 3 * 2000 / 10_000 * 2, "10,000 take 2.5 s on a quiet core; twice that here"


def test_a_read_only_folder_can_be_read(store: Store, bench_here: Bench, tmp_path: Path) -> None:
    store.write(factories.record())
    (store.folder / "runs" / f"{'0' * 16}.json").write_text("{")
    for folder in (store.folder / "runs", store.folder):
        folder.chmod(0o555)
    try:
        if os.access(store.folder, os.W_OK):  # root: make the same refusal by hand
            (store.folder / "corrupt").write_text("a file where the folder should be")
        records, warnings = store.records()
        assert len(records) == 1 and "it stays there" in warnings[0]
        done = bench_here("report", store.folder, "--html", tmp_path / "report.html")
        assert done.returncode == 0 and (tmp_path / "report.html").is_file()
    finally:
        for folder in (store.folder, store.folder / "runs"):
            folder.chmod(0o755)
