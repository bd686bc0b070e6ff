"""A plan's fake run of these methods takes exactly the memory of a real one."""

from __future__ import annotations

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from bench.core.protocols import Method
from bench.core.train_config import TrainSettings
from bench.methods.bottleneck import Houlsby, Parallel, Pfeiffer
from bench.methods.compacter import Compacter
from bench.methods.ia3 import Ia3
from bench.methods.partial_finetuning import BitFit, LastK, Norm
from bench.models.inference import Engine
from bench.training.memory import MemoryReport, measure_training
from bench.training.trainer import Trainer
from tests import zoo

METHODS = (Houlsby(), Pfeiffer(), Parallel(), Compacter(), Ia3(), BitFit(add=True), LastK(), Norm())


def peak(method: Method, precision: str) -> MemoryReport:
    module = method.attach(zoo.backbone("t5", "seq2seq"))
    trainer = Trainer(module, method, TrainSettings(steps=2), Engine(torch.device("cpu"), precision, {}))
    return measure_training(module, trainer.optimizer, [zoo.batch("t5", "seq2seq")], trainer)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_a_fake_run_equals_a_real_one(method: Method, precision: str) -> None:
    real = peak(method, precision)
    with FakeTensorMode(allow_non_fake_inputs=True):
        planned = peak(method, precision)
    assert planned == real
    assert real.train_peak.total_bytes > 0
