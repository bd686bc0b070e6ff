"""What a report shows beyond the records."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from bench.report.html.method_pages import About

if TYPE_CHECKING:
    from bench.analysis.analysis import Analysis


@dataclasses.dataclass(frozen=True)
class Extras:
    """What a report shows beyond the records.

    Attributes:
        title: the heading; without one, the tasks and models are named.
        folder: the store's, for the predictions that methods are compared by; without it nothing is paired.
        about: explanations of methods by name (``bench.cli.describe.about``); a method without one is described by its
            records.
        analysis: of the records, where it is known already; else the report makes it.
        live: the state of the folder that a served page shows, and looks for changes of; None in a file.
    """

    title: str | None = None
    folder: Path | None = None
    about: Mapping[str, About] = dataclasses.field(default_factory=dict)
    analysis: Analysis | None = None
    live: str | None = None
