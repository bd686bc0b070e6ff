"""``bench baseline``: means, spreads and tolerances of a folder's runs."""

from __future__ import annotations

import argparse
import sys

from bench.analysis import baseline
from bench.analysis.matching import match
from bench.cli import folders

_NOISY = 1.9  # a tolerance beyond which a step twice as slow may pass
_ABSURD = 1000  # a tolerance whose digits mean nothing


def run(arguments: argparse.Namespace) -> int:
    """Do the command."""
    records = folders.records(arguments.folder, some=True)
    made = baseline.make(records, arguments.alarm_rate)
    for note in match(records, []).notes:
        sys.stderr.write(f"bench: {note}\n")
    folders.write(arguments.out, baseline.dumps(made).encode(), "--out")
    for run in made["runs"]:
        name = f"{run['label']} ({run['task']['name']} on {run['model']['name']})"
        if wide := [score for score, found in run["scores"].items() if found["tolerance"] >= abs(found["mean"])]:
            sys.stderr.write(f"bench: {name}: seeds vary so much that any fall will pass, of {', '.join(wide)}. "
                             "Use more seeds, steps or scored rows (--seeds 0,1,2,3,4).\n")  # fmt: skip
        if run["speed"] is None:
            sys.stderr.write(f"bench: {name} has no times of the reference work: its speed will not be checked.\n")
        elif run["speed"]["tolerance"] > _NOISY:
            allowed = run["speed"]["tolerance"]
            times = f"{allowed:.1f}" if allowed < _ABSURD else f"over {_ABSURD:,}"
            sys.stderr.write(f"bench: the speed of {name} is so noisy that a step {times} times as long will pass. "
                             "Measure on a quieter machine, with more steps or seeds.\n")  # fmt: skip
    count = len(made["runs"])
    looked = f"{count} configuration{'s' if count > 1 else ''}, {made['comparisons']} scores and speeds"
    sys.stdout.write(f"{arguments.out}: {looked}; chance of a false alarm {made['alarm_rate'] * 100:g} %\n")
    return 0
