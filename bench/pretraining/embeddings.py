"""Initial embeddings for a small model on few tokens: word embeddings from co-occurrence, positions as sinusoids.

A masked model of this size spends its first thousands of steps on learning which words are alike and which positions
are neighbours. Both are known beforehand: the first from counting (Levy and Goldberg 2014, "Neural Word Embedding as
Implicit Matrix Factorization": the factors of positive pointwise mutual information), the second by construction
(arXiv 1706.03762, section 3.5).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

_WINDOW, _SMOOTHING = 6, 0.75


def from_counts(documents: Sequence[Sequence[int]], vocabulary: int, width: int, std: float) -> Tensor:
    """Embeddings of the tokens of documents: (vocabulary, width) with rows of equal length and the given spread.

    Tokens that never occur get random rows, from torch's current seed, as do the factors' start vectors.
    """
    counts = np.zeros(vocabulary * vocabulary, np.float32)
    for document in documents:
        ids = np.asarray(document, np.int64)
        for distance in range(1, _WINDOW + 1):
            pairs = ids[:-distance] * vocabulary + ids[distance:]
            np.add.at(counts, pairs, np.float32(1 / distance))
    together = torch.from_numpy(counts).view(vocabulary, vocabulary)
    together = together + together.t()
    rows = together.sum(1)
    contexts = rows**_SMOOTHING / (rows**_SMOOTHING).sum()
    expected = rows[:, None] * contexts[None, :]
    shared = torch.where(together > 0, together / expected.clamp_min(1e-9), 1.0).log().clamp_min(0)
    left, values, _ = torch.svd_lowrank(shared, q=width, niter=4)
    factors = left * values.sqrt()
    lengths = factors.norm(dim=1, keepdim=True)
    scaled = torch.where(lengths > 1e-6, factors / lengths.clamp_min(1e-6), 0.0) * std * math.sqrt(width)
    return torch.where(rows[:, None] > 0, scaled, torch.randn(vocabulary, width) * std)


def sinusoids(places: int, width: int, std: float) -> Tensor:
    """Position embeddings (places, width): sines and cosines of geometrically growing wave lengths."""
    rates = torch.exp(torch.arange(0, width, 2) * (-math.log(10_000.0) / width))
    angles = torch.arange(places)[:, None] * rates[None, :]
    return torch.cat([angles.sin(), angles.cos()], dim=1) * std * math.sqrt(2.0)
