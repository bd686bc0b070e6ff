"""``bench fetch``: download tasks' data sets and models into one folder, for machines without a network."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from bench.cli import output
from bench.core import registry, task_options
from bench.core.errors import ErrorCollector, RequestError, unknown
from bench.core.options import comma_list
from bench.core.protocols import DataSource, Task
from bench.core.quiet import quiet
from bench.data import mirror
from bench.models.aliases import ALIASES
from bench.models.resolve import HUB_ID


@dataclass(frozen=True)
class Wanted:
    """What to download.

    Attributes:
        tasks, models: names as ``bench run`` takes them.
        revision: of the models that name none (``name@revision``); None: the newest.
        allow_pickle: bring pickled weights where a model has no safetensors.
    """

    tasks: Sequence[str]
    models: Sequence[str]
    revision: str | None = None
    allow_pickle: bool = False


def run(arguments: argparse.Namespace) -> int:
    """Do the command."""
    tasks, names = comma_list(arguments.tasks), comma_list(arguments.models)
    if not tasks and not names:
        raise RequestError("Say what to fetch: --tasks glue/sst2,glue/rte, --models minilm, or both.", code="missing")
    registry.load(arguments.plugin)
    wanted = Wanted(tasks, names, arguments.revision, arguments.allow_pickle)
    with quiet():
        for line in fetch(wanted, arguments.to):
            output.line(line)
            sys.stdout.flush()
    output.line(f"Use it with BENCH_DATA={arguments.to.resolve()} HF_HUB_OFFLINE=1")
    return 0


def fetch(wanted: Wanted, folder: Path) -> Iterator[str]:
    """Fill a mirror; yields a line about each download. What the folder has already stays.

    Raises:
        RequestError: before anything is fetched, for names that do not exist; at the end, with everything that could
            not be loaded.
    """
    acts = _acts(wanted, folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RequestError(f"The folder {folder} cannot be made: {error.strerror}.", code="not-written") from error
    errors = ErrorCollector()
    for act in acts:
        if (line := errors.attempt(act)) is not None:
            yield line
    errors.stop()


def _acts(wanted: Wanted, folder: Path) -> list[Callable[[], str]]:
    acts: list[Callable[[], str]] = []
    errors = ErrorCollector()
    for name in wanted.tasks:
        if (entry := errors.attempt(partial(registry.task_entry, name))) is not None:
            acts.append(partial(_task, entry.value, folder))
    for name in wanted.models:
        plain, _, revision = name.partition("@")
        alias = ALIASES.get(plain)
        hub_id = plain if alias is None else alias.hub
        if alias is None and not HUB_ID.fullmatch(plain):
            hint = " Or give a Hub id such as owner/name."
            errors.messages.append(unknown("model", plain, ALIASES).within(after=hint))
        elif hub_id is None:
            acts.append(partial("{}: comes with tunebench, nothing to fetch".format, plain))
        else:
            acts.append(partial(_model, hub_id, revision or wanted.revision, folder, wanted.allow_pickle))
    errors.stop()
    return acts


def _task(task: Task, folder: Path) -> str:
    source = DataSource(folder, fill=True)
    found = task_options.resolved(task, source).load(source).source
    if found.startswith(("file:", "folder:")):
        return f"{task.name}: lies on this disk already, nothing to fetch"
    return f"{task.name}: {found}"


def _model(hub_id: str, revision: str | None, folder: Path, allow_pickle: bool) -> str:
    place = mirror.fetch_model(hub_id, revision, folder, allow_pickle)
    size = sum(file.stat().st_size for file in place.iterdir()) / 1e6
    return f"{hub_id}@{mirror.pinned(place)}, {size:,.1f} MB"
