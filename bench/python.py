"""The Python API: ``bench.run`` does what the command does and returns a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.errors import RequestError, unknown

if TYPE_CHECKING:
    import pandas as pd

_LISTS = ("methods", "adapter", "task", "model", "ranks", "seeds", "tune")


def run(methods: str | Sequence[str], task: str | Sequence[str], **flags: Any) -> pd.DataFrame:
    """Train methods on tasks and return one row per run, best score first.

    Args:
        methods, task: names, as a list or a text with commas.
        flags: every flag of ``bench run`` by its name with ``_`` for ``-`` (``model``, ``steps``, ``seeds``,
            ``out``, ``data_dir``, ``save``, …), and ``set={"lora.rank": 4}``. ``quiet`` hides progress.

    Returns:
        The columns of ``bench.table.frame``: the label, specification, scores, memory in bytes, speed and checks.

    Raises:
        RequestError: when the request is wrong; its ``messages`` say everything that is.
    """
    from bench import commands, table
    from bench.cli import TRAIN_FLAGS

    known = {*_LISTS, *TRAIN_FLAGS, "set", "plugin", "data_dir", "out", "workers", "save", "fresh", "retry_failed"}
    values = _values(
        "bench.run",
        flags,
        known | {"quiet", "trials", "prune", "tensorboard", "executor", "address", "cpus", "cluster"},
    )
    chosen, _ = commands.compare([{**values, "methods": methods, "task": task}])
    return table.frame(chosen)


def plan(methods: str | Sequence[str], model: str | Sequence[str], **flags: Any) -> list[dict[str, Any]]:
    """Plan the memory of methods on models, without weights or a GPU.

    Args:
        methods, model: names, as a list or a text with commas; a model may be a folder with a config.json.
        flags: every flag of ``bench plan`` by its name with ``_`` for ``-`` (``batch_size``, ``max_length``,
            ``precision``, ``budget``, …), and ``set={"lora.rank": 4}``.

    Returns:
        One dictionary per model and method, as ``bench plan --json`` prints them; sizes in bytes.

    Raises:
        RequestError: when the request is wrong; its ``messages`` say everything that is.
    """
    from bench.options import options
    from bench.planner import command
    from bench.planner.request import Setting

    known = {*options(Setting), "ranks", "set", "plugin", "kind", "task", "budget"}
    values = _values("bench.plan", flags, known)
    return command.rows(command.check({**values, "methods": methods, "model": model}), lambda _: None)


def _values(function: str, flags: Mapping[str, Any], known: set[str]) -> dict[str, Any]:
    """Arguments as the command line would give them; raises RequestError for unknown ones."""
    wrong = [unknown(f"argument of {function}", name, known) for name in flags if name not in known]
    if wrong:
        raise RequestError(wrong)
    values = {name: value for name, value in flags.items() if value is not None}
    sets = values.pop("set", {})
    if isinstance(sets, Mapping):
        sets = [f"{name}={_text(value)}" for name, value in sets.items()]
    plugins = values.pop("plugin", ())
    plugins = [plugins] if isinstance(plugins, str | Path) else plugins
    for name in ("ranks", "seeds"):
        if name in values:
            values[name] = _text(values[name])
    return {**values, "set": sets, "plugin": plugins}


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return ",".join(map(str, value)) if isinstance(value, list | tuple | range) else str(value)
