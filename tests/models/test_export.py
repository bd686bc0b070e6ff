"""What ``--save`` keeps: loaded back, refused, exported to peft's format and as a merged model, with equal logits."""

import json
import shutil
from pathlib import Path

import peft
import pytest
import torch
from transformers import AutoModelForSequenceClassification

import bench
from bench.cli import parser
from bench.core.errors import RequestError
from bench.methods.ia3 import Ia3
from bench.methods.lora import Lora
from bench.methods.prefix import PrefixTuning, PTuning2
from bench.methods.prompt import PromptTuning, PTuning
from bench.methods.vera import Vera
from bench.models.backbone import trainable
from bench.models.export import export
from bench.models.saved_adapter import Tuned, read
from tests import tiny, zoo

pytestmark = [
    pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning"),
]
TO_PEFT = {
    "lora": (),
    "lora-fa": ("freeze_a=true",),
    "lora-bias": ("bias=all", "also_train=LayerNorm", "targets=query,down", "rank_pattern=down=2"),
    "rslora": ("rslora=true", "alpha_pattern=value=3"),
    "dora": ("dora=true",),
    "pissa": ("pissa=true",),
    "ia3": (),
    "vera": ("rank=16",),
    "prompt": ("length=4", "place=start"),
    "p-tuning": ("length=4", "place=start"),
    "prefix": ("length=4", "positions=shifted"),
    "p-tuning-v2": ("length=4", "positions=shifted"),
    "peft:lora": ("r=4", "use_dora=true"),
    "peft:loha": ("r=4",),
}
OF_LORA = ("lora-fa", "lora-bias", "rslora", "dora", "pissa")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    with tiny.place(tmp_path_factory.mktemp("export")) as made:
        yield made


def saved(place, case, options):
    """Run with --save; the folder and the tuned model."""
    method = "lora" if case in OF_LORA else case
    record = place.run(method, sets=[f"{method}.{text}" for text in (*options, "lr=0.02")], save=True, steps=4)
    assert record["status"] == "ok", record["traceback"]
    assert record["checks"]["save and load reproduces"] == "pass"
    return place.adapter(record)


def logits(model, tokenizer):
    batch = tokenizer(["good film", "the poor road was very bad", "fine"], return_tensors="pt", padding=True)
    with torch.no_grad():
        return model.eval()(**batch).logits


@pytest.mark.parametrize("case", TO_PEFT)
def test_peft_loads_what_was_exported_with_equal_logits(place, case, tmp_path, capsys):
    folder = saved(place, case, TO_PEFT[case])
    tuned = bench.load(folder)
    expected = logits(tuned.model, tuned.tokenizer)
    command = [
        "export",
        folder.name,
        "--format",
        "peft",
        "--to",
        str(tmp_path / "out"),
        "--out",
        str(place.folder / "out"),
    ]
    assert parser.main(command) == 0
    assert capsys.readouterr().out == f"peft: {tmp_path / 'out'}\n"
    written = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert Path(written["base_model_name_or_path"]) == Path(place.model).resolve(), "where peft finds it"
    modes = {file.stat().st_mode for file in (tmp_path / "out").iterdir()}
    assert modes == {(folder / "card.json").stat().st_mode} == {(folder / "adapter.safetensors").stat().st_mode}
    torch.manual_seed(99)  # the base's own head is drawn anew: it must come from the export
    base = AutoModelForSequenceClassification.from_pretrained(place.model)
    plain = logits(base, tuned.tokenizer)
    theirs = peft.PeftModel.from_pretrained(base, tmp_path / "out")
    torch.testing.assert_close(logits(theirs, tuned.tokenizer), expected, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(plain, expected, atol=1e-3)


class NoTokenizer:
    def save_pretrained(self, folder):
        pass


@pytest.mark.parametrize(
    ("method", "family", "kind"),
    [
        (Lora(rank=4), "gpt2", "causal-lm"),
        (Lora(rank=4, dora=True, targets=("all",)), "gpt2", "classification"),
        (Lora(rank=4, pissa=True), "gpt2", "causal-lm"),
        (Lora(rank=4, rank_pattern=("value=2",)), "t5", "seq2seq"),
        (Lora(rank=4, bias="all"), "roberta", "classification"),
        (Lora(rank=4), "vit", "image-classification"),
        (Ia3(), "gpt2", "causal-lm"),
        (Ia3(), "gpt_neox", "causal-lm"),
        (Ia3(), "t5", "seq2seq"),
        (Vera(rank=8, targets=("query", "down")), "llama", "causal-lm"),
        (PromptTuning(length=4), "llama", "causal-lm"),
        (PTuning(length=4), "llama", "classification"),
        (PrefixTuning(length=4, width=8), "llama", "causal-lm"),
        (PTuning2(length=4), "gpt2", "causal-lm"),
    ],
    ids=lambda value: getattr(value, "name", value),
)
def test_other_families_load_in_peft_with_equal_logits(method, family, kind, tmp_path):
    backbone, batch = zoo.backbone(family, kind), zoo.batch(family, kind)
    original = {name: value.clone() for name, value in backbone.model.state_dict().items()}
    module = method.attach(backbone).eval()
    torch.manual_seed(4)
    with torch.no_grad():
        for parameter in trainable(module).values():
            parameter.add_(0.1 * torch.randn_like(parameter))
        expected = module(**batch).logits
    card = {"spec": {"model": {"name": "tiny"}}}
    export(Tuned(module, NoTokenizer(), card, method, backbone, original, "tiny"), "peft", tmp_path / "out")
    theirs = peft.PeftModel.from_pretrained(zoo.backbone(family, kind).model, tmp_path / "out").eval()
    with torch.no_grad():
        found, plain = theirs(**batch).logits, zoo.backbone(family, kind).model.eval()(**batch).logits
    found = found[:, -expected.shape[1] :] if kind == "causal-lm" else found  # peft keeps the virtual tokens' logits
    real = batch["attention_mask"].bool() if kind == "causal-lm" else ...
    if (family, kind) == ("llama", "classification"):
        # Given embeddings, transformers' decoders classify by the last position, padded or not, and peft gives them.
        real = batch["attention_mask"].bool().all(dim=1)
    torch.testing.assert_close(found[real], expected[real], atol=1e-4, rtol=1e-4)
    assert not torch.allclose(plain[real], expected[real], atol=1e-3)


@pytest.mark.parametrize("case", ["lora", "lora-bias", "dora", "pissa", "ia3", "vera", "full", "bitfit", "peft:loha"])
def test_merged_models_load_with_equal_logits(place, case, tmp_path):
    folder = saved(place, case, TO_PEFT.get(case, ()))
    tuned = bench.load(folder)
    expected = logits(tuned.model, tuned.tokenizer)
    assert parser.main(["export", str(folder), "--format", "merged", "--to", str(tmp_path / "out")]) == 0
    merged, info = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    torch.testing.assert_close(logits(merged, tuned.tokenizer), expected, atol=1e-5, rtol=1e-5)
    assert merged.config.id2label == {0: "up", 1: "down"}
    assert not list((tmp_path / "out").glob("*.bin"))


def test_the_card_says_what_it_is(place):
    folder = saved(place, "lora", ())
    card = read(folder)
    assert card["spec"]["method"]["name"] == "lora" and card["spec"]["task"]["labels"] == ["up", "down"]
    assert card["scores"]["accuracy"] >= 0 and card["main_score"] == "accuracy"
    assert sorted(path.name for path in folder.iterdir()) == ["adapter.safetensors", "card.json"]
    tuned = bench.load(folder)
    assert tuned.card == card and not tuned.model.training and tuned.original == {}


@pytest.mark.parametrize("grant", ["trust_remote_code", "allow_pickle"])
def test_a_card_does_not_decide_what_may_be_run(place, tmp_path, capsys, grant):
    folder = tmp_path / "shared"
    shutil.copytree(saved(place, "lora", ()), folder)
    card = json.loads((folder / "card.json").read_text())
    card["spec"]["model"][grant] = True
    (folder / "card.json").write_text(json.dumps(card))
    with pytest.raises(RequestError, match=rf"asks for {grant} with the base model .* trust=\['{grant}'\]"):
        bench.load(folder)
    assert bench.load(folder, trust=[grant], any_base=True).card == card
    assert parser.main(["export", str(folder), "--format", "peft", "--to", str(tmp_path / "out")]) == 2
    assert f"--{grant.replace('_', '-')}" in capsys.readouterr().err


def test_a_changed_base_model_is_refused_unless_asked_for(place, tmp_path):
    folder = saved(place, "lora", ())
    other = tiny.model_folder(tmp_path / "other", intermediate_size=32)
    with pytest.raises(
        RequestError, match="was tuned on folder:bert with the fingerprint [0-9a-f]{16}; .* any_base=True"
    ):
        bench.load(folder, model=str(other))
    assert bench.load(folder, model=str(other), any_base=True).model.config.intermediate_size == 32


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "card.json").unlink(), "holds no saved adapter"),
        (lambda folder: (folder / "card.json").write_text("{"), "is not JSON"),
        (lambda folder: (folder / "card.json").write_text("[]"), "is not an adapter's card"),
        (lambda folder: (folder / "adapter.safetensors").unlink(), "has a card but no adapter.safetensors"),
        (lambda folder: change(folder, "schema", 2), "has the card schema 2; this version reads 1"),
        (lambda folder: option(folder, "rank", 4), "does not fit its method"),
        (lambda folder: option(folder, "targets", ["query", "key", "value"]), "lacks .*key.lora_a and 3 more"),
    ],
)
def test_what_cannot_be_loaded_says_why(place, tmp_path, damage, message):
    import shutil

    folder = shutil.copytree(saved(place, "lora", ()), tmp_path / "copy")
    damage(folder)
    with pytest.raises(RequestError, match=message):
        bench.load(folder)


def change(folder, name, value):
    card = json.loads((folder / "card.json").read_text())
    (folder / "card.json").write_text(json.dumps({**card, name: value}))


def option(folder, name, value):
    spec = json.loads((folder / "card.json").read_text())["spec"]
    change(folder, "spec", {**spec, "method": {**spec["method"], name: value}})


@pytest.mark.parametrize(
    ("case", "options", "how_and_why"),
    [
        ("head", (), ("peft", "head has no counterpart in peft")),
        ("prompt", ("length=4", "place=after-first"), ("peft", "train with place=start to export")),
        ("prefix", ("length=4", "positions=kept"), ("peft", "train with positions=shifted to export")),
        ("lora", ("dora=true", "pissa=true"), ("peft", "export it merged")),
        ("prompt", ("length=4",), ("merged", "prompt adds modules that cannot be folded")),
    ],
)
def test_what_cannot_be_exported_says_why(place, tmp_path, capsys, case, options, how_and_why):
    folder, (how, why) = saved(place, case, options), how_and_why
    assert parser.main(["export", str(folder), "--format", how, "--to", str(tmp_path / "out")]) == 2
    assert why in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_virtual_tokens_of_an_encoder_decoder_are_not_exported(tmp_path):
    """peft's class for them needs what transformers 5 lacks, and without it they would be left out silently."""
    method, backbone = PromptTuning(length=4), zoo.backbone("t5", "seq2seq")
    original = {name: value.clone() for name, value in backbone.model.state_dict().items()}
    tuned = Tuned(
        method.attach(backbone), NoTokenizer(), {"spec": {"model": {"name": "t"}}}, method, backbone, original, "t"
    )
    with pytest.raises(RequestError, match="peft supports virtual tokens in encoder-decoders"):
        export(tuned, "peft", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_export_never_writes_over_something(place, tmp_path, capsys):
    folder = saved(place, "lora", ())
    (tmp_path / "file").write_text("mine")
    assert parser.main(["export", str(folder), "--format", "peft", "--to", str(tmp_path)]) == 2
    assert "it exists already" in capsys.readouterr().err
    assert parser.main(["export", "0123456789abcdef", "--format", "peft", "--to", str(tmp_path / "new")]) == 2
    assert "neither a folder with a card.json nor a run" in capsys.readouterr().err
