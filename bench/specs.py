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

from bench import models, options, quantize, registry
from bench.api import AlreadyTrained, DataInitialized, DataSource, Method, Task
from bench.data import hold_out, steps_per_epoch
from bench.environment import versions
from bench.errors import RequestError, unknown
from bench.models import Loading
from bench.settings import TrainSettings

DEFAULT_EPOCHS = 3.0  # of a request that gives neither steps nor epochs


@dataclasses.dataclass(frozen=True)
class Request:
    """What ``bench run`` was asked for, names not yet looked up.

    Attributes:
        methods, tasks, models: names.
        ranks: values of each method's swept option, as texts; empty: the method's default.
        seeds: one run per seed.
        sets: texts ``OWNER.OPTION=VALUE``; the owner is a method or ``train``.
        train: training options given by their own flags.
        plugins: Python files to load.
        mirror: folder of data sets in the Hub's layout, and of models.
        loading: how the models are loaded.
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
    mistakes = _Mistakes()
    given = mistakes.attempt(lambda: _parse_sets(request)) or {}
    settings = mistakes.attempt(lambda: _settings(request, given.get("train", {})))
    chosen = [mistakes.attempt(partial(_variants, name, given.get(name, {}), request)) for name in request.methods]
    seeds = [mistakes.attempt(partial(_whole, "--seeds", text, 0)) for text in request.seeds]
    tasks = [mistakes.attempt(partial(_task, name)) for name in request.tasks]
    sources = [
        mistakes.attempt(partial(models.resolve, name, request.loading, request.mirror)) for name in request.models
    ]
    if request.loading.quantize is not None:
        mistakes.attempt(partial(quantize.require, request.loading.quantize))
    data = DataSource(request.mirror)
    facts = [mistakes.attempt(partial(_task_facts, task, data)) for task in tasks if task is not None]
    mistakes.attempt(partial(_check_importable, request))
    mistakes.stop()
    found: dict[str, RunSpec] = {}
    for fact, source, method, seed in itertools.product(
        zip(tasks, facts, strict=True), sources, itertools.chain(*chosen), seeds
    ):
        spec = _spec(method, fact[0], fact[1], source, (settings, seed))
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
        elif owner != "train" and owner not in request.methods:
            known = {*request.methods, "train"}
            kind = "owner of an option (a method of this run, or train)"
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


def _task(name: str) -> Task:
    task: Task = registry.task_entry(name).value
    return task


def _task_facts(task: Task, data: DataSource) -> dict[str, Any]:
    splits = task.load(data)
    return {
        "fingerprint": splits.fingerprint,
        "source": splits.source,
        "kind": task.kind,
        "labels": list(task.labels),
        "train_rows": len(splits.train),
        "validation_rows": len(splits.validation),
    }


def _spec(
    method: Method, task: Task, facts: dict[str, Any], source: models.ModelSource, rest: tuple[TrainSettings, int]
) -> RunSpec:
    settings, seed = rest
    if settings.lr is not None:
        method = dataclasses.replace(method, lr=settings.lr)  # type: ignore[type-var]
    rows = len(hold_out(facts["train_rows"], settings.dev_size)[0])
    per_epoch = steps_per_epoch(min(rows, settings.train_size or rows), settings.batch_size, settings.grad_accum)
    steps = settings.steps or max(1, round((settings.epochs or DEFAULT_EPOCHS) * per_epoch))
    spec = {
        "method": {"name": method.name, **_plain(method)},
        "task": {"name": task.name, **facts},
        "model": source.spec,
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
        backbone = models.sketch(spec.source, spec.task.kind, spec.task.labels)
        scheme = spec.source.loading.quantize
        try:
            with torch.random.fork_rng():
                if scheme is None:
                    spec.method.attach(backbone)
                else:
                    quantize.check(backbone, partial(_begin, spec.method, backbone), scheme)
        except ValueError as error:
            message = str(error) if str(error).startswith(f"{spec.method.name}:") else f"{spec.method.name}: {error}"
            if message not in wrong:
                wrong.append(message)
        except Exception:
            continue  # a plugin may need real weights to attach: its run will say what is wrong
    if wrong:
        raise RequestError(wrong)


def _begin(method: Method, backbone: Any) -> None:
    """Attach a method to a weightless model, and let one that looks at data begin."""
    module = method.attach(backbone)
    if isinstance(method, DataInitialized):
        method.initialize(module, quantize.weightless_batches(backbone))


def _distinct(specs: list[RunSpec]) -> Iterator[RunSpec]:
    """One specification of each combination that ``attach`` can tell apart."""
    seen = set()
    for spec in specs:
        key = (spec.method, spec.task.name, spec.source.location, spec.source.loading)
        if key not in seen:
            seen.add(key)
            yield spec
