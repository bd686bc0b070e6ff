"""torch.compile before training, so that the time it takes is in no step's time."""

from __future__ import annotations

import time
from collections.abc import Sequence

from bench.api import Batch
from bench.memory import undone
from bench.trainer import Trainer


def compile_for(trainer: Trainer, trained: Sequence[Batch], scored: Sequence[Batch]) -> float:
    """Compile a trainer's module in place, for training and for inference, and return the seconds it took.

    Shapes are dynamic: a few batches of different length make the code that all others run. What the passes do to
    the module and to random states is undone.

    Args:
        trained: batches to train on, of different lengths.
        scored: batches to predict, of different lengths.
    """
    begun = time.perf_counter()
    trainer.module.compile(dynamic=True)
    with undone(trainer.module):
        trainer.module.train()
        for batch in trained:
            trainer.backward(trainer.forward(batch))
        trainer.module.eval()
        for batch in scored:
            trainer.engine.logits(trainer.module, batch)
    trainer.engine.synchronise()
    return time.perf_counter() - begun
