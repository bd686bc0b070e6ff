"""The memory part of a record: a probe of a second optimizer step and one evaluation, at the run's largest batches."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from torch import nn

from bench.core.protocols import Batch
from bench.models.inference import Engine
from bench.store.record import PHASES, SPLIT
from bench.training.memory import Loop, measure_inference, measure_training, undone
from bench.training.storage_tracker import Peak
from bench.training.trainer import Trainer

_UNSEEN = "the memory of compiled code cannot be traced on a CPU"
_COMPILED = "for compiled code the allocator reports only the total"
_NO_ROOM = "training fits, but the tracing pass ran out of memory"


def rehearse(trainer: Trainer, trained: Sequence[Batch], scored: Sequence[Batch]) -> None:
    """Pass batches forward and backward, and score others, so that compilation is done before a measurement.

    The module and random states are restored.
    """
    with undone(trainer.module):
        trainer.module.train()
        for batch in trained:
            trainer.backward(trainer.forward(batch))
        trainer.module.eval()
        for batch in scored:
            trainer.engine.logits(trainer.module, batch)
    trainer.engine.synchronise()


def measure(
    trainer: Trainer,
    train_batch: Batch,
    eval_batch: Batch,
    initialization: Peak | None = None,
    training: AbstractContextManager[Any] | None = None,
) -> dict[str, Any]:
    """Measure on the trainer's module and restore it.

    Args:
        trainer: a fresh one, which is not used for training after.
        train_batch: the largest batch of the run; every accumulated pass is taken to be as large.
        eval_batch: the largest evaluation batch.
        training: open while the training steps are measured.
        initialization: peak of a data-dependent initialisation, measured before; None where there was none.

    Returns:
        The record's ``memory`` members, in bytes.
    """
    engine, compiled = trainer.engine, trainer.settings.compile
    if compiled and engine.device.type != "cuda":
        return {"split_missing": _UNSEEN}
    with training or nullcontext():
        report = measure_training(
            trainer.module,
            trainer.optimizer,
            [train_batch] * trainer.settings.grad_accum,
            Loop(trainer.forward, trainer.backward, trainer.step),
            split=not compiled,
        )
    inference = measure_inference(
        trainer.module, eval_batch, lambda batch: engine.logits(trainer.module, batch), split=not compiled
    )
    phases = {name: _plain(peak) for name, peak in report.phases.items()}
    return {
        "source": report.source,
        "train_peak_bytes": report.train_peak.total_bytes,
        "train_peak": _split(report.train_peak),
        "reserved_peak_bytes": report.reserved_peak_bytes,
        "inference_peak_bytes": inference.total_bytes,
        "phases": {
            **phases,
            "evaluation": _plain(inference),
            "initialization": initialization and _plain(initialization),
        },
        "split_missing": None if report.train_peak.split else _COMPILED if compiled else _NO_ROOM,
    }


def measure_scoring(engine: Engine, module: nn.Module, eval_batch: Batch) -> dict[str, Any]:
    """The record's ``memory`` members of a module that is not trained: inference alone, in bytes."""
    inference = measure_inference(module, eval_batch, lambda batch: engine.logits(module, batch))
    return {
        "source": "cuda" if engine.device.type == "cuda" else "tracker",
        "inference_peak_bytes": inference.total_bytes,
        "phases": {**dict.fromkeys(PHASES), "evaluation": _plain(inference)},
    }


def _plain(peak: Peak) -> dict[str, Any]:
    return {"peak_bytes": peak.total_bytes, "split": _split(peak)}


def _split(peak: Peak) -> dict[str, int | None]:
    """The split as records hold it: null where it could not be measured."""
    return {part: peak.split.get(part) for part in SPLIT}
