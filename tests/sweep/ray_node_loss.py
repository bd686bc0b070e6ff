"""A sweep on a Ray cluster of two nodes, one of which is killed while a run is at work on it.

python -m tests.sweep.ray_node_loss
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}
os.environ |= {"RAY_health_check_period_ms": "500", "RAY_health_check_failure_threshold": "4"}

import ray  # noqa: E402
from ray.cluster_utils import Cluster  # noqa: E402

from bench.store.store import Store  # noqa: E402
from bench.sweep import expand  # noqa: E402
from bench.sweep.executors.ray import RayExecutor  # noqa: E402
from bench.sweep.progress import Silent, outcome, title  # noqa: E402
from bench.sweep.request import Execution, RunRequest
from bench.sweep.scheduler import Sweep  # noqa: E402
from tests.tiny import TASK, model_folder  # noqa: E402

RUNS, STEPS = 3, 600


class Killer(Silent):
    """Watches the sweep, and kills the second node when a run on it has trained its first steps."""

    def __init__(self, cluster: Cluster, second: Any) -> None:
        self.cluster, self.second, self.killed = cluster, second, ""
        self.placed: dict[str, list[str]] = {}
        self.begun = time.monotonic()
        self.names: dict[str, str] = {}

    def say(self, text: str) -> None:
        sys.stdout.write(f"{time.monotonic() - self.begun:5.1f} s  {text}\n")
        sys.stdout.flush()

    def started(self, run_id: str, spec: dict[str, Any]) -> None:
        self.names[run_id] = title(spec).replace(spec["model"]["name"], "tiny BERT")

    def event(self, run_id: str, message: dict[str, Any]) -> None:
        if message["event"] == "place":
            node = "second" if message["node"] == self.second.node_id else "first"
            self.placed.setdefault(run_id, []).append(node)
            self.say(f"{self.names[run_id]}: starts on the {node} node")
        elif message["event"] == "step" and not self.killed and self.placed[run_id][-1] == "second":
            self.killed = run_id
            self.say(f"{self.names[run_id]}: step {message['step']}; killing the second node")
            self.cluster.remove_node(self.second, allow_graceful=False)

    def finished(self, record: dict[str, Any]) -> None:
        self.say(f"{self.names[record['run_id']]}: {outcome(record)}")


def main(folder: Path) -> str:
    """Run the sweep; returns a line that says what happened."""
    model = model_folder(folder / "bert")
    store = Store(folder / "out")
    store.prepare()
    request = RunRequest(
        methods=("head",), task=("tiny/mood",), model=(str(model),), plugin=(TASK,),
        seeds=tuple(map(str, range(RUNS))), train={"steps": str(STEPS), "device": "cpu"},
        set=("train.evaluations=1",),
    )  # fmt: skip
    wanted = expand.expand(request)
    small = {"num_cpus": 1, "num_gpus": 0, "memory": 8 << 30, "object_store_memory": 80 << 20}
    cluster = Cluster(initialize_head=True, head_node_args={**small, "include_dashboard": False})
    second = cluster.add_node(**small)
    ray.init(address=cluster.address, logging_level="ERROR", log_to_driver=False)
    killer = Killer(cluster, second)
    try:
        Sweep(wanted, store, Execution(plugin=(TASK,)), killer, RayExecutor).run()
    finally:
        ray.shutdown()
        cluster.shutdown()
    records, warnings = store.records()
    assert warnings == [] and {record["status"] for record in records} == {"ok"} and len(records) == RUNS
    assert all(store.predictions_path(record["run_id"]).is_file() for record in records)
    assert killer.placed[killer.killed][0] == "second" and killer.placed[killer.killed][-1] == "first"
    twice = sum(len(places) > 1 for places in killer.placed.values())
    return f"{RUNS} of {RUNS} runs ok; the second node was killed mid-run, {twice} of its runs done again on the first"


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as made:
        sys.stdout.write(main(Path(made)) + "\n")
