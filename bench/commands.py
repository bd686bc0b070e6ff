"""What each command does, once its line is parsed."""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

from rich.console import Console

from bench.cli import DEFAULT_OUT, TRAIN_FLAGS
from bench.errors import RequestError
from bench.record import Record
from bench.store import Store
from bench.sweep import Options, Sweep

_LISTS = ("methods", "adapter", "task", "model", "ranks", "seeds")
_SWITCHES = ("save", "fresh", "retry_failed", "dry_run", "json", "quiet")


def run(arguments: argparse.Namespace) -> int:
    """``bench run``: expand, check, do what is missing, show the comparison."""
    from bench import specs

    values = _merged(arguments)
    if values.get("dry_run"):
        request, _, out = _request(values)
        expanded = specs.expand(request)
        _tell(expanded)
        specs.check_methods(expanded)
        return _dry_run(expanded, Store(out))
    chosen, store = compare(values)
    _show(chosen, store, bool(values.get("json")))
    return _verdict(chosen)


def compare(values: dict[str, Any]) -> tuple[list[Record], Store]:
    """Do what is missing of a request, write the report, and return the plan's records.

    Args:
        values: flags by name.

    Raises:
        RequestError: when the request is wrong, before anything is run.
    """
    from bench import specs
    from bench.report import build
    from bench.reporting import extras

    request, options, out = _request(values)
    expanded = specs.expand(request)
    if not values.get("quiet"):
        _tell(expanded)
    store = Store(out)
    store.prepare()
    _warn(store.records()[1])
    sweep = Sweep(expanded, store, options, watcher=_silent())
    todo = sweep.missing()
    specs.check_methods(todo)
    if todo:
        watcher = _watcher(len(todo), bool(values.get("quiet")))
        sweep.watcher = watcher
        try:
            sweep.run()
        except OSError as error:
            why = error.strerror or str(error)
            raise RequestError(
                f"The output folder {out} cannot be written any more: {why}. Records are kept."
            ) from error
        finally:
            watcher.close()
    records, warnings = store.records()
    _warn(warnings)
    build(records, store.folder / "report.html", extras(records, store.folder, request.plugins))
    wanted = {spec.run_id for spec in expanded}
    return [record for record in records if record["run_id"] in wanted], store


def _warn(warnings: list[str]) -> None:
    for warning in warnings:
        sys.stderr.write(f"bench: {warning}\n")


def _tell(expanded: list[Any]) -> None:
    """Say what tasks found out by themselves, so that a wrong guess is seen before anything is trained."""
    said: dict[str, None] = {}
    for spec in expanded:
        notes = getattr(spec.task, "notes", ())
        facts = spec.spec["task"]
        rows = f"{facts['train_rows']:,} rows to learn from, {facts['validation_rows']:,} to score"
        if notes:
            said["; ".join((f"{spec.task.name}: {notes[0]}", *notes[1:], rows))] = None
    for line in said:
        sys.stderr.write(f"bench: {line}. Another choice: --set task.OPTION=VALUE (bench show FILE lists them)\n")


def _merged(arguments: argparse.Namespace) -> dict[str, Any]:
    """Flags over the plan file over nothing."""
    from bench import planfile

    flags = {name: value for name, value in vars(arguments).items() if value not in (None, False, [])}
    path = flags.pop("plan", None)
    if path is None:
        return flags
    known: dict[str, type] = {name: list for name in (*_LISTS, "plugin")}
    known |= {name: str for name in (*TRAIN_FLAGS, "data_dir", "out", "workers")} | {name: bool for name in _SWITCHES}
    found = planfile.read(path, known)
    if "plugin" in found:
        found["plugin"] = [path.parent / name for name in found["plugin"].split(",")]
    for one, other in (("steps", "epochs"), ("epochs", "steps")):
        if one in flags:
            found.pop(other, None)
    merged = {**found, **flags}
    merged["set"] = [*found.get("set", []), *flags.get("set", [])]
    return merged


def _request(values: dict[str, Any]) -> tuple[Any, Options, Path]:
    from bench.specs import Request

    wrong = []
    methods, adapters, sets = _split(values.get("methods")), _split(values.get("adapter")), tuple(values.get("set", ()))
    if adapters:
        methods, sets = (*methods, "adapter"), (*sets, f"adapter.path={','.join(adapters)}")
    for name, example in (("methods", "--methods lora,lst"), ("task", "--task glue/sst2")):
        if not (methods if name == "methods" else _split(values.get(name))):
            there = "bench list methods" if name == "methods" else "bench list tasks"
            wrong.append(f"Say which {name} to run: {example} (see: {there}).")
    workers = 1
    try:
        workers = int(values.get("workers", 1))
        if workers < 1:
            raise ValueError
    except (ValueError, TypeError):
        wrong.append(f"--workers: '{values['workers']}' is not a whole number of at least 1.")
    mirror = mirror_folder(values.get("data_dir"), wrong)
    if wrong:
        raise RequestError(wrong)
    plugins = tuple(Path(plugin) for plugin in values.get("plugin", ()))
    request = Request(
        methods=methods,
        tasks=_split(values["task"]),
        models=_split(values.get("model")) or ("minilm",),
        ranks=_split(values.get("ranks")),
        seeds=_split(values.get("seeds")) or ("0",),
        sets=sets,
        train={name: values[name] for name in TRAIN_FLAGS if name in values},
        plugins=plugins,
        mirror=mirror,
    )
    switches = {name: bool(values.get(name)) for name in ("save", "fresh", "retry_failed")}
    options = Options(workers=workers, plugins=plugins, mirror=mirror, **switches)
    return request, options, Path(values.get("out", DEFAULT_OUT))


def mirror_folder(given: Any, wrong: list[str]) -> Path | None:
    """The data mirror: the given folder, else ``BENCH_DATA``; adds a message when it does not exist."""
    text = given or os.environ.get("BENCH_DATA")
    if not text:
        return None
    folder = Path(text).expanduser()
    if not folder.is_dir():
        wrong.append(f"{'--data-dir' if given else 'BENCH_DATA'}: the folder {folder} does not exist.")
    return folder


def _split(text: Any) -> tuple[str, ...]:
    parts = text if isinstance(text, list | tuple) else str(text or "").split(",")
    return tuple(dict.fromkeys(str(part).strip() for part in parts if str(part).strip()))


def _silent() -> Any:
    from bench.progress import Silent

    return Silent()


def _watcher(total: int, quiet: bool) -> Any:
    from bench.progress import Bars, Lines

    if quiet:
        return _silent()
    console = Console(stderr=True)
    return (Bars if console.is_terminal else Lines)(console, total)


def _dry_run(expanded: list[Any], store: Store) -> int:
    from bench.progress import title

    records, warnings = store.records() if store.folder.is_dir() else ([], [])
    _warn(warnings)
    there = {record["run_id"]: record["status"] for record in records}
    for spec in expanded:
        options = ", ".join(f"{name}={value}" for name, value in spec.spec["method"].items() if name != "name")
        state = there.get(spec.run_id, "to do")
        steps = spec.spec["train"]["steps"] or "no"
        sys.stdout.write(f"{spec.run_id}  {state:<11}  {title(spec.spec)}, {steps} steps\n")
        sys.stdout.write(f"{'':31}{options}\n")
    done = sum(spec.run_id in there for spec in expanded)
    sys.stdout.write(f"{len(expanded)} runs, {done} already there.\n")
    return 0


def _show(chosen: list[Record], store: Store, as_json: bool) -> None:
    from bench import table

    if as_json:
        json.dump(chosen, sys.stdout, indent=1)
        sys.stdout.write("\n")
    else:
        from bench.statistics.analysis import analyse

        table.render(chosen, Console(), analyse(chosen, store.folder))
    (sys.stderr if as_json else sys.stdout).write(f"Report: {store.folder / 'report.html'}\n")


def _verdict(chosen: list[Record]) -> int:
    fell_short = any(text.startswith("fail") for record in chosen for text in record["checks"].values())
    return int(fell_short or any(record["status"] != "ok" for record in chosen))


def stats(arguments: argparse.Namespace) -> int:
    """``bench stats``: intervals, paired tests, groups and fronts of a folder of records."""
    wrong: list[str] = []
    alpha = _number(arguments.alpha, "--alpha", (0.0, 0.5), wrong)
    beta = _number(arguments.beta, "--beta", (0.0, 100.0), wrong)
    if arguments.beta is not None and not arguments.pscp:
        wrong.append("--beta is the exponent of --pscp: say --pscp too.")
    if wrong:
        raise RequestError(wrong)
    from bench import reporting
    from bench.statistics import printed
    from bench.statistics.analysis import analyse
    from bench.statistics.pscp import Weights

    records = reporting.records(arguments.folder)
    analysis = analyse(records, arguments.folder, arguments.baseline, 0.05 if alpha is None else alpha)
    weights = (Weights() if beta is None else Weights(beta)) if arguments.pscp else None
    if arguments.json:
        json.dump(printed.document(analysis, weights), sys.stdout, indent=1, allow_nan=False)
        sys.stdout.write("\n")
    else:
        printed.show(records, analysis, Console(), weights)
    return 0


def _number(text: str | None, flag: str, ends: tuple[float, float], wrong: list[str]) -> float | None:
    """The number of a flag, which has to lie strictly between two ends; None when it was not given."""
    if text is None:
        return None
    try:
        value = float(text)
        if not ends[0] < value < ends[1]:
            raise ValueError
    except ValueError:
        wrong.append(f"{flag}: '{text}' is not a number between {ends[0]:g} and {ends[1]:g}.")
        return None
    return value


def export(arguments: argparse.Namespace) -> int:
    """``bench export``: a saved adapter in a format that others read."""
    import transformers

    from bench import card
    from bench import export as exporting

    folder = exporting.find(arguments.which, arguments.out)
    transformers.logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    transformers.utils.logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    tuned = card.load(folder, model=arguments.model, plugins=arguments.plugin, keep_original=True)
    exporting.export(tuned, arguments.format, arguments.to)
    sys.stdout.write(f"{arguments.format}: {arguments.to}\n")
    return 0


def list_what(arguments: argparse.Namespace) -> int:
    """``bench list``: what there is, a line each."""
    from bench import explain

    rows = explain.listing(arguments.what, arguments.plugin)
    if arguments.json:
        json.dump(rows, sys.stdout, indent=1)
        sys.stdout.write("\n")
        return 0
    width = max(len(row["name"]) for row in rows)
    for row in rows:
        sys.stdout.write(f"{row['name']:<{width}}  {row['help']}\n")
    return 0


def show(arguments: argparse.Namespace) -> int:
    """``bench show``: one method, task or model in full."""
    from bench import explain

    wrong: list[str] = []
    mirror = mirror_folder(None, wrong)
    if wrong:
        raise RequestError(wrong)
    explain.explain(arguments.name, arguments.plugin, Console(), mirror)
    return 0
