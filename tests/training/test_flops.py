"""Operations counted by hand, and that counting them changes nothing."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from bench.training import flops
from bench.training.run import Run
from tests import tiny


def test_a_linear_map_by_hand():
    """4 rows of 3 into 5: 2·4·3·5 forward, as much again for the weight's gradient; the input needs none."""
    layer, x = nn.Linear(3, 5), torch.randn(4, 3)
    assert flops.count(lambda: layer(x)) == 120
    assert flops.count(lambda: layer(x).sum().backward()) == 240


def test_attention_is_counted_where_the_cpu_fuses_it():
    """2 × 4 heads, 8 queries and 8 keys of width 16: 2·2·4·8·8·(16 + 16) forward, five products of 16 in all back."""
    query, key, value = (torch.randn(2, 4, 8, 16, requires_grad=True) for _ in range(3))
    forward = 2 * 2 * 4 * 8 * 8 * 32
    assert flops.count(lambda: F.scaled_dot_product_attention(query, key, value)) == forward
    both = flops.count(lambda: F.scaled_dot_product_attention(query, key, value).sum().backward())
    assert both == forward + forward // 2 * 5


class Composed(nn.Module):
    """A weight that is a product of two, made once per batch."""

    def __init__(self) -> None:
        super().__init__()
        self.down, self.up = nn.Parameter(torch.randn(6, 2)), nn.Parameter(torch.randn(2, 6))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.dropout(x @ (self.down @ self.up), 0.5)


def test_two_rows_tell_the_count_of_all():
    module, data = Composed(), torch.randn(9, 6)
    rows = list(range(9))
    found = flops.of_training(module, lambda b: module(b["x"]).sum().backward(), lambda r: {"x": data[list(r)]}, rows)
    assert found == flops.count(lambda: module(data).sum().backward())
    assert module.down.grad is not None, "by the count above alone"


def test_inference_leaves_flags_and_random_numbers_as_they_were():
    module = nn.Sequential(nn.Linear(3, 3), nn.Dropout(0.5))
    module[1].eval()
    state = torch.random.get_rng_state()
    assert flops.of_inference(_Named(module), {"x": torch.randn(2, 3), "labels": torch.zeros(2)}) == 36
    assert module[0].training and not module[1].training
    torch.random.set_rng_state(state)


class _Named(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.inner(x)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    with tiny.place(tmp_path_factory.mktemp("flops")) as made:
        yield made


def test_a_bert_by_hand(place):
    """Two layers of width 32 (feed-forward 64) on L tokens: 2·L·(4·32² + 2·32·64) + 4·L²·32 each; pooler; 2 labels."""
    compute = place.run("head")["compute"]
    length = compute["inference_length"]
    layer = 2 * length * (4 * 32**2 + 2 * 32 * 64) + 4 * length**2 * 32
    assert compute["base_inference_flops"] == 2 * layer + 2 * 32**2 + 2 * 32 * 2
    assert compute["inference_flops"] == compute["base_inference_flops"], "a head costs nothing more"


def test_methods_differ_in_what_they_compute(place):
    found = {name: place.run(name)["compute"] for name in ("full", "lora", "head")}
    extra = {name: one["inference_flops"] - one["base_inference_flops"] for name, one in found.items()}
    assert extra["full"] == extra["head"] == 0
    # r 8 on query and value of two layers: 2·L·(32·8 + 8·32) each
    assert extra["lora"] == 4 * 2 * found["lora"]["inference_length"] * 2 * 32 * 8
    assert found["head"]["train_step_flops"] < found["lora"]["train_step_flops"] < found["full"]["train_step_flops"]
    doubled = place.run("lora", grad_accum=2, batch_size=16)["compute"]
    assert doubled["train_step_flops"] == 2 * found["lora"]["train_step_flops"]


def test_counting_changes_nothing_that_is_trained(place, monkeypatch):
    counted = place.run("lora", sets=("lora.dropout=0.1",), steps=5)
    monkeypatch.setattr(Run, "_count_flops", lambda self: None)
    plain = place.run("lora", sets=("lora.dropout=0.1",), steps=5)
    assert counted["parameters"]["trained_sha256"] == plain["parameters"]["trained_sha256"]
    assert counted["memory"]["train_peak_bytes"] == plain["memory"]["train_peak_bytes"]
    assert plain["compute"]["train_step_flops"] is None and counted["compute"]["train_step_flops"] > 0
