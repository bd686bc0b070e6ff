"""One sweep against the same runs as single commands: what keeping torch loaded and forking saves.

    python tests/speed/sweep_overhead.py                     6 methods × 3 seeds on SST-2, short runs (a quiet machine)
    python tests/speed/sweep_overhead.py --task demo/docstrings --methods head,norm --seeds 0,1 --steps 2

Prints both wall times and their ratio; the sweep should take at most 0.8 of the single commands.
"""

from __future__ import annotations

import argparse
import itertools
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def timed(arguments: list[str]) -> float:
    """Seconds of one ``bench run``; a run that fails ends the measurement, a check that falls short does not."""
    begun = time.perf_counter()
    done = subprocess.run([sys.executable, "-P", "-m", "bench", "run", "--quiet", *arguments], stdout=subprocess.PIPE)
    if done.returncode not in (0, 1):
        raise SystemExit(done.returncode)
    return time.perf_counter() - begun


def records(folder: Path) -> int:
    return len(list((folder / "runs").glob("[!.]*.json")))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", default="full,lora,lst,head,bitfit,pfeiffer")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--task", default="glue/sst2")
    parser.add_argument("--model", default="minilm")
    parser.add_argument("--steps", default="20")
    parser.add_argument("--eval-size", default="200")
    chosen = parser.parse_args()
    shared = ["--task", chosen.task, "--model", chosen.model, "--steps", chosen.steps, "--eval-size", chosen.eval_size,
              "--set", "train.evaluations=1", "--set", "train.dev_size=200"]  # fmt: skip
    pairs = list(itertools.product(chosen.methods.split(","), chosen.seeds.split(",")))
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        method, seed = pairs[0]  # data and tokens are cached before anything is timed
        timed([*shared, "--methods", method, "--seeds", seed, "--out", str(folder / "warm")])
        single = 0.0
        for method, seed in pairs:
            single += timed([*shared, "--methods", method, "--seeds", seed, "--out", str(folder / "single")])
        sweep = timed([*shared, "--methods", chosen.methods, "--seeds", chosen.seeds, "--out", str(folder / "sweep")])
        if not records(folder / "single") == records(folder / "sweep") == len(pairs):
            raise SystemExit("the two did not make the same number of records")
    sys.stdout.write(
        f"{len(pairs)} runs on {chosen.task}: one sweep {sweep:.1f} s, single commands {single:.1f} s, "
        f"ratio {sweep / single:.2f} (at most 0.8 wanted)\n"
    )


if __name__ == "__main__":
    main()
