"""``bench run --adapter``: an adapter in peft's format is scored and measured, and nothing is trained."""

import json
import shutil

import jsonschema
import numpy as np
import peft
import pytest
import torch
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

from bench.cli import parser
from bench.core import registry
from bench.core.errors import RequestError
from bench.methods.pretrained_adapter import Adapter
from bench.models import loading
from bench.store import record
from bench.sweep import expand
from bench.sweep.request import RunRequest
from tests import tiny, zoo

pytestmark = [
    pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning"),
]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    with tiny.place(tmp_path_factory.mktemp("adapter")) as made:
        yield made


@pytest.fixture(scope="module")
def folder(place):
    """An adapter that peft itself trained a little and saved."""
    torch.manual_seed(5)
    base = AutoModelForSequenceClassification.from_pretrained(place.model, num_labels=2)
    model = peft.get_peft_model(base, peft.LoraConfig(task_type="SEQ_CLS", r=4, init_lora_weights=False))
    model.save_pretrained(place.folder / "theirs")
    return place.folder / "theirs"


def run(place, folder, **more):
    return place.run("adapter", sets=(f"adapter.path={folder}",), **more)


def test_it_scores_what_peft_answers_and_trains_nothing(place, folder):
    made = run(place, folder)
    assert made["status"] == "ok", made["traceback"]
    jsonschema.validate(made, record.schema())
    base = AutoModelForSequenceClassification.from_pretrained(place.model, num_labels=2)
    theirs = peft.PeftModel.from_pretrained(base, folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(place.model)
    rows = registry.task_entry("tiny/mood").value.load(None).validation
    with torch.no_grad():
        expected = (
            theirs(**tokenizer(list(rows["sentence"]), return_tensors="pt", padding=True)).logits.argmax(-1).numpy()
        )
    assert made["scores"]["accuracy"] == np.mean(expected == np.asarray(rows["label"]))

    assert made["spec"]["method"]["name"] == "adapter" and made["spec"]["train"]["steps"] is None
    assert made["parameters"]["trainable"] == 0 and made["parameters"]["trained_sha256"] is None
    assert made["parameters"]["checkpoint_bytes"] > 0 and made["curve"] == []
    trained = ("train_samples_per_second", "train_tokens_per_second", "step_seconds", "train_seconds", "warmup_steps")
    assert all(made["speed"][name] is None for name in trained)
    assert made["memory"]["train_peak_bytes"] is None and made["memory"]["inference_peak_bytes"] > 0
    for name in ("inference_latency_ms", "inference_samples_per_second"):
        assert made["speed"][name] > 0 and made["speed"][f"merged_{name}"] > 0
    assert made["checks"]["only declared parameters moved"] == "pass"
    assert made["checks"]["merged equals unmerged"] == made["checks"]["save and load reproduces"] == "pass"
    assert "trained differs from untrained" not in made["checks"]


def test_an_exported_adapter_scores_as_the_run_that_trained_it(place, tmp_path):
    first = place.run("lora", save=True, sets=("lora.lr=0.02",))
    command = ["export", str(place.adapter(first)), "--format", "peft", "--to", str(tmp_path / "out")]
    assert parser.main(command) == 0
    assert run(place, tmp_path / "out")["scores"] == first["scores"]


def test_its_identity_is_the_files_content(place, folder, tmp_path):
    (spec,) = place.specs("adapter", sets=(f"adapter.path={folder}",))
    copy = shutil.copytree(folder, tmp_path / "copy")
    config = json.loads((copy / "adapter_config.json").read_text())
    (copy / "adapter_config.json").write_text(json.dumps({**config, "lora_alpha": 1}))
    assert Adapter(path=str(copy)).fingerprint != spec.spec["method"]["fingerprint"] == Adapter(str(folder)).fingerprint
    with pytest.raises(ValueError, match="changed: its fingerprint was"):
        Adapter(path=str(copy), fingerprint=spec.spec["method"]["fingerprint"])
    expand.check_methods([spec])  # on a weightless model


def test_the_flag_asks_for_it_beside_other_methods(folder):
    request = RunRequest.build({"adapter": str(folder), "methods": "lora", "task": "tiny/mood"})
    assert request.method_names == ("lora", "adapter") and request.option_texts == (f"adapter.path={folder}",)
    request = RunRequest.build({"adapter": f"{folder},other", "task": "tiny/mood"})
    assert request.method_names == ("adapter",) and request.option_texts == (f"adapter.path={folder},other",)


def test_without_a_model_it_is_scored_on_the_one_it_was_trained_on(place, folder, tmp_path):
    def asked(*folders, **more):
        given = {"adapter": ",".join(map(str, folders)), "task": "tiny/mood", **more}
        return RunRequest.build(given).model_names()

    def trained_on(base, name):
        copy = shutil.copytree(folder, tmp_path / name)
        config = json.loads((copy / "adapter_config.json").read_text())
        (copy / "adapter_config.json").write_text(json.dumps({**config, "base_model_name_or_path": base}))
        return copy

    assert asked(folder) == (str(place.model),)
    assert asked(folder, model="tiny-bert") == ("tiny-bert",)
    shipped = trained_on(loading.resolve("tiny-bert").location, "shipped")
    assert asked(shipped) == ("tiny-bert",), "by its alias, as other runs on it name it"
    assert asked(trained_on(None, "silent")) == asked(tmp_path / "none") == ("minilm",)
    with pytest.raises(RequestError, match="trained on different models .*: score one model's at a time"):
        asked(folder, shipped)
    with pytest.raises(
        RequestError, match="lost says that it was trained on /gone/model, which is not available here: .*--model"
    ):
        asked(trained_on("/gone/model", "lost"))


def test_hub_ids_of_known_models_have_aliases():
    assert loading.alias_of("google-bert/bert-base-uncased") == "bert-base"
    assert loading.alias_of("lab/unknown") == "lab/unknown"


def test_an_adapter_for_another_size_is_refused_before_anything_runs(place, tmp_path):
    base = AutoModelForSequenceClassification.from_config(
        AutoConfig.from_pretrained(place.model, num_labels=2, hidden_size=48, num_attention_heads=2)
    )
    model = peft.get_peft_model(base, peft.LoraConfig(task_type="SEQ_CLS", r=4, target_modules=["query"]))
    model.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    (tmp_path / "adapter_config.json").write_text(json.dumps({**config, "base_model_name_or_path": "lab/other"}))
    found = place.specs("adapter", sets=(f"adapter.path={tmp_path}",))
    wrong = r"has shape \(.*48.*\), but .* in this model\. It was trained on lab/other: is that"
    with pytest.raises(RequestError, match=wrong):
        expand.check_methods(found)


def test_it_is_not_among_the_methods_that_are_compared_by_default():
    with tiny.registry_restored():
        registry._methods.pop("adapter", None)
        assert "adapter" not in registry.methods()
        assert registry.method_entry("adapter").value is Adapter


def test_what_cannot_be_scored_says_why(place, folder, tmp_path):
    with pytest.raises(RequestError, match="has no adapter_config.json and no adapter_model.safetensors"):
        place.specs("adapter", sets=(f"adapter.path={tmp_path}",))
    with pytest.raises(ValueError, match="^adapter: no folder given: --adapter FOLDER"):
        Adapter().attach(zoo.backbone("bert", "classification"))
    with pytest.raises(ValueError, match="^adapter: .* does not fit this model and task: .*size mismatch"):
        Adapter(path=str(folder)).attach(zoo.backbone("bert", "classification"))  # three labels
    with pytest.raises(ValueError, match="^adapter: .* has no score.weight, which this task's head needs"):
        Adapter(path=str(folder)).attach(zoo.backbone("llama", "classification"))
    with pytest.raises(ValueError, match="^adapter: .* does not fit this model and task: "):
        Adapter(path=str(folder)).attach(zoo.backbone("llama", "causal-lm"))
