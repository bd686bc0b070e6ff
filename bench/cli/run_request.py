"""What a person asked of ``bench run``: flags over a plan file, made into requests."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.cli.parser import DEFAULT_OUT, TRAIN_FLAGS
from bench.core.errors import Fault, RequestError, fault
from bench.core.options import comma_list
from bench.data.mirror import mirror_folder

if TYPE_CHECKING:  # they bring torch, which is a second that bench list, status and the like need not wait
    from bench.models.loading import Loading
    from bench.sweep.expand import Request
    from bench.sweep.scheduler import Options

_LISTS = ("methods", "adapter", "task", "model", "ranks", "seeds", "tune")
_LOADING = ("trust_remote_code", "allow_pickle")
_SWITCHES = ("save", "fresh", "retry_failed", "no_share", "dry_run", "json", "quiet", "tensorboard")
_WHERE = ("data_dir", "out", "workers", "executor", "address", "cpus", "cache_limit")
WHOLE = (*_SWITCHES, *_WHERE, "plugin", "cluster")  # one value for all experiments of a plan


def merged(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Flags over the plan file over nothing, once per experiment of the plan."""
    from bench.sweep import plan_file

    flags = {name: value for name, value in vars(arguments).items() if value not in (None, False, [])}
    path, chosen = flags.pop("plan", None), comma_list(flags.pop("experiment", None))
    if path is None:
        if chosen:
            raise RequestError("--experiment chooses from a plan file: name it with --plan FILE.", code="missing")
        return [flags]
    plan = plan_file.read(path, plan_keys(), frozenset(WHOLE), chosen)
    experiments = []
    for found in plan.requests:
        if "cluster" in found:
            found["cluster"] = list(comma_list(found["cluster"]))
        if "plugin" in found:
            found["plugin"] = [path.parent / name for name in comma_list(found["plugin"])]
        for one, other in (("steps", "epochs"), ("epochs", "steps")):
            if one in flags:
                found.pop(other, None)
        values = {**found, **flags}
        if "ranks" in found and not flags.keys() & {"ranks"} and "methods" in flags and not _swept(values):
            del values["ranks"]  # the plan's, for methods that are not run
        sets = plan_file.relevant(found.get("set", []), values, plan.methods)
        experiments.append({**values, "set": [*sets, *flags.get("set", [])]})
    return experiments


def _swept(values: dict[str, Any]) -> bool:
    """Whether ``--ranks`` concerns one of the methods, as far as they are known."""
    from bench.core import registry

    registry.load([Path(plugin) for plugin in values.get("plugin", ())])
    known = registry.methods()
    return any(name not in known or known[name].swept is not None for name in comma_list(values["methods"]))


def plan_keys() -> dict[str, type]:
    """What an experiment of a plan file may set, and whether it is a text, a list or a switch."""
    known: dict[str, type] = {name: list for name in (*_LISTS, "plugin", "cluster")}
    known |= {name: str for name in (*TRAIN_FLAGS, *_WHERE, "trials", "prune")}
    known |= {name: str for name in ("revision", "quantize")}
    return known | {name: bool for name in (*_SWITCHES, *_LOADING)}


def request(values: dict[str, Any]) -> tuple[Request, Options, Path]:
    """What the runs are, how they are carried out, and where their records go.

    Args:
        values: flags by name, of one experiment.

    Raises:
        RequestError: with every mistake among the flags that needs no look at methods, tasks or models.
    """
    from bench.models.loading import Loading
    from bench.sweep.expand import Request
    from bench.sweep.scheduler import Options

    wrong: list[Fault] = []
    methods, adapters, sets = (
        comma_list(values.get("methods")),
        comma_list(values.get("adapter")),
        tuple(values.get("set", ())),
    )
    if adapters:
        methods, sets = (*methods, "adapter"), (*sets, f"adapter.path={','.join(adapters)}")
    for name, example in (("methods", "--methods lora,lst"), ("task", "--task glue/sst2")):
        if not (methods if name == "methods" else comma_list(values.get(name))):
            there = "bench list methods" if name == "methods" else "bench list tasks"
            wrong.append(fault(f"Say which {name} to run: {example} (see: {there}).", "missing"))
    workers = 1
    try:
        workers = int(values.get("workers", 1))
        if workers < 1:
            raise ValueError
    except (ValueError, TypeError):
        wrong.append(fault(f"--workers: '{values['workers']}' is not a whole number of at least 1.", "invalid-value"))
    mirror = mirror_folder(values.get("data_dir"), wrong)
    limit: dict[str, Any] = {"cache_limit": _size(values["cache_limit"], wrong)} if "cache_limit" in values else {}
    if wrong:
        raise RequestError(wrong, code="invalid-value")
    plugins = tuple(Path(plugin) for plugin in values.get("plugin", ()))
    loading = Loading(values.get("quantize"), *(bool(values.get(name)) for name in _LOADING))
    request = Request(
        methods=methods,
        tasks=comma_list(values["task"]),
        models=_models(values, _base(adapters, loading, mirror) if adapters and "model" not in values else "minilm"),
        ranks=comma_list(values.get("ranks")),
        seeds=comma_list(values.get("seeds")) or ("0",),
        sets=sets,
        train={name: values[name] for name in TRAIN_FLAGS if name in values},
        plugins=plugins,
        mirror=mirror,
        loading=loading,
        elsewhere=values.get("executor", "local") != "local",
    )
    switches = {name: bool(values.get(name)) for name in ("save", "fresh", "retry_failed")}
    switches["share"] = not values.get("no_share")
    options = Options(workers=workers, plugins=plugins, mirror=mirror, **limit, **switches)
    return request, options, Path(values.get("out", DEFAULT_OUT))


def _size(text: Any, wrong: list[Fault]) -> int:
    """The bytes of ``--cache-limit``; adds a message when it is not a size."""
    from bench.planner.plan_config import parse_size

    try:
        return parse_size(str(text), "--cache-limit")
    except RequestError as error:
        wrong += error.messages
        return 0


def _base(adapters: tuple[str, ...], loading: Loading, mirror: Path | None) -> str:
    """The model that adapters in peft's format say they were trained on; ``minilm`` where none says it.

    Raises:
        RequestError: when they say several, or one that is not available.
    """
    from bench.models import loading as models

    found: dict[str, str] = {}
    for folder in adapters:
        try:
            config = json.loads((Path(folder) / "adapter_config.json").read_text(encoding="utf-8"))
            base = config["base_model_name_or_path"]
        except (OSError, ValueError, TypeError, KeyError):  # what is wrong with the folder, the method says
            continue
        if isinstance(base, str) and base:
            found[folder] = models.alias_of(base)
    if len(set(found.values())) > 1:
        said = ", ".join(f"{folder} on {base}" for folder, base in found.items())
        raise RequestError(
            f"--adapter: these were trained on different models ({said}): score one model's at a time.", code="conflict"
        )
    for folder, base in found.items():
        try:
            models.resolve(base, loading, mirror)
        except RequestError as error:
            raise RequestError(
                f"--adapter: {folder} says that it was trained on {base}, which is not available here: "
                f"{' '.join(error.messages)} Where it is elsewhere: --model.",
                code="unavailable",
            ) from error
        return base
    return "minilm"


def _models(values: dict[str, Any], base: str) -> tuple[str, ...]:
    """The models of a request, ``base`` where it names none; ``--revision`` is written into those without one."""
    names, revision = comma_list(values.get("model")) or (base,), values.get("revision")
    return tuple(name if not revision or "@" in name else f"{name}@{revision}" for name in names)
