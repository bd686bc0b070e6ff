"""The objectives of the small models, on batches small enough to check by hand, and a training that learns."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bench.pretraining import embeddings, glyphs, objectives, recipes, training

IDS = {"pad": 0, "unk": 1, "cls": 2, "sep": 3, "mask": 4}
WORDS = list(range(10, 60))


def text(ids: dict[str, int], length: int = 24) -> objectives.Text:
    return objectives.Text([WORDS * 4, WORDS[::-1] * 4], length, ids, 64)


def test_pairs_follow_each_other_or_not() -> None:
    ids, kinds, follows = objectives._pairs(text(IDS), 64, np.random.default_rng(0))
    assert ids.shape == kinds.shape == (64, 24) and set(follows.tolist()) == {0, 1}
    for row, kind, other in zip(ids, kinds, follows, strict=True):
        assert row[0] == IDS["cls"] and row[-1] == IDS["sep"] and (row == IDS["sep"]).sum() == 2
        cut = int(np.flatnonzero(row == IDS["sep"])[0])
        assert kind[: cut + 1].max() == 0 and kind[cut + 1 :].min() == 1
        step = (row[cut + 1] - row[cut - 1]) % len(WORDS)
        if not other:
            assert step in (1, len(WORDS) - 1)


def test_span_corruption_can_be_undone() -> None:
    ids = {"pad": 0, "eos": 1, "unk": 2, "sentinels": 3}
    piece = np.arange(10, 51)
    source, target = objectives._corrupt(piece, 6, 2, text(ids), np.random.default_rng(3))
    assert source[-1] == target[-1] == 1 and len(target) == 6 + 2 + 1
    dropped: dict[int, list[int]] = {}
    for token in target[:-1]:
        if token < 10:
            dropped[token] = []
        else:
            dropped[max(dropped)].append(token)
    restored = [value for token in source[:-1] for value in (dropped[token] if token in dropped else [token])]
    assert restored == piece.tolist()


def test_masked_loss_counts_only_masked_tokens() -> None:
    recipe = dataclasses.replace(recipes.RECIPES["tiny-bert"], config={
        **recipes.RECIPES["tiny-bert"].config, "vocab_size": 64, "hidden_size": 16, "intermediate_size": 16,
    })  # fmt: skip
    torch.manual_seed(0)
    model = training.build(recipe)
    seen: list[int] = []
    head = model.cls.predictions
    head.register_forward_hook(lambda _, args, out: seen.append(len(args[0])))
    loss = objectives.masked(model, text(IDS), 32, np.random.default_rng(0))
    assert torch.isfinite(loss) and 0.15 < seen[0] / (32 * 21) < 0.35


def test_words_that_stand_together_get_like_embeddings() -> None:
    torch.manual_seed(0)
    generator = np.random.default_rng(0)
    documents = [list(generator.choice(group, 300)) for group in (range(5, 10), range(10, 15)) for _ in range(4)]
    made = embeddings.from_counts(documents, 20, 8, std=0.1)
    unit = made / made.norm(dim=1, keepdim=True)
    alike = unit @ unit.T
    assert alike[5:10, 5:10].min() > 0.5 > alike[5:10, 10:15].max()
    assert made[5:15].norm(dim=1).allclose(torch.tensor(0.1 * 8**0.5))


def test_glyphs_are_seeded_grey_and_told_apart() -> None:
    images, labels = glyphs.draw(40, np.random.default_rng(5))
    again, _ = glyphs.draw(40, np.random.default_rng(5))
    assert np.array_equal(images, again)
    assert images.shape == (40, 8, 8) and images.min() == 0 and 8 < images.max() <= 16
    assert len(set(labels.tolist())) > 10


def test_pretraining_again_gives_the_same_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    documents = [" ".join(f"word{(index * step) % 37} of thing{index % 11}" for index in range(300)) for step in (1, 2)]
    monkeypatch.setattr("bench.pretraining.corpus.documents", lambda root: documents * 3)
    small = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "head_dim": 4}
    recipe = recipes.RECIPES["tiny-llama"]
    monkeypatch.setitem(recipes.RECIPES, "tiny-llama", dataclasses.replace(recipe, config={**recipe.config, **small}))
    saved: list[Any] = []
    for place in ("one", "two"):
        facts = training.pretrain("tiny-llama", tmp_path / place, steps=3)
        saved.append((tmp_path / place / "model.safetensors").read_bytes())
        assert facts["steps"] == 3 and facts["held_out_loss"] > 0
    assert saved[0] == saved[1]
