"""Curves for TensorBoard, written during the runs: one folder of events per run."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from bench.core.errors import RequestError
from bench.store.record import Record
from bench.sweep.progress import Watcher


class TensorBoard:
    """A ``Watcher`` that writes TensorBoard events and passes everything on to another watcher.

    Args:
        folder: ``tensorboard --logdir`` takes it.
        inner: the watcher that shows progress.

    Raises:
        RequestError: when TensorBoard is not installed.
    """

    def __init__(self, folder: Path, inner: Watcher) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise RequestError(
                "--tensorboard needs TensorBoard: pip install 'tunebench[tensorboard]'", code="package-missing"
            ) from None
        self._make: Any = SummaryWriter
        self._folder, self._inner = folder, inner
        self._writers: dict[str, Any] = {}

    def started(self, run_id: str, spec: dict[str, Any]) -> None:
        name = re.sub(r"[^\w.-]+", "_", f"{spec['method']['name']}_{spec['task']['name']}_seed{spec['seed']}_{run_id}")
        self._writers[run_id] = self._make(str(self._folder / name))
        self._inner.started(run_id, spec)

    def event(self, run_id: str, message: dict[str, Any]) -> None:
        if message["event"] == "step":
            for tag, key in (("train/loss", "loss"), ("train/lr", "lr"), ("dev/score", "dev_score")):
                if message.get(key) is not None:
                    self._writers[run_id].add_scalar(tag, message[key], message["step"])
            self._writers[run_id].flush()
        self._inner.event(run_id, message)

    def finished(self, record: Record) -> None:
        writer = self._writers.pop(record["run_id"])
        for name, value in record["scores"].items():
            if value is not None:
                writer.add_scalar(f"validation/{name}", value, record["spec"]["train"]["steps"] or 0)
        writer.close()
        self._inner.finished(record)

    def stopping(self) -> None:
        self._inner.stopping()

    def close(self) -> None:
        """Close all event files."""
        for writer in self._writers.values():
            writer.close()
        self._writers.clear()
        close = getattr(self._inner, "close", None)
        if close is not None:
            close()
