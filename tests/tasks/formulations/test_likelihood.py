"""Likelihoods: of words by one pass or several, independent of batches, weighted by tokens."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from bench.models.inference import Engine
from bench.tasks.formulations.label_scoring import LabelWords, label_texts
from bench.tasks.formulations.language_modeling import split
from bench.tasks.formulations.likelihood import every_token, loss_stderr, losses, mean_loss, word_scores
from bench.tasks.formulations.prompt_batches import Pairs, Ragged
from tests import zoo

ENGINE = Engine(torch.device("cpu"), "fp32", {"input_ids": 1})
CELLS = [("llama", "causal-lm"), ("gpt2", "causal-lm"), ("opt", "causal-lm"), ("t5", "seq2seq"), ("bart", "seq2seq")]


def data(kind: str, rows: int = 7) -> Pairs:
    generator = np.random.default_rng(0)
    prompts = [generator.integers(3, 90, generator.integers(2, 9)).tolist() for _ in range(rows)]
    answers = [generator.integers(3, 90, generator.integers(1, 5)).tolist() for _ in range(rows)]
    return Pairs(Ragged.of(prompts), Ragged.of(answers), np.arange(rows), 0 if kind == "seq2seq" else None)


@pytest.mark.parametrize(("family", "kind"), CELLS)
def test_batches_do_not_matter_and_the_sum_of_tokens_is_the_rows(family: str, kind: str) -> None:
    model, rows = zoo.lively(zoo.backbone(family, kind)).model, data(kind)
    sums, counts, _ = losses(ENGINE, model, rows, 7)
    alone, their, _ = losses(ENGINE, model, rows, 1)
    np.testing.assert_allclose(sums, alone, rtol=1e-4)
    assert counts.tolist() == their.tolist() == rows.answers.lengths.tolist()
    tokens = every_token(ENGINE, model, rows, 3)
    assert len(tokens) == counts.sum()
    np.testing.assert_allclose(-tokens[: counts[0]].sum(), sums[0], rtol=1e-4)
    assert mean_loss(sums, counts) == pytest.approx(-tokens.mean(), rel=1e-4)


@pytest.mark.parametrize(("family", "kind"), CELLS)
def test_one_pass_for_words_of_one_token_gives_what_a_pass_each_gives(family: str, kind: str) -> None:
    model, rows = zoo.lively(zoo.backbone(family, kind)).model, data(kind)
    at_once, _ = word_scores(ENGINE, model, rows, [(5,), (40,), (7,)], 3)
    longer, _ = word_scores(ENGINE, model, rows, [(5,), (40,), (7, 8)], 3)
    np.testing.assert_allclose(at_once[:, :2], longer[:, :2], atol=1e-4)
    assert (longer[:, 2] < at_once[:, 2]).all(), "a second token makes a word less likely"


def test_the_loss_weighs_tokens_not_rows() -> None:
    sums, counts = np.array([2.0, 30.0]), np.array([1, 9])
    assert mean_loss(sums, counts) == 3.2
    assert loss_stderr(np.array([3.0, 6.0, 9.0]), np.array([1, 2, 3])) == pytest.approx(0.0)
    equal = np.array([1.0, 2.0, 3.0, 6.0])
    assert loss_stderr(equal, np.ones(4, int)) == pytest.approx(np.std(equal, ddof=1) / math.sqrt(4))
    assert loss_stderr(np.array([1.0]), np.array([2])) is None
    blocks, texts = np.repeat(equal, 3), np.repeat(np.arange(4), 3)
    assert loss_stderr(blocks, np.ones(12, int), texts) == pytest.approx(loss_stderr(3 * equal, np.full(4, 3)))
    assert loss_stderr(blocks, np.ones(12, int), np.zeros(12, int)) is None, "one text shows no spread"


def test_blocks_score_every_token_but_the_texts_first_once() -> None:
    assert split([1, 2, 3, 4, 5, 6], 3) == [[1, 2, 3], [3, 4, 5], [5, 6]]
    assert split([1, 2, 3], 3) == [[1, 2, 3]] and split([1], 3) == [] == split([], 3)


def test_label_texts_are_names_or_what_is_given_one_each() -> None:
    task = SimpleNamespace(name="t", labels=("not_entailment", "entailment"))
    assert label_texts(task, ()) == ("not entailment", "entailment")  # type: ignore[arg-type]
    assert label_texts(task, ("no", "yes")) == ("no", "yes")  # type: ignore[arg-type]
    for given, why in ((("a",), "1 texts for the 2 labels"), (("a", "a"), "'a' for two labels")):
        with pytest.raises(ValueError, match=why):
            label_texts(task, given)  # type: ignore[arg-type]


@pytest.mark.parametrize(("labels", "ended"), [(("up", "down"), False), (("up", "up down"), True)])
def test_the_end_counts_only_where_a_label_begins_another(labels: tuple[str, ...], ended: bool) -> None:
    from bench.tasks.formulations.prompt_template import Template, Words
    from tests import writers

    words = Words(writers.tokenizer(), None)
    form = LabelWords(SimpleNamespace(), None, words, Template("x"), labels)  # type: ignore[arg-type]
    assert [ids[-1] == writers.EOS for ids in form.scored] == [ended] * 2
    assert all(ids[-1] == writers.EOS for ids in form.answers), "it is learned in any case"
