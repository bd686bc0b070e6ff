"""Parse the command line and print errors; imports nothing heavy, so that ``--help`` answers at once."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from bench.errors import RequestError, unknown

DEFAULT_OUT = Path("results/local")


class _Parser(argparse.ArgumentParser):
    """Names the nearest flag when one does not exist."""

    def error(self, message: str) -> NoReturn:
        flags = [flag for action in self._actions for flag in action.option_strings]
        prefix = "unrecognized arguments: "
        if message.startswith(prefix):
            wrong = message.removeprefix(prefix).split()[0].split("=")[0]
            message = unknown("flag", wrong, [flag for flag in flags if flag.startswith("--")])
        raise RequestError(f"{self.prog}: {message}")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code: 0 fine, 1 a run failed or a check fell short, 2 a wrong request."""
    parser = build_parser()
    try:
        arguments, rest = parser.parse_known_args(argv)
        if rest:
            getattr(arguments, "parser", parser).error(f"unrecognized arguments: {' '.join(rest)}")
        if not hasattr(arguments, "act"):
            parser.print_help()
            return 0
        return int(arguments.act(arguments))
    except RequestError as error:
        for message in error.messages:
            sys.stderr.write(f"bench: {message}\n")
        return 2
    except BrokenPipeError:
        sys.stderr.close()  # the reader of our output left (| head): nothing is wrong
        return 0
    except KeyboardInterrupt:
        sys.stderr.write("\nbench: stopped. Finished runs are kept; the same command does the rest.\n")
        return 130


def build_parser() -> argparse.ArgumentParser:
    """The whole command line."""
    parser = _Parser(prog="bench", description="Compare parameter-efficient fine-tuning methods under one trainer.")
    parser.add_argument("--version", action=_Version, nargs=0, help="print the version and exit")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", parser_class=_Parser)
    _run(commands)
    _report(commands)
    _stats(commands)
    _export(commands)
    listing = commands.add_parser("list", help="what there is: methods, tasks or models")
    listing.add_argument("what", choices=("methods", "tasks", "models"))
    listing.add_argument("--json", action="store_true", help="print JSON")
    _plugin_flag(listing)
    listing.set_defaults(act=_command("list_what"), parser=listing)
    show = commands.add_parser("show", help="explain a method, task or model: formula, options, defaults, source")
    show.add_argument("name")
    _plugin_flag(show)
    show.set_defaults(act=_command("show"), parser=show)
    return parser


class _Version(argparse.Action):
    def __call__(self, *_: Any) -> NoReturn:
        from bench.environment import versions

        sys.stdout.write(f"bench {versions()['tunebench']}\n")
        sys.exit(0)


def _command(name: str, module: str = "commands") -> Any:
    def act(arguments: argparse.Namespace) -> int:
        return int(getattr(importlib.import_module(f"bench.{module}"), name)(arguments))

    return act


def _plugin_flag(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--plugin", action="append", type=Path, default=[], metavar="FILE", help="load methods and tasks from a file"
    )


def _run(commands: Any) -> None:
    run = commands.add_parser(
        "run",
        help="train methods on tasks and compare them",
        description="Train each method under the same trainer, data order and budget; write records, a comparison "
        "table and report.html. What is already in the output folder is not run again.",
    )
    what = run.add_argument_group("what to run")
    what.add_argument("--methods", metavar="A,B", help="methods to compare; see: bench list methods")
    what.add_argument("--adapter", metavar="DIR[,E]", help="score adapters in peft's format, without training")
    what.add_argument("--task", metavar="T[,U]", help="tasks, such as glue/sst2; see: bench list tasks")
    what.add_argument("--model", metavar="M[,N]", help="alias, local folder or Hub id (default: minilm)")
    what.add_argument("--ranks", metavar="4,8", help="values of each method's size option (rank, width, reduction)")
    what.add_argument("--seeds", metavar="0,1", help="one run per seed (default: 0)")
    what.add_argument(
        "--set", action="append", metavar="M.OPTION=V", help="set an option of a method, of task or train; repeatable"
    )
    what.add_argument("--plan", type=Path, metavar="FILE", help="read these options from a TOML file; flags win")
    _plugin_flag(what)
    _train_flags(run.add_argument_group("training"))
    where = run.add_argument_group("where and how")
    where.add_argument("--data-dir", type=Path, metavar="DIR", help="mirror of data sets (default: $BENCH_DATA)")
    where.add_argument("--out", type=Path, metavar="DIR", help=f"output folder (default: {DEFAULT_OUT})")
    where.add_argument("--workers", metavar="N", help="runs at once (default: 1)")
    where.add_argument("--save", action="store_true", help="keep the tuned weights (safetensors)")
    where.add_argument("--fresh", action="store_true", help="run again what is already there")
    where.add_argument("--retry-failed", action="store_true", help="run again what failed or ran out of memory")
    where.add_argument("--dry-run", action="store_true", help="print the runs and stop")
    where.add_argument("--json", action="store_true", help="print the records as JSON instead of the table")
    where.add_argument("--quiet", action="store_true", help="no progress")
    run.set_defaults(act=_command("run"), parser=run)


def _train_flags(group: Any) -> None:
    group.add_argument("--steps", metavar="N", help="optimizer steps")
    group.add_argument("--epochs", metavar="N", help="passes over the training rows (default: 3)")
    group.add_argument("--batch-size", metavar="N", help="rows per pass (default: 32)")
    group.add_argument("--eval-batch-size", metavar="N", help="rows per evaluation pass (default: 64)")
    group.add_argument("--grad-accum", metavar="N", help="passes per optimizer step (default: 1)")
    group.add_argument("--lr", metavar="X", help="learning rate for all methods (default: each method's own)")
    group.add_argument("--max-length", metavar="N", help="tokens an example is cut to (default: 128)")
    group.add_argument("--train-size", metavar="N", help="training rows to use (default: all)")
    group.add_argument("--eval-size", metavar="N", help="validation rows to score (default: all)")
    group.add_argument("--device", metavar="D", help="auto, cpu or cuda (default: auto)")
    group.add_argument("--precision", metavar="P", help="fp32, bf16 or fp16 (default: fp32)")
    group.add_argument("--checkpoint", metavar="C", help="score the best weights on dev, or the last (default: best)")
    group.add_argument(
        "--forgetting",
        metavar="TEXT",
        help="also compare the loss on a general text, before and after: wikitext, stdlib",
    )
    group.add_argument(
        "--gradient-checkpointing", action="store_const", const="true", help="recompute activations to save memory"
    )


TRAIN_FLAGS = (
    "steps", "epochs", "batch_size", "eval_batch_size", "grad_accum", "lr", "max_length", "train_size", "eval_size",
    "device", "precision", "checkpoint", "gradient_checkpointing",
    "forgetting",
)  # fmt: skip


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
    export.add_argument("--out", type=Path, default=DEFAULT_OUT, metavar="DIR", help="folder of runs to look in")
    export.add_argument("--model", metavar="M", help="where the base model is now (default: as the run names it)")
    _plugin_flag(export)
    export.set_defaults(act=_command("export"), parser=export)


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
    _plugin_flag(report)
    report.set_defaults(act=_command("report", "reporting"), parser=report)
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
    _plugin_flag(view)
    view.set_defaults(act=_command("view", "reporting"), parser=view)


def _stats(commands: Any) -> None:
    stats = commands.add_parser(
        "stats",
        help="intervals over seeds, paired tests, groups that are tied, and what would settle them",
        description="Print the table of a folder again, with every pair of methods compared on their per-example "
        "predictions, what would settle a tie, the Pareto front, and averages over tasks.",
    )
    stats.add_argument("folder", type=Path, metavar="DIR")
    stats.add_argument("--baseline", metavar="M", help="method to compare all others with, corrected on its own")
    stats.add_argument("--alpha", metavar="X", help="level of intervals and tests (default: 0.05)")
    stats.add_argument("--pscp", action="store_true", help="add PSCP: the score with penalties for what it costs")
    stats.add_argument("--beta", metavar="X", help="exponent of PSCP's penalties (default: 1, as its authors)")
    stats.add_argument("--json", action="store_true", help="print JSON")
    stats.set_defaults(act=_command("stats"), parser=stats)
