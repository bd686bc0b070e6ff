"""``bench compare``: what changed between two folders of runs; exit code 0 whatever changed."""

from __future__ import annotations

import argparse
import json
import sys
from functools import partial

from rich.console import Console

from bench.analysis import compare_folders
from bench.cli import folders
from bench.core.errors import ErrorCollector
from bench.report.html import compare_page
from bench.report.terminal import compare


def run(arguments: argparse.Namespace) -> int:
    """Do the command."""
    errors, places = ErrorCollector(), (arguments.first, arguments.second)
    first, second = (errors.attempt(partial(folders.records, place, some=True)) for place in places)
    errors.stop()
    found = compare_folders.compare(places, (first, second), arguments.alpha)
    if arguments.html is not None:
        folders.write(arguments.html, compare_page.document(found).encode("utf-8", errors="replace"), "--html")
    if arguments.json:
        json.dump(compare_folders.plain(found), sys.stdout, indent=1)
        sys.stdout.write("\n")
    else:
        compare.render(found, Console())
    return 0
