"""The fast Bernoulli numbers: their distribution, that the same seed repeats them, and that dropout uses them."""

from __future__ import annotations

import math
import subprocess
import sys

import pytest
import torch

from bench.training.bernoulli import draw


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64, torch.bool])
@pytest.mark.parametrize("p", [0.0, 1e-5, 0.1, 0.5, 0.9, 1.0])
def test_the_share_of_ones_is_p(p: float, dtype: torch.dtype) -> None:
    rows = 400_001
    found = draw(torch.empty(rows, dtype=dtype), p, torch.Generator().manual_seed(0)).double()
    assert set(found.unique().tolist()) <= {0.0, 1.0}
    assert abs(float(found.mean()) - p) <= 4 * math.sqrt(p * (1 - p) / rows) + 1e-3 * min(p, 1 - p)


def test_neighbours_and_words_are_independent() -> None:
    ones = draw(torch.empty(400_000), 0.5, torch.Generator().manual_seed(1)) - 0.5
    for lag in (1, 2, 3, 4, 8):
        correlation = float((ones[lag:] * ones[:-lag]).mean()) * 4
        assert abs(correlation) < 4 / math.sqrt(len(ones))


def test_any_shape_and_stride() -> None:
    columns = draw(torch.full((5, 301), 7.0).t(), 0.5, torch.Generator().manual_seed(2))
    assert set(columns.unique().tolist()) == {0.0, 1.0}
    assert draw(torch.empty(0), 0.5).shape == (0,)


def test_a_wrong_probability_is_an_error() -> None:
    with pytest.raises(RuntimeError, match="p=1.5"):
        draw(torch.empty(3), 1.5)


def test_dropout_and_attention_use_it_where_it_is_installed() -> None:
    """In a process of its own: the kernel stays for the life of a process."""
    script = """
import warnings; warnings.simplefilter("error")
import torch, torch.nn.functional as F
from bench import bernoulli
def dropped():
    torch.manual_seed(3)
    q = torch.ones(1, 2, 8, 4)
    return F.dropout(torch.ones(4000), 0.25), F.scaled_dot_product_attention(q, q, q, dropout_p=0.25)
plain = dropped()
bernoulli.install(); bernoulli.install()
once, twice = dropped(), dropped()
assert not any(torch.equal(a, b) for a, b in zip(plain, once))
assert all(torch.equal(a, b) for a, b in zip(once, twice))
assert once[0].unique().tolist() == [0.0, torch.tensor(1 / 0.75).item()]
x = torch.ones(4000, requires_grad=True)
torch.manual_seed(3); F.dropout(x, 0.25).sum().backward()
assert torch.equal(x.grad, once[0])
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=120)
