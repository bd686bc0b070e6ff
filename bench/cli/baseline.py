"""``bench baseline``: means, spreads and tolerances of a folder's runs."""

from __future__ import annotations

import argparse

from bench.analysis import baseline
from bench.analysis.matching import match
from bench.cli import folders, output

_NOISY = 1.9  # a tolerance beyond which a step twice as slow may pass
_ABSURD = 1000  # a tolerance whose digits mean nothing


def run(arguments: argparse.Namespace) -> int:
    """Do the command."""
    records = folders.records(arguments.folder, some=True)
    made = baseline.make(records, arguments.alarm_rate)
    for note in match(records, []).notes:
        output.note(note)
    folders.write(arguments.out, baseline.dumps(made).encode(), "--out")
    for run in made["runs"]:
        name = f"{run['label']} ({run['task']['name']} on {run['model']['name']})"
        if wide := [score for score, found in run["scores"].items() if found["tolerance"] >= abs(found["mean"])]:
            output.note(
                f"{name}: seeds vary so much that any fall will pass, of {', '.join(wide)}. Use more seeds, steps or "
                "evaluation rows (--seeds 0,1,2,3,4)."
            )
        if run["speed"] is None:
            output.note(f"{name} has no times of the reference workload: its speed will not be checked.")
        elif run["speed"]["tolerance"] > _NOISY:
            allowed = run["speed"]["tolerance"]
            times = f"{allowed:.1f}" if allowed < _ABSURD else f"over {_ABSURD:,}"
            output.note(
                f"the speed of {name} is so noisy that a step {times} times as long will pass. Measure on a quieter "
                "machine, with more steps or seeds."
            )
    count = len(made["runs"])
    looked = f"{count} configuration{'s' if count > 1 else ''}, {made['comparisons']} scores and speeds"
    output.line(f"{arguments.out}: {looked}; chance of a false alarm {made['alarm_rate'] * 100:g} %")
    return 0
