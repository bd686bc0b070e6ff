"""Eight ladder side-tuning runs over one frozen pass a batch, against one run and against the eight one by one.

    python tests/speed/shared_trunk.py                         MiniLM and a model of BERT-base's size (a quiet machine)
    python tests/speed/shared_trunk.py --models minilm --steps 40 --eval-size 200

Seeds 0-3 and two learning rates, reduction 8, SST-2 (``BENCH_DATA``), one batch order. Prints for each model the
seconds of the whole command and of the training phase from the first to the last of its five dev evaluations (four
fifths of it), and their ratios to one run; wanted are at most 3.0 on MiniLM and 2.0 on BERT-base's size, for the
whole command. ``--alone`` also times the eight
one by one and compares every record with its shared one: predictions, curve and trained weights must be the same.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

LIMITS = {"minilm": 3.0, "bert-base": 2.0}
ONE = ["--seeds", "0", "--set", "lst.lr=0.003"]
EIGHT = ["--seeds", "0,1,2,3", "--set", "lst.lr=0.003,0.001"]


def bert_base(folder: Path) -> Path:
    """A model folder of BERT-base's shape with random weights and MiniLM's tokenizer."""
    import torch
    from transformers import BertConfig, BertModel, logging

    from bench.models import loading

    logging.set_verbosity_error()
    torch.manual_seed(0)
    source = loading.resolve("minilm", loading.Loading(), None)
    BertModel(BertConfig()).save_pretrained(folder)
    loading.tokenizer(source).save_pretrained(folder)
    return folder


def timed(arguments: list[str], out: Path) -> tuple[float, float, list[dict[str, Any]]]:
    """Seconds of one ``bench run``, from its first dev evaluation to its last, and its records."""
    begun = time.perf_counter()
    command = [sys.executable, "-P", "-m", "bench", "run", *arguments, "--out", str(out)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        lines = [(time.perf_counter() - begun, line) for line in process.stderr or ()]
    if process.returncode not in (0, 1):
        raise SystemExit("".join(line for _, line in lines))
    total = time.perf_counter() - begun
    marks = [at for at, line in lines if ": step " in line]  # a line at each dev evaluation of each run
    return total, (marks[-1] - marks[0]) if marks else 0.0, list(records(out))


def records(out: Path) -> Iterator[dict[str, Any]]:
    for path in sorted((out / "runs").glob("[0-9a-f]*.json")):
        yield json.loads(path.read_text())


def differing(shared: list[dict[str, Any]], alone: list[dict[str, Any]], folders: tuple[Path, Path]) -> list[str]:
    """What is not the same in runs that were shared and the same runs by themselves."""
    import pyarrow.parquet as pq

    wrong = []
    for one, other in zip(shared, alone, strict=True):
        tables = [pq.read_table(folder / one["predictions"]) for folder in folders]
        same = {
            "run": one["run_id"] == other["run_id"],
            "predictions": tables[0].equals(tables[1]),
            "curve": one["curve"] == other["curve"],
            "trained weights": one["parameters"]["trained_sha256"] == other["parameters"]["trained_sha256"],
            "memory": one["memory"] == other["memory"],
        }
        wrong += [f"{one['run_id']}: {name}" for name, equal in same.items() if not equal]
    return wrong


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default="minilm,bert-base")
    parser.add_argument("--steps", type=int, default=600, help="of MiniLM; BERT-base takes half")
    parser.add_argument("--eval-size", default="872")
    parser.add_argument("--task", default="glue/sst2")
    parser.add_argument("--alone", action="store_true", help="also the eight without sharing, and compare")
    chosen = parser.parse_args()
    say = sys.stdout.write
    say(f"{'model':<10} {'runs':<18} {'command s':>10} {'ratio':>6} {'wanted':>7} {'training s':>11} {'ratio':>6}\n")
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        for name in chosen.models.split(","):
            model = "minilm" if name == "minilm" else str(bert_base(folder / "bert-base"))
            steps = chosen.steps if name == "minilm" else chosen.steps // 2
            shared = ["--methods", "lst", "--ranks", "8", "--task", chosen.task, "--model", model,
                      "--steps", str(steps), "--eval-size", chosen.eval_size, "--set", "train.data_seed=0"]  # fmt: skip
            timed([*shared, *ONE, "--steps", "2"], folder / "warm")  # data, tokens and fingerprints are cached then
            one, steps_of_one, _ = timed([*shared, *ONE], folder / "one")
            say(f"{name:<10} {'one':<18} {one:>10.1f} {1:>6.2f} {'':>7} {steps_of_one:>11.1f} {1:>6.2f}\n")
            whole, joint, found = timed([*shared, *EIGHT], folder / "eight")
            say(f"{name:<10} {'eight, shared':<18} {whole:>10.1f} {whole / one:>6.2f} {LIMITS[name]:>7.1f} "
                f"{joint:>11.1f} {joint / steps_of_one:>6.2f}\n")  # fmt: skip
            if {json.dumps(record["shared"]) for record in found} != {'{"runs": 8}'}:
                raise SystemExit("the eight were not trained together")
            if chosen.alone:
                apart, _, others = timed([*shared, *EIGHT, "--no-share"], folder / "alone")
                say(f"{name:<10} {'eight, --no-share':<18} {apart:>10.1f} {apart / one:>6.2f}\n")
                wrong = differing(found, others, (folder / "eight", folder / "alone"))
                say(f"{name:<10} {'; '.join(wrong) or 'all eight are bit-identical to their separate runs'}\n")
            for place in ("warm", "one", "eight", "alone"):
                shutil.rmtree(folder / place, ignore_errors=True)


if __name__ == "__main__":
    main()
