"""Sweeps that are killed, shared and crashed into lose nothing."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

from bench.store.validation import problems

KILLS = 2  # end to end; kill_sweep.py does many


def command(model: Path, out: Path, *extra: str, seeds: str = "0,1") -> list[str]:
    """A sweep of four runs for each seed."""
    methods = ["--methods", "full,lora,head,lst", "--set", "lst.reduction=2", "--seeds", seeds]
    task = ["--task", "glue/sst2", "--steps", "3", "--set", "train.evaluations=1"]
    return [sys.executable, "-m", "bench", "run", *methods, *task, "--model", str(model), "--out", str(out), *extra]


def obey_ctrl_c() -> None:
    """A background job of a shell ignores SIGINT, and so would its children."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def start(arguments: list[str], mirror: Path, folder: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        arguments, cwd=folder, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
        preexec_fn=obey_ctrl_c,
        env={**os.environ, "BENCH_DATA": str(mirror), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip


def whole_records(out: Path) -> dict[Path, int]:
    """Every record file with its time stamp; fails on one that is not whole."""
    found = {}
    for path in (out / "runs").glob("[0-9a-f]*.json"):
        assert problems(json.loads(path.read_text())) == [], path
        found[path] = path.stat().st_mtime_ns
    return found


def test_killed_sweeps_lose_no_finished_run(tiny_model: Path, mirror: Path, tmp_path: Path) -> None:
    """kill -9 at random moments, again and again; what was finished stays as it was, the rest gets done."""
    out, generator = tmp_path / "out", random.Random(0)
    finished: dict[Path, int] = {}
    for _ in range(KILLS):
        process = start(command(tiny_model, out, "--quiet", seeds="0"), mirror, tmp_path)
        time.sleep(generator.uniform(2, 7))
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
        now = whole_records(out)
        assert finished.items() <= now.items(), "a finished record was lost or done again"
        finished = now
    process = start(command(tiny_model, out, seeds="0"), mirror, tmp_path)
    _, progress = process.communicate(timeout=180)
    final = whole_records(out)
    assert len(final) == 4 and finished.items() <= final.items()
    assert f"[1/{4 - len(finished)}]" in progress or len(finished) == 4, "only what was missing is run"
    assert _children_are_gone(process.pid)


def _children_are_gone(pid: int) -> bool:
    """No worker of the killed sweeps is left (they end when their standard input does)."""
    for _ in range(100):
        listed = subprocess.run(["ps", "-ww", "-eo", "ppid,args"], capture_output=True, text=True, check=True).stdout
        if not any(
            line.strip().startswith("1 ") and "bench.sweep.executors.local_worker" in line
            for line in listed.splitlines()
        ):
            return True
        time.sleep(0.1)
    return False


def test_two_sweeps_share_one_folder(tiny_model: Path, mirror: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    both = [start(command(tiny_model, out, seeds="0"), mirror, tmp_path) for _ in range(2)]
    outputs = [process.communicate(timeout=180) for process in both]
    assert len(whole_records(out)) == 4
    ended = [line for _, progress in outputs for line in progress.splitlines() if ": accuracy " in line]
    assert len(ended) == 4, "each run was done once, by one of the two"
    assert all("Report:" in output for output, _ in outputs)


def test_workers_run_at_once(tiny_model: Path, mirror: Path, tmp_path: Path) -> None:
    process = start(command(tiny_model, tmp_path / "out", "--workers", "2", seeds="0"), mirror, tmp_path)
    process.communicate(timeout=180)
    files = whole_records(tmp_path / "out")
    assert len(files) == 4
    assert {json.loads(path.read_text())["environment"]["workers"] for path in files} == {2}


CRASH = '''
import os, signal
from dataclasses import dataclass
from typing import ClassVar
import bench

@bench.register_method
@dataclass(frozen=True)
class Crash:
    """Dies as a process that the kernel kills for its memory, or raises."""
    name: ClassVar[str] = "crash"
    swept: ClassVar[str | None] = None
    how: str = bench.option("kill", "how to die")
    lr: float = bench.option(1e-3, "peak learning rate")

    def attach(self, backbone):
        if next(backbone.model.parameters()).device.type == "meta":
            return backbone.model
        if self.how == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.how == "oom":
            raise MemoryError("no more")
        raise RuntimeError("broken on purpose")
'''


def test_a_dying_run_takes_only_its_row(tiny_model: Path, mirror: Path, tmp_path: Path) -> None:
    plugin = tmp_path / "crash.py"
    plugin.write_text(CRASH)
    arguments = command(tiny_model, tmp_path / "out", "--plugin", str(plugin), "--set", "crash.how=kill,raise,oom")
    arguments[arguments.index("full,lora,head,lst")] = "crash,head"
    del arguments[arguments.index("--set") : arguments.index("--set") + 2]  # lst.reduction: lst is not run here
    arguments[arguments.index("0,1")] = "0"
    process = start(arguments, mirror, tmp_path)
    output, _ = process.communicate(timeout=180)
    found = {}
    for path in whole_records(tmp_path / "out"):
        record = json.loads(path.read_text())
        found[record["spec"]["method"].get("how", "head")] = record
    assert process.returncode == 1
    assert found["head"]["status"] == "ok"
    assert found["kill"]["status"] == "interrupted" and "signal 9" in found["kill"]["error"]
    assert found["raise"]["status"] == "failed" and "broken on purpose" in found["raise"]["error"]
    assert "broken on purpose" in found["raise"]["traceback"]
    assert found["oom"]["status"] == "oom"
    assert "failed" in output and "oom" in output


def test_ctrl_c_stops_cleanly_and_can_go_on(tiny_model: Path, mirror: Path, tmp_path: Path) -> None:
    arguments = command(tiny_model, tmp_path / "out")
    arguments[arguments.index("3")] = "20000"
    process = start(arguments, mirror, tmp_path)
    assert process.stderr is not None
    while "dev" not in (line := process.stderr.readline()) and "20000 steps" not in line:
        assert line, "the sweep ended by itself"
    time.sleep(1)
    os.kill(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 130 and "rerun the same command to resume" in errors
    assert "Traceback" not in errors
    (path,) = whole_records(tmp_path / "out")
    assert json.loads(path.read_text())["status"] == "interrupted"
