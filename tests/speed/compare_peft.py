"""Training speed and quality of ``bench run`` against a plain Trainer + peft script, each alone, in turn.

    BENCH_DATA=MIRROR python tests/speed/compare_peft.py                      speed: lora, lst, prefix, ia3, full
    BENCH_DATA=MIRROR python tests/speed/compare_peft.py --methods lora --quality --seeds 0,1,2 --steps 400

Same model (MiniLM, or ``--model``), data (SST-2, all rows), rank, targets, batch size, length limit, learning rate,
schedule, steps and precision (fp32, or ``--precision bf16``), on the GPU where there is one. LST, which peft has not,
is set against peft's LoRA. Prints a table of medians with the lowest and highest ratio of the pairs; with ``--quality``
also the accuracy of both on the validation split (there ``bench`` scores the last step's weights, as the peer does).
Not part of the tests: it takes minutes and wants the machine for itself.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from bench.core import registry
from bench.models import loading

HERE = Path(__file__).resolve().parent
PEERS = {"lst": "lora"}  # what stands in for a method that peft has not


def ours(method: str, seed: int, chosen: argparse.Namespace) -> dict[str, float]:
    """Samples per second of ``bench run``, and its accuracy."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "bench", "run", "--methods", method, "--task", "glue/sst2", "--model"]
        command += [chosen.model, "--steps", str(chosen.steps), "--seeds", str(seed), "--precision", chosen.precision]
        command += [
            "--set",
            "train.evaluations=1",
            "--set",
            "train.checkpoint=last",
            "--out",
            folder,
            "--json",
            "--quiet",
        ]
        command += [] if chosen.quality else ["--eval-size", "64", "--set", "train.dev_size=64"]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    (record,) = json.loads(done.stdout)
    if record["status"] != "ok":
        raise SystemExit(f"{method}: {record['error']}")
    found = {"train_samples_per_second": record["speed"]["train_samples_per_second"]}
    return {**found, **({"accuracy": record["scores"]["accuracy"]} if chosen.quality else {})}


def peers(method: str, seed: int, chosen: argparse.Namespace) -> dict[str, float]:
    """The same of the Trainer + peft script."""
    registry.load()
    rate = registry.method_entry(method).value().lr
    data = Path(os.environ["BENCH_DATA"]).resolve() / "nyu-mll/glue/sst2"
    command = [sys.executable, str(HERE / "trainer_peft.py"), method, loading.resolve(chosen.model).location]
    command += [str(data), str(chosen.steps), "--seed", str(seed), "--lr", str(rate)]
    command += [*(["--bf16"] if chosen.precision == "bf16" else []), *(["--score"] if chosen.quality else [])]
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
        done = subprocess.run(command, capture_output=True, text=True, cwd=folder, env=environment)
    if done.returncode:
        raise SystemExit(done.stderr or f"the peer ended with {done.returncode}")
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def compared(method: str, chosen: argparse.Namespace) -> str:
    """A line of the table: medians over the seeds' pairs."""
    pairs = []
    for seed in chosen.seeds.split(","):
        peer = peers(PEERS.get(method, method), int(seed), chosen)
        pairs.append((peer, ours(method, int(seed), chosen)))
        sys.stderr.write(f"{method} seed {seed}: {pairs[-1]}\n")
    ratios = sorted(mine["train_samples_per_second"] / peer["train_samples_per_second"] for peer, mine in pairs)
    name = "train_samples_per_second"
    middle = [statistics.median(pair[side][name] for pair in pairs) for side in (0, 1)]
    line = f"| {method} | {PEERS.get(method, method)} | {middle[0]:.1f} | {middle[1]:.1f} | "
    line += f"{statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f}) |"
    if chosen.quality:
        line += (
            " | ".join(f" {statistics.mean(pair[side]['accuracy'] for pair in pairs):.4f}" for side in (0, 1)) + " |"
        )
    return line + "\n"


def main() -> None:
    """Print a table of pairs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", default="lora,lst,prefix,ia3,full")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--model", default="minilm")
    parser.add_argument("--precision", default="fp32", choices=("fp32", "bf16"))
    parser.add_argument("--quality", action="store_true")
    chosen = parser.parse_args()
    more = " accuracy: peft | bench |" if chosen.quality else ""
    sys.stdout.write(f"| method | peer | peer, samples/s | bench, samples/s | ratio (lowest to highest) |{more}\n")
    sys.stdout.write("|---|---|---|---|---|" + ("---|---|" if chosen.quality else "") + "\n")
    for method in chosen.methods.split(","):
        sys.stdout.write(compared(method, chosen))
        sys.stdout.flush()


if __name__ == "__main__":
    main()
