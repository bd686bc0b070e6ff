"""One typed request behind the flags of ``bench run``, the keys of a plan file and the arguments of ``bench.run``.

A new flag is a new field here (or, for a training option, in ``bench.core.train_config``); imports neither torch nor
transformers, so that ``--help`` answers at once.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from bench.core import options
from bench.core.errors import Fault, RequestError, fault
from bench.core.options import flag
from bench.core.train_config import TrainSettings
from bench.data.mirror import mirror_folder
from bench.planner.plan_config import parse_size

if TYPE_CHECKING:
    from bench.models.loading import Loading
    from bench.training.job import Job

PRUNERS = ("median", "halving", "none")
EXECUTORS = ("local", "ray", "slurm")
DEFAULT_MODEL = "minilm"


@dataclass(frozen=True)
class WhatToRun:
    """Methods × tasks × models × seeds; names are not yet looked up."""

    methods: tuple[str, ...] = flag((), "methods to compare; see: bench list methods", "A,B")
    adapter: tuple[str, ...] = flag((), "score adapters in peft's format, without training", "DIR[,E]")
    task: tuple[str, ...] = flag((), "tasks, such as glue/sst2; see: bench list tasks", "T[,U]")
    model: tuple[str, ...] = flag((), f"alias, local folder or Hub id (default: {DEFAULT_MODEL})", "M[,N]")
    revision: str | None = flag(None, "commit, branch or tag of the models (or --model M@R)", "R")
    quantize: str | None = flag(None, "int8 or nf4: the frozen base in 8 or 4 bits", "Q")
    trust_remote_code: bool = flag(False, "run Python code that a model brings")
    allow_pickle: bool = flag(False, "read pickled weights where there are no safetensors")
    ranks: tuple[str, ...] = flag((), "values of each method's size option (rank, width, reduction)", "4,8")
    seeds: tuple[str, ...] = flag(("0",), "one run per seed", "0,1")
    set: tuple[str, ...] = flag(
        (), "set an option of a method, of task or train; repeatable", "M.OPTION=V", repeated=True
    )


@dataclass(frozen=True)
class Tuning:
    """What is tuned on the dev split before the runs."""

    tune: tuple[str, ...] = flag(
        (),
        "options to tune, for every method (lr) or one (lora.alpha): 0.1x to 10x the default, or lr=1e-4:1e-2 for a "
        "range, lr=1e-4|1e-3 for a grid",
        "O[,P]",
    )
    trials: int | None = flag(None, "trials of every configuration (default: 6, or the whole grid)", "N", low=1)
    prune: str | None = flag(
        None, "stop trials that are behind: median, halving, none (default: median)", "P", choices=PRUNERS
    )


@dataclass(frozen=True)
class Execution:
    """Where and how runs are carried out; none of it changes a result, and it holds for a whole plan file."""

    plugin: tuple[Path, ...] = flag((), "load methods and tasks from a file; repeatable", "FILE", repeated=True)
    data_dir: Path | None = flag(None, "mirror of data sets (default: $BENCH_DATA)", "DIR")
    out: Path = flag(Path("results/local"), "output folder", "DIR")
    workers: int | None = flag(None, "parallel runs (default: 1; on a cluster: as many as it takes)", "N", low=1)
    cache_limit: str = flag("8GB", "most that --cache-trunk may take", "SIZE")
    save: bool = flag(False, "keep the tuned weights (safetensors)")
    fresh: bool = flag(False, "run again what is already there")
    retry_failed: bool = flag(False, "run again what failed or ran out of memory")
    no_share: bool = flag(False, "disable shared training of runs with the same frozen backbone")
    dry_run: bool = flag(False, "print the runs and stop")
    json: bool = flag(False, "print the records as JSON instead of the table")
    tensorboard: bool = flag(False, "write curves to OUT/tensorboard while runs train")
    quiet: bool = flag(False, "no progress")
    executor: str = flag("local", "where runs are done: local, ray or slurm", "E", choices=EXECUTORS)
    address: str | None = flag(None, "the Ray cluster: auto, HOST:PORT (default: Ray on this machine)", "A")
    cpus: int = flag(1, "cores of a run on a cluster", "N", low=1)
    cluster: tuple[str, ...] = flag(
        (), "a parameter of Slurm: partition=gpu, time=60; repeatable", "K=V", repeated=True
    )

    @property
    def mirror(self) -> Path | None:
        """The mirror of data sets, ``BENCH_DATA`` where none was given (RequestError when it does not exist)."""
        return mirror_folder(self.data_dir)

    def job(self, run_id: str, spec: dict[str, Any], predictions: str = "", adapter: str | None = None) -> Job:
        """What the process of a run needs; the paths are absolute.

        Args:
            predictions: file to write them to; empty: none.
            adapter: folder for the tuned weights; None: they are not kept.
        """
        from bench.training.job import Job

        plugins = tuple(str(plugin.resolve()) for plugin in self.plugin)
        mirror = None if self.mirror is None else str(self.mirror.resolve())
        return Job(run_id, spec, plugins, mirror, predictions, adapter, cache_limit=self.cache_bytes)

    @property
    def cache_bytes(self) -> int:
        """Bytes that kept features of frozen backbones may take (RequestError for a text that is no size)."""
        return parse_size(self.cache_limit, "--cache-limit")


@dataclass(frozen=True)
class RunRequest(Execution, Tuning, WhatToRun):
    """One experiment: what to run, tune and how.

    Attributes:
        train: training options by name, as given by their flags; a text may list values with commas.
        experiment: the name of the plan file's table; None: the request is from no such table.
    """

    train: Mapping[str, Any] = field(default_factory=dict)
    experiment: str | None = None

    @classmethod
    def build(cls, given: Mapping[str, Any], experiment: str | None = None) -> Self:
        """A request from texts or values by the name of their flag.

        Raises:
            RequestError: with every mistake that needs no look at methods, tasks or models.
        """
        own = options.flags(cls)
        wrong: list[Fault] = []
        values = options.converted(own, {name: given[name] for name in own if name in given}, None, wrong)
        values = {name: value for name, value in values.items() if value != ()}
        if not {"methods", "adapter"} & given.keys():
            wrong.append(fault("Say which methods to run: --methods lora,lst (see: bench list methods).", "missing"))
        if "task" not in given:
            wrong.append(fault("Say which task to run: --task glue/sst2 (see: bench list tasks).", "missing"))
        train = {name: given[name] for name in options.flags(TrainSettings) if name in given}
        request = cls(**values, train=train, experiment=experiment)
        for check in ("mirror", "cache_bytes"):
            try:
                getattr(request, check)
            except RequestError as error:
                wrong += error.messages
        if wrong:
            raise RequestError(wrong)
        return request

    @property
    def method_names(self) -> tuple[str, ...]:
        """The methods, ``adapter`` for adapters that are scored among them."""
        return (*self.methods, *(("adapter",) if self.adapter else ()))

    @property
    def option_texts(self) -> tuple[str, ...]:
        """Texts ``OWNER.OPTION=VALUE``; the owner is a method, ``task`` or ``train``, or ``METHOD.train`` for one
        method's training; a comma lists values to try."""
        return (*self.set, *((f"adapter.path={','.join(self.adapter)}",) if self.adapter else ()))

    @property
    def loading(self) -> Loading:
        """How the models are loaded."""
        from bench.models.loading import Loading

        return Loading(self.quantize, self.trust_remote_code, self.allow_pickle)

    @property
    def elsewhere(self) -> bool:
        """Whether other machines do the runs, whose devices are not known here."""
        return self.executor != "local"

    def model_names(self) -> tuple[str, ...]:
        """The models, ``--revision`` written into those without one; without any the one of the adapters, or the
        default.

        Raises:
            RequestError: when the adapters name different models, or one that is not available.
        """
        names = self.model or (_base(self.adapter, self.loading, self.mirror),)
        return tuple(f"{name}@{self.revision}" if self.revision and "@" not in name else name for name in names)

    def plain(self) -> dict[str, Any]:
        """What was given, as JSON holds it, without what changes nothing that is run."""
        found: dict[str, Any] = {} if self.experiment is None else {"experiment": self.experiment}
        for name, option in options.flags(type(self)).items():
            value = getattr(self, name)
            if value != option.default and name not in ("quiet", "json", "dry_run"):
                found[name] = [str(part) for part in value] if isinstance(value, tuple) else value
        found |= self.train
        return {name: str(value) if isinstance(value, Path) else value for name, value in found.items()}


def _base(adapters: tuple[str, ...], loading: Loading, mirror: Path | None) -> str:
    """The model that adapters in peft's format say they were trained on, or the default where none says it."""
    from bench.models import loading as models

    bases: dict[str, str] = {}
    for folder in adapters:
        try:
            config = json.loads((Path(folder) / "adapter_config.json").read_text(encoding="utf-8"))
            base = config["base_model_name_or_path"]
        except (OSError, ValueError, TypeError, KeyError):  # the method reports what is wrong with the folder
            continue
        if isinstance(base, str) and base:
            bases[folder] = models.alias_of(base)
    if len(set(bases.values())) > 1:
        listed = ", ".join(f"{folder} on {base}" for folder, base in bases.items())
        raise RequestError(
            f"--adapter: these were trained on different models ({listed}): score one model's at a time.",
            code="conflict",
        )
    for folder, base in bases.items():
        try:
            models.resolve(base, loading, mirror)
        except RequestError as error:
            raise RequestError(
                f"--adapter: {folder} says that it was trained on {base}, which is not available here: "
                f"{' '.join(error.messages)} Where it is elsewhere: --model.",
                code="unavailable",
            ) from error
        return base
    return DEFAULT_MODEL
