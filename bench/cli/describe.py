"""``bench list`` and ``bench show``: what methods, tasks and models there are and what they do."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from bench.core import formatting, options, registry, task_options
from bench.core.errors import RequestError, unknown
from bench.core.protocols import DataSource, Mergeable, Task
from bench.core.train_config import TrainSettings
from bench.models import loading
from bench.report.html.method_pages import About, OptionFact
from bench.store.labels import format_value


def listing(what: str, plugins: Sequence[Path]) -> list[dict[str, Any]]:
    """Rows of name, help and facts for ``methods``, ``tasks`` or ``models``."""
    if what == "models":
        return [
            {"name": name, "help": f"{alias.parameters:>6}  {alias.licence:<17}  {alias.source}", "hub": alias.hub}
            | {"parameters": alias.parameters, "licence": alias.licence, "source": alias.source}
            for name, alias in loading.ALIASES.items()
        ]
    registry.load(plugins)
    if what == "tasks":
        groups = [
            {"name": name, "help": f"all of {', '.join(members)}", "kind": "group", "main_score": None}
            for name, members in registry.task_groups().items()
        ]
        return groups + [
            {"name": name, "help": task.help, "kind": task.kind, "main_score": task.main_score}
            for name, task in registry.tasks().items()
        ]
    return [
        {"name": name, "help": _paragraphs(cls)[0], "swept": cls.swept, "lr": options.options(cls)["lr"].default}
        for name, cls in registry.methods().items()
    ] + [
        {"name": f"{prefix}NAME" if prefix.endswith(":") else prefix, "help": family.help(), "swept": None, "lr": None}
        for prefix, family in sorted(registry.families().items())
    ]


def _paragraphs(cls: type) -> list[str]:
    text = inspect.getdoc(cls) or ""
    return [" ".join(part.split()) for part in text.split("\n\n")] or [""]


def about(names: Iterable[str], plugins: Sequence[Path] = ()) -> dict[str, About]:
    """Explanations of methods for the report, as ``bench show`` gives them; without those that nothing here defines.

    Raises:
        RequestError: when a plugin cannot be imported.
    """
    registry.load(plugins)
    found = {}
    for name in sorted(set(names)):
        try:
            cls = registry.method_entry(name).value
        except RequestError:
            continue  # its plugin is not here: the report says what the records know
        listed = tuple(
            OptionFact(option.name, option.type_name, _default(option), option.limits.help + _choices(option))
            for option in options.options(cls).values()
        )
        parts = re.split(r"\n\s*\n|\n(?=(?:Formula|Source|Options)\b)", inspect.getdoc(cls) or "")
        found[name] = About(tuple(" ".join(part.split()) for part in parts), listed, tuple(_abilities(cls)))
    return found


def explain(name: str, plugins: Sequence[Path], console: Console, mirror: Path | None = None) -> None:
    """Print everything about a method, task or model; ``mirror`` is where data sets are looked for first.

    Raises:
        RequestError: when there is none of that name.
    """
    registry.load(plugins)
    methods, tasks = registry.methods(), registry.tasks()
    if name in methods or (name[: name.find(":") + 1] or name) in registry.families():
        _method(registry.method_entry(name).value, console)
    elif name in tasks or registry.opens(name):
        task = registry.task_entry(name).value
        _task(tasks[name] if name in tasks else task_options.resolved(task, DataSource(mirror)), console)
    elif name in registry.task_groups():
        _say(console, f"{name}: one name for {len(registry.task_names(name))} tasks")
        for member in registry.task_names(name):
            _say(console, f"{member}: {tasks[member].help}")
    elif name in loading.ALIASES:
        _model(name, loading.ALIASES[name], console)
    elif name == "train":
        _say(console, "train: options of the trainer, the same for every method; set with --set train.OPTION=VALUE\n")
        _options(options.options(TrainSettings), console)
    else:
        there = {*methods, *tasks, *registry.task_groups(), *loading.ALIASES, "train"}
        raise RequestError(unknown("method, task or model", name, there), code="invalid-value")


def _method(cls: Any, console: Console) -> None:
    _say(console, f"{cls.name}\n")
    _say(console, inspect.getdoc(cls) or "")
    _say(console, f"\n{' '.join(_abilities(cls))}\n")
    _options(options.options(cls), console)


def _abilities(cls: Any) -> list[str]:
    swept = f"--ranks sets {cls.name}.{cls.swept}." if cls.swept else "--ranks does not apply: one size only."
    merges = "Can be merged into the base weights." if issubclass(cls, Mergeable) else "Cannot be merged."
    return [swept, merges, f"Defined in {registry.method_entry(cls.name).file.name}."]


def _options(known: Mapping[str, options.Option], console: Console) -> None:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("option", "type", "default", "what it does"):
        table.add_column(heading, overflow="fold")
    for option in known.values():
        table.add_row(
            *map(
                formatting.clean,
                (option.name, option.type_name, _default(option), option.limits.help + _choices(option)),
            )
        )
    console.print(table, highlight=False)


def _default(option: options.Option) -> str:
    return format_value(option.default)


def _choices(option: options.Option) -> str:
    return f" ({', '.join(option.limits.choices)})" if option.limits.choices else ""


def _task(task: Task, console: Console) -> None:
    _say(console, f"{task.name}: {task.help}")
    direction = "higher" if task.higher_is_better else "lower"
    _say(console, f"kind: {task.kind}; ranked by {task.main_score} ({direction} is better)")
    if task.labels:
        _say(console, f"labels: {', '.join(task.labels)}")
    for name in ("dataset", "config", "revision"):
        if getattr(task, name, None):
            _say(console, f"{name}: {getattr(task, name)}")
    for note in getattr(task, "notes", ()):
        _say(console, note)
    known = task_options.declared(task)
    if known:
        _say(console, f"\nSet with --set {task_options.OWNER}.OPTION=VALUE:\n")
        _options(known, console)


def _model(name: str, alias: loading.Alias, console: Console) -> None:
    _say(console, f"{name}: {alias.parameters} parameters, licence {alias.licence}")
    if alias.about:
        _say(console, alias.about)
    if alias.hub:
        _say(console, f"Hub id: {alias.hub} (a revision: --model {name}@REVISION)")
    if alias.distribution:
        _say(console, f"Used first, where it is installed: the package {alias.distribution}")
    _say(console, f"On this machine it would come from: {alias.source}")
    card = alias.packaged()
    if card is not None and (card / "pretraining.json").is_file():
        _say(console, f"How it was pretrained, and how well it transfers: {card.parent / 'MODELS.md'}")


def _say(console: Console, text: str) -> None:
    console.print(formatting.clean(text), markup=False, highlight=False, soft_wrap=True)
