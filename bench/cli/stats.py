"""``bench stats``: intervals, paired tests, groups and fronts of a folder of records."""

from __future__ import annotations

import argparse
import json
import sys

from rich.console import Console

from bench.core.errors import Fault, RequestError, fault


def run(arguments: argparse.Namespace) -> int:
    """Do the command."""
    wrong: list[Fault] = []
    alpha = _number(arguments.alpha, "--alpha", (0.0, 0.5), wrong)
    beta = _number(arguments.beta, "--beta", (0.0, 100.0), wrong)
    if arguments.beta is not None and not arguments.pscp:
        wrong.append(fault("--beta is the exponent of --pscp: say --pscp too.", "missing"))
    if wrong:
        raise RequestError(wrong)
    from bench.analysis.analysis import analyse
    from bench.analysis.pscp import Weights
    from bench.cli import folders
    from bench.report.terminal import stats as printed

    records = folders.records(arguments.folder)
    analysis = analyse(records, arguments.folder, arguments.baseline, 0.05 if alpha is None else alpha)
    weights = (Weights() if beta is None else Weights(beta)) if arguments.pscp else None
    if arguments.json:
        json.dump(printed.document(analysis, weights), sys.stdout, indent=1, allow_nan=False)
        sys.stdout.write("\n")
    else:
        printed.show(records, analysis, Console(), weights)
    return 0


def _number(text: str | None, flag: str, ends: tuple[float, float], wrong: list[Fault]) -> float | None:
    """The number of a flag, which has to lie strictly between two ends; None when it was not given."""
    if text is None:
        return None
    try:
        value = float(text)
        if not ends[0] < value < ends[1]:
            raise ValueError
    except ValueError:
        wrong.append(fault(f"{flag}: '{text}' is not a number between {ends[0]:g} and {ends[1]:g}.", "invalid-value"))
        return None
    return value
