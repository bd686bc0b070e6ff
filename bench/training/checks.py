"""Checks that a method does what it claims; each gives ``pass``, ``fail: why`` or ``skip: why``."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from bench.models.backbone import trainable
from bench.store.record import PASS

_STEPS_UNTIL_ALL_MOVE = 3  # LoRA's A has no gradient until B is not zero
_NO_DIFFERENCE = 1e-6


def digests(tensors: Mapping[str, Tensor]) -> dict[str, str]:
    """SHA-256 of each tensor's bytes."""
    return {name: hashlib.sha256(_bytes(tensor)).hexdigest() for name, tensor in tensors.items()}


def _bytes(tensor: Tensor) -> Any:
    flat = tensor.detach().contiguous().reshape(-1)
    return flat.view(torch.uint8).cpu().numpy()


def digest(tensors: Mapping[str, Tensor]) -> str:
    """One SHA-256 over named tensors, in name order."""
    whole = hashlib.sha256()
    for name, value in sorted(digests(tensors).items()):
        whole.update(f"{name}:{value}\n".encode())
    return whole.hexdigest()


def frozen(module: nn.Module) -> dict[str, Tensor]:
    """The frozen parameters by name."""
    return {name: value for name, value in module.named_parameters() if not value.requires_grad}


def frozen_unchanged(declared: frozenset[str], before: Mapping[str, str], module: nn.Module) -> str:
    """Only parameters that were trainable before training may change.

    Args:
        declared: names of the trainable parameters before training.
        before: digests of the frozen ones before training.
    """
    extra = sorted(set(trainable(module)) - declared)
    if extra:
        return f"fail: became trainable during training: {_some(extra)}"
    after = digests({name: value for name, value in module.named_parameters() if name in before})
    moved = sorted(name for name in before if after.get(name) != before[name])
    return f"fail: frozen parameters changed: {_some(moved)}" if moved else PASS


def all_trained(without_gradient: Sequence[str], before: Mapping[str, str], module: nn.Module, steps: int) -> str:
    """Every trainable tensor must have received a gradient and moved.

    Args:
        without_gradient: names of tensors whose gradient was zero in every step.
        before: digests of the trainable tensors before training.
        steps: optimizer steps that were done.
    """
    if steps < _STEPS_UNTIL_ALL_MOVE:
        return f"skip: fewer than {_STEPS_UNTIL_ALL_MOVE} steps, and a factor may wait for another to leave zero"
    if without_gradient:
        return f"fail: never received a gradient: {_some(sorted(without_gradient))}"
    after = digests({name: value for name, value in trainable(module).items() if name in before})
    still = sorted(name for name in before if after.get(name) == before[name])
    return f"fail: received a gradient and did not move: {_some(still)}" if still else PASS


def more_than_head(head_alone: np.ndarray[Any, Any], trained: np.ndarray[Any, Any]) -> str:
    """A method that trains more than the head must answer otherwise than its trained head on the untouched base."""
    gap = float(np.max(np.abs(head_alone - trained)))
    scale = max(1.0, float(np.max(np.abs(trained))))
    return PASS if gap > _NO_DIFFERENCE * scale else "fail: outputs are those of the trained head on the untouched base"


def trained_differs(before: np.ndarray[Any, Any], after: np.ndarray[Any, Any]) -> str:
    """The trained module must not give exactly the untrained one's outputs for the same rows."""
    return "fail: outputs are identical to the untrained model's" if np.array_equal(before, after) else PASS


def reload_reproduces(expected: np.ndarray[Any, Any], reloaded: np.ndarray[Any, Any], tolerance: float) -> str:
    """The saved weights in a fresh base model must give the same logits."""
    gap = float(np.max(np.abs(expected - reloaded)))
    return PASS if gap <= tolerance else f"fail: logits differ by up to {gap:.3g} after save and load"


def merge_equivalent(unmerged: np.ndarray[Any, Any], merged: np.ndarray[Any, Any], tolerance: float) -> str:
    """The merged model must give the same logits."""
    gap = float(np.max(np.abs(unmerged - merged)))
    scale = max(1.0, float(np.max(np.abs(unmerged))))
    return PASS if gap <= tolerance * scale else f"fail: logits differ by up to {gap:.3g} after merging"


def count_matches(counted: int, expected: int | None) -> str:
    """The number of trainable parameters must equal the method's own formula."""
    if expected is None:
        return "skip: the method has no formula"
    return PASS if counted == expected else f"fail: {counted:,} trainable parameters, the formula gives {expected:,}"


def seeds_differ(trained_sha256: str | None, others: Mapping[int, str | None]) -> str:
    """Runs that differ only in the seed must end in different weights.

    Args:
        others: seed → digest of the trained weights of the other runs.
    """
    if trained_sha256 is None or not others:
        return "skip: no run with another seed"
    same = sorted(seed for seed, sha in others.items() if sha == trained_sha256)
    return f"fail: the trained weights equal those of seed {same[0]}" if same else PASS


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
