"""``bench plan``: from flags to rows, a table, JSON or a page."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from bench.cli import flags
from bench.core import formatting, options, registry, task_options
from bench.core.errors import ErrorCollector, Fault, RequestError, fault
from bench.core.protocols import AlreadyTrained, DataSource, Method, Task
from bench.data.mirror import mirror_folder
from bench.planner import cuda_rules, suggestions
from bench.planner.meta_model import Shape, find
from bench.planner.plan_config import Setting, WhatToPlan, parse_size
from bench.planner.planner import Plan, Planner, as_json
from bench.sweep import expand
from bench.sweep.request import RunRequest

Say = Callable[[str], None]


@dataclasses.dataclass(frozen=True)
class Wanted:
    """A checked request: every method on every model under one setting."""

    methods: list[Method]
    models: list[Shape]
    setting: Setting
    budget: int | None


def check(given: Mapping[str, Any]) -> Wanted:
    """Look everything up before anything is planned.

    Args:
        given: texts or values by the name of their flag.

    Raises:
        RequestError: with every mistake found.
    """
    mistakes = ErrorCollector()
    request = WhatToPlan(**_values(WhatToPlan, given, mistakes.messages))
    mistakes.attempt(lambda: registry.load(request.plugin))
    setting = Setting(**_values(Setting, given, mistakes.messages))
    if setting.device == "cuda":
        setting = dataclasses.replace(setting, gpu=cuda_rules.gpu(setting.gpu))  # a plan names the GPU it is for
    elif "gpu" in given:
        mistakes.messages.append(
            fault(f"--gpu {setting.gpu} is for --device cuda; a plan for the CPU has no GPU.", "conflict")
        )
    budget = None if request.budget is None else mistakes.attempt(partial(parse_size, request.budget))
    kind, task = mistakes.attempt(lambda: _head(request)) or (None, None)
    for name, example in (("methods", "lora,lst"), ("model", "llama-3.2-1b")):
        if not getattr(request, name):
            listed = f"bench list {name.removesuffix('s')}s"
            mistakes.messages.append(fault(f"Say which {name} to plan: --{name} {example} (see: {listed}).", "missing"))
    asked = RunRequest(methods=request.methods, ranks=request.ranks, set=request.set, plugin=request.plugin)
    methods = mistakes.attempt(lambda: expand.methods_of(asked)) or []
    if any(isinstance(method, AlreadyTrained) for method in methods):
        mistakes.messages.append(
            fault("adapter trains nothing, and a plan is about training: plan the method it came from.", "unsupported")
        )
    shapes = [mistakes.attempt(partial(find, name, kind, task=task)) for name in request.model]
    mistakes.stop()
    kinds = {shape.kind for shape in shapes}
    if "target_length" in given and "seq2seq" not in kinds:
        raise RequestError(
            "--target-length is for encoder-decoders that write text; none of these models is one.", code="unsupported"
        )
    if "max_length" in given and kinds == {"image-classification"}:
        raise RequestError(
            "--max-length is for models that read text; these read images of a fixed size.", code="unsupported"
        )
    return Wanted(methods, shapes, setting, budget)


def _values(cls: type, given: Mapping[str, Any], wrong: list[Fault]) -> dict[str, Any]:
    """The given flags of a dataclass, converted; adds a message for each that does not fit."""
    known = options.options(cls)
    return options.converted(known, {name: given[name] for name in known if name in given}, None, wrong)


def _head(request: WhatToPlan) -> tuple[str | None, Task | None]:
    """What decides on the head: ``--kind``, or ``--task``, whose data is read where it has to tell."""
    if request.kind is not None and request.task is not None:
        raise RequestError("Give either --kind or --task, not both.", code="conflict")
    if request.task is not None:
        task = registry.task_entry(request.task).value
        return None, task_options.resolved(task, DataSource(mirror_folder()))
    return request.kind, None


def rows(wanted: Wanted, say: Say, grid: bool = False) -> list[dict[str, Any]]:
    """Plan everything; one row per model and method, as ``--json`` prints it.

    Args:
        say: is told what is being planned.
        grid: also plan other batch sizes and lengths, as ``grid``.

    Raises:
        RequestError: with every method that cannot be planned.
    """
    found, wrong = [], []
    labels = _labels(wanted.methods)
    for model in wanted.models:
        for method, label in zip(wanted.methods, labels, strict=True):
            begun = time.perf_counter()
            say(f"planning {label} on {model.source.name}")
            try:
                found.append(_row(model, method, label, wanted, grid))
            except RequestError as error:
                wrong += [message for message in error.messages if message not in wrong]
                continue
            found[-1]["seconds"] = round(time.perf_counter() - begun, 3)
    if wrong:
        raise RequestError(wrong, code="invalid-value")
    return found


def _row(model: Shape, method: Method, label: str, wanted: Wanted, grid: bool) -> dict[str, Any]:
    planner = Planner(model, method, wanted.setting)
    plan, budget = planner.plan(), wanted.budget
    extra = {"label": label, "model": model.source.name, "kind": model.kind, "weights_alone": None}
    row = as_json(plan, budget, extra)
    if budget is not None:
        row["weights_alone"] = planner.weights_exceed(budget) if planner.subject.trains else not plan.fits(budget)
        row["max_batch_size"] = planner.max_batch_size(budget)
        row["max_length"] = planner.max_length(budget)
        if not plan.fits(budget):
            row["advice"] = suggestions.alternatives(model, plan, budget, row["max_batch_size"])
    if grid:
        row["grid"] = _grid(planner, plan)
    return row


def _grid(planner: Planner, plan: Plan) -> dict[str, Any] | None:
    """Bytes needed at half to four times the batch size and length, where that can be told from few traces."""
    setting = plan.setting
    if not planner.subject.trains or planner.scaling is None:
        return None
    factors = (0.25, 0.5, 1, 2, 4, 8)
    batches = sorted({max(1, round(setting.batch_size * factor)) for factor in factors})
    limit = planner.longest if planner.scaling.at else None
    lengths = sorted({max(1, round(setting.max_length * factor)) for factor in factors})
    lengths = [length for length in lengths if limit is None or length <= limit]
    if not planner.scaling.at:
        lengths = [setting.max_length]
    cells = [[planner.needed(planner.scaling.trace(batch, length)) for batch in batches] for length in lengths]
    return {"batch_sizes": batches, "lengths": lengths, "needed_bytes": cells}


def _labels(methods: list[Method]) -> list[str]:
    """Each method's name, with the options in which methods of one name differ."""
    found = []
    for method in methods:
        same: list[Any] = [other for other in methods if other.name == method.name]
        fields = [field.name for field in dataclasses.fields(same[0]) if field.init]
        differing = [name for name in fields if len({getattr(other, name) for other in same}) > 1]
        words = [method.name] + [f"{name}={_shown(getattr(method, name))}" for name in differing]
        found.append(" ".join(words))
    return found


def _shown(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


def run(arguments: argparse.Namespace) -> int:
    """Do the command: plan, print the table or JSON, and write the page with --html."""
    import transformers
    from rich.console import Console

    from bench.report.html import plan_page
    from bench.report.terminal import plan_table

    transformers.logging.set_verbosity_error()  # type: ignore[no-untyped-call]

    wanted = check(flags.given(arguments, WhatToPlan, Setting))
    target: Path | None = arguments.html
    if target is not None and not target.resolve().parent.is_dir():
        raise RequestError(f"--html {target}: its folder does not exist.", code="not-found")

    def say(words: str) -> None:
        if not arguments.quiet:
            sys.stderr.write(f"{formatting.clean(words)}\n")

    found = rows(wanted, say, grid=target is not None)
    if arguments.json:
        json.dump(found, sys.stdout, indent=1)
        sys.stdout.write("\n")
    else:
        plan_table.render(found, Console())
    if target is not None:
        try:
            plan_page.write(found, target)
        except OSError as error:
            raise RequestError(
                f"--html {target} cannot be written: {error.strerror or error}.", code="not-written"
            ) from error
        (sys.stderr if arguments.json else sys.stdout).write(f"Page: {target}\n")
    return 0
