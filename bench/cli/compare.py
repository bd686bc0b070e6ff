"""What ``bench compare`` does, once its line is parsed."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from rich.console import Console

from bench.cli.check import records_of, write_out
from bench.core.errors import RequestError
from bench.store.record import Record


def compare(arguments: argparse.Namespace) -> int:
    """``bench compare``: the change in every metric between two folders; exit code 0 whatever changed."""
    from bench.analysis import compare_folders
    from bench.report.html import compare_page
    from bench.report.terminal import compare as terminal

    first, second = _both((arguments.first, arguments.second))
    found = compare_folders.compare((arguments.first, arguments.second), (first, second), arguments.alpha)
    if arguments.html is not None:
        write_out(arguments.html, compare_page.document(found).encode("utf-8", errors="replace"), "--html")
    if arguments.json:
        json.dump(compare_folders.plain(found), sys.stdout, indent=1)
        sys.stdout.write("\n")
    else:
        terminal.render(found, Console())
    return 0


def _both(folders: tuple[Path, Path]) -> tuple[list[Record], list[Record]]:
    """The records of both folders; every mistake at once."""
    found: list[list[Record]] = []
    wrong: list[str] = []
    for folder in folders:
        try:
            found.append(records_of(folder))
        except RequestError as error:
            wrong += error.messages
    if wrong:
        raise RequestError(wrong)
    return found[0], found[1]
