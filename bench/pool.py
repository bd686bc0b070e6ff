"""The parent's side of the worker: start it, give it jobs, read its events, end it."""

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
from pathlib import Path
from typing import Any

from bench.job import Job


class WorkerDied(RuntimeError):
    """The worker itself ended; the runs it was doing are lost and can be done again."""


class Pool:
    """One worker process and the jobs given to it. Use as a context manager: leaving it ends the worker."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="tunebench-")
        self._errors = (Path(self._folder.name) / "worker.log").open("w")
        # -P: a file tasks.py in the folder one stands in must not be imported in place of ours.
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "bench.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            start_new_session=True,  # Ctrl-C reaches the parent alone, which decides
            env={**os.environ, "TOKENIZERS_PARALLELISM": "false", "TRANSFORMERS_VERBOSITY": "error"},
        )
        assert self._process.stdout is not None and self._process.stdin is not None
        self._stdin, self._stdout = self._process.stdin, self._process.stdout
        os.set_blocking(self._stdout.fileno(), False)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._stdout, selectors.EVENT_READ)
        self._pending = b""

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def submit(self, job: Job, gpu: int | None = None) -> None:
        """Start a job in a fresh process."""
        order = {
            "job": dataclasses.asdict(job),
            "result": str(self._file(job.run_id, "json")),
            "log": str(self._file(job.run_id, "log")),
            "gpu": gpu,
        }
        try:
            self._stdin.write((json.dumps(order) + "\n").encode())
            self._stdin.flush()
        except BrokenPipeError as error:
            raise self._death() from error

    def events(self, timeout: float) -> list[dict[str, Any]]:
        """Events that came within ``timeout`` seconds, as they come; empty when none did.

        Raises:
            WorkerDied: when the worker ended.
        """
        if not self._selector.select(timeout):
            return []
        data = self._stdout.read()
        if data == b"":
            raise self._death()
        *lines, self._pending = (self._pending + (data or b"")).split(b"\n")
        return [json.loads(line) for line in lines]

    def _death(self) -> WorkerDied:
        code = self._process.wait()
        lines = (Path(self._folder.name) / "worker.log").read_text(errors="replace").strip().splitlines()
        return WorkerDied(f"the worker process ended (exit code {code}){': ' + lines[-1] if lines else ''}")

    def result(self, run_id: str) -> dict[str, Any] | None:
        """The record a finished job left, or None when its process died before it could."""
        path = self._file(run_id, "json")
        if not path.is_file():
            return None
        record: dict[str, Any] = json.loads(path.read_text())
        path.unlink()
        return record

    def log_tail(self, run_id: str, lines: int = 20) -> str:
        """The last lines a job's process printed."""
        path = self._file(run_id, "log")
        return "\n".join(path.read_text(errors="replace").splitlines()[-lines:]) if path.is_file() else ""

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
