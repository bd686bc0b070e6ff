"""Export a saved adapter: as a folder in peft's format, or as a merged transformers model."""

from __future__ import annotations

import json
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
    """The folder of a saved adapter, from its path or from a run id in a store.

    Raises:
        RequestError: when neither exists.
    """
    for folder in (Path(which), store / "adapters" / which):
        if (folder / CARD).is_file():
            return folder
    raise RequestError(
        f"'{which}' is neither a folder with a {CARD} nor a run with saved weights in {store / 'adapters'} "
        "(choose another folder of runs with --out; runs with --save keep weights).",
        code="not-found",
    )


def export(tuned: Tuned, how: str, to: Path) -> None:
    """Write a tuned model to a folder.

    Args:
        tuned: loaded with ``keep_original``; a merged export changes its model.
        how: ``peft`` or ``merged``.
        to: the folder, created if missing.

    Raises:
        RequestError: when the method does not support the format, or the folder is not empty.
    """
    if to.exists() and (not to.is_dir() or any(to.iterdir())):
        raise RequestError(f"--to {to}: it exists already. Choose a new folder.", code="exists")
    try:
        (_peft if how == "peft" else _merged)(tuned, to)
        if tuned.tokenizer is not None:
            tuned.tokenizer.save_pretrained(to)
    except ValueError as error:
        raise RequestError(str(error), code="unsupported") from error
    except OSError as error:
        raise RequestError(f"--to {to} cannot be written: {error.strerror or error}.", code="not-written") from error


def _peft(tuned: Tuned, to: Path) -> None:
    name = tuned.method.name
    if not isinstance(tuned.method, ExportsToPeft):
        raise RequestError(
            f"{name} has no counterpart in peft. Where it can be merged, use --format merged.", code="unsupported"
        )
    config, state = tuned.method.to_peft(tuned.model, tuned.original)
    if "num_virtual_tokens" in config and tuned.backbone.kind not in _TASKS:
        raise RequestError(
            f"{name}: peft supports virtual tokens in encoder-decoders and image models only with a class that does "
            "not work with transformers 5, and ignores them without it. bench.load reads the saved adapter.",
            code="unsupported",
        )
    known = {
        "base_model_name_or_path": tuned.base,
        "task_type": _TASKS.get(tuned.backbone.kind),
        "inference_mode": True,
        "revision": tuned.card["spec"]["model"].get("revision"),
    }
    if tuned.model is tuned.backbone.model:  # a model that peft wrapped already includes the head
        config = {**config, "modules_to_save": tuned.backbone.head_modules() or None}
        state = {
            **_other_trained(tuned, "base_model." if "num_virtual_tokens" in config else "base_model.model."),
            **state,
        }
    to.mkdir(parents=True, exist_ok=True)
    text = json.dumps({**config, **known}, indent=1, sort_keys=True, default=list)
    tensors = {key: value.detach().cpu().contiguous().clone() for key, value in state.items()}
    write_tensors(tensors, to / "adapter_model.safetensors", {"format": "pt"})
    (to / "adapter_config.json").write_text(text + "\n", encoding="utf-8")


def _other_trained(tuned: Tuned, prefix: str) -> dict[str, Tensor]:
    """The other trained tensors, under peft's names: the fresh head, and the base model's biases, norms and so on.

    Args:
        prefix: of peft's names for the base model's tensors.
    """
    head = {id(parameter) for parameter in tuned.backbone.head_parameters}
    state: dict[str, Tensor] = {}
    for name, value in tuned.model.named_parameters():
        if id(value) in head:
            state[prefix + name] = value
        # A wrapped map is at ``base``, in peft at ``base_layer``.
        elif value.requires_grad and name.replace(".base.", ".") in tuned.original:
            state[prefix + name.replace(".base.", ".base_layer.")] = value
    return state


def _merged(tuned: Tuned, to: Path) -> None:
    model: Any = tuned.model
    if isinstance(tuned.method, Mergeable):
        model = tuned.method.merge(model)
    model = unwrapped(model)
    if not hasattr(model, "save_pretrained") or set(model.state_dict()) != set(tuned.original):
        raise RequestError(
            f"{tuned.method.name} adds modules that cannot be folded into the base weights, so there is no plain "
            "model to write.",
            code="unsupported",
        )
    model.save_pretrained(to, safe_serialization=True)
