"""Options of tasks: ``--set task.text=review`` changes a registered task; a record says with what a run was done."""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Mapping
from typing import Any

from bench.core import options, registry
from bench.core.errors import Fault, RequestError
from bench.core.protocols import DataSource, Resolves, Task

OWNER = "task"  # what stands before the dot of ``--set``


def declared(task: Task) -> dict[str, options.Option]:
    """The options of a task: the fields of its dataclass made with ``bench.option``, with this task's defaults.

    A task that is no dataclass, or declares none, has none.
    """
    if not dataclasses.is_dataclass(task):
        return {}
    fields = {field.name for field in dataclasses.fields(task) if "limits" in field.metadata}
    found = options.options(type(task)).values() if fields else ()
    return {
        option.name: dataclasses.replace(option, default=getattr(task, option.name))
        for option in found
        if option.name in fields
    }


def variants(task: Task, given: Mapping[str, str]) -> list[Task]:
    """The task once per combination of listed values (``form=head,words``); the task itself when none is given.

    Raises:
        RequestError: with one message per unknown option or unfit value.
    """
    known = declared(task)
    axes = [
        [part.strip() for part in text.split(",")] if name in known and not _keeps_commas(known[name]) else [text]
        for name, text in given.items()
    ]
    return [changed(task, dict(zip(given, values, strict=True))) for values in itertools.product(*axes)]


def _keeps_commas(option: options.Option) -> bool:
    """Whether commas belong to the option's value: a list, or free text such as a prompt template."""
    return options.is_list(option) or (option.type_name.startswith("text") and not option.limits.choices)


def changed(task: Task, given: Mapping[str, Any]) -> Task:
    """The task with options set from texts or values, each checked (RequestError)."""
    wrong: list[Fault] = []
    values = options.converted(declared(task), given, OWNER, wrong, of=task.name)
    if wrong:
        raise RequestError(wrong)
    if not values:
        return task
    try:
        fresh: Task = dataclasses.replace(task, **values)  # type: ignore[type-var]
    except ValueError as error:
        raise RequestError(f"{task.name}: {error}", code="invalid-value") from error
    return fresh


def resolved(task: Task, source: DataSource) -> Task:
    """The task with everything known that it finds out from its data (RequestError)."""
    return task.resolve(source) if isinstance(task, Resolves) else task


def plain(task: Task) -> dict[str, Any]:
    """The options of a task with their values, as JSON holds them (tuples become lists)."""
    found: dict[str, Any] = json.loads(json.dumps({name: option.default for name, option in declared(task).items()}))
    return found


def rebuild(spec: Mapping[str, Any], source: DataSource) -> Task:
    """The very task of a record's ``spec["task"]``, in another process (RequestError)."""
    return resolved(changed(registry.task_entry(spec["name"]).value, spec.get("options", {})), source)
