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

from bench.cli import flags, output
from bench.core.errors import ErrorCollector, Fault, RequestError, fault
from bench.core.options import comma_list
from bench.core.quiet import gc_paused
from bench.core.train_config import TrainSettings
from bench.store.record import Record, failed_checks, scored
from bench.store.store import Store
from bench.sweep import plan_file
from bench.sweep.executors.select import WorkerPrewarm, opener
from bench.sweep.request import Execution, RunRequest

if TYPE_CHECKING:  # they bring torch, which is a second that bench list, status and the like need not wait
    from bench.analysis.analysis import Analysis
    from bench.sweep.scheduler import Sweep


def run(arguments: argparse.Namespace) -> int:
    """Do the command: expand the request, check it, do the missing runs, show the comparison."""
    requests = _requests(arguments)
    if requests[0].dry_run:
        return _dry_run(requests)
    with WorkerPrewarm(requests) as prewarmed:
        chosen, store, analysis = _compare(requests, prewarmed, command=True)
    _show(chosen, store, analysis, requests[0].json)
    return _verdict(chosen)


def _requests(arguments: argparse.Namespace) -> list[RunRequest]:
    """The flags, over the plan file where there is one: a request per experiment."""
    given = flags.given(arguments, RunRequest, TrainSettings)
    experiments = comma_list(arguments.experiment)
    if arguments.plan is not None:
        return plan_file.requests(arguments.plan, given, experiments)
    if experiments:
        raise RequestError("--experiment chooses from a plan file: name it with --plan FILE.", code="missing")
    return [RunRequest.build(given)]


def compare(requests: list[RunRequest]) -> tuple[list[Record], Store]:
    """Do the missing runs of some requests, write the report, and return the records of the requests.

    Args:
        requests: one per experiment; where and how to run is taken from the first.

    Raises:
        RequestError: when a request is wrong, before anything is run.
    """
    with WorkerPrewarm(requests) as prewarmed:
        return _compare(requests, prewarmed, command=False)[:2]


def _compare(
    requests: list[RunRequest], prewarmed: WorkerPrewarm, command: bool
) -> tuple[list[Record], Store, Analysis | None]:
    """The records of the requests, their store, and their analysis where it is that of the report.

    Args:
        command: whether this process is the command's own and has made no other objects.
    """
    with gc_paused(lasting=command):  # mostly imports: garbage collection would take a fifth of their time
        from bench.sweep import plan_snapshot

        work = _expanded(requests)
    execution = requests[0]
    if not execution.quiet:
        _tell(work)
    store = Store(execution.out)
    sweep = _sweep(execution, work, store, prewarmed)
    store.prepare()
    records, warnings = store.records()
    output.notes(warnings)
    if work.tuned:
        sweep.trials.prepare()
        output.notes(sweep.trials.records()[1])
    output.notes([warning] if (warning := store.warning()) else [])
    todo = sweep.missing()
    with gc_paused(lasting=command):
        _check(todo, execution)
    watcher = _watcher(len(sweep.ahead(todo)), execution.quiet) if todo else _silent()
    if execution.tensorboard:
        from bench.sweep.tensorboard import TensorBoard

        watcher = TensorBoard(store.folder / "tensorboard", watcher)
    sweep.watcher = watcher
    try:
        plan_snapshot.write(store.folder, requests, work.plain, work.tuned)
        sweep.run()
        records, warnings = store.records() if todo else (records, [])
        analysis = _report(records, store, execution.plugin)
    except OSError as error:
        why = error.strerror or str(error)
        raise RequestError(
            f"The output folder {store.folder} cannot be written any more: {why}. Records are kept.", code="not-written"
        ) from error
    finally:
        watcher.close()
    output.notes(warnings)
    wanted = {spec.run_id for spec in sweep.wanted()}
    chosen = [record for record in records if record["run_id"] in wanted]
    return chosen, store, analysis if len(chosen) == len(records) else None


def _report(records: list[Record], store: Store, plugins: Sequence[Path]) -> Analysis:
    """Write the report of a folder; return the analysis it shows."""
    from bench.analysis.analysis import analyse
    from bench.cli.folders import extras
    from bench.report.build import build

    analysis = analyse(records, store.folder)
    shown = extras(records, store.folder, plugins)
    build(records, store.folder / "report.html", dataclasses.replace(shown, analysis=analysis))
    return analysis


def _sweep(execution: Execution, work: _Work, store: Store, prewarmed: WorkerPrewarm | None = None) -> Sweep:
    from bench.sweep.scheduler import Sweep
    from bench.sweep.tuning import Tuner

    return Sweep(work.plain, store, execution, _silent(), opener(execution, prewarmed), Tuner(work.tuned))


@dataclasses.dataclass
class _Work:
    """The expanded request: runs that are known, and configurations to tune first."""

    plain: list[Any]
    tuned: list[Any]


def _expanded(requests: list[RunRequest]) -> _Work:
    """The runs of all experiments, each once (RequestError with the mistakes of all)."""
    from bench.sweep import expand, tuning

    wrong: list[Fault] = []
    plain: dict[str, Any] = {}
    tuned: dict[str, Any] = {}
    for request in requests:
        where = "" if request.experiment is None else f"experiment {request.experiment}: "
        try:
            found = expand.expand(request)
            if search := tuning.search(request):
                found, groups = tuning.groups(search, found)
                for group in groups:
                    same = tuned.setdefault(group.key, group)
                    same.seeds += [seed for seed in group.seeds if seed not in same.seeds]
            plain |= {spec.run_id: spec for spec in found if spec.run_id not in plain}
        except RequestError as error:
            wrong += [message.within(where) for message in error.messages]
    wanted = [*plain.values(), *(group.base for group in tuned.values())]
    keeps = any(spec.spec["train"].get("cache_trunk") for spec in wanted)
    if requests[0].cache_limit != Execution.cache_limit and wanted and not keeps:
        wrong.append(fault("--cache-limit is for --cache-trunk, which no run of this request has.", "conflict"))
    if wrong:
        raise RequestError(wrong)
    return _Work(list(plain.values()), list(tuned.values()))


def _check(todo: list[Any], execution: Execution) -> None:
    """Check that methods fit their models and that there is room for the features that runs keep; say how much."""
    from bench.sweep import expand

    mistakes = ErrorCollector()
    mistakes.attempt(lambda: expand.check_methods(todo))
    said = None
    if any(spec.spec["train"].get("cache_trunk") for spec in todo):
        from bench.sweep.feature_budget import Survey

        said = mistakes.attempt(lambda: Survey(execution).check(todo))
    mistakes.stop()
    output.notes([] if execution.quiet or not said else said)


def _tell(work: _Work) -> None:
    """Note what tasks inferred from their data, and heads that are replaced, before anything is trained."""
    specs = [*work.plain, *(group.base for group in work.tuned)]
    found: dict[str, None] = {}
    for spec in specs:
        facts = spec.spec["task"]
        rows = f"{facts['train_rows']:,} training rows, {facts['validation_rows']:,} evaluation rows"
        if known := getattr(spec.task, "notes", ()):
            choice = "Another choice: --set task.OPTION=VALUE (bench show FILE lists them)"
            found["; ".join((f"{spec.task.name}: {known[0]}", *known[1:], f"{rows}. {choice}"))] = None
    output.notes([*found, *_replaced_heads(specs)])


def _replaced_heads(specs: list[Any]) -> list[str]:
    from bench.models.loading import has_own_head

    kinds = dict.fromkeys((spec.source, spec.spec["task"]["form"]["model_kind"]) for spec in specs)
    names = dict.fromkeys(source.name for source, kind in kinds if has_own_head(source, kind))
    return [f"{name} has a classification head of its own; a fresh one is trained in its place." for name in names]


def _watcher(total: int, quiet: bool) -> Any:
    from bench.sweep.progress import Bars, Lines

    if quiet:
        return _silent()
    console = Console(stderr=True)
    return (Bars if console.is_terminal else Lines)(console, total)


def _silent() -> Any:
    from bench.sweep.progress import Silent

    return Silent()


def _dry_run(requests: list[RunRequest]) -> int:
    from bench.sweep import dry_run

    work, execution = _expanded(requests), requests[0]
    _tell(work)
    sweep = _sweep(execution, work, Store(execution.out))
    _check([*work.plain, *(group.base for group in work.tuned)], execution)
    records, warnings = sweep.store.records() if execution.out.is_dir() else ([], [])
    output.notes(warnings)
    for line in dry_run.lines(sweep, records):
        output.line(line)
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
    """The exit code; 1 comes with its reasons."""
    failed = sum(bool(failed_checks(record)) for record in chosen)
    lost = sum(not scored(record) for record in chosen)
    reasons = [f"{lost} of {len(chosen)} runs have no score"] if lost else []
    reasons += [f"{failed} of {len(chosen)} runs failed a check"] if failed else []
    if reasons:
        output.note(f"exit code 1: {' and '.join(reasons)}.")
    return int(bool(reasons))
