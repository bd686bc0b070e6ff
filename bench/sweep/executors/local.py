"""The executor of this machine: starts a worker process, sends it jobs and reads its events."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Self

from bench.sweep.executors.base import WorkerDied
from bench.training.job import Job


class Pool:
    """One worker process that forks a child per job; an ``Executor``.

    Args:
        workers: parallel jobs. Several share the CPU's cores, and each gets the GPU with the fewest of them.
    """

    def __init__(self, workers: int = 1) -> None:
        self.slots = workers
        self._gpus: dict[str, int | None] = {}  # of active processes, by their first job
        self._logs: dict[str, Path] = {}
        self._folder = tempfile.TemporaryDirectory(prefix="tunebench-")
        self._errors = (Path(self._folder.name) / "worker.log").open("w")
        self._process = self._launch()
        assert self._process.stdout is not None and self._process.stdin is not None
        self._stdin, self._stdout = self._process.stdin, self._process.stdout
        os.set_blocking(self._stdout.fileno(), False)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._stdout, selectors.EVENT_READ)
        self._pending = b""

    def _launch(self) -> subprocess.Popen[bytes]:
        # -P: a file tasks.py in the current folder must not be imported in place of ours.
        return subprocess.Popen(
            [sys.executable, "-P", "-m", "bench.sweep.executors.local_worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            start_new_session=True,  # Ctrl-C reaches only the parent, which decides
            env={
                **os.environ,
                "TOKENIZERS_PARALLELISM": "false",
                "TRANSFORMERS_VERBOSITY": "error",
                "PYTORCH_NVML_BASED_CUDA_CHECK": "1",  # finds a GPU without CUDA's start, which breaks forks
            },
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def submit(self, job: Job) -> None:
        """Start a job in a fresh process."""
        self.submit_together([job])

    def submit_together(self, jobs: Sequence[Job]) -> None:
        """Start jobs that share a frozen backbone, all in one fresh process."""
        # OMP_NUM_THREADS is the user's setting and holds on machines of any size.
        shared = self.slots > 1 and not os.environ.get("OMP_NUM_THREADS")
        threads = max(1, cores() // self.slots) if shared else None
        first = jobs[0].run_id
        self._gpus[first] = self._gpu(jobs[0])
        self._logs |= {job.run_id: self._file(first, "log") for job in jobs}
        placed = [dataclasses.replace(job, workers=self.slots, threads=threads) for job in jobs]
        self._order(
            {
                "runs": [
                    {"job": dataclasses.asdict(job), "result": str(self._file(job.run_id, "json"))} for job in placed
                ],
                "log": str(self._logs[first]),
                "gpu": self._gpus[first],
            }
        )

    def _gpu(self, job: Job) -> int | None:
        """The GPU of a job when several run at once; None leaves the choice to torch."""
        if job.spec["train"]["device"] != "cuda" or self.slots == 1:
            return None
        import torch

        taken = Counter(self._gpus.values())
        return min(range(torch.cuda.device_count()), key=lambda gpu: taken[gpu])

    def stop(self, run_ids: Iterable[str]) -> None:
        """Ask runs to finish their current step and write their record."""
        self._order({"stop": list(run_ids)})

    def _order(self, order: dict[str, Any]) -> None:
        try:
            self._stdin.write((json.dumps(order) + "\n").encode())
            self._stdin.flush()
        except BrokenPipeError as error:
            raise self._death() from error

    def events(self, timeout: float) -> list[dict[str, Any]]:
        """Events as soon as there are any, after ``timeout`` seconds an empty list.

        Raises:
            WorkerDied: when the worker ended.
        """
        if not self._selector.select(timeout):
            return []
        data = self._stdout.read()
        if data == b"":
            raise self._death()
        *lines, self._pending = (self._pending + (data or b"")).split(b"\n")
        found = [json.loads(line) for line in lines]
        for message in found:
            if message["event"] == "exit" and message.get("process"):
                self._gpus.pop(message["run_id"], None)
        return found

    def _death(self) -> WorkerDied:
        code = self._process.wait()
        lines = (Path(self._folder.name) / "worker.log").read_text(errors="replace").strip().splitlines()
        return WorkerDied(f"the worker process ended (exit code {code}){': ' + lines[-1] if lines else ''}")

    def result(self, run_id: str) -> dict[str, Any] | None:
        """The record of a finished job, or None when its process died before writing one."""
        path = self._file(run_id, "json")
        if not path.is_file():
            return None
        record: dict[str, Any] = json.loads(path.read_text())
        path.unlink()
        return record

    def log_tail(self, run_id: str, lines: int = 20) -> str:
        """The last lines a job's process printed."""
        path = self._logs.get(run_id)
        if path is None or not path.is_file():
            return ""
        return "\n".join(path.read_text(errors="replace").splitlines()[-lines:])

    def abandon(self) -> None:
        """Kill a worker that has no job: it may be importing, and would not react to the end of its input."""
        self._process.kill()
        self.close()

    def close(self) -> None:
        """End the worker and its children."""
        with contextlib.suppress(BrokenPipeError):
            self._stdin.close()
        deadline = time.monotonic() + 5
        while self._process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        self._stdout.close()
        self._selector.close()
        self._errors.close()
        self._folder.cleanup()

    def _file(self, run_id: str, ending: str) -> Path:
        return Path(self._folder.name) / f"{run_id}.{ending}"


def cores() -> int:
    """CPU cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
