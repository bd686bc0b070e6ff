"""Methods and tasks by name: the built-in ones, installed plugins, and files named with ``--plugin``."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib
import importlib.util
import inspect
import pkgutil
import re
import sys
import traceback
from collections.abc import Callable, Iterable, Mapping
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

from bench.core import code_fingerprint, options
from bench.core.errors import RequestError, unknown
from bench.core.protocols import TASK_KINDS, Method, Task

_T = TypeVar("_T")


@dataclasses.dataclass(frozen=True)
class Entry:
    """A registered object and the file that defines it."""

    value: Any
    file: Path

    @property
    def code(self) -> str:
        """The version of this code (see ``code_fingerprint``)."""
        return code_fingerprint.of_file(self.file, str(getattr(self.value, "code_version", "")))

    @property
    def importable(self) -> bool:
        """Whether another process finds it: built in, installed or from a plugin file, not from a script."""
        script = getattr(sys.modules.get("__main__"), "__file__", None)
        return self.file.is_file() and (script is None or self.file != Path(script).resolve())


@dataclasses.dataclass(frozen=True)
class Family:
    """Methods from another package under names with a common prefix (or one name), made on first use.

    Attributes:
        names: each name with one line of help; must be cheap.
        make: registers the method of a name, or raises RequestError.
        help: one line about all of them.
    """

    names: Callable[[], Mapping[str, str]]
    make: Callable[[str], None]
    help: Callable[[], str]


# Further members of a task, by its kind (see ``bench.core.protocols``).
_MEMBERS = {
    "classification": ("encode",),
    "regression": ("encode",),
    "generation": ("template", "max_new_tokens", "targets", "references", "each"),
    "language-modelling": ("texts",),
    "image-classification": ("image", "label"),
}

_methods: dict[str, Entry] = {}
_tasks: dict[str, Entry] = {}
_families: dict[str, Family] = {}
_groups: dict[str, tuple[str, ...]] = {}
_openers: list[Callable[[str], Task | None]] = []
_plugins: set[Path] = set()
_state = {"builtin": False}


def _add(table: dict[str, Entry], kind: str, name: str, entry: Entry) -> None:
    if name in table and (table[name].file, _identity(table[name].value)) != (entry.file, _identity(entry.value)):
        raise ValueError(
            f"{kind} '{name}' is defined twice: in {table[name].file} and in {entry.file}. Rename one of them."
        )
    table[name] = entry


def _identity(value: Any) -> str:
    owner = value if isinstance(value, type) else type(value)
    return f"{owner.__module__}.{owner.__qualname__}"


def register_method(cls: type[_T]) -> type[_T]:
    """Class decorator: make a frozen dataclass available to ``--methods`` under its ``name``.

    Raises:
        TypeError: when the class is not a frozen dataclass, lacks ``name``, ``swept``, ``lr`` or ``attach``, or has an
            option of a type that cannot be set.
        ValueError: when another file already registered the name.
    """
    if not dataclasses.is_dataclass(cls) or not cls.__dataclass_params__.frozen:  # type: ignore[attr-defined]
        raise TypeError(f"method class {cls.__name__} must be a frozen dataclass: @dataclass(frozen=True)")
    fields = {field.name for field in dataclasses.fields(cls)}
    missing = [name for name in ("name", "swept", "attach") if not hasattr(cls, name)]
    missing += [] if "lr" in fields else ["lr"]
    if missing:
        raise TypeError(f"method class {cls.__name__} lacks {', '.join(missing)}")
    name: str = cls.name  # type: ignore[attr-defined]
    if not isinstance(name, str) or not re.fullmatch(r"[\w.+:-]+", name) or name in ("train", "task"):
        raise TypeError(
            f"method class {cls.__name__}: its name is {name!r}; write letters, digits and -_.+ (not train, not task)"
        )
    bare = [
        field.name
        for field in dataclasses.fields(cls)
        if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    ]
    if bare:
        raise TypeError(f"method class {cls.__name__}: its option '{bare[0]}' has no default")
    swept = cls.swept  # type: ignore[attr-defined]
    if swept is not None and swept not in fields:
        raise TypeError(f"method class {cls.__name__}: swept names '{swept}', which is not one of its fields")
    options.check_types(cls)
    _add(_methods, "method", name, Entry(cls, Path(inspect.getfile(cls)).resolve()))
    return cls


def register_family(prefix: str, family: Family) -> None:
    """Make all methods whose names begin with ``prefix`` (``peft:``) available, each made on first use."""
    _families[prefix] = family


def register_task(task: Task) -> Task:
    """Make a task available to ``--task`` under its name; returns the task.

    Raises:
        TypeError: when the object lacks a member of the task contract.
        ValueError: when its kind is unknown or another file already registered the name.
    """
    members = ("name", "kind", "labels", "main_score", "higher_is_better", "help", "load", "score")
    further = _MEMBERS.get(getattr(task, "kind", ""), ())
    if inspect.isclass(task):
        raise TypeError(f"task {task.__name__} is a class: register one made of it, {task.__name__}(…)")
    missing = [member for member in (*members, *further) if not hasattr(task, member)]
    if missing:
        raise TypeError(f"task {getattr(task, 'name', task)!r} lacks {', '.join(missing)}")
    if not isinstance(task.name, str) or not task.name:
        raise TypeError(f"a task's name is {task.name!r}, not a text")
    if task.kind not in TASK_KINDS:
        raise ValueError(f"task '{task.name}': {unknown('kind', task.kind, TASK_KINDS)}")
    file = Path(sys._getframe(1).f_code.co_filename).resolve()
    _add(_tasks, "task", task.name, Entry(task, file))
    return task


def register_group(name: str, members: Iterable[str]) -> None:
    """Give several tasks one name (``glue``); ValueError when a task has that name."""
    if name in _tasks:
        raise ValueError(f"a group of tasks cannot be called '{name}': a task is")
    _groups[name] = tuple(members)


def register_opener(opener: Callable[[str], Task | None]) -> None:
    """Make tasks of names that are not registered (``data.csv``): the opener gives the task, else None."""
    _openers.append(opener)


def load(plugins: Iterable[Path] = ()) -> None:
    """Import the built-in methods and tasks, installed plugins and the given plugin files, each once.

    Raises:
        RequestError: when a plugin cannot be imported; names the file and the reason.
    """
    if not _state["builtin"]:
        for package in ("bench.methods", "bench.tasks"):
            for info in pkgutil.iter_modules(importlib.import_module(package).__path__):
                if info.ispkg:
                    continue
                importlib.import_module(f"{package}.{info.name}")
        for point in entry_points(group="bench.plugins"):
            _guard(point.load, f"{point.name} ({point.value})")
        _state["builtin"] = True
    for plugin in plugins:
        path = plugin.resolve()
        if path not in _plugins:
            _load_file(path)
            _plugins.add(path)


def _load_file(path: Path) -> None:
    if not path.is_file():
        raise RequestError(f"Plugin {path} does not exist.", code="not-found")
    name = f"bench_plugin_{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise RequestError(f"Plugin {path} is not a Python file (.py).", code="invalid-value")
    module: ModuleType = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    loader = spec.loader
    _guard(lambda: loader.exec_module(module), str(path))


def _guard(run: Any, where: str) -> None:
    try:
        run()
    except (Exception, SystemExit) as error:  # a plugin may raise anything: the user needs file and line
        mine = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == where]
        at = error.lineno if isinstance(error, SyntaxError) else mine[-1] if mine else None
        line = f", line {at}" if at is not None else ""
        raise RequestError(f"Plugin {where} failed{line}: {type(error).__name__}: {error}", code="plugin") from error


def method_entry(name: str) -> Entry:
    """Return the registered method class; raises RequestError with the nearest name when there is none."""
    if name not in _methods:
        family = _families.get(name[: name.find(":") + 1] or name)
        if family is None:
            raise RequestError([unknown("method", name, _methods)])
        family.make(name)
    return _methods[name]


def opens(name: str) -> Task | None:
    """The task that an opener makes of a name, None when no opener knows it (RequestError)."""
    return next((task for opener in _openers if (task := opener(name)) is not None), None)


def task_entry(name: str) -> Entry:
    """Return the registered task; raises RequestError with the nearest name when there is none."""
    if name in _tasks:
        return _tasks[name]
    task = opens(name)
    if task is not None:
        return Entry(task, Path(inspect.getfile(type(task))).resolve())
    ways = (
        " Or give your own data: a .csv, .tsv, .jsonl, .json or .parquet file, a folder of images, or hub:owner/name."
    )
    raise RequestError([unknown("task", name, {*_tasks, *_groups}).within(after=ways)])


def task_names(name: str) -> tuple[str, ...]:
    """The tasks of a group, or the name itself."""
    return _groups.get(name, (name,))


def task_groups() -> dict[str, tuple[str, ...]]:
    """Groups of tasks by name, sorted."""
    return {name: _groups[name] for name in sorted(_groups)}


def methods() -> dict[str, type[Method]]:
    """All registered method classes by name, sorted."""
    return {name: _methods[name].value for name in sorted(_methods)}


def families() -> dict[str, Family]:
    """Families of methods by prefix; their methods are in ``methods()`` once they were used."""
    return dict(_families)


def tasks() -> dict[str, Task]:
    """All registered tasks by name, sorted."""
    return {name: _tasks[name].value for name in sorted(_tasks)}
