"""From a request to frozen run specifications: everything is checked before anything heavy starts."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
from collections.abc import Iterator
from functools import partial
from typing import Any

from bench.core import code_fingerprint, options, registry, task_options
from bench.core.environment import versions
from bench.core.errors import ErrorCollector, Fault, RequestError, fault, unknown
from bench.core.protocols import AlreadyTrained, DataInitialized, DataSource, Method, Splits, Task
from bench.core.train_config import LATER, TrainSettings
from bench.data.sampling import groups_of, hold_out, steps_of
from bench.models import loading as models
from bench.models import quantization
from bench.sweep import grid
from bench.sweep.request import RunRequest
from bench.tasks.formulations import select
from bench.training import forgetting

DEFAULT_EPOCHS = 3.0  # without steps and epochs


@dataclasses.dataclass(frozen=True)
class RunSpec:
    """One run, every hyper-parameter resolved; ``spec`` is what the record keeps."""

    spec: dict[str, Any]
    method: Method
    task: Task
    source: models.ModelSource

    @property
    def run_id(self) -> str:
        """16 hex digits: the SHA-256 of the canonical JSON of the specification."""
        text = json.dumps(self.spec, sort_keys=True, separators=(",", ":"), allow_nan=False)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def expand(request: RunRequest) -> list[RunSpec]:
    """The full product of a request: methods × their options × tasks × models × seeds, without duplicates.

    Raises:
        RequestError: with every mistake.
    """
    registry.load(request.plugin)
    names = itertools.chain.from_iterable(registry.task_names(name) for name in request.task)
    request = dataclasses.replace(request, task=tuple(dict.fromkeys(names)))
    mistakes = ErrorCollector()
    given = mistakes.attempt(lambda: _parse_sets(request)) or {}
    mistakes.attempt(lambda: _settings(request, given.get("train", {}), {}))
    chosen = [mistakes.attempt(partial(_variants, name, given, request)) or [] for name in request.method_names]
    mistakes.attempt(lambda: _check_swept(request))
    seeds = [mistakes.attempt(partial(_whole, "--seeds", text, 0)) for text in request.seeds]
    data = DataSource(request.mirror)
    chosen_tasks = [mistakes.attempt(partial(_tasks, name, given.get("task", {}), data)) for name in request.task]
    sources = [
        mistakes.attempt(partial(models.resolve, name, request.loading, request.mirror))
        for name in mistakes.attempt(request.model_names) or ()
    ]
    tasks = list(itertools.chain.from_iterable(found for found in chosen_tasks if found))
    facts = [mistakes.attempt(partial(_task_facts, task, data)) for task in tasks]
    if request.loading.quantize is not None:
        mistakes.attempt(partial(quantization.require, request.loading.quantize))
    mistakes.attempt(partial(_check_importable, request))
    wanted = list(dict.fromkeys(settings for _, settings in itertools.chain(*chosen)))
    for name in dict.fromkeys(settings.forgetting for settings in wanted):
        if name is not None:
            mistakes.attempt(partial(forgetting.general_text, name, data))
    usable = [(task, fact) for task, fact in zip(tasks, facts, strict=True) if fact is not None]
    places = list(itertools.product(range(len(usable)), [source for source in sources if source is not None]))
    posed = {
        (index, source, settings): mistakes.attempt(
            partial(_pose, usable[index][0], usable[index][1], source, settings)
        )
        for (index, source), settings in itertools.product(places, wanted)
    }
    mistakes.stop()
    found: dict[str, RunSpec] = {}
    for (index, source), (method, settings), seed in itertools.product(places, itertools.chain(*chosen), seeds):
        spec = _spec(method, usable[index][0], posed[index, source, settings], source, (settings, seed))
        found.setdefault(spec.run_id, spec)
    return list(found.values())


def methods_of(request: RunRequest) -> list[Method]:
    """The methods of a request with every combination of their options; ``--set train.…`` is not for it.

    Raises:
        RequestError: with every mistake.
    """
    mistakes = ErrorCollector()
    given = mistakes.attempt(lambda: _parse_sets(request)) or {}
    if "train" in given or any(grid.overrides(options)[1] for options in given.values()):
        mistakes.messages.append(
            fault("--set train.…: training options are flags here, such as --batch-size.", "unsupported")
        )
    if task_options.OWNER in given:
        mistakes.messages.append(fault("--set task.…: memory does not depend on a task's options.", "unsupported"))
    chosen = [mistakes.attempt(partial(_variants, name, given, request)) or [] for name in request.method_names]
    mistakes.attempt(lambda: _check_swept(request))
    mistakes.stop()
    return list(dict.fromkeys(method for method, _ in itertools.chain(*chosen)))


def _parse_sets(request: RunRequest) -> dict[str, dict[str, str]]:
    given: dict[str, dict[str, str]] = {}
    wrong: list[Fault] = []
    for text in request.option_texts:
        left, equals, value = text.partition("=")
        owner, dot, name = left.strip().partition(".")
        if not equals or not dot or not name:
            wrong.append(
                fault(
                    f"--set {text}: write it as METHOD.OPTION=VALUE, for example lora.rank=4 or train.clip=0.5.",
                    "invalid-value",
                )
            )
        elif owner not in {*request.method_names, "train", task_options.OWNER}:
            known = {*request.method_names, "train", task_options.OWNER}
            kind = "owner of an option (a method of this run, task, or train)"
            wrong.append(unknown(kind, owner, known).within(f"--set {text}: "))
        else:
            given.setdefault(owner, {})[name.strip()] = value.strip()
    if wrong:
        raise RequestError(wrong)
    return given


def _check_swept(request: RunRequest) -> None:
    """Raise RequestError when ``--ranks`` concerns no method."""
    known = registry.methods()
    if request.ranks and all(name in known and known[name].swept is None for name in request.method_names):
        have = f"{' and '.join(request.method_names)} {'has' if len(request.method_names) == 1 else 'have'}"
        raise RequestError(
            f"--ranks {','.join(request.ranks)}: {have} no size to sweep, as lora has its rank.", code="unsupported"
        )


def _check_importable(request: RunRequest) -> None:
    """Raise RequestError for what a script or notebook defined: the process of a run does not see it."""
    entries = {name: registry.method_entry for name in request.method_names} | {
        name: registry.task_entry for name in request.task
    }
    wrong = []
    for name, look in entries.items():
        try:
            entry = look(name)
        except RequestError:
            continue  # reported where the name is looked up
        if not entry.importable:
            why = (
                f"'{name}' is defined in a script ({entry.file.name}), which runs do not import: put it into a file of "
                "its own and name that with --plugin FILE (in Python: plugin='FILE')."
            )
            wrong.append(fault(why, "unsupported"))
    if wrong:
        raise RequestError(wrong)


def _settings(request: RunRequest, shared: dict[str, str], own: dict[str, str]) -> list[TrainSettings]:
    """The training settings of one method, once per combination of listed values.

    Args:
        shared: what ``--set train.OPTION`` gave.
        own: set for one method only, which wins over flags and shared settings.
    """
    flags = {**request.train, **shared}
    if flags.get("steps") is not None and flags.get("epochs") is not None:
        raise RequestError("Give either --steps or --epochs, not both.", code="conflict")
    for one, other in (("steps", "epochs"), ("epochs", "steps")):
        if one in own:
            flags.pop(other, None)
    found = []
    for values in grid.product(TrainSettings, {**flags, **own}):
        settings: TrainSettings = options.build(TrainSettings, values, "train")
        if settings.compile and settings.cache_trunk:
            raise RequestError(
                "train.compile and --cache-trunk do not go together: kept features are looked up by text.",
                code="conflict",
            )
        found.append(dataclasses.replace(settings, device=_device(settings.device, request.elsewhere)))
    return found


def _device(wanted: str, elsewhere: bool) -> str:
    import torch

    cuda = torch.cuda.is_available()
    if wanted == "cuda" and not cuda and not elsewhere:
        raise RequestError(
            "--device cuda: torch sees no CUDA device here. Use --device cpu, or auto.", code="unavailable"
        )
    return ("cuda" if cuda else "cpu") if wanted == "auto" else wanted


def _variants(name: str, sets: dict[str, dict[str, str]], request: RunRequest) -> list[tuple[Method, TrainSettings]]:
    """The method and its training settings, once per combination of listed values."""
    cls = registry.method_entry(name).value
    known = options.options(cls)
    given, own = grid.overrides(sets.get(name, {}))
    wrong = [unknown(f"option of {name}", option, known) for option in given if option not in known]
    wrong += [] if "lr" not in own else [fault(f"--set {name}.train.lr: write --set {name}.lr=VALUE.", "invalid-value")]
    if wrong:
        raise RequestError(wrong)
    shared = "--lr" if request.train.get("lr") is not None else "--set train.lr"
    if "lr" in given and (request.train.get("lr") is not None or "lr" in sets.get("train", {})):
        raise RequestError(f"{shared} and --set {name}.lr both set the same option.", code="conflict")
    if request.ranks and cls.swept is not None:
        if cls.swept in given:
            raise RequestError(f"--ranks and --set {name}.{cls.swept} both set the same option.", code="conflict")
        for text in request.ranks:
            _whole("--ranks", text, 1)
        given = {**given, cls.swept: ",".join(request.ranks)}
    methods = [options.build(cls, values, name) for values in grid.product(cls, given)]
    return list(itertools.product(methods, _settings(request, sets.get("train", {}), own)))


def _whole(flag: str, text: str, low: int) -> int:
    try:
        number = options.whole_number(text)
    except ValueError as error:
        raise RequestError(f"{flag}: {error}. Example: {flag} 4,8,16", code="invalid-value") from None
    if number < low:
        raise RequestError(f"{flag}: {number} is below {low}.", code="invalid-value")
    return number


def _tasks(name: str, given: dict[str, str], data: DataSource) -> list[Task]:
    """The task once per combination of its options' listed values, resolved on its data."""
    chosen = task_options.variants(registry.task_entry(name).value, given)
    return [task_options.resolved(task, data) for task in chosen]


def _task_facts(task: Task, data: DataSource) -> tuple[dict[str, Any], Splits]:
    """The task's part of a specification, and its rows."""
    splits = task.load(data)
    chosen = task_options.plain(task)
    found = {
        "fingerprint": splits.fingerprint,
        "source": splits.source,
        "kind": task.kind,
        "labels": list(task.labels),
        "train_rows": len(splits.train),
        "validation_rows": len(splits.validation),
        **({"options": chosen} if chosen else {}),
    }
    return found, splits


def _pose(
    task: Task, facts: tuple[dict[str, Any], Splits], source: models.ModelSource, settings: TrainSettings
) -> tuple[dict[str, Any], int]:
    """A task's facts with its formulation for a model, and the number of training rows (RequestError where there is no
    formulation)."""
    found, splits = facts
    train = splits.train
    rows = len(hold_out(len(train), settings.dev_size, groups=groups_of(train, splits.group))[0])
    plan = select.choose(task, source.name, models.family(source))
    select.check_columns(task, plan, train.column_names)
    forgetting.check(settings.forgetting, plan, source.name)
    return {**found, "form": {**plan, **select.amounts(task, plan, train, source, settings.max_length)}}, rows


def _spec(
    method: Method,
    task: Task,
    posed: tuple[dict[str, Any], int],
    source: models.ModelSource,
    rest: tuple[TrainSettings, int],
) -> RunSpec:
    (facts, rows), (settings, seed) = posed, rest
    if settings.lr is not None:
        method = dataclasses.replace(method, lr=settings.lr)  # type: ignore[type-var]
    examples = round(min(rows, settings.train_size or rows) * facts["form"].get("blocks_per_row", 1))
    epochs = settings.epochs or DEFAULT_EPOCHS
    steps = settings.steps or steps_of(epochs, max(1, examples), settings.batch_size, settings.grad_accum)
    chosen = _without_unused(settings)
    spec = {
        "method": {"name": method.name, **_plain(method)},
        "task": {"name": task.name, **facts},
        "model": source.spec,
        "train": {**chosen, "steps": None if isinstance(method, AlreadyTrained) else steps, "lr": method.lr},
        "seed": seed,
        "code": {
            "method": registry.method_entry(method.name).code,
            "task": registry.task_entry(task.name).code,
            "harness": code_fingerprint.harness(),
            "bench": versions()["tunebench"],
        },
    }
    return RunSpec(spec, method, task, source)


def _plain(value: Any) -> dict[str, Any]:
    """A dataclass as JSON holds it (tuples become lists)."""
    plain: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(value)))
    return plain


def _without_unused(settings: TrainSettings) -> dict[str, Any]:
    """Training options as a specification keeps them: those that came later only where they are used."""
    unused = {name for name in LATER if getattr(settings, name) is getattr(TrainSettings(), name)}
    return {name: value for name, value in _plain(settings).items() if name not in unused}


def check_methods(specs: list[RunSpec]) -> None:
    """Attach every method to a weightless copy of its model, to report what cannot work before anything runs.

    Raises:
        RequestError: with each method that cannot be attached and the reason.
    """
    import torch

    wrong: list[Fault] = []
    for spec in _distinct(specs):
        plan = spec.spec["task"]["form"]
        backbone = models.sketch(spec.source, plan["model_kind"], spec.task.labels)
        scheme = spec.source.loading.quantize
        try:
            select.check_room(plan, backbone, spec.spec["train"]["max_length"])
            with torch.random.fork_rng():
                if scheme is None:
                    select.check_module(plan, spec.method.attach(backbone), spec.method.name)
                else:
                    quantization.check(backbone, partial(_begin, spec.method, backbone), scheme)
        except ValueError as error:
            known = (f"{spec.method.name}:", "Task ", "max_length")
            message = str(error) if str(error).startswith(known) else f"{spec.method.name}: {error}"
            if message not in wrong:
                wrong.append(fault(message, "unsupported"))
        except (Exception, SystemExit):
            continue  # a plugin may need real weights to attach: its run reports the error
    if wrong:
        raise RequestError(wrong)


def _begin(method: Method, backbone: Any) -> None:
    """Attach a method to a weightless model, and run the initialisation of one that is initialised on data."""
    module = method.attach(backbone)
    if isinstance(method, DataInitialized):
        method.initialize(module, quantization.weightless_batches(backbone))


def _distinct(specs: list[RunSpec]) -> Iterator[RunSpec]:
    """One specification of each combination that ``attach`` can tell apart."""
    seen = set()
    for spec in specs:
        options_and_form = json.dumps([task_options.plain(spec.task), spec.spec["task"]["form"]])
        key = (spec.method, spec.task.name, options_and_form, spec.source.location, spec.source.loading)
        if key not in seen:
            seen.add(key)
            yield spec
