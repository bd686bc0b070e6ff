"""``bench view``: the report in the browser, kept up to date."""

from __future__ import annotations

import argparse
import sys

from bench.cli import folders, output
from bench.core.errors import RequestError
from bench.report import serve
from bench.report.inputs import Extras
from bench.store.record import Record


def run(arguments: argparse.Namespace) -> int:
    """Serve the report until Ctrl-C."""

    def read() -> tuple[list[Record], Extras]:
        found = folders.records(arguments.folder)
        return found, folders.extras(found, arguments.folder, arguments.plugin, arguments.title)

    folders.check(arguments.folder)
    page = serve.Page(arguments.folder, read)
    server = serve.listen(page, arguments.host, _port(arguments.port))
    try:
        output.line(f"Report of {arguments.folder}: {server.url}  (Ctrl-C ends)")
        sys.stdout.flush()
        page.html()  # made once, and what is wrong with the folder is reported at once
        server.run(open_browser=not arguments.no_browser)
    except KeyboardInterrupt:
        sys.stderr.write("\nbench: no longer served.\n")
    finally:
        server.close()
    return 0


def _port(given: str | None) -> int | None:
    if given is None:
        return None
    if not given.isascii() or not given.isdigit() or not 0 <= int(given) <= 65_535:
        raise RequestError(
            f"--port: '{given}' is not a port: a whole number from 0 (any free one) to 65535.", code="invalid-value"
        )
    return int(given)
