"""The loss is on the answer alone: masks and labels token by token, for decoders and encoder-decoders."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from bench.tasks.formulations.prompt_batches import Pairs, Ragged, padded
from tests import zoo

PADDING = {"input_ids": 9}
PROMPTS, ANSWERS = [[1, 10, 11], [1, 12]], [[20, 3], [21, 22, 23, 3]]


def pairs(start: int | None) -> Pairs:
    return Pairs(Ragged.of(PROMPTS), Ragged.of(ANSWERS), np.arange(2), start, ("one", ["two", "zwei"]))


def test_a_decoder_reads_prompt_and_answer_and_is_scored_on_the_answer() -> None:
    batch = pairs(None).collate([0, 1], PADDING)
    assert batch["input_ids"].tolist() == [[1, 10, 11, 20, 3, 9], [1, 12, 21, 22, 23, 3]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 1, 1, 0], [1, 1, 1, 1, 1, 1]]
    assert batch["labels"].tolist() == [[-100, -100, -100, 20, 3, -100], [-100, -100, 21, 22, 23, 3]]


def test_an_end_token_that_also_pads_is_still_learned() -> None:
    batch = pairs(None).collate([0], {"input_ids": 3})
    assert batch["labels"].tolist() == [[-100, -100, -100, 20, 3]], "the answer's own end"
    batch = pairs(None).collate([0, 1], {"input_ids": 3})
    assert batch["input_ids"][0].tolist() == [1, 10, 11, 20, 3, 3]
    assert batch["labels"][0].tolist() == [-100, -100, -100, 20, 3, -100], "but not the padding behind it"


def test_an_encoder_decoder_reads_the_prompt_and_writes_the_answer() -> None:
    batch = pairs(0).collate([1, 0], PADDING)
    assert batch["input_ids"].tolist() == [[1, 12, 9], [1, 10, 11]]
    assert batch["attention_mask"].tolist() == [[1, 1, 0], [1, 1, 1]]
    assert batch["labels"].tolist() == [[21, 22, 23, 3], [20, 3, -100, -100]]
    assert batch["decoder_input_ids"].tolist() == [[0, 21, 22, 23], [0, 20, 9, 9]]


def test_prompts_to_go_on_from_end_at_the_same_place_in_decoders() -> None:
    asked = pairs(None).asked([0, 1], PADDING)
    assert asked["input_ids"].tolist() == [[1, 10, 11], [9, 1, 12]]
    assert asked["attention_mask"].tolist() == [[1, 1, 1], [0, 1, 1]]
    assert pairs(0).asked([0, 1], PADDING)["input_ids"].tolist() == [[1, 10, 11], [1, 12, 9]]


def test_lengths_count_both_and_rows_keep_their_references() -> None:
    data = pairs(None)
    assert data.lengths.tolist() == [5, 6]
    taken = data.take([1])
    assert (taken.prompts[0], taken.answers[0], taken.references) == (PROMPTS[1], ANSWERS[1], (["two", "zwei"],))
    assert taken.labels.tolist() == [1]


def test_an_empty_list_pads_to_nothing_but_padding() -> None:
    assert padded([[], [1, 2]], 7).tolist() == [[7, 7], [1, 2]]
    assert padded([[], [1, 2]], 7, left=True).tolist() == [[7, 7], [1, 2]]
    assert padded([[5], [1, 2]], 7, left=True).tolist() == [[7, 5], [1, 2]]


@pytest.mark.parametrize(("family", "kind"), [("llama", "causal-lm"), ("gpt2", "causal-lm"), ("t5", "seq2seq"),
                                              ("bart", "seq2seq")])  # fmt: skip
def test_the_models_own_loss_is_that_of_the_answers_tokens(family: str, kind: str) -> None:
    model = zoo.lively(zoo.backbone(family, kind)).model.eval()
    start = model.config.decoder_start_token_id if kind == "seq2seq" else None
    data = pairs(0 if kind == "seq2seq" and start is None else start)
    batch = data.collate([0, 1], {"input_ids": 1})
    with torch.no_grad():
        loss = model(**batch).loss
        by_hand = []
        for prompt, answer in zip(PROMPTS, ANSWERS, strict=True):
            for place in range(len(answer)):
                if kind == "causal-lm":
                    logits = model(input_ids=torch.tensor([[*prompt, *answer[:place]]])).logits
                else:
                    before = torch.tensor([[data.start, *answer[:place]]])
                    logits = model(input_ids=torch.tensor([prompt]), decoder_input_ids=before).logits
                by_hand.append(nn.functional.cross_entropy(logits[0, -1], torch.tensor(answer[place])))
    torch.testing.assert_close(loss, torch.stack(by_hand).mean(), rtol=1e-4, atol=1e-5)


def test_a_changed_prompt_label_changes_no_gradient_but_a_changed_answer_does() -> None:
    def gradient(prompts: list[list[int]], answers: list[list[int]]) -> torch.Tensor:
        model = zoo.backbone("llama", "causal-lm").model
        data = Pairs(Ragged.of(prompts), Ragged.of(answers), np.arange(1), None)
        model(**data.collate([0], PADDING)).loss.backward()
        return model.lm_head.weight.grad  # type: ignore[no-any-return]

    whole = gradient([[5, 6, 7]], [[8, 2]])
    # the output map is pulled towards the tokens that are learned; of those that are only read it is pushed away
    assert whole[8].norm() > 10 * whole[6].norm() and whole[2].norm() > 10 * whole[7].norm()
