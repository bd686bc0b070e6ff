"""torch.compile: nothing of it is left in the module's state, and its time is in no step's."""

from __future__ import annotations

import functools
import itertools
import time

import pytest
import torch
from torch import nn

from bench.core.errors import RequestError
from bench.core.train_config import TrainSettings
from bench.methods.lora import Lora
from bench.models import compile
from bench.models.inference import Engine
from bench.sweep.expand import expand
from bench.sweep.request import RunRequest
from bench.training.memory_probe import rehearse
from bench.training.trainer import Trainer
from tests import zoo


def batch(length: int) -> dict[str, torch.Tensor]:
    whole = zoo.batch("bert", "classification")
    return {name: tensor if name == "labels" else tensor[:, :length] for name, tensor in whole.items()}


@pytest.fixture
def trainer(monkeypatch: pytest.MonkeyPatch) -> Trainer:
    # The backend that needs no C compiler.
    monkeypatch.setattr(nn.Module, "compile", functools.partialmethod(nn.Module.compile, backend="aot_eager"))
    torch._dynamo.reset()  # what another test compiled
    method = Lora(rank=2)
    torch.manual_seed(0)
    module = method.attach(zoo.backbone("bert", "classification")).eval()
    return Trainer(module, method, TrainSettings(steps=6), Engine(torch.device("cpu"), "fp32", {}))


def test_a_compiled_module_trains_as_before(trainer: Trainer) -> None:
    module = trainer.module
    plain = [module(**batch(length)).loss for length in (3, 4, 6)]
    before = {name: value.clone() for name, value in module.state_dict().items()}
    random, compiled = torch.get_rng_state(), compile.seconds()
    compile.compile_in_place(module)
    rehearse(trainer, [batch(6), batch(3)], [batch(6), batch(3)])
    assert compile.seconds() > compiled
    assert torch.equal(torch.get_rng_state(), random) and not module.training
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    assert all(value.grad is None for value in module.parameters())
    module.train()
    trainer.backward(trainer.forward(batch(5)))
    trainer.step()
    module.eval()
    module.load_state_dict(before)
    torch.testing.assert_close([module(**batch(length)).loss for length in (3, 4, 6)], plain)


def test_what_is_compiled_while_training_is_in_no_steps_time(trainer: Trainer) -> None:
    compile.compile_in_place(trainer.module)
    begun, compiled = time.perf_counter(), compile.seconds()
    batches = ((batch(length), 8) for length in itertools.cycle((6, 3, 5)))
    fit = trainer.fit(batches, None, True, lambda _: None)
    took, compiled = time.perf_counter() - begun, compile.seconds() - compiled
    assert 0 < compiled < took
    assert all(seconds > 0 for seconds in fit.step_seconds)
    assert fit.train_seconds <= took - compiled
    assert fit.step_seconds[0] < compiled, "the first step compiles"


def test_it_does_not_go_with_kept_features() -> None:
    wanted = {"cache_trunk": "true", "compile": "true", "steps": "2"}
    with pytest.raises(RequestError, match="do not go together"):
        expand(RunRequest(methods=("lst",), task=("demo/docstrings",), model=("tiny-bert",), train=wanted))
