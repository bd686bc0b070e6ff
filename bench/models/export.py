"""A saved adapter in formats that others read: peft's folder, or a merged transformers model."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.core.errors import RequestError
from bench.core.protocols import ExportsToPeft, Mergeable
from bench.models.checkpoint import write_tensors
from bench.models.frozen_backbone import unwrapped
from bench.models.saved_adapter import CARD, Tuned

if TYPE_CHECKING:
    from torch import Tensor

FORMATS = ("peft", "merged")
# None for the rest: peft's class for seq2seq adds nothing to a forward, and asks transformers 5 for what it lacks.
_TASKS = {"classification": "SEQ_CLS", "regression": "SEQ_CLS", "causal-lm": "CAUSAL_LM"}


def find(which: str, store: Path) -> Path:
    """The folder of a saved adapter: given itself, or by the run's id in a store.

    Raises:
        RequestError: when there is neither.
    """
    for folder in (Path(which), store / "adapters" / which):
        if (folder / CARD).is_file():
            return folder
    raise RequestError(
        f"'{which}' is neither a folder with a {CARD} nor a run with saved weights in {store / 'adapters'} "
        "(choose another folder of runs with --out; runs with --save keep weights)."
    )


def export(tuned: Tuned, how: str, to: Path) -> None:
    """Write a tuned model to a folder.

    Args:
        tuned: loaded with ``keep_original``; a merged export changes its model.
        how: ``peft`` or ``merged``.
        to: the folder, made where it is missing.

    Raises:
        RequestError: when the method has no such form, or the folder is in use.
    """
    if to.exists() and (not to.is_dir() or any(to.iterdir())):
        raise RequestError(f"--to {to}: there is something already. Choose a new folder.")
    try:
        (_peft if how == "peft" else _merged)(tuned, to)
    except ValueError as error:
        raise RequestError(str(error)) from error
    except OSError as error:
        raise RequestError(f"--to {to} cannot be written: {error.strerror or error}.") from error


def _peft(tuned: Tuned, to: Path) -> None:
    name = tuned.method.name
    if not isinstance(tuned.method, ExportsToPeft):
        raise RequestError(f"{name} has no counterpart in peft. Where it can be merged, use --format merged.")
    config, state = tuned.method.to_peft(tuned.model, tuned.original)
    if "num_virtual_tokens" in config and tuned.backbone.kind not in _TASKS:
        raise RequestError(
            f"{name}: peft puts virtual tokens into encoder-decoders and image models only by a class of its own that "
            "does not work with transformers 5; without it, it would leave them out. bench.load reads the saved one."
        )
    known = {
        "base_model_name_or_path": tuned.base,
        "task_type": _TASKS.get(tuned.backbone.kind),
        "inference_mode": True,
        "revision": tuned.card["spec"]["model"].get("revision"),
    }
    if tuned.model is tuned.backbone.model:  # what peft itself wrapped has its head with it
        config = {**config, "modules_to_save": tuned.backbone.head_modules() or None}
        state = {**_beside(tuned, "base_model." if "num_virtual_tokens" in config else "base_model.model."), **state}
    to.mkdir(parents=True, exist_ok=True)
    written = json.dumps({**config, **known}, indent=1, sort_keys=True, default=list)
    tensors = {key: value.detach().cpu().contiguous().clone() for key, value in state.items()}
    write_tensors(tensors, to / "adapter_model.safetensors", {"format": "pt"})
    (to / "adapter_config.json").write_text(written + "\n", encoding="utf-8")
    if tuned.tokenizer is not None:
        tuned.tokenizer.save_pretrained(to)


def _beside(tuned: Tuned, below: str) -> dict[str, Tensor]:
    """What else was trained, under peft's names: the fresh head, and the base model's own biases, norms and so on.

    Args:
        below: what peft's names of the base model's tensors begin with.
    """
    from bench.models.backbone import trainable

    head = {id(parameter) for parameter in tuned.backbone.head_parameters}
    found: dict[str, Tensor] = {}
    for name, value in tuned.model.named_parameters():
        if id(value) in head:
            found[f"{below}{name}"] = value
    for name, value in trainable(tuned.model).items():
        # A wrapped map keeps the original below ``base``; peft keeps it below ``base_layer``.
        if id(value) not in head and _plain(name) in tuned.original:
            found[below + name.replace(".base.", ".base_layer.")] = value
    return found


def _plain(name: str) -> str:
    return name.replace(".base.", ".")


def _merged(tuned: Tuned, to: Path) -> None:
    model: Any = tuned.model
    if isinstance(tuned.method, Mergeable):
        model = tuned.method.merge(model)
    model = unwrapped(model)
    if not _same_names(model, tuned.original):
        raise RequestError(
            f"{tuned.method.name} adds modules that cannot be folded into the base weights, so there is no plain "
            "model to write."
        )
    model.save_pretrained(to, safe_serialization=True)
    if tuned.tokenizer is not None:
        tuned.tokenizer.save_pretrained(to)


def _same_names(model: Any, original: Mapping[str, Tensor]) -> bool:
    return hasattr(model, "save_pretrained") and set(model.state_dict()) == set(original)
