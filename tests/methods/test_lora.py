"""LoRA and its variants on every family: start, count, merge, save, precision, errors, rates and what is kept."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import AutoConfig
from transformers.pytorch_utils import Conv1D

from bench.core import options
from bench.core.errors import RequestError
from bench.core.train_config import TrainSettings
from bench.methods.lora import Lora, LoraLinear
from bench.models.backbone import Backbone, count, trainable
from bench.models.inference import Engine
from bench.models.loading import fresh_head, model_class
from bench.training.memory import Loop, measure_training
from bench.training.storage_tracker import StorageTracker
from bench.training.trainer import Trainer
from tests import zoo
from tests.methods import low_rank
from tests.methods.low_rank import CELLS, FEW

torch.set_num_threads(1)

VARIANTS = {
    "rslora": Lora(rslora=True),
    "dora": Lora(dora=True),
    "freeze_a": Lora(freeze_a=True),
    "plus": Lora(plus=True),
    "everywhere": Lora(targets=("all",), dora=True, rslora=True),
    "patterns": Lora(rank_pattern=("*.0=4",), alpha_pattern=("*.1=2", "down=3"), targets=("all",)),
    "pissa": Lora(pissa=True),
    "pissa, dora and rslora": Lora(pissa=True, dora=True, rslora=True, targets=("all",)),
    "pissa and freeze_a": Lora(pissa=True, freeze_a=True),
}


@pytest.mark.parametrize(("family", "kind"), CELLS)
def test_every_family_and_head(family: str, kind: str) -> None:
    low_rank.check_cell(Lora(), family, kind)
    low_rank.check_meta(Lora(), family, kind)
    low_rank.check_cell(Lora(targets=("all",), dora=True, pissa=True, freeze_a=True), family, kind, exact=False)


@pytest.mark.parametrize(("family", "kind"), FEW)
@pytest.mark.parametrize("name", VARIANTS)
def test_every_variant(name: str, family: str, kind: str, tmp_path: Path) -> None:
    method = VARIANTS[name]
    low_rank.check_cell(method, family, kind, exact=not method.pissa)
    low_rank.check_saved(method, family, kind, tmp_path)
    low_rank.check_meta(method, family, kind)


@pytest.mark.filterwarnings("ignore:.gradient_checkpointing_enable. is deprecated:FutureWarning")
@pytest.mark.parametrize(("family", "kind"), FEW)
@pytest.mark.parametrize("name", ["plain", "dora", "freeze_a"])
def test_checkpointing_and_autocast(name: str, family: str, kind: str) -> None:
    method = VARIANTS.get(name, Lora())
    low_rank.check_checkpointing(method, family, kind)
    low_rank.check_autocast(method, family, kind)


def test_dropout_acts_while_training_alone() -> None:
    module = low_rank.attached(Lora(dropout=0.5), "bert", "classification")
    low_rank.disturb(module)
    first, second = (low_rank.logits(module, "bert", "classification") for _ in range(2))
    assert not torch.equal(first, second)
    module.eval()
    plain = low_rank.attached(Lora(), "bert", "classification")
    plain.load_state_dict(module.state_dict())
    assert torch.equal(
        low_rank.logits(module, "bert", "classification"), low_rank.logits(plain, "bert", "classification")
    )


# -- one map, against the formulas -------------------------------------------------------------------------------


def maps() -> list[nn.Module]:
    torch.manual_seed(0)
    conv = Conv1D(6, 8)
    nn.init.normal_(conv.bias)
    return [nn.Linear(8, 6), nn.Linear(8, 6, bias=False), conv]


@pytest.mark.parametrize("index", range(3))
@pytest.mark.parametrize("dora", [False, True])
@pytest.mark.parametrize("pissa", [False, True])
def test_the_formula(index: int, dora: bool, pissa: bool) -> None:
    torch.manual_seed(0)
    base = maps()[index].requires_grad_(False)
    original = (base.weight.t() if isinstance(base, Conv1D) else base.weight).detach().clone()
    bias = 0 if base.bias is None else base.bias.detach()
    layer = LoraLinear(base, 2, 1.5, 0.0)
    if pissa:
        layer.take_principal()
        torch.testing.assert_close(layer.matrix + 1.5 * layer.lora_b @ layer.lora_a, original)
        # Eckart-Young: what is left is the best rank-2 approximation's error, in the spectral norm σ₃.
        sigma = torch.linalg.svdvals(original)
        torch.testing.assert_close(torch.linalg.matrix_norm(layer.matrix, 2), sigma[2], rtol=1e-5, atol=1e-6)
    if dora:
        layer.add_magnitude()
        torch.testing.assert_close(layer.magnitude, original.norm(dim=1))
    low_rank.disturb(layer)
    x = torch.randn(3, 5, 8)
    weight = layer.matrix + 1.5 * layer.lora_b @ layer.lora_a
    if dora:
        assert layer.magnitude is not None
        weight = layer.magnitude[:, None] * weight / weight.norm(dim=1, keepdim=True).detach()
    expected = x @ weight.t() + bias
    torch.testing.assert_close(layer(x), expected, rtol=1e-5, atol=1e-6)

    seed = torch.randn(3, 5, 6)
    wanted = torch.autograd.grad((expected * seed).sum(), list(trainable(layer).values()))
    found = torch.autograd.grad((layer(x) * seed).sum(), list(trainable(layer).values()))
    for left, right in zip(found, wanted, strict=True):
        torch.testing.assert_close(left, right, rtol=5e-5, atol=1e-5)  # the expanded ‖W + BA‖² loses two digits


def test_a_row_of_zeros_stays_finite_with_dora() -> None:
    base = nn.Linear(4, 3)
    with torch.no_grad():
        base.weight[1] = 0
    layer = LoraLinear(base, 2, 1.0, 0.0)
    layer.add_magnitude()
    x = torch.randn(2, 4)
    torch.testing.assert_close(layer(x), base(x), rtol=0, atol=0)


def test_dora_under_autocast_keeps_lengths_in_fp32_and_outputs_in_bf16() -> None:
    layer = LoraLinear(maps()[0].requires_grad_(False), 2, 1.5, 0.0)
    layer.add_magnitude()
    low_rank.disturb(layer)
    expected = layer.lengths()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(layer.lengths(), expected)
        assert layer(torch.randn(3, 5, 8)).dtype == torch.bfloat16


def test_scales() -> None:
    def scales(method: Lora) -> list[float]:
        module = low_rank.attached(method, "bert", "classification")
        return [child.scale for child in module.modules() if isinstance(child, LoraLinear)]

    assert scales(Lora(rank=4, alpha=8.0)) == [2.0] * 4
    assert scales(Lora(rank=4, alpha=8.0, rslora=True)) == [4.0] * 4
    # Maps in order: query and value of layer 0, then of layer 1; the last pair that matches holds.
    patterns = Lora(rank=4, alpha=8.0, rank_pattern=("query=16",), alpha_pattern=("layer.1=4", "layer.1.*.value=2"))
    assert scales(patterns) == [0.5, 2.0, 0.25, 0.5]


def test_fused_maps_stand_for_query_and_value() -> None:
    for family, name in (("gpt2", "attn.c_attn"), ("gpt_neox", "attention.query_key_value")):
        adapted = [
            [
                path
                for path, child in low_rank.attached(method, family, "causal-lm").named_modules()
                if isinstance(child, LoraLinear)
            ]
            for method in (Lora(), Lora(targets=("qkv",)), Lora(targets=("query", "key", "qkv")))
        ]
        assert adapted[0] == adapted[1] == adapted[2]
        assert [path.endswith(name) for path in adapted[0]] == [True, True]


def test_chosen_layers() -> None:
    def layers(method: Lora) -> set[str]:
        module = low_rank.attached(method, "t5", "seq2seq")
        found = [path for path, child in module.named_modules() if isinstance(child, LoraLinear)]
        return {path.partition(".layer")[0] for path in found}

    assert layers(Lora(layers=("-1",))) == {"encoder.block.1", "decoder.block.1"}
    low_rank.check_cell(Lora(layers=("0",), dora=True), "t5", "seq2seq")


@pytest.mark.parametrize("name", [*VARIANTS, "plain"])
def test_a_step_can_be_planned_without_values(name: str) -> None:
    method = VARIANTS.get(name, Lora())
    with FakeTensorMode(allow_non_fake_inputs=True):
        module = low_rank.attached(method, "gpt2", "causal-lm")
        run = trainer(method, module)
        batch = {key: torch.empty_like(value) for key, value in zoo.batch("gpt2", "causal-lm").items()}
        run.backward(run.forward(batch))
        run.step()


# -- counts ------------------------------------------------------------------------------------------------------


def sketched(family: str, kind: str, **config: object) -> Backbone:
    with torch.device("meta"):
        model = model_class(kind).from_config(AutoConfig.for_model(family, **config))
    return Backbone(model, kind, fresh_head(model, kind))


def llama_3b() -> Backbone:
    return sketched(
        "llama", "causal-lm", hidden_size=3072, num_hidden_layers=28, num_attention_heads=24, num_key_value_heads=8,
        head_dim=128, intermediate_size=8192, vocab_size=128256, tie_word_embeddings=True,
    )  # fmt: skip


def t5_base() -> Backbone:
    return sketched(
        "t5", "seq2seq", d_model=768, d_kv=64, d_ff=3072, num_layers=12, num_heads=12, vocab_size=32128
    )  # fmt: skip


def test_counts_on_llama_3b() -> None:
    assert Lora(rank=32).trainable_count(llama_3b()) == 28 * 32 * (6144 + 4096) == 9_175_040
    assert Lora(rank=32, dora=True).trainable_count(llama_3b()) == 9_289_728
    assert Lora(rank=32, freeze_a=True).trainable_count(llama_3b()) == 28 * 32 * (3072 + 1024)
    assert count(list(trainable(Lora(rank=32, dora=True).attach(llama_3b())).values())) == 9_289_728


def test_counts_on_t5_base() -> None:
    # 12 encoder layers attend once and 12 decoder layers twice: 36 attentions; 3,819,876 − 280,932 of the LST paper.
    expected = 36 * 2 * 32 * (768 + 768)
    assert Lora(rank=32).trainable_count(t5_base()) == expected == 3_538_944
    assert count(list(trainable(Lora(rank=32).attach(t5_base())).values())) == expected


@pytest.mark.parametrize("method", [
    Lora(bias="all"), Lora(bias="lora_only"), Lora(also_train=("LayerNorm",)), Lora(also_train=("*Norm*", "pooler")),
    Lora(bias="all", also_train=("LayerNorm", "classifier")), Lora(bias="lora_only", dora=True),
])  # fmt: skip
def test_counts_with_biases_and_further_modules(method: Lora) -> None:
    low_rank.check_cell(method, "bert", "classification")


def test_which_parameters_are_trained() -> None:
    def names(method: Lora) -> set[str]:
        chosen = trainable(low_rank.attached(method, "bert", "classification"))
        return {name for name in chosen if not name.endswith((".lora_a", ".lora_b")) and not name.startswith("class")}

    base = zoo.backbone("bert", "classification").model
    biases = {name for name, _ in base.named_parameters() if name.endswith(".bias") and not name.startswith("class")}
    adapted = {f"bert.encoder.layer.{i}.attention.self.{role}.base.bias" for i in (0, 1) for role in ("query", "value")}
    assert names(Lora()) == set()
    assert names(Lora(bias="lora_only")) == adapted
    assert (
        names(Lora(bias="all"))
        == {name for name in biases if name.replace(".bias", ".base.bias") not in adapted} | adapted
    )
    norms = {
        f"bert.encoder.layer.1.{part}LayerNorm.{leaf}"
        for part in ("output.", "attention.output.")
        for leaf in ("weight", "bias")
    }
    assert names(Lora(also_train=("layer.1.*LayerNorm",))) == norms
    assert names(Lora(also_train=("pooler", "embeddings.LayerNorm.bias"))) == {
        "bert.pooler.dense.weight", "bert.pooler.dense.bias", "bert.embeddings.LayerNorm.bias"
    }  # fmt: skip


# -- errors ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("given", "message"), [
    ({"targets": ("qurey",)}, r"^lora: Unknown target 'qurey'\. Did you mean 'query'\?"),
    ({"layers": ("7",)}, r"^lora: layers: '7' is outside this model's layers 0-1"),
    ({"rank": 33}, r"^lora: rank 33 is beyond bert\.encoder\.layer\.0\.attention\.self\.query, a 32×32 map"),
    ({"rank_pattern": ("value=40",)}, r"^lora: rank 40 is beyond .*value"),
    ({"rank_pattern": ("down=4",)}, r"^lora: Unknown adapted map 'down'\. Known: query, value\."),
    ({"alpha_pattern": ("valu=4",)}, r"^lora: Unknown adapted map 'valu'\. Did you mean 'value'\?"),
    ({"also_train": ("LayerNrom",)}, r"^lora: also_train: Unknown module 'LayerNrom'\. Did you mean 'LayerNorm'\?"),
    ({"also_train": ("layer.1",)}, r"^lora: also_train=layer\.1 holds bert\.encoder\.layer\.1\.attention\.self\.query"),
])  # fmt: skip
def test_what_the_model_cannot_do(given: dict[str, object], message: str) -> None:
    backbone = zoo.backbone("bert", "classification")
    before = {name: value.requires_grad for name, value in backbone.model.named_parameters()}
    with pytest.raises(ValueError, match=message):
        Lora(**given).attach(backbone)  # type: ignore[arg-type]
    assert {name: value.requires_grad for name, value in backbone.model.named_parameters()} == before


def test_a_model_without_biases() -> None:
    for mode in ("all", "lora_only"):
        with pytest.raises(ValueError, match=f"^lora: bias={mode}, but there is no such bias in this model"):
            Lora(bias=mode).attach(zoo.backbone("t5", "seq2seq"))


@pytest.mark.parametrize(("given", "message"), [
    ({"freeze_a": "true", "plus": "true"}, "freeze_a freezes A; set lr instead"),
    ({"alpha": "0"}, "alpha 0 switches the update off"),
    ({"rank_pattern": "query"}, "rank_pattern: 'query' is not NAME=NUMBER"),
    ({"rank_pattern": "query=2.5"}, "2.5 is not a whole number of at least 1"),
    ({"alpha_pattern": "=3"}, "alpha_pattern: '=3' is not NAME=NUMBER"),
    ({"alpha_pattern": "query=-1"}, "alpha -1 switches"),
    ({"plus_ratio": "0.5"}, "must be at least 1"),
    ({"bias": "some"}, "Unknown value 'some'"),
])  # fmt: skip
def test_options_that_contradict(given: dict[str, str], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        options.build(Lora, given, "lora")


# -- training ----------------------------------------------------------------------------------------------------


def trainer(method: Lora, module: nn.Module) -> Trainer:
    settings = TrainSettings(steps=2, schedule="constant", warmup=0.0, weight_decay=0.0, clip=0.0)
    return Trainer(module, method, settings, Engine(torch.device("cpu"), "fp32", {}))


@pytest.mark.parametrize("plus", [1.0, 16.0])
def test_lora_plus_moves_b_faster(plus: float) -> None:
    method = Lora(plus=plus > 1, plus_ratio=plus, lr=1e-3)
    module = low_rank.attached(method, "bert", "classification")
    low_rank.disturb(module)  # with B = 0, A has no gradient
    before = {name: value.detach().clone() for name, value in trainable(module).items()}
    run = trainer(method, module)
    run.backward(run.forward(zoo.batch("bert", "classification")))
    run.step()
    moved: dict[str, float] = {}
    for name, value in trainable(module).items():
        leaf = name.rpartition(".")[2]
        moved[leaf] = max(moved.get(leaf, 0.0), float((value - before[name]).detach().abs().max()))
    # Adam's first step is the rate itself wherever the gradient is well above epsilon.
    expected = {"lora_a": 1e-3, "lora_b": 1e-3 * plus, "weight": 1e-3, "bias": 1e-3}
    assert moved == pytest.approx(expected, rel=1e-2)


def held(module: nn.Module, batch: dict[str, Tensor], forward: Callable[[], Tensor]) -> int:
    """Bytes that a forward leaves for the backward, beside its result, its inputs and the module itself."""
    with StorageTracker() as tracker:
        tracker.tag([*batch.values(), *module.parameters(), *module.buffers()], "weights")
        start = tracker.held_bytes
        tracker.mark("forward")
        result = forward()
        return tracker.held_bytes - start - result.nbytes


def test_what_one_map_keeps() -> None:
    narrow, x, out = 5 * 2 * 4, 5 * 8 * 4, 5 * 6 * 4  # (5, rank), (5, in), (5, out) in bytes
    given = torch.randn(5, 8, requires_grad=True)

    def kept() -> int:
        return held(layer, {"x": given}, lambda: layer(given * 2))

    layer = LoraLinear(maps()[0], 2, 1.0, 0.0).requires_grad_(False)
    layer.lora_b.requires_grad_(True)
    assert kept() == narrow  # LoRA-FA: not x
    layer.lora_a.requires_grad_(True)
    assert kept() == narrow + x
    layer.add_magnitude()
    # The magnitude's gradient takes W'x and the lengths, that of W'x the ratio.
    assert kept() == narrow + x + out + 2 * 6 * 4


def kept_by_bert(method: Lora) -> float:
    """Numbers per token that a forward of the tiny BERT keeps."""
    module = low_rank.attached(method, "bert", "classification")
    batch = zoo.batch("bert", "classification", rows=16)
    return held(module, batch, lambda: module(**batch).loss) / (16 * zoo.SEQUENCE * 4)


def test_what_a_model_keeps() -> None:
    lora = kept_by_bert(Lora())
    # In each of two layers the one input (32 wide) of query and value, which nothing else keeps.
    assert lora - kept_by_bert(Lora(freeze_a=True)) == 2 * 32
    # value adds its narrow product (8), not its input: that is query's.
    assert lora - kept_by_bert(Lora(targets=("query",))) == 2 * 8
    # Everywhere: the inputs of query, key and value (32), up (32) and down (64); output's is attention's result.
    everywhere = kept_by_bert(Lora(targets=("all",)))
    assert everywhere - kept_by_bert(Lora(targets=("all",), freeze_a=True)) == 2 * (32 + 32 + 64)


def test_the_memory_probe_sees_what_freezing_a_saves() -> None:
    def backward(method: Lora) -> dict[str, int]:
        module = low_rank.attached(method, "bert", "classification")
        run = trainer(method, module)
        batch = zoo.batch("bert", "classification", rows=16)
        report = measure_training(module, run.optimizer, [batch], Loop(run.forward, run.backward, run.step))
        return report.phases["backward"].split

    lora, frozen = backward(Lora()), backward(Lora(freeze_a=True))
    assert lora["activations"] - frozen["activations"] == 2 * 32 * 16 * zoo.SEQUENCE * 4
    # Adam's two averages of four matrices A of 8 × 32, and a step count of 4 bytes each.
    assert lora["optimizer"] - frozen["optimizer"] == 4 * (2 * 8 * 32 * 4 + 4)


def tensors(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def test_the_same_seed_gives_the_same_start_and_another_a_different_one() -> None:
    def start(seed: int) -> dict[str, Tensor]:
        backbone = zoo.backbone("bert", "classification")
        torch.manual_seed(seed)
        return tensors(Lora().attach(backbone))

    first, again, other = start(0), start(0), start(1)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)
