"""The Python API: ``bench.run`` does what the command does and returns a table, ``bench.compare_runs`` the pairs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.core import options
from bench.core.errors import RequestError, unknown

if TYPE_CHECKING:
    import pandas as pd


def run(methods: str | Sequence[str], task: str | Sequence[str], **flags: Any) -> pd.DataFrame:
    """Train methods on tasks and return one row per run, best score first.

    Args:
        methods, task: names, as a list or a text with commas.
        flags: every flag of ``bench run`` by its name with ``_`` for ``-`` (``model``, ``steps``, ``seeds``,
            ``out``, ``data_dir``, ``save``, …), and ``set={"lora.rank": 4}``. ``quiet`` hides progress,
            ``share=False`` disables shared training of runs with the same frozen backbone.

    Returns:
        The columns of ``comparison_table.frame``: the label, specification, scores, memory in bytes, speed, checks.

    Raises:
        RequestError: when the request is wrong; its ``messages`` say everything that is.
    """
    from bench.cli import run as command
    from bench.core.train_config import TrainSettings
    from bench.report.terminal import comparison_table
    from bench.sweep.request import RunRequest

    known = {*options.flags(RunRequest, TrainSettings), "share"} - {"no_share", "dry_run", "json"}
    given = _given("bench.run", {**flags, "methods": methods, "task": task}, known)
    if not given.pop("share", True):
        given["no_share"] = True
    chosen, _ = command.compare([RunRequest.build(given)])
    return comparison_table.frame(chosen)


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
    from bench.cli import plan as command
    from bench.planner.plan_config import Setting, WhatToPlan

    known = {*options.options(Setting), *options.flags(WhatToPlan)}
    given = _given("bench.plan", {**flags, "methods": methods, "model": model}, known)
    return command.rows(command.check(given), lambda _: None)


def _given(function: str, arguments: Mapping[str, Any], known: set[str]) -> dict[str, Any]:
    """Arguments by name as the command line would give them; raises RequestError for unknown ones."""
    wrong = [unknown(f"argument of {function}", name, known) for name in arguments if name not in known]
    if wrong:
        raise RequestError(wrong)
    given = {name: value for name, value in arguments.items() if value is not None}
    if isinstance(sets := given.get("set"), Mapping):
        given["set"] = [f"{name}={_text(value)}" for name, value in sets.items()]
    return given


def compare_runs(folder: str | Path, baseline: str | None = None, alpha: float = 0.05) -> pd.DataFrame:
    """Compare the methods of a results folder pair by pair, on their per-example predictions.

    Args:
        folder: what ``--out`` named.
        baseline: a method to compare all others with, corrected as a family of its own.
        alpha: level of tests and intervals.

    Returns:
        One row per pair, the better one ``first``: ``difference`` (first minus second, in the score's unit) with
        ``low`` and ``high`` of its interval, ``p_value``, ``p_holm`` (corrected over the pairs of the task and model),
        ``p_baseline``, ``different``, the ``test``, ``seeds`` and ``examples`` it rests on; for ties ``detectable``,
        ``seeds_needed`` and ``examples_needed``; for pairs that cannot be compared the ``reason``.

    Raises:
        RequestError: when the folder holds no records, or the baseline is not there.
    """
    import pandas as pd

    from bench.analysis.analysis import COLUMNS, analyse, rows
    from bench.store.store import Store

    place = Path(folder)
    if not (place / "runs").is_dir():
        raise RequestError(f"{place} holds no records: there is no folder {place / 'runs'}.", code="no-records")
    if not 0 < alpha < 0.5:
        raise RequestError(f"alpha: {alpha!r} is not a number between 0 and 0.5.", code="invalid-value")
    records, _ = Store(place).records()
    return pd.DataFrame(rows(analyse(records, place, baseline, alpha)), columns=list(COLUMNS))


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return ",".join(map(str, value)) if isinstance(value, list | tuple | range) else str(value)
