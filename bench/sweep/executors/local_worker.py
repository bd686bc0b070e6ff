"""A process that has torch and transformers loaded and forks one child per run, which therefore imports nothing.

Runs that share a frozen backbone (``bench.training.shared.lockstep``) are trained by one child.

The protocol is JSON lines: jobs on standard input, events on standard output, a child's record in a file. Nothing is
pickled and the caller's ``__main__`` is never imported. When its input ends (the sweep has ended, for whatever reason)
it kills its children and exits.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import os
import selectors
import signal
import sys
import traceback
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.core.quiet import gc_paused
from bench.sweep.executors.base import died, killed
from bench.training.events import Emitter

# Needed only for scoring: imported while no order waits; a run that starts before has to import them itself. The first
# order comes soon and waits for the import in progress: short ones first, among them parts of the long ones.
_LATER = ("scipy.interpolate", "scipy.ndimage", "scipy.stats", "sklearn.metrics", "bench.tasks.metrics.accuracy")

if TYPE_CHECKING:
    from bench.training.shared.lockstep import Member

_stop_requested = False  # in a child: set by SIGINT, read after every step


def main() -> None:
    """Serve jobs until standard input ends."""
    channel = os.dup(1)
    os.dup2(2, 1)  # what a library prints must not break the protocol
    signal.signal(signal.SIGINT, _stop)  # children inherit it, so that there is no moment without it
    _preload()
    server = _Server(channel, _LATER)
    server.send({"event": "ready"})
    server.serve()


def _stop(*_: object) -> None:
    global _stop_requested
    _stop_requested = True


def _preload() -> None:
    with gc_paused(lasting=True):  # else a fifth of the time goes into garbage collection
        import datasets  # noqa: F401  (loaded here once, so that forked children need not)
        import transformers

        import bench.training.run  # noqa: F401
        from bench.core import registry

        for name in ("AutoConfig", "AutoTokenizer", "AutoModelForSequenceClassification", "PreTrainedModel"):
            getattr(transformers, name)
        transformers.logging.set_verbosity_error()  # type: ignore[no-untyped-call]
        transformers.utils.logging.disable_progress_bar()  # type: ignore[no-untyped-call]
        registry.load()


class _Server:
    def __init__(self, channel: int, later: Sequence[str] = ()) -> None:
        self.channel, self.later = channel, list(later)
        self.children: dict[int, list[str]] = {}  # process id → its runs

    def send(self, message: dict[str, Any]) -> None:
        """Write one line; short lines of several processes do not mix."""
        os.write(self.channel, (json.dumps(message) + "\n").encode())

    def serve(self) -> None:
        woken, wake = os.pipe()
        os.set_blocking(wake, False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
        selector = selectors.DefaultSelector()
        selector.register(0, selectors.EVENT_READ)
        selector.register(woken, selectors.EVENT_READ)
        pending = b""
        while True:
            ready = selector.select(0 if self.later else None)
            if not ready:
                self._import_more()
            for key, _ in ready:
                if key.fd == woken:
                    os.read(woken, 4096)
                    continue
                data = os.read(0, 1 << 16)
                if not data:
                    self._kill_all()
                    return
                *lines, pending = (pending + data).split(b"\n")
                for line in lines:
                    self._obey(json.loads(line))
            self._reap()

    def _import_more(self) -> None:
        with gc_paused(lasting=True):
            importlib.import_module(self.later.pop(0))

    def _obey(self, order: dict[str, Any]) -> None:
        if "stop" not in order:
            self._start(order)
            return
        for pid, run_ids in self.children.items():
            if not set(run_ids).isdisjoint(order["stop"]):
                os.kill(pid, signal.SIGINT)

    def _start(self, order: dict[str, Any]) -> None:
        # Python drops the signals that reach a child before it has set itself up: they have to wait.
        signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT,))
        pid = os.fork()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGINT,))
        if pid == 0:
            code = 1
            try:
                signal.set_wakeup_fd(-1)
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                self._child(order)
                code = 0
            except BaseException:  # the process ends here: its log must say why
                traceback.print_exc()
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(code)
        self.children[pid] = [run["job"]["run_id"] for run in order["runs"]]

    def _child(self, order: dict[str, Any]) -> None:
        _die_with_parent()
        log = os.open(order["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        null = os.open(os.devnull, os.O_RDONLY)
        for target, source in ((0, null), (1, log), (2, log)):
            os.dup2(source, target)
        if order.get("gpu") is not None:
            visible = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
            os.environ["CUDA_VISIBLE_DEVICES"] = visible[order["gpu"]] if visible else str(order["gpu"])
        acts = [partial(self._do, run, len(order["runs"]) > 1) for run in order["runs"]]
        if len(acts) == 1:
            acts[0](None)
            return
        import torch

        from bench.training.shared.lockstep import Lockstep

        Lockstep(acts, torch.device(order["runs"][0]["job"]["spec"]["train"]["device"])).run()

    def _do(self, run: dict[str, Any], early: bool, member: Member | None) -> None:
        """Do a run and write its record; ``early``: report its end at once, not with the process's."""
        from bench.training.job import Job
        from bench.training.run import execute

        job = Job(**{**run["job"], "plugins": tuple(run["job"]["plugins"])})
        emit = Emitter(lambda message: self.send({"run_id": job.run_id, **message}), lambda: _stop_requested)
        record = execute(job, emit, member)
        partial_file = Path(run["result"] + ".partial")
        partial_file.write_text(json.dumps(record, default=_plain))
        partial_file.replace(run["result"])
        if early:
            self.send({"event": "exit", "run_id": job.run_id, "code": 0, "why": ""})

    def _reap(self) -> None:
        while self.children:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                return
            code = os.waitstatus_to_exitcode(status)
            for run_id in self.children.pop(pid):  # runs that reported their end before are ignored by the sweep
                ended = {"event": "exit", "run_id": run_id, "code": code, "why": died(code), "killed": killed(code)}
                self.send({**ended, "process": True})

    def _kill_all(self) -> None:
        for pid in self.children:
            os.kill(pid, signal.SIGKILL)
        for pid in self.children:
            os.waitpid(pid, 0)


def _plain(value: Any) -> Any:
    """A NumPy or torch number that a plugin's score gave, as JSON knows it."""
    try:
        return value.item()
    except AttributeError:
        raise TypeError(
            f"{type(value).__name__} {value!r} is neither a number nor a text that a record can hold"
        ) from None


def _die_with_parent() -> None:
    """On Linux, have the kernel kill this process when the worker dies; elsewhere the pipe's end does it later."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


if __name__ == "__main__":
    main()
