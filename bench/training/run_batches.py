"""The batches of one run: its training batches in order, and the largest and smallest ones."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

from bench.core.protocols import Batch
from bench.core.train_config import TrainSettings
from bench.data.encoding import Rows
from bench.data.sampling import evaluation_batches, training_batches
from bench.models.inference import Engine


@dataclass(frozen=True)
class Batches:
    """Batches of training rows and of scored rows.

    Args:
        engine: makes a batch from row numbers, on the device.
        train, scored: encoded rows.
        settings: sizes and steps, ``steps`` resolved.
        seed: of the order, unless ``settings.data_seed`` gives one.
    """

    engine: Engine
    train: Rows
    scored: Rows
    settings: TrainSettings
    seed: int

    def rows(self, batch_size: int | None = None) -> Iterator[list[int]]:
        """Row numbers of the training batches, endlessly."""
        order = self.seed if self.settings.data_seed is None else self.settings.data_seed
        return training_batches(self.train.lengths, batch_size or self.settings.batch_size, order)

    def training(self, batch_size: int | None = None) -> Iterator[tuple[Batch, int]]:
        """Training batches on the device, each with its number of unpadded tokens, endlessly."""
        for rows in self.rows(batch_size):
            yield self.of(rows), int(self.train.lengths[rows].sum())

    def of(self, rows: Sequence[int]) -> Batch:
        """A batch of training rows."""
        return self.engine.batch(self.train, rows)

    def extreme(self, pick: Callable[..., list[int]] = max) -> list[int]:
        """Row numbers of the run's largest batch (``max``) or smallest (``min``), by tokens with padding."""
        planned = islice(self.rows(), (self.settings.steps or 1) * self.settings.grad_accum)
        return pick(planned, key=lambda rows: len(rows) * int(self.train.lengths[rows].max()))

    def scoring(self) -> tuple[Batch, Batch]:
        """The largest and the smallest evaluation batch."""
        found = evaluation_batches(self.scored.lengths, self.settings.eval_batch_size)
        return self.engine.batch(self.scored, found[0]), self.engine.batch(self.scored, found[-1])

    def longest(self) -> Batch:
        """The longest evaluation row as a batch of one."""
        return self.engine.batch(self.scored, [int(self.scored.lengths.argmax())])
