"""How long one waits: from the command to the first step of the first run and of those that follow, help and lists.

    BENCH_DATA=… python tests/speed/startup.py                            MiniLM on SST-2, LoRA
    python tests/speed/startup.py --task demo/docstrings --model tiny-bert

A run's time ends when its first step is done: for the first run it begins with the command (interpreter included), for
the following ones with the end of the run before. Every figure is the least of ``--repeats``. "cold" (once) is a cache
folder that is empty: the rows are tokenised. Prints a Markdown table with the user CPU time of the command beside.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any


class Stamps:
    """Stands in for what shows progress: when each run's first step was done, and when it ended."""

    def __init__(self, *_: object) -> None:
        self.first: dict[str, float] = {}
        self.ended: list[float] = []

    def started(self, run_id: str, spec: dict[str, Any]) -> None: ...

    def event(self, run_id: str, message: dict[str, Any]) -> None:
        if message["event"] == "step":
            self.first.setdefault(run_id, time.time())

    def finished(self, record: dict[str, Any]) -> None:
        if record["status"] != "ok":
            raise SystemExit(f"a run ended with {record['status']}: {record['error']}")
        self.ended.append(time.time())

    def stopping(self) -> None: ...

    def close(self) -> None:
        sys.stdout.write(json.dumps({"first": list(self.first.values()), "ended": self.ended}) + "\n")


def inside(arguments: list[str]) -> int:
    """``bench run`` in this process, with the stamps printed in place of its table."""
    import bench.sweep.progress
    from bench.cli import parser as cli
    from bench.cli import run

    bench.sweep.progress.Lines = bench.sweep.progress.Bars = Stamps  # type: ignore[assignment, misc]
    run._show = lambda *_: None
    return cli.main(["run", *arguments])


def sweep(arguments: list[str], cache: Path) -> tuple[float, list[float]]:
    """Seconds to the first run's first step, and from each run's end to the first step of the one after it."""
    with tempfile.TemporaryDirectory() as out:
        begun = time.time()
        done = subprocess.run(
            [sys.executable, "-P", __file__, "--inside", *arguments, "--out", out],
            stdout=subprocess.PIPE, env={**os.environ, "XDG_CACHE_HOME": str(cache)},
        )  # fmt: skip
    if done.returncode not in (0, 1):
        raise SystemExit(done.returncode)
    stamps = json.loads(done.stdout)
    following = [first - end for first, end in zip(stamps["first"][1:], stamps["ended"], strict=False)]
    return stamps["first"][0] - begun, following


def timed(arguments: list[str], cache: Path) -> tuple[float, float]:
    """Wall and user CPU seconds of a command."""
    before, begun = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime, time.perf_counter()
    subprocess.run(
        [sys.executable, "-P", "-m", "bench", *arguments],
        check=True, stdout=subprocess.DEVNULL, env={**os.environ, "XDG_CACHE_HOME": str(cache)},
    )  # fmt: skip
    return time.perf_counter() - begun, resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before


def main() -> int:
    if sys.argv[1:2] == ["--inside"]:
        return inside(sys.argv[2:])
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", default="glue/sst2")
    parser.add_argument("--model", default="minilm")
    parser.add_argument("--methods", default="lora")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--repeats", type=int, default=3)
    chosen = parser.parse_args()
    arguments = ["--methods", chosen.methods, "--task", chosen.task, "--model", chosen.model, "--seeds", chosen.seeds,
                 "--steps", "10", "--eval-size", "64", "--set", "train.evaluations=1"]  # fmt: skip
    lines = ["| what | seconds | user CPU seconds | at most |", "|---|---|---|---|"]
    with tempfile.TemporaryDirectory() as made:
        colds = [sweep(arguments, Path(made) / "cold0")]  # half a minute of tokenising: once
        warms = [sweep(arguments, Path(made) / "cold0") for _ in range(chosen.repeats)]
        for name, found, limits in (("cold", colds, ("", "")), ("warm", warms, ("6", "2.5"))):
            first, following = min(one for one, _ in found), min((t for _, all_ in found for t in all_), default=None)
            lines.append(f"| first run's first step, {name} cache | {first:.2f} | | {limits[0]} |")
            if following is not None:
                lines.append(f"| following run's first step, {name} cache | {following:.2f} | | {limits[1]} |")
        commands = [(["--help"], "0.4"), *((["list", what], "0.6") for what in ("methods", "tasks", "models"))]
        for command, limit in commands:
            timed(command, Path(made))  # what a list keeps is there from the second time on
            wall, cpu = min(timed(command, Path(made)) for _ in range(chosen.repeats))
            lines.append(f"| bench {' '.join(command)} | {wall:.2f} | {cpu:.2f} | {limit} |")
    sys.stdout.write("\n".join(lines) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
