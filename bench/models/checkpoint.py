"""The tensors that restore a tuned module: select, write and read them as safetensors."""

from __future__ import annotations

import uuid
import weakref
from collections.abc import Collection, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from bench.models.backbone import Backbone


def original_tensors(backbone: Backbone) -> weakref.WeakValueDictionary[int, Tensor]:
    """The checkpoint's tensors (without the fresh head's) by identity.

    Weak references, so that the id of a freed tensor is not mistaken for that of a method's new one.
    """
    fresh = {id(parameter) for parameter in backbone.head_parameters}
    values = backbone.model.state_dict(keep_vars=True).values()
    return weakref.WeakValueDictionary({id(value): value for value in values if id(value) not in fresh})


def saved_state(module: nn.Module, originals: Mapping[int, Tensor]) -> dict[str, Tensor]:
    """The tensors that restore the tuned model: trained ones, the fresh head, and those that the method added.

    Args:
        originals: ``original_tensors`` of the model before the method was attached.
    """
    state: dict[str, Tensor] = {}
    seen: set[int] = set()
    held = {id(value) for value in (*module.parameters(), *module.buffers())}  # not the extra entries of quantised maps
    for name, value in module.state_dict(keep_vars=True).items():
        if id(value) in held - seen and (value.requires_grad or id(value) not in originals):
            seen.add(id(value))
            state[name] = value.detach().cpu().contiguous()
    return state


def save_state(path: Path, state: dict[str, Tensor]) -> int:
    """Write tensors as safetensors; returns the file's bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(f".{uuid.uuid4().hex}.partial")  # two processes may run the same configuration
    try:
        write_tensors(state, partial)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    return path.stat().st_size


def write_tensors(state: dict[str, Tensor], path: Path, metadata: dict[str, str] | None = None) -> None:
    """Write a safetensors file with the default permissions of new files (the library itself sets 0600)."""
    from safetensors.torch import save_file

    path.touch()
    mode = path.stat().st_mode
    save_file(state, path, metadata)
    path.chmod(mode)


def load_state(path: Path, module: nn.Module, only: Collection[str] | None = None) -> set[str]:
    """Load saved tensors into a module with the same method attached; returns their names.

    Args:
        only: names of the tensors to load; None: all.

    Raises:
        KeyError: when the module has no place for a tensor.
    """
    from safetensors.torch import load_file

    places = module.state_dict(keep_vars=True)
    saved = {name: value for name, value in load_file(path).items() if only is None or name in only}
    with torch.no_grad():
        for name, value in saved.items():
            places[name].copy_(value)
    return set(saved)
