"""Parse the command line and print errors; imports nothing heavy, so that ``--help`` answers at once."""

from __future__ import annotations

import argparse
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
    _plan(commands)
    _report(commands)
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


def _command(name: str) -> Any:
    def act(arguments: argparse.Namespace) -> int:
        from bench import commands

        return int(getattr(commands, name)(arguments))

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
        "--set", action="append", metavar="M.OPTION=V", help="set a method's option, or train.OPTION; repeatable"
    )
    what.add_argument("--plan", type=Path, metavar="FILE", help="read these options from a TOML file; flags win")
    what.add_argument("--experiment", metavar="A,B", help="experiments of the plan file to run (default: all)")
    _plugin_flag(what)
    _train_flags(run.add_argument_group("training"))
    _tune_flags(run.add_argument_group("tuning, on the dev split"))
    where = run.add_argument_group("where and how")
    where.add_argument("--data-dir", type=Path, metavar="DIR", help="mirror of data sets (default: $BENCH_DATA)")
    where.add_argument("--out", type=Path, metavar="DIR", help=f"output folder (default: {DEFAULT_OUT})")
    where.add_argument("--workers", metavar="N", help="runs at once (default: 1; on a cluster: as many as it takes)")
    where.add_argument("--save", action="store_true", help="keep the tuned weights (safetensors)")
    where.add_argument("--fresh", action="store_true", help="run again what is already there")
    where.add_argument("--retry-failed", action="store_true", help="run again what failed or ran out of memory")
    where.add_argument("--dry-run", action="store_true", help="print the runs and stop")
    where.add_argument("--json", action="store_true", help="print the records as JSON instead of the table")
    where.add_argument("--tensorboard", action="store_true", help="write curves to OUT/tensorboard while runs train")
    where.add_argument("--quiet", action="store_true", help="no progress")
    _cluster_flags(run.add_argument_group("many machines"))
    run.set_defaults(act=_command("run"), parser=run)


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
        "--gradient-checkpointing", action="store_const", const="true", help="recompute activations to save memory"
    )


def _tune_flags(group: Any) -> None:
    group.add_argument(
        "--tune", metavar="O[,P]",
        help="options to tune, for every method (lr) or one (lora.alpha): from a tenth of the default to ten times it, "
        "or lr=1e-4:1e-2 for a range, lr=1e-4|1e-3 for a grid",
    )  # fmt: skip
    group.add_argument("--trials", metavar="N", help="trials of every configuration (default: 6, or the whole grid)")
    group.add_argument(
        "--prune", metavar="P", help="stop trials that are behind: median, halving, none (default: median)"
    )


TRAIN_FLAGS = (
    "steps", "epochs", "batch_size", "eval_batch_size", "grad_accum", "lr", "max_length", "train_size", "eval_size",
    "device", "precision", "checkpoint", "gradient_checkpointing",
)  # fmt: skip


def _plan(commands: Any) -> None:
    plan = commands.add_parser(
        "plan",
        help="say how much memory methods need, without weights or a GPU",
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
    how.add_argument("--batch-size", metavar="N", help="rows per pass (default: 32)")
    how.add_argument("--max-length", metavar="N", help="tokens of every row (default: 128)")
    how.add_argument("--target-length", metavar="N", help="tokens of an encoder-decoder's targets (default: as input)")
    how.add_argument("--grad-accum", metavar="N", help="passes per optimizer step (default: 1)")
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
    where.add_argument("--budget", metavar="SIZE", help="does it fit, and how much would? such as 24GB or 22.5GiB")
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
    export.set_defaults(act=_command("export"), parser=export)


def _report(commands: Any) -> None:
    report = commands.add_parser("report", help="write one HTML file from a folder of records")
    report.add_argument("folder", type=Path, metavar="DIR")
    report.add_argument("--html", type=Path, metavar="FILE", help="where to (default: DIR/report.html)")
    report.set_defaults(act=_command("report"), parser=report)
    status = commands.add_parser("status", help="how far the sweep on a folder is: done, running, failed, time left")
    status.add_argument("folder", type=Path, metavar="DIR")
    status.set_defaults(act=_command("status"), parser=status)
