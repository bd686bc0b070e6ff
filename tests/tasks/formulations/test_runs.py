"""Whole runs in every form: scores, standard errors, dev scores, predictions, checks, memory and reloading."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch

import bench
from bench.core.errors import RequestError
from bench.store.validation import problems
from tests import tiny, writers, zoo

CHECKS = {"count equals formula", "loss finite", "only declared parameters moved", "trained differs from untrained",
          "save and load reproduces"}  # fmt: skip


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("forms")
    for family in ("llama", "gpt2", "t5"):
        writers.folder(folder / family, family)
    tiny.model_folder(folder / "bert")
    model = zoo.backbone("vit", "image-classification", initializer_range=0.2).model
    model.config.id2label, model.config.label2id = {}, {}
    model.vit.save_pretrained(folder / "vit")
    with tiny.registry_restored():
        yield folder


def run(place: Path, model: str, task: str, method: str, *sets: str, **rest: Any) -> dict[str, Any]:
    save = bool(rest.pop("save", False))
    record = writers.run(place / "out", writers.spec(place / model, task, method, sets, **rest), save)
    assert record["status"] == "ok", record["traceback"]
    assert problems(record) == []
    failed = {name: why for name, why in record["checks"].items() if why.startswith("fail")}
    assert not failed and set(record["checks"]) >= CHECKS
    return record


def predictions(place: Path, record: dict[str, Any]) -> dict[str, list[Any]]:
    return pq.read_table(place / "out" / record["predictions"]).to_pydict()


def test_a_decoder_learns_to_write_answers(place: Path) -> None:
    record = run(place, "llama", "tiny/last", "full", "full.lr=0.01", steps=50)
    assert record["scores"]["exact_match"] > 0.9 and record["scores"]["loss"] < 0.3
    assert record["dev_score"] == {"name": "loss", "higher_is_better": False}
    dev = [point["dev_score"] for point in record["curve"] if point["dev_score"] is not None]
    assert len(dev) == 2 and dev[1] < dev[0]
    assert record["checks"]["beats untrained"] == "pass" and "beats majority" not in record["checks"]
    kept = predictions(place, record)
    assert set(kept) == {"row", "prediction", "reference", "loss", "score", "tokens"}
    equal = [float(a == b) for a, b in zip(kept["prediction"], kept["reference"], strict=True)]
    assert kept["score"] == equal and sum(equal) / len(equal) == record["scores"]["exact_match"]
    assert record["memory"]["inference_peak_bytes"] > 0 and record["speed"]["inference_samples_per_second"] > 0


@pytest.mark.parametrize(
    ("model", "method", "sets"),
    [("llama", "lst", ("lst.reduction=2",)), ("gpt2", "prefix", ("prefix.length=4",)), ("gpt2", "prompt", ()),
     ("t5", "lora", ("lora.lr=0.02",)), ("t5", "lst", ("lst.reduction=2", "lst.init=fisher"))],
)  # fmt: skip
def test_methods_write_and_come_back_from_their_files(place: Path, model: str, method: str, sets: Any) -> None:
    record = run(place, model, "tiny/last", method, *sets, steps=10)
    assert record["checks"]["save and load reproduces"] == "pass"
    assert record["checks"].get("merged equals unmerged", "pass") == "pass"
    kind = "seq2seq" if model == "t5" else "causal-lm"
    assert record["spec"]["task"]["form"]["model_kind"] == kind
    assert len(predictions(place, record)["prediction"]) == 20


def test_texts_alone_are_modelled_and_general_text_is_watched(place: Path) -> None:
    record = run(place, "llama", "tiny/talk", "lora", "lora.lr=0.02", "train.forgetting=stdlib")
    kept = predictions(place, record)
    total = sum(loss * tokens for loss, tokens in zip(kept["loss"], kept["tokens"], strict=True))
    mean = total / sum(kept["tokens"])
    assert len(set(kept["text"])) > 1, "errors are over texts"
    assert record["scores"]["loss"] == pytest.approx(mean)
    assert record["scores"]["perplexity"] == pytest.approx(2.718281828459045**mean)
    assert record["higher_is_better"] is False and record["stderr"] > 0
    forgetting = record["forgetting"]
    assert forgetting["text"] == "stdlib" and 16000 < forgetting["tokens"] <= 16384
    assert forgetting["base_loss"] != forgetting["tuned_loss"] > 0
    base = torch.tensor(32.0).log()  # a random model finds every word as likely
    assert forgetting["base_loss"] == pytest.approx(float(base), rel=0.2)


def test_one_task_on_a_decoder_with_head_and_with_words_and_on_an_encoder_decoder(place: Path) -> None:
    forms = {
        ("llama", "auto"): ("head", "classification"),
        ("llama", "words"): ("words", "causal-lm"),
        ("t5", "auto"): ("text", "seq2seq"),
        ("t5", "head"): ("head", "classification"),
        ("bert", "auto"): ("head", "classification"),
    }
    for (model, form), (name, kind) in forms.items():
        record = run(place, model, "tiny/mood", "full", "full.lr=0.01", f"task.form={form}", steps=25)
        found = record["spec"]["task"]["form"]
        assert (found["name"], found["model_kind"]) == (name, kind)
        assert record["scores"]["accuracy"] > 0.8, (model, form)
        assert record["dev_score"] == {"name": "accuracy", "higher_is_better": True}
        kept = predictions(place, record)
        assert set(kept) == {"row", "prediction", "reference", "logits"} and len(kept["logits"][0]) == 2


def test_words_and_template_are_the_persons(place: Path) -> None:
    sets = ("task.form=words", "task.words=good,not good", "task.template=text: {sentence}, so\\nanswer:")
    found = writers.spec(place / "llama", "tiny/mood", "lora", sets).spec["task"]["form"]
    assert found["template"] == "text: {sentence}, so\nanswer:" and found["words"] == ["good", "not good"]


def test_images_are_classified_and_the_adapter_loads(place: Path) -> None:
    record = run(place, "vit", "digits", "full", "full.lr=0.005", "train.eval_size=100", steps=30, save=True)
    assert record["scores"]["accuracy"] > 0.3
    loaded = bench.load(place / "out" / record["adapter"])
    assert loaded.tokenizer is None
    assert loaded.model(pixel_values=torch.zeros(1, 3, 16, 16)).logits.shape == (1, 10)


def test_an_adapter_that_writes_loads_with_its_head(place: Path) -> None:
    record = run(place, "llama", "tiny/last", "lora", steps=2, save=True)
    loaded = bench.load(place / "out" / record["adapter"])
    assert loaded.backbone.kind == "causal-lm"
    ids = loaded.tokenizer("good film is the", return_tensors="pt")
    assert loaded.model.generate(**ids, max_new_tokens=2).shape[1] > ids["input_ids"].shape[1]


@pytest.mark.parametrize(
    ("model", "task", "sets", "why"),
    [
        ("bert", "tiny/last", (), "needs a model that writes text, and .* is an encoder"),
        ("t5", "tiny/talk", (), "from left to right, and .* is an encoder-decoder"),
        ("bert", "tiny/mood", ("task.form=words",), "is an encoder and writes no text"),
        ("llama", "tiny/mood", ("task.form=text",), "is a decoder, whose form .* task.form=words"),
        ("t5", "tiny/mood", ("task.form=words",), "is an encoder-decoder, whose form .* task.form=text"),
        ("llama", "tiny/mood", ("task.words=a,b",), "has a head by default: add --set task.form=words"),
        ("bert", "tiny/mood", ("task.words=a,b",), "is an encoder and has a head"),
        ("llama", "tiny/mood", ("task.form=head", "task.words=a,b"), "task.words is for form=words"),
        ("llama", "tiny/mood", ("task.form=words", "task.words=a"), "1 texts for the 2 labels up, down"),
        ("llama", "tiny/mood", ("task.form=words", "task.template={sentense}"), "Did you mean 'sentence'"),
        ("llama", "tiny/last", ("task.template={text",), "cannot be read"),
        ("bert", "digits", (), "is about images, and model .* reads text"),
        ("vit", "tiny/mood", (), "is about text, and model .* reads images"),
        ("gpt2", "tiny/last", ("task.max_new_tokens=60",), "max_length 24 and max_new_tokens 60 .* 64 positions"),
        ("llama", "tiny/mood", ("train.forgetting=stdlib",), "is tuned with another head here"),
    ],
)  # fmt: skip
def test_what_cannot_be_put_to_a_model_is_refused(place: Path, model: str, task: str, sets: Any, why: str) -> None:
    with pytest.raises(RequestError, match=why) as refused:
        writers.spec(place / model, task, "lora", sets)
    assert len(refused.value.messages) == 1
