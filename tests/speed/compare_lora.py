"""Training speed of ``bench run --methods lora`` against a plain Trainer + peft script, each alone, in turn.

    BENCH_DATA=MIRROR python tests/speed/compare_lora.py [STEPS] [REPEATS]

Same model (MiniLM), data (SST-2, all rows), rank, targets, batch size, length limit and steps. Prints each pair and
the median ratio. Not part of the tests: it takes minutes and wants the machine for itself.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from bench import models

HERE = Path(__file__).parent


def ours(steps: int, folder: str) -> float:
    """Training samples per second of ``bench run``."""
    command = [sys.executable, "-m", "bench", "run", "--methods", "lora", "--task", "glue/sst2", "--model", "minilm"]
    command += ["--steps", str(steps), "--set", "train.evaluations=1", "--out", folder, "--json", "--quiet", "--fresh"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(json.loads(done.stdout)[0]["speed"]["train_samples_per_second"])


def peers(steps: int, folder: str) -> float:
    """Training samples per second of the Trainer + peft script."""
    model = models.resolve("minilm").location
    parquet = next(Path(os.environ["BENCH_DATA"]).resolve().glob("nyu-mll/glue/sst2/train-*.parquet"))
    command = [sys.executable, str((HERE / "trainer_peft.py").resolve()), model, str(parquet), str(steps)]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=folder, env=environment)
    return float(json.loads(done.stdout.splitlines()[-1])["train_samples_per_second"])


def main(steps: int = 100, repeats: int = 3) -> None:
    """Print a table of pairs and the median ratio."""
    ratios = []
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(repeats):
            theirs, mine = peers(steps, folder), ours(steps, folder)
            ratios.append(mine / theirs)
            sys.stdout.write(f"Trainer + peft {theirs:7.1f}   bench {mine:7.1f} samples/s   ratio {ratios[-1]:.2f}\n")
            sys.stdout.flush()
    sys.stdout.write(f"median ratio {statistics.median(ratios):.2f} over {repeats} pairs of {steps} steps\n")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
