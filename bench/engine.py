"""Where and in which precision a module runs; prediction, latency and throughput of inference."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from bench.api import Batch
from bench.data import Encoded, evaluation_batches, to_device

_LATENCY_WARMUP, _LATENCY_RUNS = 5, 30


@dataclass(frozen=True)
class Engine:
    """A device, a precision, and the padding values of a tokenizer."""

    device: torch.device
    precision: str
    padding: dict[str, int]

    def autocast(self) -> AbstractContextManager[Any]:
        """The autocast context of the precision; none for fp32."""
        if self.precision == "fp32":
            return nullcontext()
        dtype = torch.bfloat16 if self.precision == "bf16" else torch.float16
        return torch.autocast(self.device.type, dtype=dtype)

    def batch(self, data: Encoded, rows: Sequence[int]) -> Batch:
        """Collate rows and move them to the device."""
        return to_device(data.collate(rows, self.padding), self.device)

    def synchronise(self) -> None:
        """Wait for the device, so that a clock read now counts finished work."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def logits(self, module: nn.Module, batch: Batch) -> Tensor:
        """Forward without labels or gradient: (rows, labels) in fp32."""
        inputs = {name: tensor for name, tensor in batch.items() if name != "labels"}
        with torch.inference_mode(), self.autocast():
            return module(**inputs).logits.float()  # type: ignore[no-any-return]

    def predict(self, module: nn.Module, data: Encoded, batch_size: int) -> tuple[np.ndarray[Any, Any], float]:
        """Logits of every row in row order, shape (rows, labels), and the seconds it took.

        The module is put in eval mode for it and put back after.
        """
        was_training = module.training
        module.eval()
        batches = evaluation_batches(data.lengths, batch_size)
        parts: list[Tensor] = []
        self.synchronise()
        start = time.perf_counter()
        for rows in batches:
            parts.append(self.logits(module, self.batch(data, rows)))
        self.synchronise()
        seconds = time.perf_counter() - start
        module.train(was_training)
        order = np.concatenate([np.asarray(rows) for rows in batches])
        found = torch.cat(parts).cpu().numpy()
        result = np.empty_like(found)
        result[order] = found
        return result, seconds

    def latency_ms(self, module: nn.Module, data: Encoded) -> float:
        """Median milliseconds of one row of median length, one at a time, after warm-up."""
        row = int(np.argsort(data.lengths, kind="stable")[len(data) // 2])
        batch = self.batch(data, [row])
        was_training = module.training
        module.eval()
        times = []
        for index in range(_LATENCY_WARMUP + _LATENCY_RUNS):
            self.synchronise()
            start = time.perf_counter()
            self.logits(module, batch)
            self.synchronise()
            if index >= _LATENCY_WARMUP:
                times.append((time.perf_counter() - start) * 1000)
        module.train(was_training)
        return statistics.median(times)
