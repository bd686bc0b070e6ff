"""Kept features of a frozen trunk: the same results without the trunk, and never from a wrong or broken file."""

from __future__ import annotations

import dataclasses
import json
import re
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from bench import trunkcache, trunkfiles
from bench.api import Method
from bench.backbone import trainable
from bench.checks import digests, frozen
from bench.data import Encoded
from bench.engine import Engine
from bench.errors import RequestError
from bench.job import Job
from bench.methods.lora import Lora
from bench.methods.lst import Lst
from bench.methods.selective import Head
from bench.python import run
from bench.record import problems
from bench.runner import execute, padding_of
from bench.trunk import cannot_recall, readers
from bench.trunkfiles import Shape, Shelf
from tests import tiny, zoo
from tests.conftest import Bench

# Padding to another length changes the last bits of fp32 sums on a CPU: README states these bounds.
RTOL, ATOL = 1e-4, 1e-5
ONE_TRUNK = [(family, kind) for family, kinds in zoo.KINDS.items() for kind in kinds if family not in ("t5", "bart")]
HEADS = [
    (family, kind) for family, kinds in zoo.KINDS.items() for kind in kinds if kind not in ("causal-lm", "seq2seq")
]
TOKENS = 12  # of the longest example; no example is padded to the same length in the file and in training


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def place(tmp_path: Path) -> Iterator[tiny.Place]:
    with tiny.place(tmp_path) as found:
        yield found


def shelves() -> list[Path]:
    return sorted(trunkcache.cache_folder().glob("trunks/*/[!.]*"))


def tuned(method: Method, family: str, kind: str) -> nn.Module:
    backbone = zoo.lively(zoo.backbone(family, kind))
    torch.manual_seed(5)
    module = method.attach(backbone)
    generator = torch.Generator().manual_seed(11)
    with torch.no_grad():
        for value in trainable(module).values():
            value.add_(torch.randn(value.shape, generator=generator) * 0.2)
    return module


@dataclasses.dataclass
class Batches:
    """Rows of one zoo batch, alone or together, padded as a trainer does."""

    whole: dict[str, Tensor]

    def __len__(self) -> int:
        return len(self.whole["labels"])

    @property
    def labels(self) -> Tensor:
        return self.whole["labels"]

    @property
    def lengths(self) -> np.ndarray[Any, Any]:
        mask = self.whole.get("attention_mask")
        return np.full(len(self), 5) if mask is None else mask.sum(1).numpy()  # 16 × 16 pixels: four patches, a class

    def take(self, rows: Any) -> Batches:
        return Batches(self.collate(rows, {}))

    def collate(self, rows: Any, padding: dict[str, int]) -> dict[str, Tensor]:
        found = {name: value[rows] for name, value in self.whole.items()}
        longest = int(self.lengths[np.asarray(rows)].max())
        return {
            name: value[:, :longest] if value.ndim == 2 and "attention_mask" in found else value
            for name, value in found.items()
        }


def need(data: Any, **changes: Any) -> trunkcache.Need:
    engine = Engine(torch.device("cpu"), "fp32", {})
    whole = {"parts": [(data, list(range(len(data))))], "engine": engine, "batch_size": 1, "limit": 10**9}
    return trunkcache.Need(**{**whole, "tell": lambda text, news: None, **changes})


def kept(method: Method, module: nn.Module, data: Any, **changes: Any) -> tuple[trunkcache.TrunkCache, dict[str, Any]]:
    return trunkcache.keep(module, method.name, digests(frozen(module)), need(data, **changes))


def gradients(module: nn.Module, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
    module.train()
    module.zero_grad()
    torch.manual_seed(3)
    loss = module(**batch).loss
    loss.backward()
    return loss.detach(), {
        name: value.grad.clone() for name, value in trainable(module).items() if value.grad is not None
    }


class Counter:
    """Counts what runs inside a trunk's blocks."""

    def __init__(self, module: nn.Module) -> None:
        self.passes = 0
        (reader,) = readers(module).values()
        inside = [
            part for name, part in reader.trunk.named_modules() if re.search(r"(^|\.)(layers?|h|block)\.\d+\.", name)
        ]
        assert inside
        for part in inside:
            part.register_forward_hook(self._count)

    def _count(self, *_: object) -> None:
        self.passes += 1


CASES = [
    *((Lst(reduction=2), family, kind) for family, kind in ONE_TRUNK),
    *((Lst(reduction=2, layers=("-1",)), family, "classification") for family in ("bert", "deberta-v2")),
    (Lst(reduction=2, merge="residual"), "llama", "causal-lm"),
    (Lst(reduction=2, merge="residual"), "opt", "causal-lm"),
    *((Head(), family, kind) for family, kind in HEADS),
]


@pytest.mark.parametrize(("method", "family", "kind"), CASES)
def test_losses_and_gradients_are_the_trunks(method: Method, family: str, kind: str) -> None:
    module = tuned(method, family, kind)
    data = Batches(zoo.batch(family, kind))
    batch = data.collate([0, 1, 3], {})
    expected_loss, expected = gradients(module, batch)
    cache, record = kept(method, module, data)
    assert not record["reused"] and record["examples"] == len(data)
    counter = Counter(module)
    with trunkcache.fed(module, cache):
        loss, found = gradients(module, batch)
    assert (cache.answered, cache.missed, counter.passes) == (1, 0, 0)
    assert_close(loss, expected_loss, rtol=RTOL, atol=ATOL)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert_close(found[name], value, rtol=RTOL, atol=ATOL, msg=lambda text, name=name: f"{name}: {text}")
    assert gradients(module, batch)[0].equal(expected_loss)  # the trunk is whole again
    assert counter.passes > 0
