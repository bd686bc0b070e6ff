"""What the shorter commands do, once their line is parsed; ``bench run`` has ``bench.cli.run``."""

from __future__ import annotations

import argparse
import json
import sys

from rich.console import Console

from bench.core.errors import RequestError
from bench.core.options import comma_list
from bench.data.mirror import usual_mirror


def plan(arguments: argparse.Namespace) -> int:
    """``bench plan``: memory before a run."""
    from bench.cli import plan as command

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
        raise RequestError(wrong, code="invalid-value")
    from bench.analysis.analysis import analyse
    from bench.analysis.pscp import Weights
    from bench.cli import report
    from bench.report.terminal import stats as printed

    records = report.records(arguments.folder)
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
    from bench.cli import fetch as fetching
    from bench.core import registry
    from bench.core.quiet import quiet

    tasks, names = comma_list(arguments.tasks), comma_list(arguments.models)
    if not tasks and not names:
        raise RequestError("Say what to fetch: --tasks glue/sst2,glue/rte, --models minilm, or both.", code="missing")
    registry.load(arguments.plugin)
    wanted = fetching.Wanted(tasks, names, arguments.revision, arguments.allow_pickle)
    with quiet():
        for line in fetching.fetch(wanted, arguments.to):
            sys.stdout.write(f"{line}\n")
            sys.stdout.flush()
    sys.stdout.write(f"Use it with BENCH_DATA={arguments.to.resolve()} HF_HUB_OFFLINE=1\n")
    return 0


def status(arguments: argparse.Namespace) -> int:
    """``bench status``: progress of a sweep."""
    from bench.sweep.status import look

    found = look(arguments.folder)
    for warning in found.warnings:
        sys.stderr.write(f"bench: {warning}\n")
    for line in found.lines():
        sys.stdout.write(f"{line}\n")
    return 0


def export(arguments: argparse.Namespace) -> int:
    """``bench export``: a saved adapter in a format that others read."""
    import transformers

    from bench.models import export as exporting
    from bench.models import saved_adapter

    folder = exporting.find(arguments.which, arguments.out)
    transformers.logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    transformers.utils.logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    trust = [name for name in saved_adapter.GRANTS if getattr(arguments, name)]
    tuned = saved_adapter.load(folder, model=arguments.model, plugins=arguments.plugin, keep_original=True, trust=trust)
    exporting.export(tuned, arguments.format, arguments.to)
    sys.stdout.write(f"{arguments.format}: {arguments.to}\n")
    return 0


def list_what(arguments: argparse.Namespace) -> int:
    """``bench list``: available methods, tasks or models, one per line."""
    from bench.cli import list as listing

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
    from bench.cli import describe

    if not arguments.name.strip():
        raise RequestError("Say what to show: a method, a task or a model, such as bench show lora.", code="missing")
    describe.explain(arguments.name, arguments.plugin, Console(), usual_mirror())
    return 0
