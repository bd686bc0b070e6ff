"""Where and in which precision a module runs; prediction, latency and throughput of inference."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from bench.core.protocols import Batch
from bench.data.encoding import Rows, to_device
from bench.data.sampling import evaluation_batches
from bench.models import compile

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

    def batch(self, data: Rows, rows: Sequence[int]) -> Batch:
        """Collate rows and move them to the device."""
        return self.moved(data.collate(rows, self.padding))

    def moved(self, batch: Batch) -> Batch:
        """The batch on the device."""
        return to_device(batch, self.device)

    def synchronise(self) -> None:
        """Wait for the device, so that the clock measures finished work."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def logits(self, module: nn.Module, batch: Batch) -> Tensor:
        """Forward without labels or gradient: (rows, labels) in fp32, or (rows, tokens, vocabulary)."""
        inputs = {name: tensor for name, tensor in batch.items() if name != "labels"}
        with torch.inference_mode(), self.autocast():
            return module(**inputs).logits.float()  # type: ignore[no-any-return]

    def over(
        self, module: nn.Module, lengths: np.ndarray[Any, Any], batch_size: int, act: Callable[[list[int]], Any]
    ) -> tuple[list[Any], np.ndarray[Any, Any], float]:
        """Call ``act`` for each batch of row numbers, longest rows first, in eval mode and without gradient.

        Returns:
            One result per batch, the row numbers in batch order, and the seconds taken.
        """
        was_training = module.training
        module.eval()
        batches = evaluation_batches(lengths, batch_size)
        self.synchronise()
        compiled, start = compile.seconds(), time.perf_counter()
        with torch.inference_mode(), self.autocast():
            parts = [act(rows) for rows in batches]
        self.synchronise()
        seconds = time.perf_counter() - start - (compile.seconds() - compiled)
        module.train(was_training)
        return parts, np.concatenate([np.asarray(rows) for rows in batches]), seconds

    def predict(self, module: nn.Module, data: Rows, batch_size: int) -> tuple[np.ndarray[Any, Any], float]:
        """Logits of every row in row order, (rows, labels), and the seconds taken; in eval mode."""
        parts, order, seconds = self.over(
            module, data.lengths, batch_size, lambda rows: self.logits(module, self.batch(data, rows))
        )
        logits = torch.cat(parts).cpu().numpy()
        result = np.empty_like(logits)
        result[order] = logits
        return result, seconds

    def latency_ms(self, module: nn.Module, data: Rows) -> float:
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


def padding_of(tokenizer: Any) -> dict[str, int]:
    """The padding value of each input column; empty for image models (no tokenizer)."""
    if tokenizer is None:
        return {}
    return {
        "input_ids": tokenizer.pad_token_id or 0,
        "attention_mask": 0,
        "token_type_ids": getattr(tokenizer, "pad_token_type_id", 0),
    }
