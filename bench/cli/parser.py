"""Parse the command line and print errors; imports nothing heavy, so that ``--help`` answers at once."""

from __future__ import annotations

import argparse
import importlib
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from bench.cli import flags as typed
from bench.cli import output
from bench.core.errors import RequestError, fault, unknown
from bench.core.train_config import TrainSettings
from bench.planner.plan_config import Setting, WhatToPlan
from bench.sweep.request import Execution, Tuning, WhatToRun


class _Parser(argparse.ArgumentParser):
    """Names the nearest flag, command or choice when one does not exist.

    Attributes:
        given: the command line's words.
    """

    given: Sequence[str] = ()

    def __init__(self, **settings: Any) -> None:
        super().__init__(allow_abbrev=False, **settings)  # a plan or script must not change its meaning with a new flag

    def error(self, message: str) -> NoReturn:
        flags = [flag for action in self._actions for flag in action.option_strings if flag.startswith("--")]
        prefix = "unrecognized arguments: "
        choice = re.fullmatch(r"argument (\S+): invalid choice: '(.*)' \(choose from (.*)\)", message, re.DOTALL)
        wrong = fault(message, "invalid-value")
        if message.startswith(prefix):
            word = message.removeprefix(prefix).split()[0].split("=")[0]
            wrong = (
                unknown("flag", word, flags)
                if word.startswith("-")
                else fault(f"'{word}': unexpected argument.", "invalid-value")
            )
        elif choice is not None:
            kind = {"what": "list"}.get(choice[1], choice[1].removeprefix("--").lower())
            wrong = unknown(kind, choice[2], [word.strip(" '") for word in choice[3].split(",")])
        elif message.startswith("the following arguments are required"):
            words = [word.split("=")[0] for word in self.given if word.startswith("--")]
            strange = [word for word in words if not any(flag.startswith(word) for flag in flags)]
            missing = "; ".join([*(unknown("flag", word, flags).rstrip(".") for word in strange), message])
            wrong = fault(missing, "missing")
        raise RequestError([wrong.within(f"{self.prog}: ")])


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code: 0 fine, 1 a run or a check failed, 2 usage error."""
    parser = build_parser()
    _Parser.given = sys.argv[1:] if argv is None else argv
    output.replace_unprintable()
    try:
        arguments, rest = parser.parse_known_args(argv)
        if rest:
            getattr(arguments, "parser", parser).error(f"unrecognized arguments: {' '.join(rest)}")
        if not hasattr(arguments, "act"):
            parser.print_help()
            return 0
        return int(arguments.act(arguments))
    except RequestError as error:
        output.notes(f"{message} [{message.code}]" for message in error.messages)
        return 2
    except BrokenPipeError:
        sys.stderr.close()  # the reader of our output left (| head): nothing is wrong
        return 0
    except KeyboardInterrupt:
        sys.stderr.write("\nbench: stopped. Finished runs are kept; rerun the same command to resume.\n")
        return 130


def build_parser() -> argparse.ArgumentParser:
    """The whole command line."""
    parser = _Parser(prog="bench", description="Compare parameter-efficient fine-tuning methods under one trainer.")
    parser.add_argument("--version", action=_Version, nargs=0, help="print the version and exit")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", parser_class=_Parser)
    _run(commands)
    _plan(commands)
    _report(commands)
    _stats(commands)
    _export(commands)
    _compare(commands)
    _gate(commands)
    _fetch(commands)
    listing = commands.add_parser("list", help="list available methods, tasks or models")
    listing.add_argument("what", choices=("methods", "tasks", "models"))
    listing.add_argument("--json", action="store_true", help="print JSON")
    typed.plugin(listing)
    listing.set_defaults(act=_command("list"), parser=listing)
    show = commands.add_parser("show", help="explain a method, task or model: formula, options, defaults, source")
    show.add_argument("name")
    typed.plugin(show)
    show.set_defaults(act=_command("show"), parser=show)
    return parser


class _Version(argparse.Action):
    def __call__(self, *_: Any) -> NoReturn:
        from bench.core.environment import versions

        sys.stdout.write(f"bench {versions()['tunebench']}\n")
        sys.exit(0)


def _command(name: str) -> Any:
    """What carries out a command: ``run`` of the module of its name, imported when it is called."""

    def act(arguments: argparse.Namespace) -> int:
        return int(importlib.import_module(f"bench.cli.{name}").run(arguments))

    return act


def _run(commands: Any) -> None:
    run = commands.add_parser(
        "run",
        help="train methods on tasks and compare them",
        description="Train each method under the same trainer, data order and budget; write records, a comparison "
        "table and report.html. What is already in the output folder is not run again.",
    )
    what = run.add_argument_group("what to run")
    typed.add(what, WhatToRun)
    what.add_argument("--plan", type=Path, metavar="FILE", help="read these options from a TOML file; flags win")
    what.add_argument("--experiment", metavar="A,B", help="experiments of the plan file to run (default: all)")
    typed.add(run.add_argument_group("training"), TrainSettings)
    typed.add(run.add_argument_group("tuning, on the dev split"), Tuning)
    typed.add(run.add_argument_group("where and how"), Execution)
    run.set_defaults(act=_command("run"), parser=run)


def _plan(commands: Any) -> None:
    plan = commands.add_parser(
        "plan",
        help="estimate the memory that methods need, without weights or a GPU",
        description="Plan the memory of fine-tuning from a model's configuration alone: peak, its split, whether it "
        "fits a budget, and how far batch size and length can go. The step of bench run is done with fake tensors "
        "under CUDA's rules.",
    )
    typed.add(plan.add_argument_group("what to plan"), WhatToPlan)
    typed.add(plan.add_argument_group("how it is trained"), Setting)
    output = plan.add_argument_group("output")
    output.add_argument("--json", action="store_true", help="print the plans as JSON instead of the table")
    output.add_argument("--html", type=Path, metavar="FILE", help="also write a page with charts")
    output.add_argument("--quiet", action="store_true", help="no progress")
    plan.set_defaults(act=_command("plan"), parser=plan)


def _export(commands: Any) -> None:
    export = commands.add_parser(
        "export",
        help="write a saved adapter in peft's format, or merged into a transformers model",
        description="Write what bench run --save kept as a folder that others load: peft.PeftModel.from_pretrained "
        "(--format peft), or transformers' AutoModel classes (--format merged).",
    )
    export.add_argument("which", metavar="RUN", help="run id, or the folder of a saved adapter")
    export.add_argument("--format", required=True, choices=("peft", "merged"), help="peft or merged")
    export.add_argument("--to", required=True, type=Path, metavar="FOLDER", help="new folder to write")
    export.add_argument("--out", type=Path, default=Execution.out, metavar="DIR", help="folder of runs to look in")
    export.add_argument("--model", metavar="M", help="where the base model is now (default: as the run names it)")
    typed.plugin(export)
    export.add_argument("--trust-remote-code", action="store_true", help="run the base model repository's own code")
    export.add_argument("--allow-pickle", action="store_true", help="read pickled weights of the base model")
    export.set_defaults(act=_command("export"), parser=export)


def _fetch(commands: Any) -> None:
    fetch = commands.add_parser(
        "fetch",
        help="fill a mirror of data sets and models for machines without a network",
        description="Copy what runs need from the Hub into a folder. Elsewhere, BENCH_DATA=DIR HF_HUB_OFFLINE=1 "
        "bench run … reads it. What the folder holds already is not fetched again.",
    )
    fetch.add_argument("--tasks", metavar="T,U", help="tasks whose data to download; see: bench list tasks")
    fetch.add_argument("--models", metavar="M,N", help="aliases or Hub ids, with @REVISION where it matters")
    fetch.add_argument("--to", type=Path, required=True, metavar="DIR", help="folder to fill")
    fetch.add_argument("--revision", metavar="R", help="commit, branch or tag of the models")
    fetch.add_argument(
        "--allow-pickle", action="store_true", help="bring pickled weights where there are no safetensors"
    )
    typed.plugin(fetch)
    fetch.set_defaults(act=_command("fetch"), parser=fetch)


def _report(commands: Any) -> None:
    report = commands.add_parser(
        "report",
        help="write one HTML file, or a table in another format, from a folder of records",
        description="Write DIR/report.html: one file that needs no network. With --format, write the comparison table "
        "instead; with --images, each chart as a picture too.",
    )
    report.add_argument("folder", type=Path, metavar="DIR")
    report.add_argument("--html", type=Path, metavar="FILE", help="where to (default: DIR/report.html)")
    report.add_argument("--title", metavar="TEXT", help="heading of the report")
    report.add_argument("--format", metavar="F", help="the table alone: md, csv, json or latex, to stdout or --to FILE")
    report.add_argument("--to", type=Path, metavar="FILE", help="file for --format")
    report.add_argument("--images", type=Path, metavar="DIR", help="also each chart as a file (needs the extra images)")
    report.add_argument("--image-format", metavar="F", help="png or svg (default: png)")
    typed.plugin(report)
    report.set_defaults(act=_command("report"), parser=report)
    view = commands.add_parser(
        "view",
        help="show the report in the browser and keep it up to date",
        description="Serve the report of a folder on this machine and refresh it as records arrive. Stop with Ctrl-C.",
    )
    view.add_argument("folder", type=Path, metavar="DIR")
    view.add_argument("--port", metavar="N", help="port (default: 8321, or the next free one)")
    view.add_argument(
        "--host", default="127.0.0.1", metavar="H", help="address to listen on (default: this machine only)"
    )
    view.add_argument("--no-browser", action="store_true", help="print the address and open nothing")
    view.add_argument("--title", metavar="TEXT", help="heading of the report")
    typed.plugin(view)
    view.set_defaults(act=_command("view"), parser=view)
    status = commands.add_parser("status", help="progress of a sweep: finished, running, failed, time left")
    status.add_argument("folder", type=Path, metavar="DIR")
    status.set_defaults(act=_command("status"), parser=status)


def _stats(commands: Any) -> None:
    stats = commands.add_parser(
        "stats",
        help="intervals over seeds, paired tests, non-significant pairs and the sample size needed",
        description="Print the table of a folder again, with every pair of methods compared on their per-example "
        "predictions, the sample size needed for the others, the Pareto front, and averages over tasks.",
    )
    stats.add_argument("folder", type=Path, metavar="DIR")
    stats.add_argument("--baseline", metavar="M", help="method to compare all others with, corrected on its own")
    stats.add_argument("--alpha", metavar="X", help="level of intervals and tests (default: 0.05)")
    stats.add_argument("--pscp", action="store_true", help="add PSCP: the score with penalties for what it costs")
    stats.add_argument("--beta", metavar="X", help="exponent of PSCP's penalties (default: 1, as its authors)")
    stats.add_argument("--json", action="store_true", help="print JSON")
    stats.set_defaults(act=_command("stats"), parser=stats)


def _compare(commands: Any) -> None:
    compare = commands.add_parser(
        "compare",
        help="what changed between two folders of runs",
        description="Match the runs of two folders (yesterday's and today's, two branches, two machines) by what they "
        "are, and show the change in every metric with its noise.",
    )
    compare.add_argument("first", type=Path, metavar="A", help="folder of records: before")
    compare.add_argument("second", type=Path, metavar="B", help="folder of records: after")
    compare.add_argument(
        "--alpha", type=_rate, default=0.05, metavar="X", help="error rate of all marks (default: 0.05)"
    )
    compare.add_argument("--html", type=Path, metavar="FILE", help="also write one self-contained HTML file")
    compare.add_argument("--json", action="store_true", help="print JSON instead of the table")
    compare.set_defaults(act=_command("compare"), parser=compare)


def _gate(commands: Any) -> None:
    baseline = commands.add_parser(
        "baseline",
        help="write what bench check compares with: means, spreads and tolerances of a folder's runs",
        description="Write a small JSON file with the means of a folder's runs, their spread over seeds and the "
        "tolerances that follow from it. Each configuration needs two seeds or more.",
    )
    baseline.add_argument("folder", type=Path, metavar="DIR")
    baseline.add_argument("--out", type=Path, required=True, metavar="FILE", help="the baseline to write")
    baseline.add_argument(
        "--alarm-rate", type=_rate, default=0.005, metavar="X",
        help="chance that unchanged code fails the whole check on scores and speed (default: 0.005)",
    )  # fmt: skip
    baseline.set_defaults(act=_command("baseline"), parser=baseline)
    check = commands.add_parser(
        "check",
        help="compare a folder's runs with a baseline; exit code 1 when something got worse",
        description="Exact for parameter counts and memory, within the baseline's tolerances for scores and speed. "
        "Exit code 0: it holds; 1: something got worse or is missing; 2: the request was wrong.",
    )
    check.add_argument("folder", type=Path, metavar="DIR")
    check.add_argument("--baseline", type=Path, required=True, metavar="FILE", help="made by bench baseline")
    check.add_argument("--junit", type=Path, metavar="FILE", help="also write JUnit XML")
    check.add_argument("--github", action="store_true", help="print annotations (by itself in GitHub Actions)")
    check.add_argument("--all", action="store_true", help="print also what stayed the same")
    check.set_defaults(act=_command("check"), parser=check)


def _rate(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < 1:
        raise argparse.ArgumentTypeError(f"'{text}' is not a number between 0 and 1")
    return value
