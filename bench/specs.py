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

from bench import forgetting, forms, models, options, registry, taskoptions
from bench.api import AlreadyTrained, DataSource, Method, Splits, Task
from bench.data import groups_of, hold_out, steps_per_epoch
from bench.environment import versions
from bench.errors import RequestError, unknown
from bench.settings import TrainSettings

DEFAULT_EPOCHS = 3.0  # of a request that gives neither steps nor epochs


@dataclasses.dataclass(frozen=True)
class Request:
    """What ``bench run`` was asked for, names not yet looked up.

    Attributes:
        methods, tasks, models: names.
        ranks: values of each method's swept option, as texts; empty: the method's default.
        seeds: one run per seed.
        sets: texts ``OWNER.OPTION=VALUE``; the owner is a method, ``task`` or ``train``.
        train: training options given by their own flags.
        plugins: Python files to load.
        mirror: folder of data sets in the Hub's layout.
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


class _Mistakes:
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
    mistakes = _Mistakes()
    given = mistakes.attempt(lambda: _parse_sets(request)) or {}
    settings = mistakes.attempt(lambda: _settings(request, given.get("train", {})))
    chosen = [mistakes.attempt(partial(_variants, name, given.get(name, {}), request)) for name in request.methods]
    seeds = [mistakes.attempt(partial(_whole, "--seeds", text, 0)) for text in request.seeds]
    data = DataSource(request.mirror)
    chosen_tasks = [mistakes.attempt(partial(_tasks, name, given.get("task", {}), data)) for name in request.tasks]
    sources = [mistakes.attempt(partial(models.resolve, name)) for name in request.models]
    tasks = list(itertools.chain.from_iterable(found for found in chosen_tasks if found))
    facts = [mistakes.attempt(partial(_task_facts, task, data)) for task in tasks]
    mistakes.attempt(partial(_check_importable, request))
    if settings is not None and settings.forgetting is not None:
        mistakes.attempt(partial(forgetting.general_text, settings.forgetting, data))
    posed = [
        (task, mistakes.attempt(partial(_pose, task, fact, source, settings)), source)
        for task, fact in zip(tasks, facts, strict=True)
        for source in sources
        if None not in (fact, source, settings)
    ]
    mistakes.stop()
    found: dict[str, RunSpec] = {}
    for (task, fact, source), method, seed in itertools.product(posed, itertools.chain(*chosen), seeds):
        spec = _spec(method, task, fact, source, (settings, seed))
        found.setdefault(spec.run_id, spec)
    return list(found.values())


def _parse_sets(request: Request) -> dict[str, dict[str, str]]:
    given: dict[str, dict[str, str]] = {}
    wrong = []
    for text in request.sets:
        left, equals, value = text.partition("=")
        owner, dot, name = left.strip().partition(".")
        if not equals or not dot or not name:
            wrong.append(f"--set {text}: write it as METHOD.OPTION=VALUE, for example lora.rank=4 or train.clip=0.5.")
        elif owner not in {*request.methods, "train", taskoptions.OWNER}:
            known = {*request.methods, "train", taskoptions.OWNER}
            kind = "owner of an option (a method of this run, task, or train)"
            wrong.append(f"--set {text}: {unknown(kind, owner, known)}")
        else:
            given.setdefault(owner, {})[name.strip()] = value.strip()
    if wrong:
        raise RequestError(wrong)
    return given


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


def _settings(request: Request, given: dict[str, str]) -> TrainSettings:
    merged = {**request.train, **given}
    if merged.get("steps") is not None and merged.get("epochs") is not None:
        raise RequestError("Give either --steps or --epochs, not both.")
    settings: TrainSettings = options.build(TrainSettings, merged, "train")
    return dataclasses.replace(settings, device=_device(settings.device))


def _device(wanted: str) -> str:
    import torch

    there = torch.cuda.is_available()
    if wanted == "cuda" and not there:
        raise RequestError("--device cuda: torch sees no CUDA device here. Use --device cpu, or auto.")
    return "cuda" if there and wanted == "auto" else ("cpu" if wanted == "auto" else wanted)


def _variants(name: str, given: dict[str, str], request: Request) -> list[Method]:
    """The method once per combination of listed values (``--ranks 4,8``, ``--set lst.heads=official,scaled``)."""
    cls = registry.method_entry(name).value
    known = options.options(cls)
    wrong = [unknown(f"option of {name}", option, known) for option in given if option not in known]
    if wrong:
        raise RequestError(wrong)
    if "lr" in given and request.train.get("lr") is not None:
        raise RequestError(f"--lr and --set {name}.lr both set the same option.")
    axes: dict[str, list[str]] = {}
    for option, text in given.items():
        listed = options.is_list(known[option])
        axes[option] = [text] if listed else [part.strip() for part in text.split(",")]
    if request.ranks and cls.swept is not None:
        if cls.swept in given:
            raise RequestError(f"--ranks and --set {name}.{cls.swept} both set the same option.")
        for text in request.ranks:
            _whole("--ranks", text, 1)
        axes[cls.swept] = list(request.ranks)
    combinations = itertools.product(*axes.values())
    return [options.build(cls, dict(zip(axes, values, strict=True)), name) for values in combinations]


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
    chosen = taskoptions.variants(registry.task_entry(name).value, given)
    return [taskoptions.resolved(task, data) for task in chosen]


def _task_facts(task: Task, data: DataSource) -> tuple[dict[str, Any], Splits]:
    """What a specification keeps of a task, and its rows."""
    splits = task.load(data)
    chosen = taskoptions.plain(task)
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
    plan = forms.choose(task, source.name, models.family(source))
    forms.check_columns(task, plan, train.column_names)
    forgetting.check(settings.forgetting, plan, source.name)
    return {**found, "form": {**plan, **forms.amounts(task, plan, train, source, settings.max_length)}}, rows


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
    per_epoch = steps_per_epoch(max(1, examples), settings.batch_size, settings.grad_accum)
    steps = settings.steps or max(1, round((settings.epochs or DEFAULT_EPOCHS) * per_epoch))
    spec = {
        "method": {"name": method.name, **_plain(method)},
        "task": {"name": task.name, **facts},
        "model": {
            "name": source.name,
            "source": source.source,
            "revision": source.revision,
            "fingerprint": source.fingerprint,
        },
        "train": {**_plain(settings), "steps": None if isinstance(method, AlreadyTrained) else steps, "lr": method.lr},
        "seed": seed,
        "code": {
            "method": registry.method_entry(method.name).code,
            "task": registry.task_entry(task.name).code,
            "bench": versions()["tunebench"],
        },
    }
    return RunSpec(spec, method, task, source)


def _plain(value: Any) -> dict[str, Any]:
    """A dataclass as JSON holds it (tuples become lists)."""
    plain: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(value)))
    return plain


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
        try:
            forms.check_room(plan, backbone, spec.spec["train"]["max_length"])
            with torch.random.fork_rng():
                module = spec.method.attach(backbone)
            forms.check_module(plan, module, spec.method.name)
        except ValueError as error:
            known = (f"{spec.method.name}:", "Task ", "max_length")
            message = str(error) if str(error).startswith(known) else f"{spec.method.name}: {error}"
            if message not in wrong:
                wrong.append(message)
        except Exception:
            continue  # a plugin may need real weights to attach: its run will say what is wrong
    if wrong:
        raise RequestError(wrong)


def _distinct(specs: list[RunSpec]) -> Iterator[RunSpec]:
    """One specification of each combination that ``attach`` can tell apart."""
    seen = set()
    for spec in specs:
        told = json.dumps([taskoptions.plain(spec.task), spec.spec["task"]["form"]])
        key = (spec.method, spec.task.name, told, spec.source.location)
        if key not in seen:
            seen.add(key)
            yield spec
