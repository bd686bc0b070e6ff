"""What ``bench baseline`` and ``bench check`` do, once their line is parsed."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from bench.analysis.matching import match
from bench.core.errors import RequestError
from bench.core.files import write_output
from bench.store.record import Record
from bench.store.store import Store

_T = TypeVar("_T")

_NOISY = 1.9  # a tolerance beyond which a step twice as slow may pass
_ABSURD = 1000  # a tolerance of which no digit says anything


def records_of(folder: Path) -> list[Record]:
    """The records of a folder; damaged files are named on stderr.

    Raises:
        RequestError: when the folder holds none.
    """
    if not (folder / "runs").is_dir():
        if folder.name == "runs" and folder.is_dir():
            raise RequestError(f"{folder} is inside a folder of records: name {folder.parent}.", code="no-records")
        what = "does not exist" if not folder.exists() else f"holds no records: there is no folder {folder / 'runs'}"
        raise RequestError(f"{folder} {what}. bench run --out {folder} makes one.", code="no-records")
    records, warnings = Store(folder).records()
    for warning in warnings:
        sys.stderr.write(f"bench: {warning}\n")
    if not records:
        raise RequestError(f"{folder} holds no records: {folder / 'runs'} is empty.", code="no-records")
    return records


def write_out(path: Path, data: bytes, flag: str) -> None:
    """Write a file that a flag named, whole or not at all.

    Raises:
        RequestError: when it cannot be written, or is the record of a run.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_output(path, data)
    except OSError as error:
        raise RequestError(f"{flag}: {path} cannot be written: {error.strerror}.", code="not-written") from error


def baseline(arguments: argparse.Namespace) -> int:
    """``bench baseline``: means, spreads and tolerances of a folder's runs."""
    from bench.analysis import baseline as making

    records = records_of(arguments.folder)
    made = making.make(records, arguments.alarm_rate)
    for note in match(records, []).notes:
        sys.stderr.write(f"bench: {note}\n")
    write_out(arguments.out, making.dumps(made).encode(), "--out")
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


def check(arguments: argparse.Namespace) -> int:
    """``bench check``: exit code 1 when something got worse or is missing."""
    from rich.console import Console

    from bench.analysis import baseline as making
    from bench.analysis.regression_check import check as compare
    from bench.report import github, junit
    from bench.report.terminal import check as show

    wrong: list[str] = []
    known = _attempt(lambda: making.read(arguments.baseline), wrong)
    records = _attempt(lambda: records_of(arguments.folder), wrong)
    if arguments.junit is not None and arguments.junit.resolve() == arguments.baseline.resolve():
        wrong.append(f"--junit: {arguments.junit} is the baseline; choose another file.")
    if known is None or records is None or wrong:
        raise RequestError(wrong, code="invalid-value")
    result = compare(known, records)
    if arguments.junit is not None:
        write_out(arguments.junit, junit.document(result), "--junit")
    show.render(result, Console(soft_wrap=True), everything=arguments.all)
    if arguments.github or github.wanted():
        sys.stdout.write("".join(f"{line}\n" for line in github.workflow_commands(result)))
    return int(bool(result.failures))


def _attempt(act: Callable[[], _T], wrong: list[str]) -> _T | None:
    """What ``act`` gives; None when it was refused, its messages added to ``wrong``."""
    try:
        return act()
    except RequestError as error:
        wrong += error.messages
        return None
