"""A saved adapter's folder: ``adapter.safetensors`` and a JSON card that describes it and how to load it."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.core.errors import RequestError, faults
from bench.data.mirror import mirror_folder
from bench.models.aliases import ALIASES

if TYPE_CHECKING:
    from torch import Tensor, nn

    from bench.core.protocols import Method
    from bench.models.backbone import Backbone
    from bench.models.resolve import ModelSource
    from bench.store.record import Record

SCHEMA = 1
CARD, WEIGHTS = "card.json", "adapter.safetensors"
_NEEDED = {"schema": int, "run_id": str, "spec": dict, "scores": dict}
_PARTS = ("method", "task", "model", "seed")
GRANTS = ("trust_remote_code", "allow_pickle")
_GRANT = "bench.load(folder, trust=['{}']), or --{} where it is a command"


def card(record: Record) -> dict[str, Any]:
    """The description of a run's saved weights, for people and ``bench.load``."""
    return {
        "schema": SCHEMA,
        "run_id": record["run_id"],
        "spec": record["spec"],
        "scores": record["scores"],
        "main_score": record["main_score"],
        "stderr": record["stderr"],
        "parameters": record["parameters"],
        "weights": WEIGHTS,
        "environment": record["environment"],
        "created_at": record["created_at"],
        "how_to_load": "import bench; tuned = bench.load(folder); tuned.model(**tuned.tokenizer(text, "
        "return_tensors='pt')).logits",
    }


def write(folder: Path, record: Record) -> Path:
    """Write a record's card beside its weights; returns the file's path."""
    from bench.core.files import write_atomically

    path = folder / CARD
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(path, json.dumps(card(record), ensure_ascii=False, indent=1).encode())
    return path


def read(folder: Path) -> dict[str, Any]:
    """Read a card.

    Raises:
        RequestError: when there is none, or it is not one.
    """
    path = folder / CARD
    if not path.is_file():
        raise RequestError(
            f"{folder} holds no saved adapter: there is no {path}. Runs with --save write one.", code="not-found"
        )
    try:
        content = json.loads(path.read_bytes())
    except ValueError as error:
        raise RequestError(f"{path} is not JSON: {error}.", code="damaged") from error
    fields = content if isinstance(content, dict) else {}
    wrong = [name for name, kind in _NEEDED.items() if type(fields.get(name)) is not kind]
    wrong = wrong or [f"spec.{name}" for name in _PARTS if name not in fields["spec"]]
    if wrong:
        raise RequestError(
            f"{path} is not an adapter's card: {', '.join(wrong)} missing or of the wrong type.", code="damaged"
        )
    if fields["schema"] != SCHEMA:
        raise RequestError(
            f"{path} has the card schema {fields['schema']}; this version reads {SCHEMA}.", code="damaged"
        )
    return fields


@dataclass
class Tuned:
    """A tuned model, ready to use.

    Attributes:
        model: in eval mode on the CPU; forward takes a batch by keyword and gives ``.logits``.
        tokenizer: the base model's own; None where it reads images.
        card: the description of its run.
        method: the method with its hyper-parameters.
        backbone: the base model it is attached to.
        original: the base model's tensors before the method was attached, by name; empty unless requested.
        base: where transformers and peft find the base model: its Hub id, or a folder on this machine.
    """

    model: nn.Module
    tokenizer: Any
    card: dict[str, Any]
    method: Method
    backbone: Backbone
    original: dict[str, Tensor]
    base: str


def load(
    folder: str | Path,
    model: str | None = None,
    any_base: bool = False,
    plugins: Iterable[str | Path] = (),
    keep_original: bool = False,
    trust: Collection[str] = (),
) -> Tuned:
    """Rebuild a tuned model from a folder that ``bench run --save`` wrote (``DIR/adapters/<run_id>``).

    Args:
        folder: holds ``card.json`` and ``adapter.safetensors``; only JSON and safetensors are read.
        model: where the base model is now, as ``--model`` takes it; default: the card's.
        any_base: load even when the base model is not the one that was tuned.
        plugins: files that define the method, when it is not built in.
        keep_original: also keep a copy of the base model's untuned tensors (export needs it).
        trust: ``trust_remote_code``, ``allow_pickle``: allowed where the card asks for them; a card from someone else
            cannot allow them.

    Raises:
        RequestError: when the folder holds no adapter, the base model is not available, has changed or needs what
            ``trust`` does not allow, or the weights do not fit the method.
    """
    from bench.core import registry
    from bench.models import loading

    folder = Path(folder)
    content = read(folder)
    registry.load([Path(plugin) for plugin in plugins])
    spec = content["spec"]
    method = _method(folder, spec["method"])
    _check_grants(folder, spec["model"], trust)
    source = loading.resolve(model or spec["model"]["name"], loading.Loading.of(spec["model"]), mirror_folder())
    if source.fingerprint != spec["model"]["fingerprint"] and not any_base:
        raise RequestError(
            f"{folder} was tuned on {spec['model']['source']} with the fingerprint {spec['model']['fingerprint']}; "
            f"'{source.name}' has {source.fingerprint}, so the tuned weights would give other answers. Name the "
            "right base (--model; in Python model=). In Python, any_base=True loads it all the same.",
            code="conflict",
        )
    head = spec["task"].get("form", {}).get("model_kind", spec["task"]["kind"])
    backbone = loading.load(source, head, tuple(spec["task"]["labels"]))
    original = {}
    if keep_original:
        original = {key: value.detach().clone() for key, value in backbone.model.state_dict().items()}
    try:
        module = method.attach(backbone)
    except ValueError as error:
        raise RequestError(str(error), code="unsupported") from error
    _fill(module, folder)
    tokenizer = None if loading.family(source) == "vision" else loading.tokenizer(source)
    if tokenizer is not None:
        loading.pad_with(backbone.model, tokenizer.pad_token_id)
    return Tuned(module.eval(), tokenizer, content, method, backbone, original, _public_name(source))


def _method(folder: Path, spec: dict[str, Any]) -> Method:
    """The method of a card's specification, with its hyper-parameters."""
    from bench.core import options, registry

    name = spec["name"]
    try:
        entry = registry.method_entry(name)
    except RequestError as error:
        raise RequestError(
            f"{folder} was made with the method '{name}', which is in a file of its own: name that file "
            f"(--plugin FILE; in Python plugins=[FILE]). {error}",
            code="missing",
        ) from error
    method: Method = options.build(entry.value, {key: value for key, value in spec.items() if key != "name"}, name)
    return method


def _check_grants(folder: Path, model: dict[str, Any], trust: Collection[str]) -> None:
    """Raise RequestError when the card asks for an option that the caller does not allow."""
    wrong = [
        f"{folder / CARD} asks for {name} with the base model {model.get('name')}, which lets others' files run "
        f"code here. Where you trust them: {_GRANT.format(name, name.replace('_', '-'))}."
        for name in GRANTS
        if model.get(name) and name not in trust
    ]
    if wrong:
        raise RequestError(faults(wrong, "unsafe"))


def _public_name(source: ModelSource) -> str:
    """The base model's name for other tools, which do not know this package's aliases."""
    name = source.name.partition("@")[0]
    alias = ALIASES.get(name)
    if alias is not None and alias.hub is not None:
        return alias.hub
    return str(Path(source.location).resolve()) if source.source.startswith(("folder:", "package:")) else name


def _fill(module: nn.Module, folder: Path) -> None:
    """Load the saved tensors and check that no trained one is missing."""
    from bench.models.backbone import trainable
    from bench.models.checkpoint import load_state

    path = folder / WEIGHTS
    if not path.is_file():
        raise RequestError(f"{folder} has a card but no {WEIGHTS}.", code="damaged")
    try:
        loaded = load_state(path, module)
    except (KeyError, RuntimeError) as error:
        raise RequestError(
            f"{path} does not fit its method, whose code may have changed: {error}.", code="damaged"
        ) from error
    missing = sorted(set(trainable(module)) - loaded)
    if missing:
        raise RequestError(
            f"{path} lacks {missing[0]} and {len(missing) - 1} more tensors that the method trains.", code="damaged"
        )
