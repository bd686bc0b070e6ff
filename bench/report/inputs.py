"""What a report shows beyond the records."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

from bench.report.html.method_pages import About


@dataclasses.dataclass(frozen=True)
class Extras:
    """What a report shows beyond the records.

    Attributes:
        title: the heading; without one, the tasks and models are named.
        folder: the store's, for the predictions that methods are compared by; without it nothing is paired.
        about: explanations of methods by name (``bench.cli.describe.about``); a method without one is described by its
            records.
        live: the state of the folder that a served page shows, and looks for changes of; None in a file.
    """

    title: str | None = None
    folder: Path | None = None
    about: Mapping[str, About] = dataclasses.field(default_factory=dict)
    live: str | None = None
