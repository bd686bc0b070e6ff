"""Measure the memory of training and inference with a probe whose effects are undone.

The split comes from the storage tracker. On the CPU the total does too; on CUDA it is the allocator's peak, measured in
a second pass without the tracker, and what the tracker cannot see (workspaces) is in "other".
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils._pytree import tree_leaves

from bench.core.protocols import Batch
from bench.training.storage_tracker import Peak, StorageTracker

PHASES = ("loaded", "forward", "backward", "step")

# kMinBlockSize in c10/cuda/CUDACachingAllocator.h: every block is a multiple of it.
CUDA_BLOCK_BYTES = 512

# Memory of a process's CUDA context outside the allocator (modules, cuBLAS handles); about 0.5 GiB on an H100.
_CONTEXT_BYTES = 1 << 30


@dataclass(frozen=True)
class Loop:
    """One training step as the trainer does it, in three parts.

    ``forward`` maps a batch on the module's device to the loss, ``backward`` fills ``.grad``, and ``step`` does
    the optimizer's step and clears the gradients. A learning-rate schedule must not advance in it.
    """

    forward: Callable[[Batch], Tensor]
    backward: Callable[[Tensor], object]
    step: Callable[[], object]


@dataclass(frozen=True)
class MemoryReport:
    """Result of a probe: ``phases`` has the peak of each of PHASES, ``train_peak`` is the highest of them.

    ``source`` is "cuda" or "tracker"; ``reserved_peak_bytes`` is the memory that the CUDA allocator reserved.
    """

    source: str
    train_peak: Peak
    phases: dict[str, Peak]
    reserved_peak_bytes: int | None


def measure_training(
    module: nn.Module,
    optimizer: torch.optim.Optimizer,
    batches: Sequence[Batch],
    loop: Loop,
    rounding: int | None = None,
    split: bool = True,
) -> MemoryReport:
    """Do two optimizer steps and report their memory; the second has optimizer state, so it has the true peak.

    The first only creates that state, so on a CPU it takes two rows (batch norm needs two).

    Everything the steps change is restored: parameters, buffers, ``.grad``, training flags, optimizer state and
    options, and the random states of torch (CPU and the module's device) and Python.

    Args:
        module: all on one device; inside a FakeTensorMode, a module of fake tensors works the same.
        optimizer: of the module's trainable parameters, preferably without state.
        batches: the micro-batches of one optimizer step (more than one is gradient accumulation), each as large
            as the run's largest, on any device; rows come first in their tensors. A batch is held from its forward
            to the end of its backward.
        loop: forward, backward and step.
        rounding: block size of the allocator to assume in bytes; None is 512 on CUDA and 1 elsewhere.
        split: split the peaks by category; false on CUDA: only the allocator's totals, right also for compiled code.

    Raises:
        ValueError: when there are no batches, or the module has no parameters.
        torch.OutOfMemoryError: when it does not fit; the module is restored.
    """
    if not batches:
        raise ValueError("measure_training needs at least one batch")

    # The GPU's allocator is also read for what it reserves: that needs two whole steps.
    first = batches if _on_real_gpu(module) else [_rows(batches[0], 2)]

    def two_steps(meter: _Meter) -> None:
        for some in (first, batches):
            _step(module, some, loop, meter)

    phases, reserved = _measure(module, optimizer, two_steps, rounding, split)
    source = "tracker" if reserved is None else "cuda"
    highest = max(phases.values(), key=lambda peak: peak.total_bytes)
    return MemoryReport(source, highest, phases, reserved)


def trace_step(
    module: nn.Module,
    optimizer: torch.optim.Optimizer,
    batches: Sequence[Batch],
    loop: Loop,
    tracker: StorageTracker,
) -> None:
    """Do one optimizer step of measure_training under ``tracker`` and undo it, to read the tracker's log."""
    with _untouched(module, optimizer), tracker:
        meter = _TrackerMeter(module, optimizer, tracker)
        meter.claim()
        _step(module, batches, loop, meter)
        meter.claim()


def _step(module: nn.Module, batches: Sequence[Batch], loop: Loop, meter: _Meter) -> None:
    module.train()
    for batch in batches:
        meter.enter("forward")
        inputs = _moved(batch, _device(module))
        meter.hold(inputs)
        loss = loop.forward(inputs)
        meter.enter("backward")
        loop.backward(loss)
        meter.drop(inputs)
        del loss, inputs
    meter.enter("step")
    loop.step()


def measure_inference(
    module: nn.Module,
    batch: Batch,
    forward: Callable[[Batch], object],
    rounding: int | None = None,
    split: bool = True,
) -> Peak:
    """Return the peak of one forward in eval mode, without gradients; the module is left as it was.

    ``batch`` should be as large as the run's largest, on any device; the result of ``forward`` is dropped.
    ``rounding`` and ``split`` are as in measure_training.
    """

    def evaluate(meter: _Meter) -> None:
        module.eval()
        meter.enter("evaluation")
        # Not inference_mode: a buffer cached under it could not be trained with later.
        with torch.no_grad():
            inputs = _moved(batch, _device(module))
            meter.hold(inputs)
            forward(inputs)
            meter.drop(inputs)

    return _measure(module, None, evaluate, rounding, split)[0]["evaluation"]


def measure_call(module: nn.Module, phase: str, call: Callable[[], object], rounding: int | None = None) -> Peak:
    """Return the peak of ``call``, reported as ``phase`` (a data-dependent initialisation, say).

    Its effects on the module are undone, so it must be called again afterwards. Tensors that only it reads (its
    batches) count as "other" from their first use. ``rounding`` is as in measure_training.
    """

    def once(meter: _Meter) -> None:
        meter.enter(phase)
        call()

    return _measure(module, None, once, rounding)[0][phase]


@contextlib.contextmanager
def undone(module: nn.Module) -> Iterator[None]:
    """Restore the module at the end of the block: parameters, buffers, ``.grad``, training flags, random states."""
    with _untouched(module, None):
        yield


def gpu_is_busy(device: torch.device) -> str | None:
    """Why a measurement on ``device`` would share it with another process; None when it is free or not a GPU."""
    if device.type != "cuda":
        return None
    free, total = torch.cuda.mem_get_info(device)
    foreign = total - free - torch.cuda.memory_reserved(device)
    if foreign > _CONTEXT_BYTES:
        return f"other processes hold {foreign / 2**30:.1f} GiB of the memory of {device}"
    # Inside a container process ids cannot be compared, but at most one of those listed is this process.
    try:
        listed = torch.cuda.list_gpu_processes(device).count(" uses ")
    except Exception:  # NVML may hide processes (containers, WSL, MIG)
        return None
    return f"{listed - 1} other process(es) use {device}" if listed > 1 else None


class _Meter(Protocol):
    """Receives the events of a probe: a phase begins; a batch's tensors are held; they are dropped."""

    def enter(self, phase: str) -> None: ...

    def hold(self, batch: Batch) -> None: ...

    def drop(self, batch: Batch) -> None: ...


class _TrackerMeter:
    """Peaks and their split from a StorageTracker; tags the storages at the end of each phase."""

    def __init__(self, module: nn.Module, optimizer: torch.optim.Optimizer | None, tracker: StorageTracker) -> None:
        self._module, self._optimizer, self._tracker = module, optimizer, tracker

    def enter(self, phase: str) -> None:
        self.claim()
        self._tracker.mark(phase)

    def claim(self) -> None:
        parameters = list(self._module.parameters())
        self._tracker.tag([*parameters, *self._module.buffers()], "weights")
        self._tracker.tag([p.grad for p in parameters if p.grad is not None], "gradients")
        if self._optimizer is not None:
            self._tracker.tag(_state_tensors(self._optimizer), "optimizer")

    def hold(self, batch: Batch) -> None:
        self._tracker.tag(batch.values(), "other")

    def drop(self, batch: Batch) -> None:
        self._tracker.forget(batch.values())


class _AllocatorMeter:
    """Peaks of torch's CUDA allocator, its counters reset at each phase (bytes)."""

    def __init__(self, device: torch.device) -> None:
        self.phases: dict[str, int] = {}
        self.reserved_peak_bytes = 0
        self._device = device
        self._phase = "loaded"
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)

    def enter(self, phase: str) -> None:
        self.read()
        self._phase = phase
        torch.cuda.reset_peak_memory_stats(self._device)

    def read(self) -> None:
        peak = torch.cuda.max_memory_allocated(self._device)
        self.phases[self._phase] = max(self.phases.get(self._phase, 0), peak)
        self.reserved_peak_bytes = max(self.reserved_peak_bytes, torch.cuda.max_memory_reserved(self._device))

    def hold(self, batch: Batch) -> None:
        """Nothing to do: the allocator counts it."""

    def drop(self, batch: Batch) -> None:
        """Nothing to do: the allocator counts it."""


def _measure(
    module: nn.Module,
    optimizer: torch.optim.Optimizer | None,
    work: Callable[[_Meter], None],
    rounding: int | None,
    split: bool = True,
) -> tuple[dict[str, Peak], int | None]:
    """Do ``work`` under the tracker, on CUDA also under the allocator's counters: peaks per phase, reserved.

    On CUDA the tracker's pass may run out of memory where the work alone fits: then the splits are empty.
    """
    device = _device(module)
    counters = None
    if _on_real_gpu(module):
        # A pass of its own: a dispatch mode makes autograd add gradients out of place, which takes more memory.
        with _untouched(module, optimizer):
            counters = _AllocatorMeter(device)
            work(counters)
            counters.read()
        if not split:
            return _totals(counters)
    if rounding is None:
        rounding = CUDA_BLOCK_BYTES if device.type == "cuda" else 1
    tracker = StorageTracker(device, rounding)
    try:
        with _untouched(module, optimizer), tracker:
            meter = _TrackerMeter(module, optimizer, tracker)
            meter.claim()
            work(meter)
            meter.claim()
    except torch.OutOfMemoryError:
        if counters is None:
            raise
        # Only the traced pass did not fit: there autograd adds gradients out of place.
        torch.cuda.empty_cache()
        return _totals(counters)
    phases = tracker.peaks()
    if counters is None:
        return phases, None
    totals = {name: _reconciled(phases[name], total) for name, total in counters.phases.items()}
    return totals, counters.reserved_peak_bytes


def _totals(counters: _AllocatorMeter) -> tuple[dict[str, Peak], int]:
    """Peaks without a split."""
    return {name: Peak(total, {}, name) for name, total in counters.phases.items()}, counters.reserved_peak_bytes


@contextlib.contextmanager
def _untouched(module: nn.Module, optimizer: torch.optim.Optimizer | None) -> Iterator[None]:
    """Restore what a probe changes. The copies are on the CPU and made before any tracker is active."""
    parameters = list(module.parameters())
    gradients = [p.grad for p in parameters]
    buffers = [(m, dict(m._buffers)) for m in module.modules()]
    flags = [(m, m.training) for m in module.modules()]
    state = {} if optimizer is None else {p: dict(entry) for p, entry in optimizer.state.items()}
    groups = [] if optimizer is None else [dict(group) for group in optimizer.param_groups]
    changing = [p for p in parameters if p.requires_grad] + list(module.buffers())
    changing += [] if optimizer is None else _state_tensors(optimizer)
    copies = [(t, t.detach().to("cpu", copy=True)) for t in changing]
    python_random = random.getstate()
    for p in parameters:
        p.grad = None
    try:
        with torch.random.fork_rng(devices=[_device(module)] if _on_real_gpu(module) else []):
            yield
    finally:
        random.setstate(python_random)
        with torch.no_grad():
            for tensor, copy in copies:
                tensor.copy_(copy)
        for p, gradient in zip(parameters, gradients, strict=True):
            p.grad = gradient
        for m, saved in buffers:
            m._buffers.clear()
            m._buffers.update(saved)
        for m, flag in flags:
            m.training = flag
        if optimizer is not None:
            optimizer.state.clear()
            optimizer.state.update(state)
            for group, options in zip(optimizer.param_groups, groups, strict=True):
                group.update(options)


def _reconciled(peak: Peak, total_bytes: int) -> Peak:
    """Return ``peak`` with the allocator's total; the difference goes to "other", then to activations."""
    split = dict(peak.split)
    difference = total_bytes - peak.total_bytes
    split["other"] += difference
    if split["other"] < 0:
        split["activations"] += split["other"]
        split["other"] = 0
    return Peak(total_bytes, split, peak.phase)


def _state_tensors(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(list(optimizer.state.values())) if isinstance(leaf, Tensor)]


def _rows(batch: Batch, count: int) -> Batch:
    return {name: tensor[:count] if tensor.ndim else tensor for name, tensor in batch.items()}


def _moved(batch: Batch, device: torch.device) -> dict[str, Tensor]:
    return {name: tensor.to(device) for name, tensor in batch.items()}


def _device(module: nn.Module) -> torch.device:
    for parameter in module.parameters():
        return parameter.device
    raise ValueError(f"{type(module).__name__} has no parameters")


def _on_real_gpu(module: nn.Module) -> bool:
    fake = any(isinstance(p, FakeTensor) for p in module.parameters())
    return not fake and _device(module).type == "cuda"


def out_of_memory(error: BaseException) -> bool:
    """Whether an exception means out of memory, on the GPU or on the host."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    phrases = ("can't allocate memory", "out of memory", "ALLOC_FAILED")
    return isinstance(error, RuntimeError) and any(phrase in str(error) for phrase in phrases)
