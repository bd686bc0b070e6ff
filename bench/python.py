"""The Python API: ``bench.run`` does what the command does and returns a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.errors import RequestError, unknown

if TYPE_CHECKING:
    import pandas as pd

_LISTS = ("methods", "adapter", "task", "model", "ranks", "seeds")


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
    known |= {"quiet", "revision", "quantize", "trust_remote_code", "allow_pickle"}
    wrong = [unknown("argument of bench.run", name, known) for name in flags if name not in known]
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
    chosen, _ = commands.compare({**values, "methods": methods, "task": task, "set": sets, "plugin": plugins})
    return table.frame(chosen)


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return ",".join(map(str, value)) if isinstance(value, list | tuple | range) else str(value)
