"""Templates, and prompts and answers as tokens: where they are cut, what parts and ends them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from bench.core.errors import RequestError
from bench.tasks.formulations import select
from bench.tasks.formulations.prompt_template import Template, Words, default_template
from tests import writers
from tests.writers import BOS, EOS


def words(decoder: bool = True) -> Words:
    return Words(writers.tokenizer(decoder), None if decoder else 0)


def ids(text: str) -> list[int]:
    return writers.tokenizer()(text, add_special_tokens=False)["input_ids"]  # type: ignore[no-any-return]


def test_columns_fill_their_places_and_double_braces_are_braces() -> None:
    assert Template("{a} {{x}} {b}{a}").fill({"a": "1", "b": "{a}"}) == "1 {x} {a}1"
    assert default_template(("premise", "hypothesis")) == "premise: {premise}\nhypothesis: {hypothesis}\nanswer:"


@pytest.mark.parametrize("text", ["{}", "{a!r}", "{a:>9}", "{a", "a}"])
def test_a_template_that_cannot_be_read_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="the template"):
        Template(text)


def test_an_unknown_column_is_named_with_the_nearest() -> None:
    with pytest.raises(ValueError, match="Unknown column 'sentense'. Did you mean 'sentence'"):
        Template("{sentense}").check(["sentence", "label"])


def test_a_decoders_answer_ends_and_its_prompt_begins() -> None:
    decoder = words()
    assert decoder.answer(["good film"], 9) == ([[*ids("good film"), EOS]], [False])
    assert decoder.prompt(Template("{t} is"), {"t": ["good"]}, 9) == ([[BOS, *ids("good is")]], [False])
    assert words(False).answer(["good"], 9) == ([[*ids("good"), EOS]], [False])
    assert words(False).prompt(Template("{t} is"), {"t": ["good"]}, 9) == ([[*ids("good is"), EOS]], [False])


def test_a_long_answer_is_cut_and_counted() -> None:
    assert words().answer(["good film", "bad"], 2) == ([ids("good film"), [*ids("bad"), EOS]], [True, False])


def test_a_long_row_loses_the_end_of_its_longest_column_but_no_word_of_the_template() -> None:
    template = Template("text {a} sentence {b} answer:")
    rows = {"a": ["good fine bad poor film book", "good"], "b": ["day road", "day"]}
    found, cut = words().prompt(template, rows, 9)
    assert found == [[BOS, *ids("text good fine sentence day road answer:")],
                     [BOS, *ids("text good sentence day answer:")]]  # fmt: skip
    assert cut == [True, False] and len(found[0]) == 9
    (short, _), _ = words().prompt(template, rows, 7)
    assert short == [BOS, *ids("text good sentence day answer:")], "then both"
    (shortest, _), _ = words().prompt(template, rows, 4)
    assert shortest == ids("text sentence answer:"), "and at last the template's own beginning"


def test_a_space_parts_an_answer_from_its_prompt_where_the_tokenizer_adds_none() -> None:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    pieces = ["<eos>", "Ġ", *"abcdefghijklmnopqrstuvwxyz:", "Ġyes", "yes"]
    merges = [("y", "e"), ("ye", "s"), ("Ġ", "yes")]
    vocabulary = {piece: index for index, piece in enumerate([*pieces, "ye"])}
    made = Tokenizer(models.BPE(vocabulary, merges))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    gpt = Words(PreTrainedTokenizerFast(tokenizer_object=made, eos_token="<eos>"), None)
    assert gpt.lead == " " and gpt.first == ()
    assert gpt.answer(["yes"], 5)[0] == [[vocabulary["Ġyes"], 0]]
    assert words().lead == "", "a word-level tokenizer splits at blanks by itself"


@pytest.mark.parametrize("text", ["{a.b}", "{a[0]}", "{0}"])
def test_a_template_looks_into_nothing(text: str) -> None:
    with pytest.raises(ValueError, match="Unknown column"):
        Template(text).check(["a"])
    assert Template(text).fill({text[1:-1]: "whole name"}) == "whole name"


def test_a_column_of_two_words_has_a_template() -> None:
    template = Template(default_template(["my text"]))
    template.check(["my text", "label"])
    assert template.fill({"my text": "fine"}) == "my text: fine\nanswer:"


def test_a_template_holds_a_column_and_not_the_answer() -> None:
    task: Any = SimpleNamespace(name="own", label="label")
    select.check_columns(task, {"template": "{text}"}, ["text", "label"])
    with pytest.raises(RequestError, match="holds 'label', which is the answer"):
        select.check_columns(task, {"template": "{text} {label}"}, ["text", "label"])
    with pytest.raises(RequestError, match="has no column: every prompt would be the same"):
        select.check_columns(task, {"template": "hello"}, ["text", "label"])
