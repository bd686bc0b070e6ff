"""The layer around a run's stages: a run by itself, or one of several that share a frozen backbone.

A run among others measures its own speed before it joins them; one backbone serves all.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import islice
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from bench.data.encoding import Rows
from bench.data.sampling import evaluation_batches
from bench.models.frozen_backbone import readers
from bench.tasks.formulations.base import EvalResult, Formulation
from bench.training.checks import digests
from bench.training.memory import undone
from bench.training.shared.lockstep import Member
from bench.training.trainer import Trainer, TrainResult

if TYPE_CHECKING:
    from bench.training.prepare import Facts, Prepared, RunData, RunPlan

# Optimizer steps of the probe: a fortieth of the run's, since every run of the group does its own probe.
_FEWEST, _MOST, _SHARE = 6, 20, 40
_PLANNED = 2000  # most batches that it chooses from
_EVALUATED = 2  # evaluation batches of its inference probe


class SingleRun:
    """How the stages of a run without others read data, compute outputs and measure speed."""

    def once(self, key: Any, make: Callable[[], Any]) -> Any:
        """The result of ``make``, computed once per ``key`` for all runs of the process."""
        return make()

    def join(self, plan: RunPlan, data: RunData, prepared: Prepared) -> Facts:
        """Take the run's place among those that share a backbone, before training."""
        return {}

    def feeding(self, module: nn.Module) -> AbstractContextManager[None]:
        """While open, the frozen backbone is read together with the other runs."""
        return nullcontext()

    def training_speed(self, result: TrainResult) -> dict[str, Any]:
        """The record's ``speed`` members that training gave."""
        return {**speeds(result), "train_seconds": result.train_seconds}

    def inference_rate(self, form: Formulation, module: nn.Module, rows: Rows, result: EvalResult, size: int) -> float:
        """Examples per second of an evaluation pass.

        Args:
            result: of the pass over ``rows``.
            size: rows of an evaluation batch.
        """
        return result.rows / result.seconds

    def durations(self, seconds: dict[str, float]) -> Mapping[str, float | None]:
        """The record's durations of the stages."""
        return seconds


class SharedRun(SingleRun):
    """A run among others over one frozen backbone; its own speed is measured while it is still alone."""

    def __init__(self, member: Member) -> None:
        self.member = member
        self.backbones: dict[str, str] = {}

    def once(self, key: Any, make: Callable[[], Any]) -> Any:
        return self.member.once(key, make)

    def join(self, plan: RunPlan, data: RunData, prepared: Prepared) -> Facts:
        plan.phase("measuring speed")
        trainer = Trainer(prepared.module, plan.method, plan.settings, data.engine)
        probe = own_training(trainer, data.rows.train, data.batches.rows())
        plan.phase("waiting for the runs that share its frozen backbone")
        self.backbones = join(self.member, prepared.module, prepared.frozen_digests, data.engine.device)
        return {"speed": speeds(probe), "shared": {"runs": self.member.lockstep.size}}

    def feeding(self, module: nn.Module) -> AbstractContextManager[None]:
        return self.member.feeding(module, self.backbones)

    def training_speed(self, result: TrainResult) -> dict[str, Any]:
        return {}

    def inference_rate(self, form: Formulation, module: nn.Module, rows: Rows, result: EvalResult, size: int) -> float:
        return own_inference(form, module, rows, size)

    def durations(self, seconds: dict[str, float]) -> Mapping[str, float | None]:
        return dict.fromkeys((*seconds, "train_seconds"))  # other runs worked meanwhile


def own_training(trainer: Trainer, data: Rows, planned: Iterator[list[int]]) -> TrainResult:
    """Some steps of a run, done alone to time them; the module and all random states are put back.

    Args:
        trainer: a fresh one, which is not used for training after.
        data: the training rows.
        planned: row numbers of the run's batches, in their order.
    """
    wanted, engine, passes = trainer.steps, trainer.engine, trainer.settings.grad_accum
    steps = min(wanted, max(_FEWEST, min(_MOST, wanted // _SHARE)))
    warmup = TrainResult(step_seconds=[0.0] * steps).warmup_steps
    plan = list(islice(planned, min(wanted * passes, _PLANNED)))
    some = [*_spread(plan, data, warmup * passes), *_spread(plan, data, (steps - warmup) * passes)]
    batches = ((engine.batch(data, rows), int(data.lengths[rows].sum())) for rows in some)
    settings = dataclasses.replace(trainer.settings, steps=steps)
    with undone(trainer.module):
        probe = Trainer(trainer.module, trainer.method, settings, engine)
        return probe.fit(batches, None, True, lambda _: None)


def _spread(batches: Sequence[list[int]], data: Rows, count: int) -> list[list[int]]:
    """``count`` of the batches, evenly spread over what they cost, so that their mean is that of all."""
    order = sorted(batches, key=lambda rows: len(rows) * int(data.lengths[rows].max()))
    return [order[(2 * index + 1) * len(order) // (2 * count)] for index in range(count)]


def own_inference(form: Formulation, module: nn.Module, rows: Rows, batch_size: int) -> float:
    """Examples a second of a module that answers alone, over a few batches spread over the rows' lengths."""
    batches = evaluation_batches(rows.lengths, batch_size)
    chosen = _spread(batches, rows, min(_EVALUATED, len(batches)))
    some = rows.take([row for batch in chosen for row in batch])
    return len(some) / form.time_inference(module, some)


def join(member: Member, module: nn.Module, frozen: Mapping[str, str], device: torch.device) -> dict[str, str]:
    """Wait until all others are set up, and hold what is frozen only once.

    On a GPU the module waits on the CPU: what other runs measure meanwhile must be theirs alone.

    Args:
        module: the tuned module, on the device.
        frozen: digests of its frozen parameters by name.

    Returns:
        For each reader that others may answer, by dotted name, what identifies its backbone: see ``Member.feeding``.
    """
    if device.type == "cuda":
        module.to("cpu")
        torch._C._cuda_clearCublasWorkspaces()  # each thread has its own
        torch.cuda.empty_cache()
        member.gather()
        module.to(device)
        _hold_once(member, module, frozen)
    else:  # at once, so that at most two backbones are in memory
        _hold_once(member, module, frozen)
        member.gather()
    return identities(module, frozen)


def _hold_once(member: Member, module: nn.Module, frozen: Mapping[str, str]) -> None:
    """Let the first run's frozen parameters stand for the equal ones of all others."""
    for name, value in module.named_parameters():
        if name in frozen and type(value.data) is Tensor:
            key = ("frozen", name, frozen[name], value.dtype, value.shape)
            value.data = member.once(key, lambda value=value: value.data)  # type: ignore[misc]


def identities(module: nn.Module, frozen: Mapping[str, str]) -> dict[str, str]:
    """What identifies the backbone of each steady reader, by dotted name: a digest of its weights and of what is read.

    Args:
        frozen: digests of the module's frozen parameters by name.
    """
    known = {id(value): frozen[name] for name, value in module.named_parameters() if name in frozen}
    found = {}
    for name, reader in readers(module).items():
        if reader.steady and all(id(value) in known for value in reader.backbone.parameters()):
            parts = {key: known[id(value)] for key, value in reader.backbone.named_parameters()}
            parts |= digests(dict(reader.backbone.named_buffers()))
            text = "\n".join([name, reader.taps, *(f"{key}:{value}" for key, value in sorted(parts.items()))])
            found[name] = hashlib.sha256(text.encode()).hexdigest()
    return found


def speeds(fit: TrainResult) -> dict[str, Any]:
    """The record's ``speed`` members that optimizer steps tell."""
    return {
        "train_samples_per_second": fit.per_second(fit.samples),
        "train_tokens_per_second": fit.per_second(fit.tokens),
        "step_seconds": fit.step_seconds,
        "reference_step_seconds": fit.reference_seconds,
        "warmup_steps": fit.warmup_steps,
    }
