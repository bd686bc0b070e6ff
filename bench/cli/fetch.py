"""``bench fetch``: bring tasks' data sets and models into one folder, for machines that reach no network."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from bench.core import registry, task_options
from bench.core.errors import RequestError, unknown
from bench.core.protocols import DataSource, Task
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


def fetch(wanted: Wanted, folder: Path) -> Iterator[str]:
    """Fill a mirror, and say a line about each thing that was brought; what is there already stays.

    Raises:
        RequestError: before anything is fetched, for names that do not exist; at the end, with everything that could
            not be had.
    """
    acts = _acts(wanted, folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RequestError(f"The folder {folder} cannot be made: {error.strerror}.", code="not-written") from error
    failed: list[str] = []
    for act in acts:
        try:
            yield act()
        except RequestError as error:
            failed += [message for message in error.messages if message not in failed]
    if failed:
        raise RequestError(failed, code="invalid-value")


def _acts(wanted: Wanted, folder: Path) -> list[Callable[[], str]]:
    acts: list[Callable[[], str]] = []
    wrong: list[str] = []
    for name in wanted.tasks:
        try:
            task = registry.task_entry(name).value
        except RequestError as error:
            wrong += error.messages
            continue
        acts.append(partial(_task, task, folder))
    for name in wanted.models:
        plain, _, revision = name.partition("@")
        alias = ALIASES.get(plain)
        hub_id = plain if alias is None else alias.hub
        if alias is None and not HUB_ID.fullmatch(plain):
            wrong.append(unknown("model", plain, ALIASES).within(after=" Or give a Hub id such as owner/name."))
        elif hub_id is None:
            acts.append(partial("{}: comes with tunebench, nothing to fetch".format, plain))
        else:
            acts.append(partial(_model, hub_id, revision or wanted.revision, folder, wanted.allow_pickle))
    if wrong:
        raise RequestError(wrong, code="invalid-value")
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
