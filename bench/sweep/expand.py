"""From what a person asked for to frozen run specifications: everything is checked before anything heavy starts."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from bench.core import code_fingerprint, options, registry, task_options
from bench.core.environment import versions
from bench.core.errors import RequestError, unknown
from bench.core.protocols import AlreadyTrained, DataInitialized, DataSource, Method, Splits, Task
from bench.core.train_config import LATER, TrainSettings
from bench.data.sampling import groups_of, hold_out, steps_of
from bench.models import loading as models
from bench.models import quantization
from bench.models.loading import Loading
from bench.sweep import grid
from bench.tasks.formulations import select
from bench.training import forgetting

DEFAULT_EPOCHS = 3.0  # of a request that gives neither steps nor epochs


@dataclasses.dataclass(frozen=True)
class Request:
    """What ``bench run`` was asked for, names not yet looked up.

    Attributes:
        methods, tasks, models: names.
        ranks: values of each method's swept option, as texts; empty: the method's default.
        seeds: one run per seed.
        sets: texts ``OWNER.OPTION=VALUE``; the owner is a method, ``task`` or ``train``, or ``METHOD.train`` for one
            method's training; a comma lists values to try.
        train: training options given by their own flags.
        plugins: Python files to load.
        mirror: folder of data sets in the Hub's layout, and of models.
        loading: how the models are loaded.
        elsewhere: whether other machines do the runs, whose devices are not known here.
    """

    methods: tuple[str, ...]
    tasks: tuple[str, ...]
    models: tuple[str, ...] = ("minilm",)
    ranks: tuple[str, ...] = ()
    seeds: tuple[str, ...] = ("0",)
    sets: tuple[str, ...] = ()
    train: dict[str, Any] = dataclasses.field(default_factory=dict)
    plugins: tuple[Path, ...] = ()
    mirror: Path | None = None
    loading: Loading = dataclasses.field(default_factory=Loading)
    elsewhere: bool = False


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


class ErrorCollector:
    """Collects the messages of request errors, so that a person sees them all at once."""

    def __init__(self) -> None:
        self.messages: list[str] = []

    def attempt(self, act: Callable[[], Any]) -> Any:
        """Return what ``act`` gives, or None when it raised a RequestError."""
        try:
            return act()
        except RequestError as error:
            self.messages += [message for message in error.messages if message not in self.messages]
            return None

    def stop(self) -> None:
        """Raise everything collected."""
        if self.messages:
            raise RequestError(self.messages)


def expand(request: Request) -> list[RunSpec]:
    """The full product of a request: methods × their options × tasks × models × seeds, without duplicates.

    Raises:
        RequestError: with every mistake found.
    """
    registry.load(request.plugins)
    names = itertools.chain.from_iterable(registry.task_names(name) for name in request.tasks)
    request = dataclasses.replace(request, tasks=tuple(dict.fromkeys(names)))
    mistakes = ErrorCollector()
    given = mistakes.attempt(lambda: _parse_sets(request)) or {}
    mistakes.attempt(lambda: _settings(request, given.get("train", {}), {}))
    chosen = [mistakes.attempt(partial(_variants, name, given, request)) or [] for name in request.methods]
    mistakes.attempt(lambda: _check_swept(request))
    seeds = [mistakes.attempt(partial(_whole, "--seeds", text, 0)) for text in request.seeds]
    data = DataSource(request.mirror)
    chosen_tasks = [mistakes.attempt(partial(_tasks, name, given.get("task", {}), data)) for name in request.tasks]
    sources = [
        mistakes.attempt(partial(models.resolve, name, request.loading, request.mirror)) for name in request.models
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


def methods_of(request: Request) -> list[Method]:
    """The methods of a request with every combination of their options; ``--set train.…`` is not for it.

    Raises:
        RequestError: with every mistake found.
    """
    mistakes = ErrorCollector()
    given = mistakes.attempt(lambda: _parse_sets(request)) or {}
    if "train" in given or any(grid.overrides(options)[1] for options in given.values()):
        mistakes.messages.append("--set train.…: training options are flags here, such as --batch-size.")
    if task_options.OWNER in given:
        mistakes.messages.append("--set task.…: memory does not depend on a task's options.")
    chosen = [mistakes.attempt(partial(_variants, name, given, request)) or [] for name in request.methods]
    mistakes.attempt(lambda: _check_swept(request))
    mistakes.stop()
    return list(dict.fromkeys(method for method, _ in itertools.chain(*chosen)))


def _parse_sets(request: Request) -> dict[str, dict[str, str]]:
    given: dict[str, dict[str, str]] = {}
    wrong = []
    for text in request.sets:
        left, equals, value = text.partition("=")
        owner, dot, name = left.strip().partition(".")
        if not equals or not dot or not name:
            wrong.append(f"--set {text}: write it as METHOD.OPTION=VALUE, for example lora.rank=4 or train.clip=0.5.")
        elif owner not in {*request.methods, "train", task_options.OWNER}:
            known = {*request.methods, "train", task_options.OWNER}
            kind = "owner of an option (a method of this run, task, or train)"
            wrong.append(f"--set {text}: {unknown(kind, owner, known)}")
        else:
            given.setdefault(owner, {})[name.strip()] = value.strip()
    if wrong:
        raise RequestError(wrong)
    return given


def _check_swept(request: Request) -> None:
    """``--ranks`` must concern one method at least."""
    known = registry.methods()
    if request.ranks and all(name in known and known[name].swept is None for name in request.methods):
        have = f"{' and '.join(request.methods)} {'has' if len(request.methods) == 1 else 'have'}"
        raise RequestError(f"--ranks {','.join(request.ranks)}: {have} no size to sweep, as lora has its rank.")


def _check_importable(request: Request) -> None:
    """Each run has a process of its own, which does not see what a script or notebook defined."""
    entries = {name: registry.method_entry for name in request.methods} | {
        name: registry.task_entry for name in request.tasks
    }
    wrong = []
    for name, look in entries.items():
        try:
            entry = look(name)
        except RequestError:
            continue  # said already
        if not entry.importable:
            wrong.append(f"'{name}' is defined in a script ({entry.file.name}), which runs do not import: put it into "
                         f"a file of its own and name that with --plugin FILE (in Python: plugin='FILE').")  # fmt: skip
    if wrong:
        raise RequestError(wrong)


def _settings(request: Request, shared: dict[str, str], own: dict[str, str]) -> list[TrainSettings]:
    """The training settings of one method, once per combination of listed values.

    Args:
        shared: what ``--set train.OPTION`` gave.
        own: what was set for the method alone, which wins over flags and shared settings.
    """
    flags = {**request.train, **shared}
    if flags.get("steps") is not None and flags.get("epochs") is not None:
        raise RequestError("Give either --steps or --epochs, not both.")
    for one, other in (("steps", "epochs"), ("epochs", "steps")):
        if one in own:
            flags.pop(other, None)
    found = []
    for values in grid.product(TrainSettings, {**flags, **own}):
        settings: TrainSettings = options.build(TrainSettings, values, "train")
        if settings.compile and settings.cache_trunk:
            raise RequestError(
                "train.compile and --cache-trunk do not go together: kept features are looked up by text."
            )
        found.append(dataclasses.replace(settings, device=_device(settings.device, request.elsewhere)))
    return found


def _device(wanted: str, elsewhere: bool) -> str:
    import torch

    there = torch.cuda.is_available()
    if wanted == "cuda" and not there and not elsewhere:
        raise RequestError("--device cuda: torch sees no CUDA device here. Use --device cpu, or auto.")
    return ("cuda" if there else "cpu") if wanted == "auto" else wanted


def _variants(name: str, sets: dict[str, dict[str, str]], request: Request) -> list[tuple[Method, TrainSettings]]:
    """The method and its training settings, once per combination of listed values."""
    cls = registry.method_entry(name).value
    known = options.options(cls)
    given, own = grid.overrides(sets.get(name, {}))
    wrong = [unknown(f"option of {name}", option, known) for option in given if option not in known]
    wrong += [] if "lr" not in own else [f"--set {name}.train.lr: write --set {name}.lr=VALUE."]
    if wrong:
        raise RequestError(wrong)
    shared = "--lr" if request.train.get("lr") is not None else "--set train.lr"
    if "lr" in given and (request.train.get("lr") is not None or "lr" in sets.get("train", {})):
        raise RequestError(f"{shared} and --set {name}.lr both set the same option.")
    if request.ranks and cls.swept is not None:
        if cls.swept in given:
            raise RequestError(f"--ranks and --set {name}.{cls.swept} both set the same option.")
        for text in request.ranks:
            _whole("--ranks", text, 1)
        given = {**given, cls.swept: ",".join(request.ranks)}
    methods = [options.build(cls, values, name) for values in grid.product(cls, given)]
    return list(itertools.product(methods, _settings(request, sets.get("train", {}), own)))


def _whole(flag: str, text: str, low: int) -> int:
    try:
        number = int(text)
    except ValueError:
        raise RequestError(f"{flag}: '{text}' is not a whole number. Example: {flag} 4,8,16") from None
    if number < low:
        raise RequestError(f"{flag}: {number} is below {low}.")
    return number


def _tasks(name: str, given: dict[str, str], data: DataSource) -> list[Task]:
    """The task once per combination of its options' listed values, nothing in it left open."""
    chosen = task_options.variants(registry.task_entry(name).value, given)
    return [task_options.resolved(task, data) for task in chosen]


def _task_facts(task: Task, data: DataSource) -> tuple[dict[str, Any], Splits]:
    """What a specification keeps of a task, and its rows."""
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
    """A task's facts with the form in which it is put to a model, and the rows that are left to learn from
    (RequestError where it cannot be)."""
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
    chosen = _settled(settings)
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


def _settled(settings: TrainSettings) -> dict[str, Any]:
    """Training options as a specification holds them: later ones only where they are used."""
    unused = {name for name in LATER if getattr(settings, name) is getattr(TrainSettings(), name)}
    return {name: value for name, value in _plain(settings).items() if name not in unused}


def check_methods(specs: list[RunSpec]) -> None:
    """Attach every method to a weightless copy of its model, so that what cannot work is known before anything runs.

    Raises:
        RequestError: with every method that cannot be attached, and why.
    """
    import torch

    wrong: list[str] = []
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
                wrong.append(message)
        except (Exception, SystemExit):
            continue  # a plugin may need real weights to attach: its run will say what is wrong
    if wrong:
        raise RequestError(wrong)


def _begin(method: Method, backbone: Any) -> None:
    """Attach a method to a weightless model, and let one that looks at data begin."""
    module = method.attach(backbone)
    if isinstance(method, DataInitialized):
        method.initialize(module, quantization.weightless_batches(backbone))


def _distinct(specs: list[RunSpec]) -> Iterator[RunSpec]:
    """One specification of each combination that ``attach`` can tell apart."""
    seen = set()
    for spec in specs:
        told = json.dumps([task_options.plain(spec.task), spec.spec["task"]["form"]])
        key = (spec.method, spec.task.name, told, spec.source.location, spec.source.loading)
        if key not in seen:
            seen.add(key)
            yield spec
