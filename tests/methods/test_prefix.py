"""Prefix-tuning and P-tuning v2: the prefix acts as the keys and values of real tokens would, on every family."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoConfig, DynamicCache

from bench.core.protocols import Mergeable
from bench.methods.prefix import PrefixTuning, PTuning2, attention_sites
from bench.models.backbone import Backbone, count, trainable
from bench.models.checkpoint import load_state, save_state, saved_state
from bench.models.loading import fresh_head, model_class
from bench.models.prefix_attention import Prefix
from tests import zoo

LENGTH = 5
ENCODERS = ("bert", "roberta", "distilbert", "electra", "deberta-v2")
DECODERS = ("gpt2", "opt", "gpt_neox", "llama", "mistral", "qwen2", "qwen3", "gemma")
METHODS: dict[str, Any] = {
    "prefix": PrefixTuning(length=LENGTH, width=24),
    "prefix free": PrefixTuning(length=LENGTH, projection=False),
    "p-tuning-v2": PTuning2(length=LENGTH),
}
CELLS = [(family, kind) for family, kinds in zoo.KINDS.items() for kind in kinds]


def prefixes(model: nn.Module) -> list[Any]:
    return [child for child in model.modules() if isinstance(child, Prefix)]


def eager(family: str, kind: str, **changes: Any) -> Backbone:
    return zoo.backbone(family, kind, attn_implementation="eager", **changes)


def llama_3b() -> Backbone:
    """Llama-3.2-3B's shape on the meta device (values of meta-llama/Llama-3.2-3B's config.json)."""
    config = AutoConfig.for_model(
        "llama", hidden_size=3072, num_hidden_layers=28, num_attention_heads=24, num_key_value_heads=8, head_dim=128,
        intermediate_size=8192, vocab_size=128256, max_position_embeddings=131072, tie_word_embeddings=True,
    )  # fmt: skip
    with torch.device("meta"):
        model = model_class("causal-lm").from_config(config)
    return Backbone(model, "causal-lm", fresh_head(model, "causal-lm"))


@pytest.mark.parametrize(("family", "kind"), CELLS)
@pytest.mark.parametrize("name", METHODS)
def test_trains_what_it_counts_on_every_family(name: str, family: str, kind: str) -> None:
    backbone, batch, method = zoo.backbone(family, kind), zoo.batch(family, kind), METHODS[name]
    before = copy.deepcopy(backbone.model)
    expected = method.trainable_count(backbone)
    model = method.attach(backbone)
    found = trainable(model)
    assert count(list(found.values())) == expected
    out, plain = model(**batch), before(**batch)
    assert out.logits.shape == plain.logits.shape
    assert not torch.allclose(out.logits, plain.logits, atol=1e-6)
    out.loss.backward()
    assert all(value.grad is not None and value.grad.abs().max() > 0 for value in found.values())
    for key, value in before.named_parameters():
        assert key in found or torch.equal(model.get_parameter(key), value), key
    assert model.config.to_dict() == before.config.to_dict()  # type: ignore[union-attr, operator]


@pytest.mark.parametrize("padded", (False, True))
@pytest.mark.parametrize("make", (zoo.backbone, eager))
@pytest.mark.parametrize("family", DECODERS)
def test_a_decoder_s_prefix_with_a_cache_s_content_is_that_cache(family: str, make: Any, padded: bool) -> None:
    """Set to the keys and values of real tokens, the prefix gives what the model gives after those tokens."""
    backbone, batch = make(family, "causal-lm"), zoo.batch(family, "causal-lm")
    plain: Any = copy.deepcopy(backbone.model).eval()
    ids, mask = batch["input_ids"], batch["attention_mask"]
    extra = torch.tensor([[7, 8, 9, 10, 11]])
    cache = DynamicCache(config=plain.config)
    with torch.no_grad():
        plain(input_ids=extra, **{zoo.CACHE: cache}, use_cache=True)
    model = PTuning2(length=LENGTH).attach(backbone).eval()
    with torch.no_grad():
        for prefix, layer in zip(prefixes(model), cache.layers, strict=True):
            prefix.key.copy_(layer.keys[0].transpose(0, 1).flatten(1))
            prefix.value.copy_(layer.values[0].transpose(0, 1).flatten(1))
    many = extra.expand(len(ids), -1)
    masks = {"attention_mask": torch.cat((torch.ones_like(many), mask), 1)} if padded else {}
    whole = plain(input_ids=torch.cat((many, ids), 1), **masks).logits[:, LENGTH:]
    found = model(input_ids=ids, **({"attention_mask": mask} if padded else {})).logits
    real = mask.bool() if padded else torch.ones_like(mask).bool()
    torch.testing.assert_close(found[real], whole[real], atol=1e-5, rtol=1e-4)


def catch_first(target: nn.Module, name: str, caught: dict[str, Tensor]) -> None:
    """Keep a map's first output; DeBERTa also calls its maps on the relative embeddings."""

    def hook(_: nn.Module, __: Any, out: Tensor) -> None:
        caught.setdefault(name, out.detach())

    target.register_forward_hook(hook)


def first_layer(backbone: Backbone, tower: int = 0) -> Any:
    return attention_sites(backbone.towers()[tower])[0].module


@pytest.mark.parametrize("make", (zoo.backbone, eager))
@pytest.mark.parametrize("family", ENCODERS)
def test_an_encoder_s_prefix_with_tokens_keys_is_those_tokens(family: str, make: Any) -> None:
    """In a model of one layer a token's key and value depend on nothing else, so real ones can be the prefix."""
    layers = {"n_layers": 1} if family == "distilbert" else {"num_hidden_layers": 1}
    backbone, batch = make(family, "classification", **layers), zoo.batch(family, "classification")
    maps = "key_proj value_proj" if family == "deberta-v2" else "k_lin v_lin" if family == "distilbert" else "key value"
    plain: Any = copy.deepcopy(backbone)
    caught: dict[str, Tensor] = {}
    for name in maps.split():
        catch_first(getattr(first_layer(plain), name), name, caught)
    ids, mask = batch["input_ids"], batch["attention_mask"]
    extra = torch.tensor([[7, 8, 9, 10, 11]]).expand(len(ids), -1)
    whole = plain.base(
        input_ids=torch.cat((extra, ids), 1), attention_mask=torch.cat((torch.ones_like(extra), mask), 1)
    ).last_hidden_state[:, LENGTH:]
    PTuning2(length=LENGTH, positions="shifted").attach(backbone)
    (prefix,) = prefixes(backbone.model)
    key, value = (caught[name][0, :LENGTH] for name in maps.split())
    with torch.no_grad():
        prefix.key.copy_(key)
        prefix.value.copy_(value)
    found: Any = backbone.base(input_ids=ids, attention_mask=mask)
    real = mask.bool()
    torch.testing.assert_close(found.last_hidden_state[real], whole[real], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("make", (zoo.backbone, eager))
def test_t5_s_encoder_prefix_has_the_relative_bias_of_tokens_before_the_text(make: Any) -> None:
    backbone, batch = make("t5", "seq2seq", num_layers=1), zoo.batch("t5", "seq2seq")
    plain: Any = copy.deepcopy(backbone)
    caught: dict[str, Tensor] = {}
    for name in ("k", "v"):
        catch_first(getattr(first_layer(plain), name), name, caught)
    ids, mask = batch["input_ids"], batch["attention_mask"]
    extra = torch.tensor([[7, 8, 9, 10, 11]]).expand(len(ids), -1)
    whole = plain.model.encoder(
        input_ids=torch.cat((extra, ids), 1), attention_mask=torch.cat((torch.ones_like(extra), mask), 1)
    ).last_hidden_state[:, LENGTH:]
    PTuning2(length=LENGTH, places=("encoder",)).attach(backbone)
    (prefix,) = prefixes(backbone.model)
    with torch.no_grad():
        prefix.key.copy_(caught["k"][0, :LENGTH])
        prefix.value.copy_(caught["v"][0, :LENGTH])
    found = backbone.model.encoder(input_ids=ids, attention_mask=mask).last_hidden_state
    torch.testing.assert_close(found[mask.bool()], whole[mask.bool()], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("make", (zoo.backbone, eager))
@pytest.mark.parametrize(("family", "maps"), (("t5", "k v"), ("bart", "k_proj v_proj")))
def test_a_cross_attention_s_prefix_is_more_encoder_states(family: str, maps: str, make: Any) -> None:
    backbone, batch = make(family, "seq2seq"), zoo.batch(family, "seq2seq")
    plain: Any = copy.deepcopy(backbone.model)
    ids, mask = batch["input_ids"], batch["attention_mask"]
    states = torch.randn(len(ids), ids.shape[1], 32)
    more = torch.randn(1, LENGTH, 32)
    ones = torch.ones(len(ids), LENGTH, dtype=torch.long)
    whole = plain(
        encoder_outputs=(torch.cat((more.expand(len(ids), -1, -1), states), 1),),
        attention_mask=torch.cat((ones, mask), 1),
        labels=batch["labels"],
    )
    crosses = [site.module for site in attention_sites(backbone.towers()[1]) if site.place == "cross"]
    model = PTuning2(length=LENGTH, places=("cross",)).attach(backbone)
    assert len(prefixes(model)) == len(crosses) == 2
    with torch.no_grad():
        for cross in crosses:
            key, value = (getattr(cross, name)(more[0]) for name in maps.split())
            cross.prefix.key.copy_(key)
            cross.prefix.value.copy_(value)
    found = model(encoder_outputs=(states,), attention_mask=mask, labels=batch["labels"])
    torch.testing.assert_close(found.logits, whole.logits, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("family", (*ENCODERS, *DECODERS))
def test_padding_does_not_change_a_classifier_s_answer(family: str) -> None:
    model = PTuning2(length=LENGTH).attach(zoo.backbone(family, "classification")).eval()
    batch = zoo.batch(family, "classification")
    ids, mask = batch["input_ids"], batch["attention_mask"]
    real = int(mask[-1].sum())
    alone = model(input_ids=ids[-1:, :real], attention_mask=mask[-1:, :real]).logits
    torch.testing.assert_close(model(input_ids=ids, attention_mask=mask).logits[-1:], alone, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("beams", (1, 3))
@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("family", (*DECODERS, "t5", "bart"))
def test_generates_with_a_cache_what_it_generates_without(family: str, name: str, beams: int) -> None:
    kind = "causal-lm" if family in DECODERS else "seq2seq"
    torch.manual_seed(3)
    model: Any = METHODS[name].attach(zoo.backbone(family, kind)).eval()
    batch = zoo.batch(family, kind)
    ids, mask = batch["input_ids"].flip(1), batch["attention_mask"].flip(1)  # generation pads on the left
    options: dict[str, Any] = {"attention_mask": mask, "max_new_tokens": 6, "do_sample": False, "num_beams": beams}
    cached = model.generate(input_ids=ids, use_cache=True, **options)
    assert torch.equal(cached, model.generate(input_ids=ids, use_cache=False, **options))


@pytest.mark.parametrize("family", ("bert", "gpt2", "t5", "deberta-v2"))
@pytest.mark.parametrize("name", METHODS)
def test_saved_and_loaded_it_answers_the_same(name: str, family: str, tmp_path: Path) -> None:
    def attached(seed: int) -> tuple[Any, set[int]]:
        backbone = zoo.backbone(family, "classification")
        originals = {id(value) for value in backbone.model.state_dict(keep_vars=True).values()}
        torch.manual_seed(seed)
        return METHODS[name].attach(backbone).eval(), originals

    model, originals = attached(1)
    batch = zoo.batch(family, "classification")
    state = saved_state(model, originals)
    assert sum(value.numel() for value in state.values()) == count(list(trainable(model).values()))
    save_state(tmp_path / "adapter.safetensors", state)
    other, _ = attached(2)
    assert not torch.equal(model(**batch).logits, other(**batch).logits)
    load_state(tmp_path / "adapter.safetensors", other)
    assert torch.equal(model(**batch).logits, other(**batch).logits)


@pytest.mark.parametrize("family", ("bert", "llama", "t5", "bart", "deberta-v2", "vit"))
def test_folds_into_plain_keys_and_values(family: str) -> None:
    method, kind = METHODS["prefix"], zoo.KINDS[family][0]
    assert isinstance(method, Mergeable)
    backbone = zoo.backbone(family, kind)
    free = METHODS["prefix free"].trainable_count(backbone)
    model = method.attach(backbone).eval()
    batch = zoo.batch(family, kind)
    before = model(**batch).logits
    merged = method.merge(model)
    torch.testing.assert_close(merged(**batch).logits, before, atol=1e-5, rtol=1e-5)
    assert count(list(trainable(merged).values())) == free


@pytest.mark.filterwarnings("ignore:`gradient_checkpointing_enable` is deprecated:FutureWarning")
@pytest.mark.parametrize("family", ("bert", "llama", "t5", "deberta-v2"))
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


@pytest.mark.parametrize("family", ("bert", "llama", "t5", "deberta-v2"))
@pytest.mark.parametrize("name", METHODS)
def test_bf16_autocast_keeps_parameters_and_gradients_in_fp32(name: str, family: str) -> None:
    model = METHODS[name].attach(zoo.backbone(family, "classification"))
    batch = zoo.batch(family, "classification")
    plain = model(**batch).logits
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = model(**batch)
    out.loss.backward()
    torch.testing.assert_close(out.logits.float(), plain, atol=5e-2, rtol=0)
    assert {value.grad.dtype for value in trainable(model).values() if value.grad is not None} == {torch.float32}


def test_counts_on_llama_3_2_3b() -> None:
    # With the MLP: E, its first map, and a map of 512 + 1 inputs to every layer's keys and values.
    projected = 200 * 3072 + 3072 * 512 + 512 + 513 * 28 * 2 * 1024
    for method, expected in (
        (PrefixTuning(length=200, projection=False), 11_468_800),
        (PTuning2(length=200), 11_468_800),
        (PrefixTuning(length=200), projected),
    ):
        backbone = llama_3b()
        assert method.trainable_count(backbone) == expected
        found = list(trainable(method.attach(backbone)).values())
        assert count(found) == expected
        assert {value.device.type for value in found} == {"meta"}


def test_refuses_more_keys_than_positions_where_the_text_s_positions_move() -> None:
    with pytest.raises(ValueError, match="^prefix: length 64 leaves no room .* 64 positions"):
        PrefixTuning(length=64).attach(zoo.backbone("gpt2", "causal-lm"))
    with pytest.raises(ValueError, match="^p-tuning-v2: length 62 leaves no room .* 62 positions"):
        PTuning2(length=62, positions="shifted").attach(zoo.backbone("roberta", "classification"))
    for family, kind, fits in (("gpt2", "causal-lm", 52), ("roberta", "classification", 50)):
        batch = zoo.batch(family, kind)
        model = PTuning2(length=fits, positions="shifted").attach(zoo.backbone(family, kind))
        assert torch.isfinite(model(**batch).loss)
        model = PTuning2(length=fits + 1, positions="shifted").attach(zoo.backbone(family, kind))
        with pytest.raises(ValueError, match="are more than the model's .* or positions=kept"):
            model(**batch)
        model = PTuning2(length=500, positions="kept").attach(zoo.backbone(family, kind))
        assert torch.isfinite(model(**batch).loss)


def test_refusals_say_what_to_use_instead() -> None:
    with pytest.raises(ValueError, match="^prefix: .*place.*'decodr'.*decoder"):
        PrefixTuning(places=("decodr",)).attach(zoo.backbone("llama", "causal-lm"))
    with pytest.raises(ValueError, match="^prefix: this model has no attention in places=cross; use encoder"):
        PrefixTuning(places=("cross",)).attach(zoo.backbone("bert", "classification"))
    with pytest.raises(ValueError, match="^prefix: .* use positions=kept"):
        PrefixTuning(positions="shifted").attach(zoo.backbone("vit", "image-classification"))
    flex = zoo.backbone("bert", "classification")
    first_layer(flex).config._attn_implementation = "flex_attention"
    with pytest.raises(
        ValueError, match="^prefix: attention implementation flex_attention .* load the model with sdpa"
    ):
        PrefixTuning().attach(flex)


def test_all_layers_share_one_widened_mask_and_let_go_of_it() -> None:
    model = PTuning2(length=LENGTH).attach(zoo.backbone("bert", "classification"))
    seen: list[int] = []
    for prefix in prefixes(model):
        widen = prefix.widen
        prefix.widen = lambda *args, widen=widen: seen.append(id(widen(*args))) or widen(*args)
    model(**zoo.batch("bert", "classification"))
    assert len(seen) == 2 and len(set(seen)) == 1
    assert not prefixes(model)[0].shared.made
