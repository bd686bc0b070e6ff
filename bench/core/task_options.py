"""Options of tasks: ``--set task.text=review`` changes a registered task; a record says with what a run was done."""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Mapping
from typing import Any

from bench.core import options, registry
from bench.core.errors import RequestError, unknown
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
    wrong = [unknown(f"option of {task.name}", name, known) for name in given if name not in known]
    if wrong:
        raise RequestError(wrong)
    axes = [
        [text] if options.is_list(known[name]) or _prose(known[name]) else [part.strip() for part in text.split(",")]
        for name, text in given.items()
    ]
    return [changed(task, dict(zip(given, values, strict=True))) for values in itertools.product(*axes)]


def _prose(option: options.Option) -> bool:
    """Whether an option's text is free, so that a comma in it is only a comma (a prompt template)."""
    return option.type_name.startswith("text") and not option.limits.choices


def changed(task: Task, given: Mapping[str, Any]) -> Task:
    """The task with options set from texts or values, each checked (RequestError)."""
    known, values, wrong = declared(task), {}, []
    for name, value in given.items():
        if name not in known:
            wrong.append(unknown(f"option of {task.name}", name, known))
            continue
        try:
            values[name] = options.convert(known[name], value)
        except ValueError as error:
            wrong.append(f"{OWNER}.{name}: {error}")
    if wrong:
        raise RequestError(wrong)
    if not values:
        return task
    try:
        fresh: Task = dataclasses.replace(task, **values)  # type: ignore[type-var]
    except ValueError as error:
        raise RequestError(f"{task.name}: {error}") from error
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
