"""Prompt tuning and P-tuning: the virtual tokens are read as real ones would be, on every family."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig

from bench.core.protocols import CountsParameters, Mergeable
from bench.methods.prompt import PromptTuning, PTuning, VirtualTokens
from bench.models.backbone import Backbone, count, trainable
from bench.models.checkpoint import load_state, save_state, saved_state
from bench.models.loading import fresh_head, model_class
from tests import zoo

LENGTH = 5
# T5's and BART's classifiers need the decoder to read as many tokens as the encoder: no comparison is possible there.
TEXT = [(f, k) for f, ks in zoo.KINDS.items() for k in ks if f != "vit" and (f, k) not in
        (("t5", "classification"), ("bart", "classification"))]  # fmt: skip
ENCODERS = ("bert", "roberta", "distilbert", "electra", "deberta-v2")
DECODERS = ("gpt2", "opt", "gpt_neox", "llama", "mistral", "qwen2", "qwen3", "gemma")
METHODS = {
    "prompt": PromptTuning(length=LENGTH),
    "prompt random": PromptTuning(length=LENGTH, init="random"),
    "p-tuning": PTuning(length=LENGTH),
    "p-tuning lstm": PTuning(length=LENGTH, encoder="lstm"),
}


def tokens(model: Any) -> VirtualTokens:
    (found,) = [child for child in model.modules() if isinstance(child, VirtualTokens)]
    return found


def llama_3b() -> Backbone:
    """Llama-3.2-3B's shape on the meta device (values of meta-llama/Llama-3.2-3B's config.json)."""
    config = AutoConfig.for_model(
        "llama", hidden_size=3072, num_hidden_layers=28, num_attention_heads=24, num_key_value_heads=8, head_dim=128,
        intermediate_size=8192, vocab_size=128256, max_position_embeddings=131072, tie_word_embeddings=True,
    )  # fmt: skip
    with torch.device("meta"):
        model = model_class("causal-lm").from_config(config)
    return Backbone(model, "causal-lm", fresh_head(model, "causal-lm"))


@pytest.mark.parametrize(("family", "kind"), [(f, k) for f, kinds in zoo.KINDS.items() for k in kinds])
@pytest.mark.parametrize("name", METHODS)
def test_trains_what_it_counts_on_every_family(name: str, family: str, kind: str) -> None:
    backbone, batch, method = zoo.backbone(family, kind), zoo.batch(family, kind), METHODS[name]
    before = copy.deepcopy(backbone.model)
    expected = method.trainable_count(backbone)
    model = method.attach(backbone)
    found = trainable(model)
    assert count(list(found.values())) == expected
    out = model(**batch)
    assert out.logits.shape == before(**batch).logits.shape
    out.loss.backward()
    assert all(value.grad is not None and value.grad.abs().max() > 0 for value in found.values())
    for key, value in before.named_parameters():
        assert key in found or torch.equal(model.get_parameter(key), value), key


@pytest.mark.parametrize(("family", "kind"), TEXT)
def test_virtual_tokens_with_a_vocabulary_s_rows_are_those_tokens(family: str, kind: str) -> None:
    """Set to the embeddings of real tokens, the prompt gives what the untouched model gives with them written out."""
    backbone, batch = zoo.backbone(family, kind), zoo.batch(family, kind)
    plain = copy.deepcopy(backbone.model)
    model: Any = PromptTuning(length=LENGTH).attach(backbone)
    ids = torch.tensor([7, 8, 9, 10, 11])
    with torch.no_grad():
        tokens(model).source.weight.copy_(plain.get_input_embeddings()(ids))  # type: ignore[operator, union-attr]
    first = 1 if family in ENCODERS else 0
    assert tokens(model).first == first
    rows, written = batch["input_ids"], dict(batch)
    extra = ids.expand(len(rows), -1)
    written["input_ids"] = torch.cat((rows[:, :first], extra, rows[:, first:]), 1)
    written["attention_mask"] = torch.cat((torch.ones_like(extra), batch["attention_mask"]), 1)
    if kind == "causal-lm":
        written["labels"] = torch.cat((torch.full_like(extra, -100), batch["labels"]), 1)
        written["labels"][:, LENGTH] = batch["labels"][:, 0] = -100
    a, b = model(**batch), plain(**written)
    logits = b.logits[:, LENGTH:] if kind == "causal-lm" else b.logits
    real = batch["attention_mask"].bool() if kind == "causal-lm" else slice(None)
    torch.testing.assert_close(a.logits[real], logits[real], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(a.loss, b.loss, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("family", (*ENCODERS, *DECODERS))
def test_padding_does_not_change_a_classifier_s_answer(family: str) -> None:
    """Also on decoders, whose head must still find the last real token."""
    model = PromptTuning(length=LENGTH).attach(zoo.backbone(family, "classification")).eval()
    batch = zoo.batch(family, "classification")
    ids, mask = batch["input_ids"], batch["attention_mask"]
    real = int(mask[-1].sum())
    assert real < ids.shape[1]
    alone = model(input_ids=ids[-1:, :real], attention_mask=mask[-1:, :real]).logits
    torch.testing.assert_close(model(input_ids=ids, attention_mask=mask).logits[-1:], alone, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("beams", (1, 3))
@pytest.mark.parametrize("family", (*DECODERS, "t5", "bart"))
def test_generates_with_a_cache_what_it_generates_without(family: str, beams: int) -> None:
    kind = "causal-lm" if family in DECODERS else "seq2seq"
    model: Any = PromptTuning(length=LENGTH).attach(zoo.backbone(family, kind)).eval()
    with torch.no_grad():
        tokens(model).source.weight.mul_(20)  # type: ignore[operator, union-attr]
    batch = zoo.batch(family, kind)
    # Generation pads on the left.
    ids, mask = batch["input_ids"].flip(1), batch["attention_mask"].flip(1)
    options: dict[str, Any] = {"attention_mask": mask, "max_new_tokens": 6, "do_sample": False, "num_beams": beams}
    cached = model.generate(input_ids=ids, use_cache=True, **options)
    assert torch.equal(cached, model.generate(input_ids=ids, use_cache=False, **options))
    alone = model.generate(input_ids=ids[-1:, 4:], **{**options, "attention_mask": mask[-1:, 4:]})
    start = 4 if family in DECODERS else 0
    length = min(alone.shape[1], cached.shape[1] - start)
    assert torch.equal(cached[-1:, start : start + length], alone[:, :length])


@pytest.mark.parametrize("name", METHODS)
def test_saved_and_loaded_it_answers_the_same(name: str, tmp_path: Path) -> None:
    def attached(seed: int) -> tuple[Any, set[int]]:
        backbone = zoo.backbone("bert", "classification")
        originals = {id(value) for value in backbone.model.state_dict(keep_vars=True).values()}
        torch.manual_seed(seed)
        return METHODS[name].attach(backbone).eval(), originals

    model, originals = attached(1)
    batch = zoo.batch("bert", "classification")
    state = saved_state(model, originals)
    assert sum(value.numel() for value in state.values()) == count(list(trainable(model).values()))
    save_state(tmp_path / "adapter.safetensors", state)
    other, _ = attached(2)
    assert not torch.equal(model(**batch).logits, other(**batch).logits)
    load_state(tmp_path / "adapter.safetensors", other)
    assert torch.equal(model(**batch).logits, other(**batch).logits)


@pytest.mark.parametrize("encoder", ("mlp", "lstm"))
def test_p_tuning_folds_into_plain_embeddings(encoder: str) -> None:
    method = PTuning(length=LENGTH, encoder=encoder)
    assert isinstance(method, Mergeable)
    model = method.attach(zoo.backbone("bert", "classification")).eval()
    batch = zoo.batch("bert", "classification")
    before = model(**batch).logits
    merged = method.merge(model)
    torch.testing.assert_close(merged(**batch).logits, before, atol=1e-5, rtol=1e-5)
    assert [tuple(value.shape) for value in tokens(merged).parameters()] == [(LENGTH, 32)]


@pytest.mark.filterwarnings("ignore:`gradient_checkpointing_enable` is deprecated:FutureWarning")
@pytest.mark.parametrize("family", ("bert", "llama", "t5"))
@pytest.mark.parametrize("name", METHODS)
def test_gradients_are_the_same_with_checkpointing(name: str, family: str) -> None:
    gradients = []
    for checkpointing in (False, True):
        backbone = zoo.backbone(family, "classification")
        torch.manual_seed(1)
        model: Any = METHODS[name].attach(backbone).train()
        if checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        model(**zoo.batch(family, "classification")).loss.backward()
        gradients.append({key: value.grad for key, value in trainable(model).items()})
    torch.testing.assert_close(gradients[0], gradients[1], atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("family", ("bert", "gemma", "t5"))
@pytest.mark.parametrize("name", METHODS)
def test_bf16_autocast_keeps_parameters_and_gradients_in_fp32(name: str, family: str) -> None:
    kind = "classification"
    model = METHODS[name].attach(zoo.backbone(family, kind))
    batch = zoo.batch(family, kind)
    plain = model(**batch).logits
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = model(**batch)
    out.loss.backward()
    torch.testing.assert_close(out.logits.float(), plain, atol=5e-2, rtol=0)
    assert {value.grad.dtype for value in trainable(model).values() if value.grad is not None} == {torch.float32}


def test_counts_on_llama_3_2_3b() -> None:
    for method, expected in ((PromptTuning(length=200), 614_400), (PTuning(length=20), 28_382_208)):
        backbone = llama_3b()
        assert isinstance(method, CountsParameters)
        assert method.trainable_count(backbone) == expected
        found = list(trainable(method.attach(backbone)).values())
        assert count(found) == expected
        assert {value.device.type for value in found} == {"meta"}


@pytest.mark.parametrize(("family", "kind", "limit"), (("bert", "classification", 512), ("roberta", "regression", 62),
                                                       ("gpt2", "causal-lm", 64), ("bart", "seq2seq", 64)))  # fmt: skip
@pytest.mark.parametrize("method", (PromptTuning, PTuning))
def test_refuses_more_tokens_than_positions(method: Any, family: str, kind: str, limit: int) -> None:
    with pytest.raises(ValueError, match=f"^{method.name}: length {limit} leaves no room .* {limit} positions"):
        method(length=limit).attach(zoo.backbone(family, kind))
    model = method(length=limit - zoo.SEQUENCE).attach(zoo.backbone(family, kind))
    batch = zoo.batch(family, kind)
    assert torch.isfinite(model(**batch).loss)
    longer = {key: torch.cat((value[:, :1], value), 1) for key, value in batch.items() if key != "labels"}
    with pytest.raises(ValueError, match=f"more than the model's {limit} positions: use --max-length {zoo.SEQUENCE}"):
        model(**longer)


def test_relative_positions_have_no_limit() -> None:
    for family, kind in (("t5", "seq2seq"), ("deberta-v2", "classification")):
        model = PromptTuning(length=600).attach(zoo.backbone(family, kind))
        assert torch.isfinite(model(**zoo.batch(family, kind)).loss)


def test_place_start_is_before_the_first_token_and_only_encoders_have_another() -> None:
    assert tokens(PromptTuning(place="start").attach(zoo.backbone("bert", "classification"))).first == 0
    for family, kind in (("llama", "causal-lm"), ("t5", "seq2seq")):
        with pytest.raises(ValueError, match="^prompt: place=after-first is for encoders"):
            PromptTuning(place="after-first").attach(zoo.backbone(family, kind))


def test_vocabulary_rows_are_drawn_by_the_seed() -> None:
    rows = []
    for seed in (1, 1, 2):
        backbone = zoo.backbone("gemma", "causal-lm")
        embed = backbone.model.get_input_embeddings()
        torch.manual_seed(seed)
        rows.append(tokens(PromptTuning(length=LENGTH).attach(backbone)).source.weight.detach())  # type: ignore[union-attr]
        scaled = embed(torch.arange(zoo.VOCABULARY))
        assert all(any(torch.equal(row, one) for one in scaled) for row in rows[-1])  # type: ignore[union-attr]
    assert torch.equal(rows[0], rows[1])  # type: ignore[arg-type]
    assert not torch.equal(rows[0], rows[2])  # type: ignore[arg-type]


def test_the_prompt_s_mask_must_be_over_tokens() -> None:
    model = PromptTuning(length=LENGTH).attach(zoo.backbone("llama", "causal-lm"))
    with pytest.raises(ValueError, match="padding mask of shape"):
        model(input_ids=torch.ones(1, 4, dtype=torch.long), attention_mask=torch.ones(1, 1, 4, 4))


def test_a_count_of_positions_without_the_virtual_tokens_is_not_passed_on() -> None:
    """transformers before 5.4 counts the cached positions outside the model, without these tokens."""
    model = PromptTuning(length=LENGTH).attach(zoo.backbone("llama", "causal-lm"))
    call = {"input_ids": torch.ones(1, 4, dtype=torch.long), "cache_position": torch.arange(4)}
    assert tokens(model).enter(model.model, (), call)[1].keys() == {"inputs_embeds"}
