"""Methods that train a part of the model's own parameters: which part, exactly."""

import pytest
import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM

from bench.core.protocols import Method
from bench.methods.partial_finetuning import BiasedNorm, BitFit, Full, Head, LastK, Norm
from bench.models.backbone import Backbone, count, trainable
from tests import zoo


def t5_base() -> Backbone:
    config = AutoConfig.for_model("t5", d_model=768, d_kv=64, d_ff=3072, num_layers=12, num_heads=12, vocab_size=32100)
    with torch.device("meta"):
        return Backbone(AutoModelForSeq2SeqLM.from_config(config), "seq2seq", frozenset())


def llama_3b() -> Backbone:
    config = AutoConfig.for_model(
        "llama", hidden_size=3072, intermediate_size=8192, num_hidden_layers=28, num_attention_heads=24,
        num_key_value_heads=8, head_dim=128, vocab_size=128256, tie_word_embeddings=True,
    )  # fmt: skip
    with torch.device("meta"):
        return Backbone(AutoModelForCausalLM.from_config(config), "causal-lm", frozenset())


def chosen(method: Method, family: str, kind: str) -> set[str]:
    return set(trainable(method.attach(zoo.backbone(family, kind))))


def test_full_trains_everything() -> None:
    backbone = zoo.backbone("bert", "classification")
    backbone.model.requires_grad_(False)
    assert set(trainable(Full().attach(backbone))) == {name for name, _ in backbone.model.named_parameters()}


def test_head_trains_the_fresh_head_alone() -> None:
    assert chosen(Head(), "bert", "classification") == {"classifier.weight", "classifier.bias"}


def test_head_refuses_a_language_model() -> None:
    with pytest.raises(ValueError, match=r"^head: .* no fresh head .* use last-k or full$"):
        Head().attach(zoo.backbone("gpt2", "causal-lm"))


@pytest.mark.parametrize(
    ("family", "kind", "block", "head"),
    [
        ("bert", "classification", "bert.encoder.layer.", "classifier."),
        ("llama", "classification", "model.layers.", "score."),
        ("t5", "seq2seq", "decoder.block.", "-"),
        ("bart", "classification", "model.decoder.layers.", "classification_head."),
    ],
)
@pytest.mark.parametrize("k", [1, 2])
def test_last_k_trains_the_top_blocks_and_the_head(family: str, kind: str, block: str, head: str, k: int) -> None:
    names = [name for name, _ in zoo.backbone(family, kind).model.named_parameters()]
    tops = tuple(f"{block}{index}." for index in range(2 - k, 2))
    assert chosen(LastK(k=k), family, kind) == {name for name in names if name.startswith((*tops, head))}


def test_last_k_of_none_is_a_quarter() -> None:
    backbone = zoo.backbone("bert", "classification", num_hidden_layers=9)
    names = set(trainable(LastK().attach(backbone)))
    assert {name.split(".")[3] for name in names if name.startswith("bert.")} == {"7", "8"}


def test_last_k_beyond_the_model_says_why() -> None:
    with pytest.raises(ValueError, match=r"^last-k: k is 3, but the decoder has 2 layers; use at most 2, or full$"):
        LastK(k=3).attach(zoo.backbone("t5", "seq2seq"))


def test_last_k_keeps_nothing_below_its_blocks() -> None:
    """No gradient goes below the lowest trained block: what is below saves nothing for backward."""
    kept = []
    for k in (1, 2):
        module = LastK(k=k).attach(zoo.backbone("llama", "causal-lm"))
        saved: list[int] = []

        def pack(tensor: torch.Tensor, saved: list[int] = saved) -> torch.Tensor:
            saved.append(tensor.numel())
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            module(**zoo.batch("llama", "causal-lm"))
        kept.append(len(saved))
    assert kept[0] < 0.65 * kept[1]


def test_bitfit_trains_every_bias_and_the_head() -> None:
    names = {name for name, _ in zoo.backbone("bert", "classification").model.named_parameters()}
    assert chosen(BitFit(), "bert", "classification") == {n for n in names if n.endswith(".bias")} | {
        "classifier.weight"
    }


def test_bitfit_trains_the_biases_that_there_are() -> None:
    """Qwen2: query, key and value have biases, nothing else has."""
    expected = {f"model.layers.{i}.self_attn.{name}_proj.bias" for i in range(2) for name in "qkv"}
    assert chosen(BitFit(), "qwen2", "causal-lm") == expected


def test_bitfit_leaves_out_embeddings_and_buffers_that_are_called_bias() -> None:
    assert not {name for name in chosen(BitFit(add=True), "t5", "seq2seq") if "relative_attention_bias" in name}
    assert all(name.endswith(".bias") for name in chosen(BitFit(), "gpt2", "causal-lm"))


@pytest.mark.parametrize("family", ["t5", "llama"])
def test_bitfit_without_biases_says_what_to_do(family: str) -> None:
    message = rf"^bitfit: {family} has no biases; use --set bitfit\.add=true$"
    for kind in zoo.KINDS[family]:  # a head's own biases do not count
        with pytest.raises(ValueError, match=message):
            BitFit().attach(zoo.backbone(family, kind))


def test_added_biases_are_those_of_lst_on_t5_base() -> None:
    """arXiv 2206.06522: every linear map, the head (vocabulary 32,100) too, and the norms inside blocks."""
    encoder = 4 * 768 + 3072 + 768 + 2 * 768  # q k v o, wi, wo, two norms
    decoder = 8 * 768 + 3072 + 768 + 3 * 768
    assert 12 * (encoder + decoder) + 32100 == 280_932
    backbone = t5_base()
    assert BitFit(add=True).trainable_count(backbone) == 280_932
    module = BitFit(add=True).attach(backbone)
    assert count(list(trainable(module).values())) == 280_932
    assert {value.device.type for value in module.parameters()} == {"meta"}


@pytest.mark.parametrize(("family", "kind"), [("t5", "seq2seq"), ("llama", "classification"), ("qwen2", "causal-lm")])
def test_added_biases_start_at_the_base_model_and_add(family: str, kind: str) -> None:
    backbone = zoo.backbone(family, kind)
    batch = zoo.batch(family, kind)
    with torch.no_grad():
        before = backbone.model.eval()(**batch).logits
        module = BitFit(add=True).attach(backbone)
        assert torch.equal(module(**batch).logits, before)
    norm = next(child for child in module.modules() if isinstance(child, BiasedNorm))
    x = torch.randn(2, 3, norm.bias.numel())
    nn.init.normal_(norm.bias)
    torch.testing.assert_close(norm(x), norm.base(x) + norm.bias, rtol=1e-5, atol=1e-6)
    added = [child for child in module.modules() if isinstance(child, nn.Linear)]
    assert all(child.bias is not None for child in added if child is not getattr(module, "score", None))


def test_bitfit_keeps_no_linear_inputs() -> None:
    """A bias's gradient needs no activation: BitFit saves fewer values than training the norms does."""
    amounts = {}
    for method in (BitFit(add=True), Full()):
        module = method.attach(zoo.backbone("llama", "causal-lm"))
        saved: dict[int, int] = {}

        def pack(tensor: torch.Tensor, saved: dict[int, int] = saved) -> torch.Tensor:
            if not isinstance(tensor, nn.Parameter):
                saved[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            module(**zoo.batch("llama", "causal-lm"))
        amounts[method.name] = sum(saved.values())
    assert amounts["bitfit"] < 0.85 * amounts["full"]


def test_norm_trains_all_norms_of_llama_3_2_3b() -> None:
    backbone = llama_3b()
    assert Norm().trainable_count(backbone) == 57 * 3072 == 175_104
    names = set(trainable(Norm().attach(backbone)))
    assert len(names) == 57
    assert "model.norm.weight" in names


def test_norm_trains_weights_and_biases_and_the_head() -> None:
    names = chosen(Norm(), "bert", "classification")
    norms = {"bert.embeddings.LayerNorm"}
    norms |= {f"bert.encoder.layer.{i}.{part}output.LayerNorm" for i in range(2) for part in ("attention.", "")}
    assert names == {f"{norm}.{part}" for norm in norms for part in ("weight", "bias")} | {
        "classifier.weight",
        "classifier.bias",
    }


def test_norm_finds_the_norms_of_queries_and_keys() -> None:
    names = chosen(Norm(), "qwen3", "causal-lm")
    assert {"model.layers.0.self_attn.q_norm.weight", "model.layers.1.self_attn.k_norm.weight"} <= names
    assert len(names) == 2 * 4 + 1


@pytest.mark.filterwarnings("ignore:.gradient_checkpointing_enable. is deprecated:FutureWarning")
@pytest.mark.parametrize("method", [LastK(), BitFit(add=True), Norm()], ids=lambda method: method.name)
@pytest.mark.parametrize(("family", "kind"), [("bert", "classification"), ("t5", "seq2seq")])
def test_gradient_checkpointing_gives_the_same_gradients(method: Method, family: str, kind: str) -> None:
    found = []
    for checkpointing in (False, True):
        module = method.attach(zoo.lively(zoo.backbone(family, kind)))
        if checkpointing:
            module.gradient_checkpointing_enable({"use_reentrant": False})
        module.train()
        module(**zoo.batch(family, kind)).loss.backward()
        found.append([value.grad for value in trainable(module).values()])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)
