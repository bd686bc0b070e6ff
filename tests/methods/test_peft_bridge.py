"""What became of every tuner type of the installed peft: trained, saved, merged and planned, or refused with why."""

import subprocess
import sys

import peft
import pytest
import torch

from bench.cli import describe
from bench.core import options, registry
from bench.core.errors import RequestError
from bench.methods import peft_bridge
from bench.models import checkpoint
from bench.models.backbone import trainable
from bench.sweep import expand
from bench.sweep.request import RunRequest
from tests import tiny, zoo

pytestmark = [
    # peft's and torch's remarks about norms, missing biases, CUDA kernels and sparse tensors
    pytest.mark.filterwarnings("ignore:Unsupported layer type:UserWarning"),
    pytest.mark.filterwarnings("ignore:.*has no bias:UserWarning"),
    pytest.mark.filterwarnings("ignore:Failed to load the CUDA extension:UserWarning"),
    pytest.mark.filterwarnings("ignore:Setting boft_n_butterfly_factor to 1:UserWarning"),
    pytest.mark.filterwarnings("ignore:Sparse invariant checks:UserWarning"),
]
CASES = {"bert": "classification", "llama": "causal-lm"}
SMALL = {"r": 4, "num_virtual_tokens": 4, "adapter_len": 4, "n_frequency": 32}
# Sizes that fit maps of 32 by 32 where peft's defaults do not, and what a type cannot do without.
CHOSEN = {
    "ADALORA": {"r": 8, "init_r": 4, "target_r": 2},
    "ADAMSS": {"r": 8, "num_subspaces": 2},
    "C3A": {"block_size": 16},
    "CPT": {"cpt_token_ids": "5,6,7,8", "cpt_mask": "1,1,1,1", "cpt_tokens_type_mask": "1,2,3,4"},
    "OFT": {"r": 0, "oft_block_size": 8},
    "ROAD": {"group_size": 8},
    "TRAINABLE_TOKENS": {"token_indices": "5,6"},
    "VBLORA": {"vector_length": 16, "num_vectors": 8},
}
REFUSED = {
    ("ADAPTION_PROMPT", "bert"): "Unsupported model type for adaption prompt: 'bert'",
    ("CPT", "bert"): "only supports task_type = CAUSAL_LM",
    ("SHADOW", "bert"): "Unable to automatically find",
    ("XLORA", "bert"): "mixes trained LoRA adapters",
    ("XLORA", "llama"): "mixes trained LoRA adapters",
}
# No merge at all, or none into these maps (Llama's have no bias).
UNMERGED = {("LILY", "bert"), ("LILY", "llama"), ("SHADOW", "llama"), ("BEFT", "llama")}
# Types of which a weightless model cannot say the shapes: they follow from the weights (AdaMSS), or peft leaves
# a counter trainable there (AdaLoRA's ranknum).
UNPLANNED = ("ADAMSS", "ADALORA")


def method(kind, **changes):
    name = f"peft:{kind.lower()}"
    cls = registry.method_entry(name).value
    chosen = {key: value for key, value in SMALL.items() if key in cls.fields} | CHOSEN.get(kind, {}) | changes
    return options.build(cls, chosen, name)


@pytest.fixture(scope="module", autouse=True)
def registered():
    with tiny.registry_restored():
        registry.load()
        yield


def test_every_type_of_the_installed_peft_has_a_name():
    assert set(peft_bridge.names()) == {f"peft:{kind.value.lower()}" for kind in peft.PeftType}


def one_step(chosen, module, batch):
    """Two optimizer steps; the second sees what the first moved."""
    optimizer = torch.optim.AdamW(trainable(module).values(), lr=1e-2)
    for step in (1, 2):
        module(**batch).loss.backward()
        optimizer.step()
        if hasattr(chosen, "after_step"):
            chosen.after_step(module, step, 2)
        optimizer.zero_grad()


def logits(module, batch):
    module.eval()
    with torch.no_grad():
        return module(**{name: value for name, value in batch.items() if name != "labels"}).logits


@pytest.mark.parametrize("family", CASES)
@pytest.mark.parametrize("kind", [kind.value for kind in peft.PeftType])
def test_what_became_of(kind, family, tmp_path):
    refused = REFUSED.get((kind, family))
    if refused:
        with pytest.raises((ValueError, RequestError), match=f"^peft:{kind.lower()}: .*{refused}"):
            method(kind).attach(zoo.backbone(family, CASES[family]))
        return
    chosen, batch = method(kind), zoo.batch(family, CASES[family])
    backbone = zoo.backbone(family, CASES[family])
    originals, head = checkpoint.original_tensors(backbone), {id(p) for p in backbone.head_parameters}
    module = chosen.attach(backbone)
    names = {name: tuple(value.shape) for name, value in trainable(module).items()}
    frozen = {name: p.detach().clone() for name, p in module.named_parameters() if not p.requires_grad}
    start = {name: p.detach().clone() for name, p in trainable(module).items()}
    one_step(chosen, module, batch)

    moved = {name for name, p in trainable(module).items() if not torch.equal(p, start[name])}
    trained_head = {n for n, p in trainable(module).items() if id(p) in head or "modules_to_save" in n}
    assert moved - trained_head, "nothing but the head moved"
    assert len(trained_head) == len(head) and trained_head <= moved
    after = dict(module.named_parameters())
    assert all(torch.equal(after[name], value) for name, value in frozen.items())

    expected = logits(module, batch)
    checkpoint.save_state(tmp_path / "a.safetensors", checkpoint.saved_state(module, originals))
    torch.manual_seed(7)
    fresh = chosen.attach(zoo.backbone(family, CASES[family]))
    checkpoint.load_state(tmp_path / "a.safetensors", fresh)
    torch.testing.assert_close(logits(fresh, batch), expected, atol=1e-6, rtol=1e-5)
    assert_merges(chosen, module, batch, expected, (kind, family) in UNMERGED)

    with torch.device("meta"):
        weightless = zoo.backbone(family, CASES[family])
    planned = chosen.attach(weightless)
    shapes = {name: tuple(value.shape) for name, value in trainable(planned).items()}
    assert shapes == names or (kind in UNPLANNED and names.keys() <= shapes.keys())


def assert_merges(chosen, module, batch, expected, unmerged):
    if not hasattr(chosen, "merge"):
        return
    if unmerged:
        with pytest.raises(ValueError, match=f"^{chosen.name}: peft cannot merge it"):
            chosen.merge(module)
        return
    torch.testing.assert_close(logits(chosen.merge(module), batch), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("name", "family", "kind"),
    [
        *[("LORA", "gpt2", "causal-lm"), ("VERA", "gpt2", "causal-lm"), ("IA3", "gpt2", "classification")],
        *[(name, "t5", "seq2seq") for name in ("LORA", "LOHA", "MISS")],
        *[("LORA", "bart", "seq2seq"), ("LORA", "roberta", "regression"), ("LORA", "t5", "classification")],
        *[("LORA", "vit", "image-classification"), ("OFT", "vit", "image-classification")],
        *[("PREFIX_TUNING", "llama", "classification"), ("LORA", "distilbert", "classification")],
    ],
)
def test_other_families_and_heads_train(name, family, kind):
    backbone, batch = zoo.backbone(family, kind), zoo.batch(family, kind)
    module = method(name).attach(backbone)
    start = {key: p.detach().clone() for key, p in trainable(module).items()}
    one_step(method(name), module, batch)
    assert all(not torch.equal(p, start[key]) for key, p in trainable(module).items())
    saved = sum(p.numel() for key, p in trainable(module).items() if "modules_to_save" in key)
    assert saved == backbone.head_count


@pytest.mark.parametrize(
    ("name", "family", "kind", "why"),
    [
        ("MISS", "gpt2", "causal-lm", "Only|only `torch.nn.Linear`"),
        ("PROMPT_TUNING", "t5", "seq2seq", "_prepare_encoder_decoder_kwargs_for_generation"),
    ],
)
def test_what_peft_cannot_do_is_said_in_its_words(name, family, kind, why):
    with pytest.raises(ValueError, match=f"^peft:{name.lower()}: peft cannot put it on this {family} model: .*{why}"):
        method(name).attach(zoo.backbone(family, kind))


@pytest.mark.parametrize(("name", "ours"), [("PROMPT_TUNING", "prompt"), ("P_TUNING", "p-tuning")])
def test_prompts_before_a_decoders_embeddings(name, ours):
    """peft gives the model no token ids then: a head would read the padding, and the prompt has logits too."""
    with pytest.raises(ValueError, match=f"padding decides the class .* use {ours}$"):
        method(name).attach(zoo.backbone("llama", "classification"))
    batch = zoo.batch("llama", "causal-lm")
    module = method(name).attach(zoo.backbone("llama", "causal-lm")).eval()
    assert module(**batch).logits.shape[:2] == batch["input_ids"].shape


def test_a_family_that_peft_does_not_know_gets_query_and_value():
    from peft.mapping import PEFT_TYPE_TO_TUNER_MAPPING

    assert "distilbert" not in PEFT_TYPE_TO_TUNER_MAPPING["LORA"].target_module_mapping
    module = method("LORA").attach(zoo.backbone("distilbert", "classification"))
    adapted = {name.split(".attention.")[1].split(".")[0] for name in trainable(module) if ".attention." in name}
    assert adapted == {"q_lin", "v_lin"}


def test_options_are_pefts_own_with_its_defaults():
    cls = registry.method_entry("peft:lora").value
    known, config = options.options(cls), peft.LoraConfig()
    assert (known["r"].default, known["lora_alpha"].default, known["bias"].default) == (8, config.lora_alpha, "none")
    assert known["bias"].limits.choices == ("none", "all", "lora_only")
    assert known["r"].limits.help == "Lora attention dimension"
    assert "rank_pattern" not in known and "rank_pattern" in cls.__doc__
    chosen = options.build(cls, {"target_modules": "query,key", "layers_to_transform": "1", "r": "2"}, "peft:lora")
    made = peft_bridge._config(chosen, zoo.backbone("bert", "classification"))
    assert made.target_modules == {"query", "key"} and made.layers_to_transform == [1] and made.r == 2
    assert made.init_lora_weights is True and made.modules_to_save == ["classifier"]
    pissa = options.build(cls, {"init_lora_weights": "pissa", "target_modules": "all-linear"}, "peft:lora")
    made = peft_bridge._config(pissa, zoo.backbone("bert", "classification"))
    assert made.init_lora_weights == "pissa" and made.target_modules == "all-linear"


def test_a_whole_run_of_the_bridge(tmp_path):
    with tiny.place(tmp_path) as place:
        record = place.run("peft:lora", sets=("peft:lora.r=2", "peft:lora.lora_alpha=4", "peft:lora.lr=0.03"))
    assert record["status"] == "ok", record["traceback"]
    assert record["spec"]["method"]["r"] == 2 and record["parameters"]["trainable"] == 66 + 2 * 2 * 2 * 64
    assert not [name for name, why in record["checks"].items() if why.startswith("fail")]
    assert record["speed"]["merged_inference_latency_ms"] > 0


def test_adalora_learns_the_number_of_steps_from_the_trainer():
    chosen = method("ADALORA")
    module = chosen.attach(zoo.backbone("bert", "classification"))
    module(**zoo.batch("bert", "classification")).loss.backward()
    chosen.after_step(module, 1, 50)
    assert module.base_model.rankallocator.peft_config.total_step == 50


def test_types_that_need_token_ids_say_so():
    cls = registry.method_entry("peft:trainable_tokens").value
    with pytest.raises(ValueError, match="^peft:trainable_tokens: it needs token ids"):
        cls().attach(zoo.backbone("bert", "classification"))


def test_unknown_types_and_a_missing_peft_teach(monkeypatch):
    with pytest.raises(RequestError, match="Unknown method 'peft:lorra'. Did you mean 'peft:lora'?"):
        registry.method_entry("peft:lorra")
    request = RunRequest(methods=("peft:bone2",), task=("glue/sst2",), model=("no-such-model",))
    monkeypatch.setattr(peft_bridge, "names", dict)
    with pytest.raises(RequestError) as caught:
        expand.expand(request)
    assert "peft:bone2: peft is not installed. Install the extra: pip install 'tunebench[peft]'." in str(caught.value)


def test_listing_does_not_import_peft():
    code = (
        "import sys; from bench.cli import describe; rows = describe.listing('methods', []);"
        "sys.exit('peft' in sys.modules or not any('lora' in r['help'] for r in rows if r['name'] == 'peft:NAME'))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    assert [row["name"] for row in describe.listing("methods", [])][-2:] == ["adapter", "peft:NAME"]
