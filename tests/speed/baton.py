"""Cost of passing work from thread to thread (``training.shared.lockstep``): small operations after each change.

python tests/speed/baton.py [--threads 8] [--turns 30] [--repeats 3]

Each thread takes its turns of sixty small linear maps with a team of OpenMP's threads of its own. Prints how much
longer a turn takes than sixty times its last maps: as it is, and without what ``training.shared.openmp`` does to have
that team on other cores.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time

import torch

from bench.training.shared import openmp
from bench.training.shared.lockstep import Lockstep, Member

_MAPS = 60


def excess(threads: int, turns: int) -> float:
    """Milliseconds of a turn beyond what its maps take in the end, the first five turns left out."""
    states, weight = torch.randn(448, 384), torch.randn(48, 384)
    times: list[list[float]] = []

    def act(member: Member) -> None:
        for turn in range(turns):
            member.gather()
            took = []
            for _ in range(_MAPS):
                begun = time.perf_counter()
                torch.nn.functional.linear(states, weight)
                took.append(1000 * (time.perf_counter() - begun))
            if turn >= 5:
                times.append(took)

    Lockstep([act] * threads, torch.device("cpu")).run()
    means = [statistics.mean(column) for column in zip(*times, strict=True)]
    return sum(means) - _MAPS * statistics.mean(means[_MAPS // 2 :])


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=8)
    parser.add_argument("--turns", type=int, default=30)
    parser.add_argument("--repeats", type=int, default=3)
    chosen = parser.parse_args()
    own, naps = openmp.go_on_at, openmp._NAPS
    ways = {
        "as it is": (own, naps),
        "no naps": (own, 0),
        "on any core": (lambda core: None, naps),
        "neither": (lambda core: None, 0),
    }
    sys.stdout.write("| way | ms a turn beyond its work, each repeat |\n|---|---|\n")
    found: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(chosen.repeats):
        for way, (openmp.go_on_at, openmp._NAPS) in ways.items():
            found[way].append(excess(chosen.threads, chosen.turns))
    for way, values in found.items():
        sys.stdout.write(f"| {way} | {', '.join(f'{value:.1f}' for value in values)} |\n")


if __name__ == "__main__":
    main()
