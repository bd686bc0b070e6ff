"""``python -m bench.pretraining --model tiny-bert --out DIR``: pretrain one of the small models again."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from bench.pretraining.recipes import RECIPES


def main() -> int:
    """Parse, train, print what is known of the training."""
    parser = argparse.ArgumentParser(prog="python -m bench.pretraining", description=__doc__)
    parser.add_argument("--model", required=True, choices=sorted(RECIPES))
    parser.add_argument("--out", required=True, type=Path, metavar="DIR", help="folder to write the model to")
    parser.add_argument("--steps", type=int, metavar="N", help="optimizer steps (default: the recipe's)")
    parser.add_argument("--seed", type=int, default=0, metavar="N")
    arguments = parser.parse_args()

    from bench.pretraining.training import pretrain

    facts = pretrain(arguments.model, arguments.out, arguments.steps, arguments.seed)
    json.dump(facts, sys.stdout, indent=1)
    sys.stdout.write("\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
