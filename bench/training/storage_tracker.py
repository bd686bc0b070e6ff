"""Follow every tensor storage from allocation to release, and say what the memory was for at its peak.

Only metadata is read (a storage's identity and size), so the same tracker measures a real run and, inside a
FakeTensorMode, a run that never happens. What a storage was for (a gradient, an optimizer state) is often known
only after it was allocated: events are logged first and resolved by replay.
"""

from __future__ import annotations

import gc
import itertools
import sys
import weakref
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

CATEGORIES = ("weights", "gradients", "optimizer", "activations", "other")

# What is allocated in these phases, and is none of weights, gradients or optimizer state, is no activation.
_NO_ACTIVATIONS = ("loaded", "step")

aten = torch.ops.aten

# Autograd does these in place on a buffer that nobody else holds, unless a dispatch mode is active
# (isTensorSubclassLike in ATen/TensorSubclassLikeUtils.h; can_accumulate_inplace in autograd/input_buffer.cpp).
_IN_PLACE_WITHOUT_A_MODE = frozenset(
    {
        aten.add.Tensor,
        aten.index_put.default,
        aten.index_add.default,
        aten.scatter_add.default,
        aten.scatter.src,
    }
)


# Modules whose frames torch puts around a mode's __torch_dispatch__ to keep torch.compile out of it.
_WRAPPERS = ("torch._compile", "torch._dynamo")


@dataclass(frozen=True)
class Peak:
    """The fullest moment of a stretch of work: ``split`` maps each of CATEGORIES to bytes, summing to total.

    An empty split is one that could not be measured.
    """

    total_bytes: int
    split: dict[str, int]
    phase: str


class _Event(NamedTuple):
    """``change`` bytes (negative: released) of storage ``serial`` (None: only a phase began)."""

    serial: int | None
    change: int
    phase: str


@dataclass
class _Live:
    """A storage that is held now; ``reference`` must stay alive for its callback to fire."""

    serial: int
    nbytes: int
    reference: weakref.ref[torch.UntypedStorage]


class StorageTracker(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch has no types here
    """Log each storage's allocation, resizing and release while active; resolve what it was for afterwards.

    Args:
        device: count storages on this device alone (no index: on any device of that type); None counts all.
        rounding: block size in bytes that each storage is rounded up to (the CUDA allocator's is 512).
        scratch: bytes that an operation's kernel takes for itself while it runs, from the operation and its
            arguments; a plan knows them of the kernels it models, a measurement does not.

    Under a FakeTensorMode, enter the tracker inside it. Storages that exist before are counted from when they
    are tagged or first used. One tracker follows one stretch of work; its log stays readable after the exit.
    """

    def __init__(
        self,
        device: torch.device | None = None,
        rounding: int = 1,
        scratch: Callable[[Any, tuple[Any, ...]], int] | None = None,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        if rounding < 1:
            raise ValueError(f"rounding must be at least 1 byte, not {rounding}")
        self.phase = "loaded"
        self.held_bytes = 0
        self._device = device
        self._rounding = rounding
        self._scratch = scratch
        self._serials = itertools.count()
        self._live: dict[int, _Live] = {}
        self._events: list[_Event] = []
        self._tagged: dict[int, str] = {}
        self._untagged: dict[int, str] = {}
        self._reused: tuple[int, int] | None = None
        self._depth = 0
        self._resize_patch: _ResizePatch | None = None
        self._collects = False

    def __enter__(self) -> Self:
        if self._depth == 0:
            self._resize_patch = _ResizePatch(self)
            # A collection at an arbitrary moment would release what is held in cycles, and peaks would depend on it.
            self._collects = gc.isenabled()
            gc.disable()
        self._depth += 1
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)  # type: ignore[no-untyped-call]
        self._depth -= 1
        if self._depth == 0:
            if self._resize_patch is not None:
                self._resize_patch.undo()
            if self._collects:
                gc.enable()
            # Without their weak references the storages that live on are simply no longer followed.
            self._live.clear()

    def mark(self, phase: str) -> None:
        """Begin ``phase``; what is held now counts towards its peak. A phase may begin again."""
        self.phase = phase
        self._log(None, 0)

    def tag(self, tensors: Iterable[Tensor], category: str) -> None:
        """Say what the storages of ``tensors`` are for, also for the time before this call; the first tag stays.

        A storage not seen before is counted from now on.

        Raises:
            ValueError: when ``category`` is not one of CATEGORIES.
        """
        if category not in CATEGORIES:
            raise ValueError(f"Unknown category '{category}'. Known: {', '.join(CATEGORIES)}.")
        for storage in self._storages(tensors):
            self._tagged.setdefault(self._see(storage, category), category)

    def forget(self, tensors: Iterable[Tensor]) -> None:
        """Count the storages of ``tensors`` as released now, though somebody outside still holds them."""
        for storage in self._storages(tensors):
            live = self._live.get(storage._cdata)
            if live is not None:
                self._release(storage._cdata, live)

    def log(self) -> Iterator[tuple[int | None, int, str, str]]:
        """Yield what happened, in order: a storage's number (None: a phase began), bytes, phase, and what it is for."""
        for serial, change, phase in self._events:
            category = "" if serial is None else self._tagged.get(serial) or self._untagged[serial]
            yield serial, change, phase, category

    def peaks(self) -> dict[str, Peak]:
        """Return each phase's peak, in the order in which the phases began (bytes)."""
        held = dict.fromkeys(CATEGORIES, 0)
        total = 0
        best: dict[str, Peak] = {}
        for serial, change, phase, category in self.log():
            if serial is not None:
                held[category] += change
                total += change
            if phase not in best or total > best[phase].total_bytes:
                best[phase] = Peak(total, dict(held), phase)
        return best

    def peak(self) -> Peak:
        """Return the highest of all phases' peaks; all zeros when nothing was logged."""
        nothing = Peak(0, dict.fromkeys(CATEGORIES, 0), self.phase)
        return max(self.peaks().values(), key=lambda peak: peak.total_bytes, default=nothing)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if any(hasattr(kind, "__tensor_flatten__") for kind in types):
            return NotImplemented  # a wrapper subclass first takes itself apart; then its parts come here
        if torch.is_inference_mode_enabled() and func.namespace != "prim":  # not an operation: a fake tensor's device
            # Elsewhere autograd has taken composite operations apart; here their insides would stay unseen.
            with self:
                out = func.decompose(*args, **kwargs)
            if out is not NotImplemented:
                return out
        if func is not aten.lift_fresh.default:  # its input is new, and not even on the device in a fake run
            for storage in self._storages(_tensors((args, kwargs))):
                self._see(storage, "other")
        default = "other" if self.phase in _NO_ACTIVATIONS else "activations"
        scratch = self._scratch(func, args) if self._scratch is not None else 0
        if scratch:
            serial = next(self._serials)
            self._untagged[serial] = default
            self._log(serial, scratch)
        out = func(*args, **kwargs)
        for storage in self._storages(_tensors(out)):
            self._see(storage, default)
        if scratch:
            self._log(serial, -scratch)
        if func in _IN_PLACE_WITHOUT_A_MODE and _called_by_autograd(sys._getframe()):
            self._note_reuse(args[0])
        return out

    def _see(self, storage: torch.UntypedStorage, category: str) -> int:
        """Log ``storage`` if it is new or has another size; ``category`` is what it is if nobody tags it."""
        key, nbytes = storage._cdata, -(-storage.nbytes() // self._rounding) * self._rounding
        live = self._live.get(key)
        if live is None:
            serial = next(self._serials)
            self._untagged[serial] = category
            reference = weakref.ref(storage, lambda _: self._release(key, live) if live else None)
            live = self._live[key] = _Live(serial, 0, reference)
        if live.nbytes != nbytes:
            self._log(live.serial, nbytes - live.nbytes)
            live.nbytes = nbytes
        return live.serial

    def _release(self, key: int, live: _Live) -> None:
        # The address may already belong to another storage, or the tracker may have been left.
        if self._live.get(key) is live:
            del self._live[key]
            self._log(live.serial, -live.nbytes)

    def _log(self, serial: int | None, change: int) -> None:
        self.held_bytes += change
        event = _Event(serial, change, self.phase)
        if self._reused is not None and serial == self._reused[1]:
            self._events.insert(self._reused[0], event)
            self._reused = None
            return
        if change > 0:
            self._reused = None
        self._events.append(event)

    def _note_reuse(self, operand: Tensor) -> None:
        """Count an out-of-place accumulation as in place, if ``operand`` dies before anything is allocated.

        A dispatch mode makes autograd add gradients out of place. Without one it writes into ``operand`` when
        that is dense and nobody else holds it, so the copy must not show: the release goes before the allocation.
        """
        storage = operand.untyped_storage()
        live = self._live.get(storage._cdata)
        dense = operand.numel() * operand.element_size() == storage.nbytes()
        if live is not None and dense and self._events[-1].change > 0:
            self._reused = (len(self._events) - 1, live.serial)

    def _storages(self, tensors: Iterable[Tensor]) -> Iterator[torch.UntypedStorage]:
        for tensor in tensors:
            # A fake tensor's storage is on the meta device: the tensor knows the device that is meant.
            if self._device is None or _same_device(tensor.device, self._device):
                yield from _storages(tensor)


class _ResizePatch:
    """While in place, ``UntypedStorage.resize_``, which no dispatch mode sees, tells the tracker."""

    def __init__(self, tracker: StorageTracker) -> None:
        original = self._original = torch.UntypedStorage.resize_

        def resize_(storage: Any, size: int) -> Any:
            result = original(storage, size)
            if storage._cdata in tracker._live:
                tracker._see(storage, "other")
            return result

        torch.UntypedStorage.resize_ = resize_  # type: ignore[assignment, method-assign]

    def undo(self) -> None:
        torch.UntypedStorage.resize_ = self._original  # type: ignore[method-assign]


def _tensors(value: Any) -> Iterator[Tensor]:
    """Yield the tensors in an operation's arguments or results."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _tensors(item)
    elif isinstance(value, dict):
        yield from _tensors(list(value.values()))


def _storages(tensor: Tensor) -> Iterator[torch.UntypedStorage]:
    """Yield the storages behind ``tensor``: one, or those of the parts of a wrapper subclass or sparse tensor."""
    if hasattr(tensor, "__tensor_flatten__"):
        names, _ = tensor.__tensor_flatten__()
        for name in names:
            yield from _storages(getattr(tensor, name))
    elif tensor.layout is torch.sparse_coo:
        yield from (tensor._indices().untyped_storage(), tensor._values().untyped_storage())
    elif tensor.layout is torch.strided:
        yield tensor.untyped_storage()


def _same_device(device: torch.device, wanted: torch.device) -> bool:
    return device.type == wanted.type and (wanted.index is None or device.index == wanted.index)


def _called_by_autograd(frame: Any) -> bool:
    """Whether ``frame`` was entered from a built-in backward node: no Python between it and the engine."""
    if torch.is_grad_enabled() or torch._C._current_autograd_node() is None:
        return False
    caller = frame.f_back
    while caller is not None and caller.f_globals.get("__name__", "").startswith(_WRAPPERS):
        caller = caller.f_back
    # No caller: one of the engine's own threads, which run CUDA's backward.
    return caller is None or caller.f_code.co_name == "_engine_run_backward"
