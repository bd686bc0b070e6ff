"""``bench run``: expand what was asked, check it, do what is missing, show the comparison."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from bench.cli import run_request
from bench.cli.parser import DEFAULT_OUT
from bench.core.errors import RequestError
from bench.core.options import comma_list
from bench.core.quiet import gc_paused
from bench.store.record import Record, scored
from bench.store.store import Store
from bench.sweep.executors.select import WorkerPrewarm, opener

if TYPE_CHECKING:  # they bring torch, which is a second that bench list, status and the like need not wait
    from bench.analysis.analysis import Analysis
    from bench.sweep.scheduler import Options, Sweep


def run(arguments: argparse.Namespace) -> int:
    """``bench run``: expand, check, do what is missing, show the comparison."""
    asked = run_request.merged(arguments)
    if asked[0].get("dry_run"):
        return _dry_run(asked)
    with WorkerPrewarm(asked, Path(asked[0].get("out", DEFAULT_OUT))) as ahead:
        chosen, store, analysis = _compare(asked, ahead, command=True)
    _show(chosen, store, analysis, bool(asked[0].get("json")))
    return _verdict(chosen)


def compare(asked: list[dict[str, Any]]) -> tuple[list[Record], Store]:
    """Do what is missing of some requests, write the report, and return the plan's records.

    Args:
        asked: flags by name, once per experiment; where and how to run is taken from the first.

    Raises:
        RequestError: when a request is wrong, before anything is run.
    """
    with WorkerPrewarm(asked, Path(asked[0].get("out", DEFAULT_OUT))) as ahead:
        return _compare(asked, ahead, command=False)[:2]


def _compare(
    asked: list[dict[str, Any]], ahead: WorkerPrewarm, command: bool
) -> tuple[list[Record], Store, Analysis | None]:
    """The plan's records, their store, and their analysis where the report's is the same.

    Args:
        command: whether this process is the command's own, in which nothing else has made objects.
    """
    with gc_paused(lasting=command):  # mostly imports: a fifth of their time would go into looking for cycles
        from bench.sweep import plan_snapshot

        work, options, out = _expanded(asked)
    quiet = bool(asked[0].get("quiet"))
    if not quiet:
        _tell(work)
    store = Store(out)
    sweep = _sweep(asked, work, options, store, ahead)
    store.prepare()
    records, warnings = store.records()
    _warn(warnings)
    if work.tuned:
        sweep.trials.prepare()
        _warn(sweep.trials.records()[1])
    _warn([said] if (said := store.warning()) else [])
    todo = sweep.missing()
    with gc_paused(lasting=command):
        _check(todo, options, quiet)
    watcher = _watcher(len(sweep.ahead(todo)), quiet) if todo else _silent()
    if asked[0].get("tensorboard"):
        from bench.sweep.tensorboard import TensorBoard

        watcher = TensorBoard(store.folder / "tensorboard", watcher)
    sweep.watcher = watcher
    try:
        plan_snapshot.write(store.folder, asked, work.plain, work.tuned)
        sweep.run()
        records, warnings = store.records() if todo else (records, [])
        analysis = _report(records, store, options.plugins)
    except OSError as error:
        why = error.strerror or str(error)
        raise RequestError(
            f"The output folder {out} cannot be written any more: {why}. Records are kept.", code="not-written"
        ) from error
    finally:
        watcher.close()
    _warn(warnings)
    wanted = {spec.run_id for spec in sweep.wanted()}
    chosen = [record for record in records if record["run_id"] in wanted]
    return chosen, store, analysis if len(chosen) == len(records) else None


def _report(records: list[Record], store: Store, plugins: Sequence[Path]) -> Analysis:
    """Write the report of a folder; return the analysis it shows."""
    from bench.analysis.analysis import analyse
    from bench.cli.report import extras
    from bench.report.build import build

    analysis = analyse(records, store.folder)
    shown = extras(records, store.folder, plugins)
    build(records, store.folder / "report.html", dataclasses.replace(shown, analysis=analysis))
    return analysis


def _sweep(
    asked: list[dict[str, Any]], work: _Work, options: Options, store: Store, ahead: WorkerPrewarm | None = None
) -> Sweep:
    from bench.sweep.scheduler import Sweep
    from bench.sweep.tuning import Tuner

    opened = opener(asked[0], options.workers if "workers" in asked[0] else None, store.folder, ahead)
    return Sweep(work.plain, store, options, _silent(), opened, Tuner(work.tuned))


@dataclasses.dataclass
class _Work:
    """What was asked for, expanded: runs that are known, and configurations to tune first."""

    plain: list[Any]
    tuned: list[Any]


def _expanded(asked: list[dict[str, Any]]) -> tuple[_Work, Options, Path]:
    """The runs of all experiments, each once; every mistake in any of them is said at once."""
    from bench.sweep import expand, tuning

    wrong: list[str] = []
    plain: dict[str, Any] = {}
    tuned: dict[str, Any] = {}
    for values in asked:
        where = f"experiment {values['experiment']}: " if "experiment" in values else ""
        try:
            request, options, out = run_request.request(values)
            found = expand.expand(request)
            tune = comma_list(values.get("tune")), values.get("trials"), values.get("prune")
            if search := tuning.search(*tune, request):
                found, groups = tuning.groups(search, found)
                for group in groups:
                    same = tuned.setdefault(group.key, group)
                    same.seeds += [seed for seed in group.seeds if seed not in same.seeds]
            plain |= {spec.run_id: spec for spec in found if spec.run_id not in plain}
        except RequestError as error:
            wrong += [message.within(where) for message in error.messages]
    wanted = [*plain.values(), *(group.base for group in tuned.values())]
    keeps = any(spec.spec["train"].get("cache_trunk") for spec in wanted)
    if "cache_limit" in asked[0] and wanted and not keeps:
        wrong.append("--cache-limit is for --cache-trunk, which no run of this request asks for.")
    if wrong:
        raise RequestError(wrong, code="invalid-value")
    return _Work(list(plain.values()), list(tuned.values())), options, out


def _check(todo: list[Any], options: Options, quiet: bool) -> None:
    """See that methods fit their models and that what runs want to keep of their trunks can be kept; say how much."""
    from bench.sweep import expand

    mistakes = expand.ErrorCollector()
    mistakes.attempt(lambda: expand.check_methods(todo))
    said = None
    if any(spec.spec["train"].get("cache_trunk") for spec in todo):
        from bench.sweep.feature_budget import Survey

        said = mistakes.attempt(lambda: Survey(options.plugins, options.mirror, options.cache_limit).check(todo))
    mistakes.stop()
    _warn([] if quiet or not said else said)


def _tell(work: _Work) -> None:
    """Say what tasks found out by themselves, so that a wrong guess is seen before anything is trained."""
    said: dict[str, None] = {}
    for spec in [*work.plain, *(group.base for group in work.tuned)]:
        notes = getattr(spec.task, "notes", ())
        facts = spec.spec["task"]
        rows = f"{facts['train_rows']:,} training rows, {facts['validation_rows']:,} evaluation rows"
        if notes:
            said["; ".join((f"{spec.task.name}: {notes[0]}", *notes[1:], rows))] = None
    for line in said:
        sys.stderr.write(f"bench: {line}. Another choice: --set task.OPTION=VALUE (bench show FILE lists them)\n")


def _warn(warnings: list[str]) -> None:
    for warning in warnings:
        sys.stderr.write(f"bench: {warning}\n")


def _watcher(total: int, quiet: bool) -> Any:
    from bench.sweep.progress import Bars, Lines

    if quiet:
        return _silent()
    console = Console(stderr=True)
    return (Bars if console.is_terminal else Lines)(console, total)


def _silent() -> Any:
    from bench.sweep.progress import Silent

    return Silent()


def _dry_run(asked: list[dict[str, Any]]) -> int:
    from bench.sweep import dry_run

    work, options, out = _expanded(asked)
    _tell(work)
    sweep = _sweep(asked, work, options, Store(out))
    _check([*work.plain, *(group.base for group in work.tuned)], options, quiet=False)
    records, warnings = Store(out).records() if out.is_dir() else ([], [])
    _warn(warnings)
    for line in dry_run.lines(sweep, records):
        sys.stdout.write(f"{line}\n")
    return 0


def _show(chosen: list[Record], store: Store, analysis: Analysis | None, as_json: bool) -> None:
    from bench.report.terminal import comparison_table

    if as_json:
        json.dump(chosen, sys.stdout, indent=1)
        sys.stdout.write("\n")
    else:
        from bench.analysis.analysis import analyse

        comparison_table.render(chosen, Console(), analysis or analyse(chosen, store.folder))
    (sys.stderr if as_json else sys.stdout).write(f"Report: {store.folder / 'report.html'}\n")


def _verdict(chosen: list[Record]) -> int:
    fell_short = any(text.startswith("fail") for record in chosen for text in record["checks"].values())
    return int(fell_short or not all(scored(record) for record in chosen))
