"""Kill a sweep (``kill -9``) at random moments, again and again, and see that no finished record is ever lost.

    python -m tests.sweep.kill_sweep --kills 50

Everything is real but one thing: sweep and worker are forked from a process that has torch loaded, so that the
moments fall into the work and not into the imports.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from bench.store.store import Store
from bench.store.validation import problems
from bench.sweep import expand
from bench.sweep.executors import local_worker
from bench.sweep.executors.local import Pool
from bench.sweep.progress import Silent
from bench.sweep.request import Execution, RunRequest
from bench.sweep.scheduler import Sweep
from tests.tiny import TASK, model_folder

LONGEST_RUNS = 1.3  # the latest moment to kill, in lengths of one run


class _Forked:
    """The worker of ``Pool`` as a fork of this process: what ``subprocess.Popen`` offers of a process."""

    def __init__(self) -> None:
        orders, self._orders = os.pipe()
        self._told, tell = os.pipe()
        self.pid, self.returncode = os.fork(), None
        if self.pid == 0:
            os.setsid()
            os.dup2(orders, 0)
            os.dup2(tell, 1)
            os.closerange(3, 4096)  # as an exec would: no claim and no pipe of the sweep may live on here
            signal.signal(signal.SIGINT, local_worker._stop)
            local_worker._Server(os.dup(1)).serve()
            os._exit(0)
        os.close(orders)
        os.close(tell)
        self.stdin, self.stdout = os.fdopen(self._orders, "wb"), os.fdopen(self._told, "rb", 0)

    def poll(self) -> int | None:
        if self.returncode is None and os.waitpid(self.pid, os.WNOHANG)[0]:
            self.returncode = 0
        return self.returncode

    def wait(self) -> int:
        while self.poll() is None:
            time.sleep(0.005)
        return 0


class ForkedPool(Pool):
    """A pool whose worker needs no imports."""

    def _launch(self) -> Any:
        return _Forked()


def sweep(wanted: list[expand.RunSpec], out: Path, workers: int) -> None:
    """What ``bench run`` does once its request is checked."""
    options = Execution(workers=workers, plugin=(TASK,))
    Sweep(wanted, Store(out), options, Silent(), lambda: ForkedPool(workers)).run()


def whole(out: Path) -> dict[str, int]:
    """Every record's time stamp; fails on one that is not whole."""
    found = {}
    for path in (out / "runs").glob("[!.]*.json"):
        assert problems(json.loads(path.read_text())) == [], path
        found[path.stem] = path.stat().st_mtime_ns
    return found


def main(kills: int, runs: int, folder: Path) -> str:
    """Kill so many times, then let it finish; returns a line that says what happened."""
    local_worker._preload()
    model, out = model_folder(folder / "bert"), folder / "out"
    request = RunRequest(
        methods=("head",), task=("tiny/mood",), model=(str(model),), plugin=(TASK,),
        seeds=tuple(map(str, range(runs))), train={"steps": "4", "device": "cpu"}, set=("train.evaluations=1",),
    )  # fmt: skip
    wanted = expand.expand(request)
    Store(out).prepare()
    begun = time.perf_counter()
    sweep(wanted[:1], out, workers=1)
    longest = LONGEST_RUNS * (time.perf_counter() - begun)
    generator, finished, at = random.Random(0), whole(out), Counter()
    for kill in range(kills):
        pid = os.fork()
        if pid == 0:
            try:
                sweep(wanted, out, workers=1 + kill % 2)
            finally:
                os._exit(0)
        time.sleep(generator.uniform(0.0, longest))
        os.kill(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
        now = whole(out)
        assert finished.items() <= now.items(), "a finished record was lost or done again"
        at["at work" if os.WIFSIGNALED(status) else "over"] += 1
        finished = now
    sweep(wanted, out, workers=1)
    final = whole(out)
    assert finished.items() <= final.items() and set(final) == {spec.run_id for spec in wanted}
    statuses = Counter(record["status"] for record in Store(out).records()[0])
    return (
        f"{kills} kills ({at['at work']} while it was at work), {len(finished)} of {runs} records finished between "
        f"them, none lost or done twice; then complete: {dict(statuses)}"
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--runs", type=int, default=40)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as made:
        sys.stdout.write(main(chosen.kills, chosen.runs, Path(made)) + "\n")
