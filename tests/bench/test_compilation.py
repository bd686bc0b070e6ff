"""torch.compile: nothing of it is left in the module's state, and other lengths need no further compilation."""

from __future__ import annotations

import functools

import pytest
import torch
from torch import nn

from bench.compilation import compile_for
from bench.engine import Engine
from bench.errors import RequestError
from bench.methods.lora import Lora
from bench.settings import TrainSettings
from bench.specs import Request, expand
from bench.trainer import Trainer
from tests import zoo


def batch(length: int) -> dict[str, torch.Tensor]:
    whole = zoo.batch("bert", "classification")
    return {name: tensor if name == "labels" else tensor[:, :length] for name, tensor in whole.items()}


def test_a_compiled_module_trains_as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    # The backend that needs no C compiler.
    monkeypatch.setattr(nn.Module, "compile", functools.partialmethod(nn.Module.compile, backend="aot_eager"))
    method = Lora(rank=2)
    torch.manual_seed(0)
    module = method.attach(zoo.backbone("bert", "classification")).eval()
    trainer = Trainer(module, method, TrainSettings(steps=10), Engine(torch.device("cpu"), "fp32", {}))
    plain = [module(**batch(length)).loss for length in (3, 4, 6)]
    before = {name: value.clone() for name, value in module.state_dict().items()}
    random = torch.get_rng_state()
    assert compile_for(trainer, [batch(6), batch(3)], [batch(6), batch(3)]) > 0
    assert torch.equal(torch.get_rng_state(), random) and not module.training
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    assert all(value.grad is None for value in module.parameters())
    graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    assert graphs > 0
    module.train()
    trainer.backward(trainer.forward(batch(5)))
    trainer.step()
    module.eval()
    module.load_state_dict(before)
    torch.testing.assert_close([module(**batch(length)).loss for length in (3, 4, 6)], plain)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] <= graphs + 1  # eval mode with labels


def test_it_does_not_go_with_kept_features() -> None:
    wanted = {"cache_trunk": "true", "compile": "true", "steps": "2"}
    with pytest.raises(RequestError, match="do not go together"):
        expand(Request(("lst",), ("demo/docstrings",), ("tiny-bert",), train=wanted))
