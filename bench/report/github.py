"""A check's findings as workflow commands of GitHub Actions, which shows them as annotations of the run.

Format and escaping: docs.github.com, "Workflow commands for GitHub Actions"; actions/toolkit, ``command.ts``.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

from bench.analysis.regression_check import NEW, SKIPPED, Result
from bench.core import formatting
from bench.report.terminal.check import headline


def wanted(environ: Mapping[str, str] = os.environ) -> bool:
    """Whether this process runs in a GitHub Actions job."""
    return environ.get("GITHUB_ACTIONS") == "true"


def workflow_commands(result: Result) -> list[str]:
    """An error for each failure, a notice for what could not be compared and for new runs, and one for the whole."""
    lines = []
    for finding in result.findings:
        level = "error" if finding.failed else "notice" if finding.verdict in (SKIPPED, NEW) else None
        if level is not None:
            title = f"{finding.label} ({finding.where}): {finding.measure}, {finding.verdict}"
            lines.append(f"::{level} title={_property(title)}::{_data(finding.said)}")
    lines.append(f"::{'error' if result.failures else 'notice'} title=bench check::{_data(headline(result))}")
    return lines


def _data(text: str) -> str:
    cleaned = formatting.clean(text)
    return cleaned.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")
