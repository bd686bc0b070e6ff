"""Parse the command line and print errors; imports nothing heavy, so that ``--help`` answers at once."""

from __future__ import annotations

import argparse
import importlib
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from bench.core.errors import RequestError, unknown

DEFAULT_OUT = Path("results/local")


class _Parser(argparse.ArgumentParser):
    """Names the nearest flag, command or choice when one does not exist.

    Attributes:
        given: the command line's words.
    """

    given: Sequence[str] = ()

    def error(self, message: str) -> NoReturn:
        flags = [flag for action in self._actions for flag in action.option_strings if flag.startswith("--")]
        prefix = "unrecognized arguments: "
        choice = re.fullmatch(r"argument (\S+): invalid choice: '(.*)' \(choose from (.*)\)", message, re.DOTALL)
        if message.startswith(prefix):
            wrong = message.removeprefix(prefix).split()[0].split("=")[0]
            message = unknown("flag", wrong, flags) if wrong.startswith("-") else f"'{wrong}': unexpected argument."
        elif choice is not None:
            kind = {"what": "list"}.get(choice[1], choice[1].removeprefix("--").lower())
            message = unknown(kind, choice[2], [word.strip(" '") for word in choice[3].split(",")])
        elif message.startswith("the following arguments are required"):
            words = [word.split("=")[0] for word in self.given if word.startswith("--")]
            strange = [word for word in words if not any(flag.startswith(word) for flag in flags)]
            message = "; ".join([*(unknown("flag", word, flags).rstrip(".") for word in strange), message])
        raise RequestError(f"{self.prog}: {message}", code="invalid-value")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code: 0 fine, 1 a run or a check failed, 2 usage error."""
    parser = build_parser()
    _Parser.given = sys.argv[1:] if argv is None else argv
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
            sys.stderr.write(f"bench: {message} [{message.code}]\n")
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
    _plugin_flag(listing)
    listing.set_defaults(act=_command("list_what"), parser=listing)
    show = commands.add_parser("show", help="explain a method, task or model: formula, options, defaults, source")
    show.add_argument("name")
    _plugin_flag(show)
    show.set_defaults(act=_command("show"), parser=show)
    return parser


class _Version(argparse.Action):
    def __call__(self, *_: Any) -> NoReturn:
        from bench.core.environment import versions

        sys.stdout.write(f"bench {versions()['tunebench']}\n")
        sys.exit(0)


def _command(name: str, module: str = "cli.commands") -> Any:
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
    what.add_argument("--revision", metavar="R", help="commit, branch or tag of the models (or --model M@R)")
    what.add_argument("--quantize", metavar="Q", help="int8 or nf4: the frozen base in 8 or 4 bits")
    what.add_argument("--trust-remote-code", action="store_true", help="run Python code that a model brings")
    what.add_argument("--allow-pickle", action="store_true", help="read pickled weights where there are no safetensors")
    what.add_argument("--ranks", metavar="4,8", help="values of each method's size option (rank, width, reduction)")
    what.add_argument("--seeds", metavar="0,1", help="one run per seed (default: 0)")
    what.add_argument(
        "--set", action="append", metavar="M.OPTION=V", help="set an option of a method, of task or train; repeatable"
    )
    what.add_argument("--plan", type=Path, metavar="FILE", help="read these options from a TOML file; flags win")
    what.add_argument("--experiment", metavar="A,B", help="experiments of the plan file to run (default: all)")
    _plugin_flag(what)
    _train_flags(run.add_argument_group("training"))
    _tune_flags(run.add_argument_group("tuning, on the dev split"))
    where = run.add_argument_group("where and how")
    where.add_argument("--data-dir", type=Path, metavar="DIR", help="mirror of data sets (default: $BENCH_DATA)")
    where.add_argument("--out", type=Path, metavar="DIR", help=f"output folder (default: {DEFAULT_OUT})")
    where.add_argument("--workers", metavar="N", help="parallel runs (default: 1; on a cluster: as many as it takes)")
    where.add_argument("--cache-limit", metavar="SIZE", help="most that --cache-trunk may take (default: 8GB)")
    where.add_argument("--save", action="store_true", help="keep the tuned weights (safetensors)")
    where.add_argument("--fresh", action="store_true", help="run again what is already there")
    where.add_argument("--retry-failed", action="store_true", help="run again what failed or ran out of memory")
    where.add_argument("--no-share", action="store_true", help="train runs that read one frozen trunk one by one")
    where.add_argument("--dry-run", action="store_true", help="print the runs and stop")
    where.add_argument("--json", action="store_true", help="print the records as JSON instead of the table")
    where.add_argument("--tensorboard", action="store_true", help="write curves to OUT/tensorboard while runs train")
    where.add_argument("--quiet", action="store_true", help="no progress")
    _cluster_flags(run.add_argument_group("many machines"))
    run.set_defaults(act=_command("run", "cli.run"), parser=run)


def _cluster_flags(group: Any) -> None:
    group.add_argument("--executor", metavar="E", help="where runs are done: local, ray or slurm (default: local)")
    group.add_argument("--address", metavar="A", help="the Ray cluster: auto, HOST:PORT (default: Ray on this machine)")
    group.add_argument("--cpus", metavar="N", help="cores of a run on a cluster (default: 1)")
    group.add_argument(
        "--cluster", action="append", metavar="K=V", help="a parameter of Slurm: partition=gpu, time=60; repeatable"
    )


def _train_flags(group: Any) -> None:
    group.add_argument("--steps", metavar="N", help="optimizer steps")
    group.add_argument("--epochs", metavar="N", help="passes over the training rows (default: 3)")
    group.add_argument(
        "--batch-size", metavar="N", help="batch size per forward/backward pass (micro-batch; default: 32)"
    )
    group.add_argument("--eval-batch-size", metavar="N", help="evaluation batch size (default: 64)")
    group.add_argument("--grad-accum", metavar="N", help="gradient accumulation steps (default: 1)")
    group.add_argument("--lr", metavar="X", help="learning rate for all methods (default: each method's own)")
    group.add_argument("--max-length", metavar="N", help="truncate examples to N tokens (default: 128)")
    group.add_argument("--train-size", metavar="N", help="training rows to use (default: all)")
    group.add_argument("--eval-size", metavar="N", help="evaluation rows (default: all)")
    group.add_argument("--device", metavar="D", help="auto, cpu or cuda (default: auto)")
    group.add_argument("--precision", metavar="P", help="fp32, bf16 or fp16 (default: fp32)")
    group.add_argument("--checkpoint", metavar="C", help="checkpoint to score: best (on dev) or last (default: best)")
    group.add_argument(
        "--forgetting",
        metavar="TEXT",
        help="also compare the loss on a general text, before and after: wikitext, stdlib",
    )
    group.add_argument(
        "--cache-trunk",
        action="store_const",
        const="true",
        help="keep a frozen backbone's features between epochs (lst, head); a file in the user's cache folder",
    )
    group.add_argument(
        "--gradient-checkpointing", action="store_const", const="true", help="recompute activations to save memory"
    )


def _tune_flags(group: Any) -> None:
    group.add_argument(
        "--tune", metavar="O[,P]",
        help="options to tune, for every method (lr) or one (lora.alpha): 0.1x to 10x the default, "
        "or lr=1e-4:1e-2 for a range, lr=1e-4|1e-3 for a grid",
    )  # fmt: skip
    group.add_argument("--trials", metavar="N", help="trials of every configuration (default: 6, or the whole grid)")
    group.add_argument(
        "--prune", metavar="P", help="stop trials that are behind: median, halving, none (default: median)"
    )


TRAIN_FLAGS = (
    "steps", "epochs", "batch_size", "eval_batch_size", "grad_accum", "lr", "max_length", "train_size", "eval_size",
    "device", "precision", "checkpoint", "gradient_checkpointing",
    "forgetting", "cache_trunk",
)  # fmt: skip


def _plan(commands: Any) -> None:
    plan = commands.add_parser(
        "plan",
        help="estimate the memory that methods need, without weights or a GPU",
        description="Plan the memory of fine-tuning from a model's configuration alone: peak, its split, whether it "
        "fits a budget, and how far batch size and length can go. The step of bench run is done with fake tensors "
        "under CUDA's rules.",
    )
    what = plan.add_argument_group("what to plan")
    what.add_argument("--methods", metavar="A,B", help="methods to plan; see: bench list methods")
    what.add_argument("--model", metavar="M[,N]", help="config.json, folder with one, alias or Hub id")
    what.add_argument("--ranks", metavar="4,8", help="values of each method's size option (rank, width, reduction)")
    what.add_argument("--set", action="append", metavar="M.OPTION=V", help="set a method's option; repeatable")
    what.add_argument("--kind", metavar="K", help="classification, regression, causal-lm, seq2seq or image-"
                      "classification (default: what the architecture is for)")  # fmt: skip
    what.add_argument("--task", metavar="T", help="take the kind and the number of classes from a task")
    _plugin_flag(what)
    how = plan.add_argument_group("how it is trained")
    how.add_argument(
        "--batch-size", metavar="N", help="batch size per forward/backward pass (micro-batch; default: 32)"
    )
    how.add_argument("--max-length", metavar="N", help="tokens of every row (default: 128)")
    how.add_argument("--target-length", metavar="N", help="tokens of an encoder-decoder's targets (default: as input)")
    how.add_argument("--grad-accum", metavar="N", help="gradient accumulation steps (default: 1)")
    how.add_argument("--precision", metavar="P", help="fp32; bf16: base weights in bf16, what a method adds in fp32, "
                     "autocast; bf16-autocast: all weights in fp32, autocast, as bench run --precision bf16 does; "
                     "bf16-plain: as bf16 without autocast, as peft's scripts do (default: fp32)")  # fmt: skip
    how.add_argument("--optimizer", metavar="O", help="adamw (fused, as bench run), adamw-foreach (torch's default), "
                     "sgd or adamw8bit (an estimate) (default: adamw)")  # fmt: skip
    how.add_argument("--gradient-checkpointing", action="store_true", help="recompute activations to save memory")
    how.add_argument("--dropout", metavar="P", help="the model's dropout (default: as configured)")
    how.add_argument("--attention", metavar="A", help="auto, sdpa or eager (default: auto)")
    how.add_argument("--keep-outputs", action="store_true", help="the loop holds each step's logits, as scripts do")
    where = plan.add_argument_group("where and how")
    where.add_argument("--device", metavar="D", help="whose rules: cuda or cpu (default: cuda)")
    where.add_argument("--gpu", metavar="G", help="hopper (H100, H200: cuBLAS takes 48 MiB more), other, or auto: "
                       "as the GPU here, other without one (default: auto)")  # fmt: skip
    where.add_argument("--budget", metavar="SIZE", help="check against a memory budget, such as 24GB or 22.5GiB")
    where.add_argument("--json", action="store_true", help="print the plans as JSON instead of the table")
    where.add_argument("--html", type=Path, metavar="FILE", help="also write a page with charts")
    where.add_argument("--quiet", action="store_true", help="no progress")
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
    export.add_argument("--out", type=Path, default=DEFAULT_OUT, metavar="DIR", help="folder of runs to look in")
    export.add_argument("--model", metavar="M", help="where the base model is now (default: as the run names it)")
    _plugin_flag(export)
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
    _plugin_flag(fetch)
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
    _plugin_flag(report)
    report.set_defaults(act=_command("report", "cli.report"), parser=report)
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
    view.set_defaults(act=_command("view", "cli.report"), parser=view)
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
    compare.set_defaults(act=_command("compare", "cli.compare"), parser=compare)


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
    baseline.set_defaults(act=_command("baseline", "cli.check"), parser=baseline)
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
    check.set_defaults(act=_command("check", "cli.check"), parser=check)


def _rate(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < 1:
        raise argparse.ArgumentTypeError(f"'{text}' is not a number between 0 and 1")
    return value
