"""VeRA on every family: start, count, merge, save, one shared pair, precision, errors and what is kept."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import AutoConfig
from transformers.pytorch_utils import Conv1D

from bench.core import options
from bench.core.errors import RequestError
from bench.methods.vera import Projections, Vera, VeraLinear
from bench.models.backbone import Backbone, count, trainable
from bench.models.checkpoint import saved_state
from bench.models.loading import model_class
from bench.training.storage_tracker import StorageTracker
from tests import zoo
from tests.methods import low_rank
from tests.methods.low_rank import CELLS, FEW

torch.set_num_threads(1)

EVERYWHERE = Vera(targets=("all",), rank=24, d_init=0.3)


@pytest.mark.parametrize(("family", "kind"), CELLS)
def test_every_family_and_head(family: str, kind: str) -> None:
    low_rank.check_cell(Vera(), family, kind)


@pytest.mark.filterwarnings("ignore:.gradient_checkpointing_enable. is deprecated:FutureWarning")
@pytest.mark.parametrize(("family", "kind"), FEW)
@pytest.mark.parametrize("method", [Vera(), EVERYWHERE], ids=["default", "everywhere"])
def test_in_depth(method: Vera, family: str, kind: str, tmp_path: Path) -> None:
    low_rank.check_cell(method, family, kind)
    low_rank.check_saved(method, family, kind, tmp_path)
    low_rank.check_meta(method, family, kind)
    low_rank.check_checkpointing(method, family, kind)
    low_rank.check_autocast(method, family, kind)


@pytest.mark.parametrize("base", [nn.Linear(8, 6), nn.Linear(8, 6, bias=False), Conv1D(6, 8)])
def test_the_formula(base: nn.Module) -> None:
    base.requires_grad_(False)
    shared = Projections(10, 7, 3, torch.device("cpu"))
    layer = VeraLinear(base, shared, 0.1, 0.0)
    assert torch.equal(layer.vera_d, torch.full((3,), 0.1)) and torch.equal(layer.vera_b, torch.zeros(6))
    low_rank.disturb(layer, size=1.0)
    x = torch.randn(2, 5, 8)
    weight = layer.matrix + torch.diag(layer.vera_b) @ shared.b[:6] @ torch.diag(layer.vera_d) @ shared.a[:, :8]
    expected = x @ weight.t() + (0 if layer.bias is None else layer.bias)
    torch.testing.assert_close(layer(x), expected, rtol=1e-5, atol=1e-5)
    wanted = torch.autograd.grad(expected.sin().sum(), [layer.vera_d, layer.vera_b])
    found = torch.autograd.grad(layer(x).sin().sum(), [layer.vera_d, layer.vera_b])
    for left, right in zip(found, wanted, strict=True):
        torch.testing.assert_close(left, right, rtol=1e-5, atol=1e-5)


def test_one_pair_for_all_maps_saved_once() -> None:
    backbone = zoo.backbone("bert", "classification")
    originals = {id(value) for value in backbone.model.state_dict(keep_vars=True).values()}
    module = EVERYWHERE.attach(backbone)
    maps = [child for child in module.modules() if isinstance(child, VeraLinear)]
    assert len(maps) == 2 * 6 and len({id(child.shared) for child in maps}) == 1
    shared = maps[0].shared
    assert shared.a.shape == (24, 64) and shared.b.shape == (64, 24)
    # Kaiming-uniform with gain √2: within √(6 / inputs), and filling it.
    assert 0.9 < float(shared.a.abs().max()) / (6 / 64) ** 0.5 <= 1
    saved = saved_state(module, originals)
    assert sum(name.endswith((".shared.a", ".shared.b")) for name in saved) == 2
    assert count(list(saved.values())) == count(list(trainable(module).values())) + 2 * 24 * 64


def test_the_pair_follows_the_seed_and_moves_in_one_piece() -> None:
    def pair(seed: int) -> Projections:
        backbone = zoo.backbone("bert", "classification")
        torch.manual_seed(seed)
        module = Vera().attach(backbone).to(torch.float64)
        maps = [child for child in module.modules() if isinstance(child, VeraLinear)]
        assert len({child.shared.a.data_ptr() for child in maps}) == 1
        return maps[0].shared

    assert torch.equal(pair(0).a, pair(0).a) and not torch.equal(pair(0).a, pair(1).a)


def test_what_one_map_keeps() -> None:
    layer = VeraLinear(nn.Linear(8, 6).requires_grad_(False), Projections(8, 6, 3, torch.device("cpu")), 0.1, 0.0)
    x = torch.randn(5, 8, requires_grad=True)
    with StorageTracker() as tracker:
        tracker.tag([x, *layer.parameters(), *layer.buffers()], "weights")
        start = tracker.held_bytes
        tracker.mark("forward")
        out = layer(x * 2)
        # A x before and after Λ_d, (5, 3) each, and Λ_b B, (6, 3): neither x nor anything of the output's size.
        assert tracker.held_bytes - start - out.nbytes == (2 * 5 * 3 + 6 * 3) * 4


def test_count_on_llama_3b() -> None:
    with torch.device("meta"):
        config = AutoConfig.for_model(
            "llama", hidden_size=3072, num_hidden_layers=28, num_attention_heads=24, num_key_value_heads=8,
            head_dim=128, intermediate_size=8192, vocab_size=128256, tie_word_embeddings=True,
        )  # fmt: skip
        backbone = Backbone(model_class("causal-lm").from_config(config), "causal-lm", frozenset())
    # d and b of query (3072 wide) and value (1024) in 28 layers.
    assert Vera().trainable_count(backbone) == 28 * (256 + 3072 + 256 + 1024) == 129_024
    assert count(list(trainable(Vera().attach(backbone)).values())) == 129_024


def test_errors() -> None:
    with pytest.raises(ValueError, match=r"^vera: Unknown target 'qurey'\. Did you mean 'query'\?"):
        Vera(targets=("qurey",)).attach(zoo.backbone("bert", "classification"))
    with pytest.raises(RequestError, match="must be at least 1"):
        options.build(Vera, {"rank": "0"}, "vera")
