"""Ladder Side-Tuning on every family: counts, a trunk that stays untouched, options, initialisation, memory."""

import copy
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close
from transformers import AutoConfig, AutoModelForSeq2SeqLM
from transformers.pytorch_utils import Conv1D

from bench.core.protocols import DataInitialized, Mergeable
from bench.methods.lora import Lora
from bench.methods.lst import Lst
from bench.methods.lst_module import Ladder
from bench.models.backbone import Backbone, count, trainable
from bench.models.checkpoint import load_state, save_state, saved_state
from bench.training.memory import Loop, measure_call, measure_training
from bench.training.prepare import RunData, _initialize
from tests import zoo

CELLS = [(family, kind) for family, kinds in zoo.KINDS.items() for kind in kinds]
LANGUAGE = [cell for cell in CELLS if cell[1] in ("causal-lm", "seq2seq")]
FAMILIES = [(family, kinds[-1]) for family, kinds in zoo.KINDS.items()]
T5_BASE = {"vocab_size": 32_100, "d_model": 768, "d_kv": 64, "d_ff": 3072, "num_layers": 12, "num_heads": 12}
T5_BASE_KEPT = ("1-3", "5-7", "9-11")

pytestmark = pytest.mark.filterwarnings("ignore:.*gradient_checkpointing_enable.*:FutureWarning")


def tuned(family: str, kind: str, method: Lst, **changes: Any) -> nn.Module:
    backbone = zoo.backbone(family, kind, **changes)
    torch.manual_seed(7)
    return method.attach(backbone)


def ladders(module: nn.Module) -> list[Ladder]:
    return [child for child in module.modules() if isinstance(child, Ladder)]


def stir(module: nn.Module) -> None:
    """Give every trained tensor a value that matters, so that no term hides behind a zero or a small one."""
    generator = torch.Generator().manual_seed(11)
    with torch.no_grad():
        for value in trainable(module).values():
            value.add_(torch.randn(value.shape, generator=generator) * 0.2)


def frozen_state(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in module.named_parameters() if not value.requires_grad}


def gradients(module: nn.Module, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    module.zero_grad()
    module(**batch).loss.backward()
    return {name: cast(Tensor, value.grad).clone() for name, value in trainable(module).items()}


# -- counts -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("family", "kind"), CELLS)
@pytest.mark.parametrize("heads", ["scaled", "official"])
@pytest.mark.parametrize("reduction", [2, 4])
def test_the_formula_gives_the_number_of_trained_values(family: str, kind: str, heads: str, reduction: int) -> None:
    if family == "gpt_neox" and heads == "official":
        with pytest.raises(ValueError, match="rotary dimensions; use heads=scaled"):  # a quarter of 4 or 2
            tuned(family, kind, Lst(reduction=reduction, heads=heads))
        return
    for method in (
        Lst(reduction=reduction, heads=heads),
        Lst(reduction=reduction, heads=heads, gates="fixed", layers=("-1",)),
    ):
        expected = method.trainable_count(zoo.backbone(family, kind))
        assert count(list(trainable(tuned(family, kind, method)).values())) == expected


@pytest.mark.parametrize(
    ("layers", "heads", "expected"),
    [
        (T5_BASE_KEPT, "official", 3_878_712),
        (("all",), "official", 5_097_240),
        # Two heads instead of twelve: only the two relative biases of 32 buckets shrink.
        (T5_BASE_KEPT, "scaled", 3_878_712 - 2 * 32 * 10),
        (("all",), "scaled", 5_097_240 - 2 * 32 * 10),
    ],
)
def test_t5_base_has_the_published_number_of_trained_values(layers: tuple[str, ...], heads: str, expected: int) -> None:
    method = Lst(layers=layers, heads=heads)
    with torch.device("meta"):
        model = AutoModelForSeq2SeqLM.from_config(AutoConfig.for_model("t5", **T5_BASE))
    backbone = Backbone(model, "seq2seq", frozenset())
    assert method.trainable_count(backbone) == expected
    module = method.attach(backbone)
    assert count(list(trainable(module).values())) == expected
    assert {value.device.type for value in module.parameters()} == {"meta"}
    block = module.decoder.side.blocks[0].layer
    assert (block[0].SelfAttention.n_heads, block[0].SelfAttention.key_value_proj_dim) == (
        (12, 8) if heads == "official" else (2, 48)
    )
    assert block[2].DenseReluDense.wi.weight.shape == (384, 96)


def test_scaled_heads_divide_the_number_of_heads_and_of_groups() -> None:
    changes = {"hidden_size": 64, "num_attention_heads": 8, "num_key_value_heads": 4}
    attention = ladders(tuned("qwen3", "causal-lm", Lst(reduction=4), **changes))[0].side.blocks[0].self_attn
    assert (attention.q_proj.out_features, attention.k_proj.out_features, attention.head_dim) == (16, 8, 8)
    assert attention.q_norm.weight.shape == (8,)
    changes["head_dim"] = 16
    method = Lst(reduction=4, heads="official")
    attention = ladders(tuned("qwen3", "causal-lm", method, **changes))[0].side.blocks[0].self_attn
    assert (attention.q_proj.out_features, attention.k_proj.out_features, attention.head_dim) == (32, 16, 4)


# -- training -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("family", "kind"), CELLS)
def test_a_step_trains_the_side_and_leaves_the_trunk_bit_identical(family: str, kind: str) -> None:
    module = tuned(family, kind, Lst(reduction=2, lr=0.1)).train()
    assert all(child.training is False for ladder in ladders(module) for child in ladder.backbone.modules())
    assert not any(value.requires_grad for ladder in ladders(module) for value in ladder.backbone.parameters())
    before, frozen = {name: value.detach().clone() for name, value in trainable(module).items()}, frozen_state(module)
    optimizer = torch.optim.SGD(trainable(module).values(), lr=0.1)
    batch = zoo.batch(family, kind)
    out = module(**batch)
    assert getattr(out, "past_key_values", None) is None  # nobody reads a cache while training
    out.loss.backward()
    assert [name for name, value in trainable(module).items() if value.grad is None] == []
    assert [name for name, value in module.named_parameters() if name in frozen and value.grad is not None] == []
    optimizer.step()
    assert torch.isfinite(module(**batch).loss)
    for name, value in module.named_parameters():
        assert torch.equal(value, frozen[name]) if name in frozen else True
    moved = [name for name, value in trainable(module).items() if not torch.equal(value, before[name])]
    assert any("blocks" in name for name in moved) and any("downs.1" in name for name in moved)


def test_only_the_kept_layers_are_read() -> None:
    changes = {"num_hidden_layers": 4}
    module = tuned("llama", "causal-lm", Lst(reduction=2, layers=("1", "2")), **changes).eval()
    stir(module)
    batch = zoo.batch("llama", "causal-lm")
    before = module(**batch).logits
    (ladder,) = ladders(module)
    with torch.no_grad():
        ladder.layers[3].mlp.down_proj.weight.add_(1)
    assert_close(module(**batch).logits, before, rtol=0, atol=0)
    with torch.no_grad():
        ladder.layers[2].mlp.down_proj.weight.add_(1)
    assert (module(**batch).logits - before).abs().max() > 1e-3


def test_layer_words_mean_the_layers_of_each_tower() -> None:
    module = tuned("bart", "seq2seq", Lst(reduction=2, layers=("-1",)), decoder_layers=3)
    assert [ladder.side.kept for ladder in ladders(module)] == [(1,), (2,)]
    with pytest.raises(ValueError, match="'2' is outside this model's layers 0-1"):
        tuned("bart", "seq2seq", Lst(reduction=2, layers=("2",)), decoder_layers=3)


def test_gates_mix_half_and_half_at_the_start_and_are_learned_unless_fixed() -> None:
    batch = zoo.batch("bert", "classification")
    learned, fixed = (tuned("bert", "classification", Lst(reduction=2, gates=gates)) for gates in ("learned", "fixed"))
    assert_close(learned(**batch).logits, fixed(**batch).logits)
    assert "bert.side.gates" in trainable(learned) and "bert.side.gates" not in trainable(fixed)
    with torch.no_grad():  # sigmoid(α / 0.1): α = 10 leaves the side alone, so no ladder but the first is read
        learned.bert.side.gates.fill_(10)
        before = learned(**batch).logits
        learned.bert.side.downs[1].weight.normal_()
    assert_close(learned(**batch).logits, before, rtol=0, atol=1e-6)
    with torch.no_grad():
        learned.bert.side.gates.zero_()
    assert (learned(**batch).logits - before).abs().max() > 1e-3


@pytest.mark.parametrize(("family", "kind"), [("bert", "classification"), ("llama", "causal-lm"), ("t5", "seq2seq")])
def test_trunk_dropout_is_off_by_default_and_never_brings_gradients(family: str, kind: str) -> None:
    changes: dict[str, Any] = {
        "bert": {"hidden_dropout_prob": 0.5},
        "llama": {"attention_dropout": 0.5},
        "t5": {"dropout_rate": 0.5},
    }[family]
    batch = zoo.batch(family, kind)
    inputs = {name: value for name, value in batch.items() if name != "labels"}
    for wanted in (False, True):
        module = tuned(family, kind, Lst(reduction=2, backbone_dropout=wanted), **changes).train()
        first = ladders(module)[0]
        assert {child.training for child in first.backbone.modules()} == {wanted}
        inputs = {name: inputs[name] for name in ("input_ids", "attention_mask")}
        twice = [first.read(inputs).features[1] for _ in range(2)]
        assert torch.equal(*twice) is not wanted
        assert not twice[0].requires_grad
        assert gradients(module, batch)
        assert not any(child.training for child in module.eval().modules())


@pytest.mark.parametrize(
    ("family", "kind", "changes", "drops"),
    [
        ("t5", "seq2seq", {"dropout_rate": 0.25}, [0.25, 0.25]),
        ("gpt2", "causal-lm", {"resid_pdrop": 0.25}, [0.25]),
        ("vit", "image-classification", {"hidden_dropout_prob": 0.25}, [0.25]),
        ("llama", "causal-lm", {}, [None]),
        ("bert", "classification", {"hidden_dropout_prob": 0.25}, [None]),  # post-norm: neither norm nor dropout
    ],
)
def test_the_final_norm_is_followed_by_the_families_dropout(
    family: str, kind: str, changes: dict[str, float], drops: list[float | None]
) -> None:
    module, batch = tuned(family, kind, Lst(reduction=2), **changes), zoo.batch(family, kind)
    sides = [ladder.side for ladder in ladders(module)]
    assert [side.dropout.p if side.dropout else None for side in sides] == drops
    assert [side.norm is None for side in sides] == [family == "bert"] * len(sides)
    if drops[0]:
        for side in sides:  # nothing drops but this
            for child in side.blocks.modules():
                child.p = 0.0
        module.train()
        first, second = (module(**batch).logits for _ in range(2))
        assert not torch.equal(first, second)
    module.eval()
    assert torch.equal(module(**batch).logits, module(**batch).logits)


# -- merge --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("family", "kind"), LANGUAGE)
def test_residual_merge_starts_as_the_base_model(family: str, kind: str) -> None:
    base = zoo.backbone(family, kind).model.eval()
    module = tuned(family, kind, Lst(reduction=2, merge="residual")).eval()
    batch = zoo.batch(family, kind)
    # An encoder-decoder's cross-attention reads states of other strides: equal up to rounding.
    assert_close(module(**batch).logits, base(**batch).logits, rtol=0, atol=1e-5 if family in ("t5", "bart") else 0)
    assert any(value.abs().sum() > 0 for name, value in gradients(module, batch).items() if name.endswith("up.weight"))
    stir(module)
    assert (module(**batch).logits - base(**batch).logits).abs().max() > 1e-3


def test_the_option_named_merge_is_not_taken_for_merging_into_the_base() -> None:
    assert not isinstance(Lst(), Mergeable) and not issubclass(Lst, Mergeable)
    assert isinstance(Lora(), Mergeable) and issubclass(Lora, Mergeable)


def test_opt_with_narrow_embeddings_answers_at_their_width() -> None:
    method = Lst(reduction=2, merge="residual")
    changes = {"word_embed_proj_dim": 16, "do_layer_norm_before": False}
    base = zoo.backbone("opt", "causal-lm", **changes)
    assert method.trainable_count(base) == count(list(trainable(tuned("opt", "causal-lm", method, **changes)).values()))
    module, batch = tuned("opt", "causal-lm", method, **changes).eval(), zoo.batch("opt", "causal-lm")
    assert_close(module(**batch).logits, base.model.eval()(**batch).logits, rtol=0, atol=0)
    assert ladders(module)[0].side.norm is None  # post-norm: no norm behind the last block


@pytest.mark.parametrize(
    ("family", "kind", "method", "says"),
    [
        ("bert", "classification", Lst(reduction=2, merge="residual"), "merge=residual is for decoders"),
        ("bert", "classification", Lst(reduction=3), "reduction 3 does not divide the model's hidden_size 32"),
        ("distilbert", "classification", Lst(reduction=64), "reduction 64 does not divide the model's dim 32"),
        ("bert", "classification", Lst(reduction=16, heads="official"), "heads=official cannot split"),
        ("gpt_neox", "causal-lm", Lst(reduction=8), "an even number of rotary dimensions; use a smaller reduction"),
        (
            "llama",
            "causal-lm",
            Lst(reduction=8, heads="official"),
            "even number of rotary dimensions; use heads=scaled",
        ),
        ("deberta-v2", "regression", Lst(reduction=2, init="fisher"), "relative position embeddings"),
    ],
)
def test_what_cannot_apply_says_why_and_leaves_the_model_alone(family: str, kind: str, method: Lst, says: str) -> None:
    backbone = zoo.backbone(family, kind)
    with pytest.raises(ValueError, match=f"lst: .*{says}"):
        method.attach(backbone)
    assert not ladders(backbone.model)


# -- features -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("family", "kind"), [("bert", "classification"), ("qwen3", "causal-lm")])
def test_read_features_can_be_kept_and_climbed_later(family: str, kind: str) -> None:
    module = tuned(family, kind, Lst(reduction=2)).train()
    (ladder,) = ladders(module)
    inputs = {name: value for name, value in zoo.batch(family, kind).items() if name != "labels"}
    reading = ladder.read(inputs)
    assert not any(feature.requires_grad for feature in reading.features)
    assert [feature.shape[-1] for feature in reading.features] == [32, 32, 32]
    lowered = [ladder.side.lower(position, feature) for position, feature in enumerate(reading.features)]
    encoder = family == "bert"
    states = ladder.side.up(ladder.side(lowered, reading.calls, None, encoder))
    expected = ladder(**inputs).last_hidden_state
    assert expected.shape[1] == (1 if encoder else zoo.SEQUENCE)
    assert_close(states, expected, rtol=0, atol=0)


@pytest.mark.parametrize(("family", "kind"), [("llama", "classification"), ("gpt2", "classification")])
def test_decoders_classify_by_the_last_real_token(family: str, kind: str) -> None:
    module, batch = tuned(family, kind, Lst(reduction=2)).eval(), zoo.batch(family, kind)
    stir(module)
    before = module(**batch).logits
    real = batch["input_ids"][-1:, :-4]
    assert_close(module(input_ids=real, attention_mask=torch.ones_like(real)).logits, before[-1:], rtol=0, atol=1e-5)


# -- keeping, checkpointing, precision, memory ----------------------------------------------------------------------


@pytest.mark.parametrize(("family", "kind"), FAMILIES)
def test_saved_and_loaded_it_answers_the_same(family: str, kind: str, tmp_path: Path) -> None:
    method, batch = Lst(reduction=2), zoo.batch(family, kind)
    backbone = zoo.backbone(family, kind)
    originals = {id(value): value for value in backbone.model.state_dict(keep_vars=True).values()}
    module = method.attach(backbone).eval()
    stir(module)
    save_state(tmp_path / "side.safetensors", saved_state(module, cast(Any, originals)))
    again = method.attach(zoo.backbone(family, kind)).eval()
    load_state(tmp_path / "side.safetensors", again)
    assert_close(again(**batch).logits, module(**batch).logits, rtol=0, atol=0)


@pytest.mark.parametrize(("family", "kind"), FAMILIES)
def test_checkpointed_gradients_equal_the_plain_ones(family: str, kind: str) -> None:
    module, batch = tuned(family, kind, Lst(reduction=2)).train(), zoo.batch(family, kind)
    stir(module)
    calls: list[int] = []
    block = ladders(module)[-1].side.blocks[-1]
    inner = next(child for child in block.modules() if isinstance(child, nn.Linear | Conv1D))
    inner.register_forward_hook(lambda *_: calls.append(1))
    plain = gradients(module, batch)
    once = len(calls)
    module.gradient_checkpointing_enable({"use_reentrant": False})
    checkpointed = gradients(module, batch)
    assert len(calls) == once + 2 * once  # computed again in backward
    assert_close(checkpointed, plain)


@pytest.mark.parametrize(("family", "kind"), [("llama", "causal-lm"), ("roberta", "classification")])
def test_checkpointing_brings_no_gradient_into_the_trunk(family: str, kind: str) -> None:
    module, batch = tuned(family, kind, Lst(reduction=2)).train(), zoo.batch(family, kind)
    module.gradient_checkpointing_enable({"use_reentrant": False})  # makes embeddings' outputs require gradients
    (ladder,) = ladders(module)
    reading = ladder.read({name: value for name, value in batch.items() if name != "labels"})
    assert not any(feature.requires_grad for feature in reading.features)
    assert not reading.output.last_hidden_state.requires_grad


@pytest.mark.parametrize(("family", "kind"), FAMILIES)
def test_bf16_autocast_comes_near_fp32(family: str, kind: str) -> None:
    module, batch = tuned(family, kind, Lst(reduction=2)).train(), zoo.batch(family, kind)
    plain = module(**batch).loss
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = module(**batch).loss
    loss.backward()
    assert_close(loss.float(), plain, rtol=0.05, atol=0.05)
    assert {value.grad.dtype for value in trainable(module).values() if value.grad is not None} == {torch.float32}


def activations(module: nn.Module, batch: dict[str, Tensor]) -> int:
    optimizer = torch.optim.AdamW(trainable(module).values())

    def step() -> None:
        optimizer.step()
        optimizer.zero_grad()

    loop = Loop(lambda inputs: module(**inputs).loss, lambda loss: loss.backward(), step)
    return measure_training(module, optimizer, [batch], loop).phases["backward"].split["activations"]


@pytest.mark.parametrize(("family", "kind", "depth"), [
    ("bert", "classification", "num_hidden_layers"),
    ("llama", "causal-lm", "num_hidden_layers"),
    ("t5", "seq2seq", "num_layers"),
])  # fmt: skip
def test_trunk_layers_add_nothing_to_activations(family: str, kind: str, depth: str) -> None:
    batch = zoo.batch(family, kind, rows=16)
    method = Lst(reduction=2, layers=("0", "1"))
    shallow, deep = (activations(tuned(family, kind, method, **{depth: layers}), batch) for layers in (2, 8))
    assert deep - shallow == 6 * 4 * len(ladders(tuned(family, kind, method)))  # a gate for every trunk layer
    more = activations(tuned(family, kind, Lst(reduction=2), **{depth: 8}), batch)
    assert more > shallow  # but kept ones do


def test_a_kept_layer_costs_its_feature_and_the_terms_of_a_side_block() -> None:
    batch = zoo.batch("llama", "causal-lm", rows=16)
    tokens, d, n, layers = 16 * zoo.SEQUENCE, 32, 16, 8
    one, all_ = (
        activations(tuned("llama", "causal-lm", Lst(reduction=2, layers=kept), num_hidden_layers=layers), batch)
        for kept in (("0",), ("all",))
    )
    each = (all_ - one) / (layers - 1) / 4 / tokens
    # The feature, the gate's difference, and in the block: q k v context, norms, residuals, three feed-forward terms.
    assert d + n < each < d + 20 * n + 5 * 32


# -- Fisher -------------------------------------------------------------------------------------------------------


def singles(family: str, kind: str, rows: int = 4) -> list[dict[str, Tensor]]:
    batch = zoo.batch(family, kind, rows=rows)
    return [{name: value[row : row + 1] for name, value in batch.items()} for row in range(rows)]


@pytest.mark.parametrize(("family", "kind"), [cell for cell in CELLS if cell[0] != "deberta-v2"])
def test_fisher_at_reduction_one_copies_the_trunk(family: str, kind: str) -> None:
    method = Lst(reduction=1, init="fisher")
    module = tuned(family, kind, method)
    method.initialize(module, singles(family, kind))
    for ladder in ladders(module):
        for index, block in zip(ladder.side.kept, ladder.side.blocks, strict=True):
            assert_close(dict(block.named_parameters()), dict(ladder.layers[index].named_parameters()), rtol=0, atol=0)


@pytest.mark.parametrize(("family", "kind"), [cell for cell in FAMILIES if cell[0] != "deberta-v2"])
@pytest.mark.parametrize("heads", ["scaled", "official"])
def test_fisher_takes_every_side_weight_from_its_trunk_layer(family: str, kind: str, heads: str) -> None:
    if family == "gpt_neox" and heads == "official":
        with pytest.raises(ValueError, match="rotary dimensions; use heads=scaled"):
            tuned(family, kind, Lst(reduction=2, init="fisher", heads=heads))
        return
    method = Lst(reduction=2, init="fisher", heads=heads, layers=("1",))
    module = tuned(family, kind, method)
    with torch.no_grad():  # norms and biases start equal everywhere; make each value tell where it is from
        for ladder in ladders(module):
            for value in ladder.backbone.parameters():
                value.add_(torch.randn_like(value) * 0.05)
    method.initialize(module, singles(family, kind))
    for ladder in ladders(module):
        trunk = dict(ladder.layers[1].named_parameters()) | {
            name: value for name, value in ladder.layers[0].named_parameters() if "relative_attention_bias" in name
        }
        for name, value in ladder.side.blocks[0].named_parameters():
            assert torch.isin(value, trunk[name]).all(), name
            assert value.unique().numel() == value.numel(), name


def test_fisher_keeps_the_best_rows_and_the_inputs_before_them() -> None:
    method = Lst(reduction=2, init="fisher", heads="official", layers=("1",))
    module = tuned("bert", "classification", method)
    method.initialize(module, singles("bert", "classification"))
    base = zoo.backbone("bert", "classification").model.eval()  # the same weights, by the same seed
    base.load_state_dict(zoo.backbone("bert", "classification").model.state_dict())
    block = base.bert.encoder.layer[1]
    maps = {name: part for name, part in block.named_modules() if isinstance(part, nn.Linear)}
    fisher = {name: torch.zeros_like(part.weight) for name, part in maps.items()}
    for sample in singles("bert", "classification"):
        base.zero_grad()
        base(**sample).loss.backward()
        for name, part in maps.items():
            fisher[name] += part.weight.grad**2

    def best(score: Tensor, size: int) -> Tensor:
        return score.topk(size).indices.sort().values

    attention = [f"attention.self.{name}" for name in ("query", "key", "value")]
    start = best(sum(fisher[name].sum(0) for name in attention), 16)
    inner = best(sum(fisher[name].sum(1) for name in attention), 16)
    middle = best(fisher["attention.output.dense"].sum(1), 16)
    wide = best(fisher["intermediate.dense"].sum(1), 32)
    end = best(fisher["output.dense"].sum(1), 16)
    expected = {name: maps[name].weight[inner][:, start] for name in attention}
    expected |= {
        "attention.output.dense": maps["attention.output.dense"].weight[middle][:, inner],
        "intermediate.dense": maps["intermediate.dense"].weight[wide][:, middle],
        "output.dense": maps["output.dense"].weight[end][:, wide],
    }
    side = ladders(module)[0].side.blocks[0]
    assert_close({name: side.get_submodule(name).weight for name in maps}, expected, rtol=0, atol=0)


def test_fisher_keeps_rotary_pairs_and_whole_heads_together() -> None:
    method = Lst(reduction=2, init="fisher", layers=("1",))
    module = tuned("llama", "causal-lm", method, head_dim=16)
    (ladder,) = ladders(module)
    trunk, side = ladder.layers[1].self_attn.q_proj.weight, ladder.side.blocks[0].self_attn.q_proj.weight
    with torch.no_grad():  # mark each row with its number in every column
        trunk.copy_(torch.arange(64.0)[:, None].expand(64, 32) / 1000)
    method.initialize(module, singles("llama", "causal-lm"))
    rows = (side[:, 0] * 1000).round().long().view(2, 16)  # one key head of two, so two query heads of four
    assert torch.equal(rows[0] // 16 + 1, rows[1] // 16)
    assert torch.equal(rows[0] % 16, torch.arange(16)) and torch.equal(rows[1] % 16, torch.arange(16))
    halved = Lst(reduction=2, init="fisher", heads="official", layers=("1",))
    module = tuned("llama", "causal-lm", halved, head_dim=16)
    (ladder,) = ladders(module)
    with torch.no_grad():
        ladder.layers[1].self_attn.q_proj.weight.copy_(torch.arange(64.0)[:, None].expand(64, 32) / 1000)
    halved.initialize(module, singles("llama", "causal-lm"))
    rows = (ladder.side.blocks[0].self_attn.q_proj.weight[:, 0] * 1000).round().long().view(4, 8)
    assert torch.equal(rows // 16, torch.arange(4)[:, None].expand(4, 8))
    assert torch.equal(rows[:, :4] + 8, rows[:, 4:])  # a dimension and the one that rotary turns it with


@pytest.mark.parametrize(("family", "kind"), [("bert", "classification"), ("t5", "seq2seq")])
def test_fisher_leaves_flags_modes_and_gradients_as_they_were(family: str, kind: str) -> None:
    method = Lst(reduction=2, init="fisher", fisher_samples=3)
    module = tuned(family, kind, method).train()
    assert isinstance(method, DataInitialized)
    module(**zoo.batch(family, kind)).loss.backward()
    frozen = frozen_state(module)
    before = [(value.requires_grad, value.grad) for value in module.parameters()]
    modes = [child.training for child in module.modules()]
    samples = iter(singles(family, kind))
    method.initialize(module, samples)
    assert len(list(samples)) == 1  # three of four were looked at
    after = [(value.requires_grad, value.grad) for value in module.parameters()]
    assert all(old[0] == new[0] and old[1] is new[1] for old, new in zip(before, after, strict=True))
    assert [child.training for child in module.modules()] == modes
    assert all(torch.equal(value, frozen[name]) for name, value in module.named_parameters() if name in frozen)
    assert not any(child._forward_hooks for child in module.modules())
    assert not any(value._post_accumulate_grad_hooks for value in module.parameters())
    with pytest.raises(ValueError, match="lst: init=fisher needs training samples"):
        method.initialize(module, [])


def test_random_init_looks_at_no_sample_and_is_small() -> None:
    method = Lst(reduction=2)
    module = tuned("bert", "classification", method, hidden_size=256, num_attention_heads=4)
    state = copy.deepcopy(module.state_dict())
    method.initialize(module, cast(Any, None))
    assert_close(module.state_dict(), state, rtol=0, atol=0)
    side = module.bert.side
    assert_close(side.blocks[0].attention.self.query.weight.std().item(), 0.02, rtol=0.1, atol=0)
    assert_close(side.downs[1].weight.std().item(), 0.01, rtol=0.1, atol=0)
    assert_close(side.up.weight.std().item(), 0.01, rtol=0.1, atol=0)
    assert not side.downs[1].bias.any() and not side.up.bias.any() and not side.gates.any()


def test_the_peak_of_the_initialisation_is_measured_apart() -> None:
    method = Lst(reduction=2, init="fisher")
    module = tuned("bert", "classification", method)
    state = copy.deepcopy(module.state_dict())
    peak = measure_call(module, "initialization", lambda: method.initialize(module, singles("bert", "classification")))
    assert peak.split["activations"] > 0
    assert_close(module.state_dict(), state, rtol=0, atol=0)
    one = max(value.numel() for value in module.bert.backbone.encoder.parameters()) * 4
    assert peak.split["gradients"] <= one  # each gradient is dropped before the next is there


@pytest.mark.parametrize(("init", "looked"), [("random", 0), ("fisher", 4)])
def test_the_runner_measures_an_initialisation_that_looks_at_rows(init: str, looked: int) -> None:
    method = Lst(reduction=2, init=init)
    rows = singles("bert", "classification")
    module = tuned("bert", "classification", method)
    taken: list[int] = []

    def endless(batch_size: int) -> Any:
        while True:
            for index, row in enumerate(rows):
                taken.append(index)
                yield row, 1

    lengths = np.array([3, 9, 2, 4])
    data = SimpleNamespace(
        rows=SimpleNamespace(train=SimpleNamespace(lengths=lengths)),
        batches=SimpleNamespace(training=endless, of=lambda chosen: rows[chosen[0]]),
    )
    peak = _initialize(cast(DataInitialized, method), module, cast(RunData, data))
    assert len(taken) == looked
    assert (peak is None) is (init == "random")
