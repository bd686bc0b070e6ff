"""``bench plan``: from flags to rows, a table, JSON or a page."""

from __future__ import annotations

import dataclasses
import json
import sys
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from bench.core import options, registry, task_options
from bench.core.errors import RequestError, fault, unknown
from bench.core.options import comma_list
from bench.core.protocols import KINDS, AlreadyTrained, DataSource, Method, Task
from bench.data.mirror import usual_mirror
from bench.planner import cuda_rules, suggestions
from bench.planner.meta_model import Shape, find
from bench.planner.plan_config import Setting, parse_size
from bench.planner.planner import Plan, Planner, as_json
from bench.sweep import expand

Say = Callable[[str], None]


@dataclasses.dataclass(frozen=True)
class Wanted:
    """A checked request: every method on every model under one setting."""

    methods: list[Method]
    models: list[Shape]
    setting: Setting
    budget: int | None


def check(values: Mapping[str, Any]) -> Wanted:
    """Look everything up before anything is planned.

    Args:
        values: flags by name; ``methods`` and ``model`` are lists or texts with commas.

    Raises:
        RequestError: with every mistake found.
    """
    mistakes = expand.ErrorCollector()
    plugins = tuple(Path(plugin) for plugin in values.get("plugin", ()))
    mistakes.attempt(lambda: registry.load(plugins))
    setting = mistakes.attempt(lambda: _setting(values))
    text = values.get("budget")
    budget = mistakes.attempt(lambda: parse_size(str(text))) if text is not None else None
    kind, task = mistakes.attempt(lambda: _head(values)) or (None, None)
    names, models = comma_list(values.get("methods")), comma_list(values.get("model"))
    for name, example, there in (("methods", "lora,lst", "methods"), ("model", "llama-3.2-1b", "models")):
        if not comma_list(values.get(name)):
            mistakes.messages.append(
                fault(f"Say which {name} to plan: --{name} {example} (see: bench list {there}).", "missing")
            )
    request = expand.Request(
        methods=names,
        tasks=(),
        ranks=comma_list(values.get("ranks")),
        sets=tuple(values.get("set", ())),
        plugins=plugins,
    )
    methods = mistakes.attempt(lambda: expand.methods_of(request)) or []
    if any(isinstance(method, AlreadyTrained) for method in methods):
        mistakes.messages.append(
            fault("adapter trains nothing, and a plan is about training: plan the method it came from.", "unsupported")
        )
    shapes = [mistakes.attempt(partial(find, name, kind, task=task)) for name in models]
    mistakes.stop()
    read = {shape.kind for shape in shapes}
    if values.get("target_length") is not None and "seq2seq" not in read:
        raise RequestError(
            "--target-length is for encoder-decoders that write text; none of these models is one.", code="unsupported"
        )
    if values.get("max_length") is not None and read == {"image-classification"}:
        raise RequestError(
            "--max-length is for models that read text; these read images of a fixed size.", code="unsupported"
        )
    return Wanted(methods, shapes, setting, budget)


def _setting(values: Mapping[str, Any]) -> Setting:
    known, chosen, wrong = options.options(Setting), {}, []
    for name, option in known.items():
        if values.get(name) is not None:
            try:
                chosen[name] = options.convert(option, values[name])
            except ValueError as error:
                wrong.append(f"--{name.replace('_', '-')}: {error}")
    if wrong:
        raise RequestError(wrong, code="invalid-value")
    setting = Setting(**chosen)
    if setting.device == "cuda":
        return dataclasses.replace(setting, gpu=cuda_rules.gpu(setting.gpu))  # a plan says what it is for
    if "gpu" in chosen:
        raise RequestError(f"--gpu {setting.gpu} is for --device cuda; a plan for the CPU has no GPU.", code="conflict")
    return setting


def _head(values: Mapping[str, Any]) -> tuple[str | None, Task | None]:
    """What decides on the head: ``--kind``, or ``--task``, whose data is looked at where it has to tell."""
    kind, name = values.get("kind"), values.get("task")
    if kind is not None and name is not None:
        raise RequestError("Give either --kind or --task, not both.", code="conflict")
    if name is not None:
        task = registry.task_entry(str(name)).value
        return None, task_options.resolved(task, DataSource(usual_mirror()))
    if kind is not None and kind not in KINDS:
        raise RequestError([unknown("kind", str(kind), KINDS).within("--kind: ")])
    return kind, None


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


def run(values: Mapping[str, Any]) -> int:
    """Do the command: plan, and print the table or JSON; write the page where one is asked for."""
    import transformers
    from rich.console import Console

    from bench.report.html import plan_page
    from bench.report.terminal import plan_table

    transformers.logging.set_verbosity_error()  # type: ignore[no-untyped-call]

    wanted = check(values)
    target = values.get("html")
    if target is not None and not Path(target).resolve().parent.is_dir():
        raise RequestError(f"--html {target}: its folder does not exist.", code="not-found")

    def say(words: str) -> None:
        if not values.get("quiet"):
            sys.stderr.write(words + "\n")

    found = rows(wanted, say, grid=target is not None)
    if values.get("json"):
        json.dump(found, sys.stdout, indent=1)
        sys.stdout.write("\n")
    else:
        plan_table.render(found, Console())
    if target is not None:
        try:
            plan_page.write(found, Path(target))
        except OSError as error:
            raise RequestError(
                f"--html {target} cannot be written: {error.strerror or error}.", code="not-written"
            ) from error
        (sys.stderr if values.get("json") else sys.stdout).write(f"Page: {target}\n")
    return 0
