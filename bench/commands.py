"""What each command does, once its line is parsed."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from bench.cli import DEFAULT_OUT, TRAIN_FLAGS
from bench.errors import RequestError
from bench.quiet import uncollected
from bench.record import Record
from bench.store import Store
from bench.where import Ahead, opener

if TYPE_CHECKING:  # they bring torch, which is a second that bench list, status and the like need not wait
    from bench.sweep import Options, Sweep

_LISTS = ("methods", "adapter", "task", "model", "ranks", "seeds", "tune")
_LOADING = ("trust_remote_code", "allow_pickle")
_SWITCHES = ("save", "fresh", "retry_failed", "no_share", "dry_run", "json", "quiet", "tensorboard")
_WHERE = ("data_dir", "out", "workers", "executor", "address", "cpus", "cache_limit")
_WHOLE = (*_SWITCHES, *_WHERE, "plugin", "cluster")  # one value for all experiments of a plan


def run(arguments: argparse.Namespace) -> int:
    """``bench run``: expand, check, do what is missing, show the comparison."""
    asked = _merged(arguments)
    if asked[0].get("dry_run"):
        return _dry_run(asked)
    chosen, store = compare(asked)
    _show(chosen, store, bool(asked[0].get("json")))
    return _verdict(chosen)


def compare(asked: list[dict[str, Any]]) -> tuple[list[Record], Store]:
    """Do what is missing of some requests, write the report, and return the plan's records.

    Args:
        asked: flags by name, once per experiment; where and how to run is taken from the first.

    Raises:
        RequestError: when a request is wrong, before anything is run.
    """
    with Ahead(asked, Path(asked[0].get("out", DEFAULT_OUT))) as ahead:
        return _compare(asked, ahead)


def _compare(asked: list[dict[str, Any]], ahead: Ahead) -> tuple[list[Record], Store]:
    with uncollected():  # mostly imports: a fifth of their time would go into looking for cycles
        from bench import plans

        work, options, out = _expanded(asked)
    quiet = bool(asked[0].get("quiet"))
    if not quiet:
        _tell(work)
    store = Store(out)
    sweep = _sweep(asked, work, options, store, ahead)
    for folder in (store, sweep.trials) if work.tuned else (store,):
        folder.prepare()
        _warn(folder.records()[1])
    _warn([said] if (said := store.warning()) else [])
    todo = sweep.missing()
    with uncollected():
        _check(todo, options, quiet)
    watcher = _watcher(len(sweep.ahead(todo)), quiet) if todo else _silent()
    if asked[0].get("tensorboard"):
        from bench.tensorboard import TensorBoard

        watcher = TensorBoard(store.folder / "tensorboard", watcher)
    sweep.watcher = watcher
    try:
        plans.write(store.folder, asked, work.plain, work.tuned)
        sweep.run()
        from bench.report import build
        from bench.reporting import extras

        records, warnings = store.records()
        build(records, store.folder / "report.html", extras(records, store.folder, options.plugins))
    except OSError as error:
        why = error.strerror or str(error)
        raise RequestError(f"The output folder {out} cannot be written any more: {why}. Records are kept.") from error
    finally:
        watcher.close()
    _warn(warnings)
    wanted = {spec.run_id for spec in sweep.wanted()}
    return [record for record in records if record["run_id"] in wanted], store


def _sweep(
    asked: list[dict[str, Any]], work: _Work, options: Options, store: Store, ahead: Ahead | None = None
) -> Sweep:
    from bench.sweep import Sweep
    from bench.tuning import Tuner

    opened = opener(asked[0], options.workers if "workers" in asked[0] else None, store.folder, ahead)
    return Sweep(work.plain, store, options, _silent(), opened, Tuner(work.tuned))


@dataclasses.dataclass
class _Work:
    """What was asked for, expanded: runs that are known, and configurations to tune first."""

    plain: list[Any]
    tuned: list[Any]


def _expanded(asked: list[dict[str, Any]]) -> tuple[_Work, Options, Path]:
    """The runs of all experiments, each once; every mistake in any of them is said at once."""
    from bench import specs, tuning

    wrong: list[str] = []
    plain: dict[str, Any] = {}
    tuned: dict[str, Any] = {}
    for values in asked:
        where = f"experiment {values['experiment']}: " if "experiment" in values else ""
        try:
            request, options, out = _request(values)
            found = specs.expand(request)
            tune = _split(values.get("tune")), values.get("trials"), values.get("prune")
            if search := tuning.search(*tune, request):
                found, groups = tuning.groups(search, found)
                tuned |= {group.key: group for group in groups}
            plain |= {spec.run_id: spec for spec in found if spec.run_id not in plain}
        except RequestError as error:
            wrong += [f"{where}{message}" for message in error.messages]
    if wrong:
        raise RequestError(wrong)
    return _Work(list(plain.values()), list(tuned.values())), options, out


def _check(todo: list[Any], options: Options, quiet: bool) -> None:
    """See that methods fit their models and that what runs want to keep of their trunks can be kept; say how much."""
    from bench import specs

    mistakes = specs.Mistakes()
    mistakes.attempt(lambda: specs.check_methods(todo))
    said = None
    if any(spec.spec["train"].get("cache_trunk") for spec in todo):
        from bench.trunkroom import Survey

        said = mistakes.attempt(lambda: Survey(options.plugins, options.mirror, options.cache_limit).check(todo))
    mistakes.stop()
    _warn([] if quiet or not said else said)


def _warn(warnings: list[str]) -> None:
    for warning in warnings:
        sys.stderr.write(f"bench: {warning}\n")


def _tell(work: _Work) -> None:
    """Say what tasks found out by themselves, so that a wrong guess is seen before anything is trained."""
    said: dict[str, None] = {}
    for spec in [*work.plain, *(group.base for group in work.tuned)]:
        notes = getattr(spec.task, "notes", ())
        facts = spec.spec["task"]
        rows = f"{facts['train_rows']:,} rows to learn from, {facts['validation_rows']:,} to score"
        if notes:
            said["; ".join((f"{spec.task.name}: {notes[0]}", *notes[1:], rows))] = None
    for line in said:
        sys.stderr.write(f"bench: {line}. Another choice: --set task.OPTION=VALUE (bench show FILE lists them)\n")


def _merged(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Flags over the plan file over nothing, once per experiment of the plan."""
    from bench import planfile

    flags = {name: value for name, value in vars(arguments).items() if value not in (None, False, [])}
    path, chosen = flags.pop("plan", None), _split(flags.pop("experiment", None))
    if path is None:
        if chosen:
            raise RequestError("--experiment chooses from a plan file: name it with --plan FILE.")
        return [flags]
    plan = planfile.read(path, _plan_keys(), frozenset(_WHOLE), chosen)
    merged = []
    for found in plan.requests:
        if "cluster" in found:
            found["cluster"] = found["cluster"].split(",")
        if "plugin" in found:
            found["plugin"] = [path.parent / name for name in found["plugin"].split(",")]
        for one, other in (("steps", "epochs"), ("epochs", "steps")):
            if one in flags:
                found.pop(other, None)
        values = {**found, **flags}
        sets = planfile.relevant(found.get("set", []), values, plan.methods)
        merged.append({**values, "set": [*sets, *flags.get("set", [])]})
    return merged


def _plan_keys() -> dict[str, type]:
    known: dict[str, type] = {name: list for name in (*_LISTS, "plugin", "cluster")}
    known |= {name: str for name in (*TRAIN_FLAGS, *_WHERE, "trials", "prune")}
    known |= {name: str for name in ("revision", "quantize")}
    return known | {name: bool for name in (*_SWITCHES, *_LOADING)}


def _request(values: dict[str, Any]) -> tuple[Any, Options, Path]:
    from bench.models import Loading
    from bench.specs import Request
    from bench.sweep import Options

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
    limit: dict[str, Any] = {"cache_limit": _size(values["cache_limit"], wrong)} if "cache_limit" in values else {}
    if wrong:
        raise RequestError(wrong)
    plugins = tuple(Path(plugin) for plugin in values.get("plugin", ()))
    request = Request(
        methods=methods,
        tasks=_split(values["task"]),
        models=_models(values),
        ranks=_split(values.get("ranks")),
        seeds=_split(values.get("seeds")) or ("0",),
        sets=sets,
        train={name: values[name] for name in TRAIN_FLAGS if name in values},
        plugins=plugins,
        mirror=mirror,
        loading=Loading(values.get("quantize"), *(bool(values.get(name)) for name in _LOADING)),
        elsewhere=values.get("executor", "local") != "local",
    )
    switches = {name: bool(values.get(name)) for name in ("save", "fresh", "retry_failed")}
    switches["share"] = not values.get("no_share")
    options = Options(workers=workers, plugins=plugins, mirror=mirror, **limit, **switches)
    return request, options, Path(values.get("out", DEFAULT_OUT))


def _size(text: Any, wrong: list[str]) -> int:
    """The bytes of ``--cache-limit``; adds a message when it is not a size."""
    from bench.planner.request import parse_size

    try:
        return parse_size(str(text), "--cache-limit")
    except RequestError as error:
        wrong += error.messages
        return 0


def _models(values: dict[str, Any]) -> tuple[str, ...]:
    """The models of a request, ``--revision`` written into those that name none."""
    names, revision = _split(values.get("model")) or ("minilm",), values.get("revision")
    return tuple(name if not revision or "@" in name else f"{name}@{revision}" for name in names)


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


def _dry_run(asked: list[dict[str, Any]]) -> int:
    from bench import dryrun

    work, options, out = _expanded(asked)
    _tell(work)
    sweep = _sweep(asked, work, options, Store(out))
    _check([*work.plain, *(group.base for group in work.tuned)], options, quiet=False)
    records, warnings = Store(out).records() if out.is_dir() else ([], [])
    _warn(warnings)
    for line in dryrun.lines(sweep, records):
        sys.stdout.write(f"{line}\n")
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


def plan(arguments: argparse.Namespace) -> int:
    """``bench plan``: memory before a run."""
    from bench.planner import command

    values = {name: value for name, value in vars(arguments).items() if value not in (None, False, [])}
    return command.run(values)


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


def fetch(arguments: argparse.Namespace) -> int:
    """``bench fetch``: fill a mirror."""
    from bench import fetch as fetching
    from bench import registry
    from bench.quiet import quiet

    tasks, names = _split(arguments.tasks), _split(arguments.models)
    if not tasks and not names:
        raise RequestError("Say what to fetch: --tasks glue/sst2,glue/rte, --models minilm, or both.")
    registry.load(arguments.plugin)
    wanted = fetching.Wanted(tasks, names, arguments.revision, arguments.allow_pickle)
    with quiet():
        for line in fetching.fetch(wanted, arguments.to):
            sys.stdout.write(f"{line}\n")
            sys.stdout.flush()
    sys.stdout.write(f"Use it with BENCH_DATA={arguments.to.resolve()} HF_HUB_OFFLINE=1\n")
    return 0


def status(arguments: argparse.Namespace) -> int:
    """``bench status``: how far the sweep on a folder is."""
    from bench.status import look

    for line in look(arguments.folder).lines():
        sys.stdout.write(f"{line}\n")
    return 0


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
    from bench import listing

    rows = listing.rows(arguments.what, arguments.plugin)
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
