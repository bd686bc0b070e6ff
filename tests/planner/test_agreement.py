"""A plan under the CPU's rules is what a measurement on the CPU finds, for every method on every kind of model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from bench.core import registry
from bench.core.protocols import DataInitialized, Method
from bench.core.train_config import TrainSettings
from bench.models.inference import Engine
from bench.planner.meta_model import Shape, find
from bench.planner.plan_config import Setting
from bench.planner.planner import Plan, Planner
from bench.training.memory import MemoryReport, measure_call, measure_inference, measure_training
from bench.training.storage_tracker import Peak
from bench.training.trainer import Trainer
from tests import zoo

torch.set_num_threads(1)
registry.load()

MODELS = {"bert": "classification", "llama": "causal-lm", "t5": "seq2seq"}
ROWS, TARGETS = 4, 7
# What does not apply, and why, is tested elsewhere; t5 and llama have no biases and no fresh head.
INAPPLICABLE = {("llama", "head"), ("t5", "head")}
OPTIONS: dict[tuple[str, str], dict[str, Any]] = {("llama", "bitfit"): {"add": True}, ("t5", "bitfit"): {"add": True}}
METHODS = [name for name, cls in registry.methods().items() if not hasattr(cls, "already_trained") and ":" not in name]
CASES = [(family, name) for family in MODELS for name in METHODS if (family, name) not in INAPPLICABLE]


def shape_of(folder: Path, family: str, kind: str, **changes: Any) -> Shape:
    """The model of tests.zoo, found by its configuration alone."""
    zoo.backbone(family, kind, **changes).config.save_pretrained(folder)
    assert [path.name for path in folder.iterdir()] == ["config.json"]
    labels = ("0", "1", "2") if kind.endswith("classification") else None
    return find(str(folder), kind, labels)


def batch(family: str, kind: str) -> dict[str, torch.Tensor]:
    made = zoo.batch(family, kind, rows=ROWS)
    if family in ("bert", "electra"):  # their tokenizers give these too
        made["token_type_ids"] = torch.zeros_like(made["input_ids"])
    return made


def measure(method: Method, family: str, kind: str, precision: str = "fp32", **changes: Any) -> MemoryReport:
    torch.manual_seed(0)
    module = method.attach(zoo.backbone(family, kind, **changes))
    trainer = Trainer(module, method, TrainSettings(steps=1000), Engine(torch.device("cpu"), precision, {}))
    return measure_training(module, trainer.optimizer, [batch(family, kind)], trainer)


def plan(model: Shape, method: Method, **setting: Any) -> Plan:
    rest = {"batch_size": ROWS, "max_length": zoo.SEQUENCE, "target_length": TARGETS, "device": "cpu", **setting}
    return Planner(model, method, Setting(**rest)).plan()


def assert_agrees(planned: dict[str, Peak], measured: dict[str, Peak]) -> None:
    """Within half a percent of the total, in the total and in each part, in every phase."""
    for name, peak in measured.items():
        allowed = 0.005 * peak.total_bytes
        assert abs(planned[name].total_bytes - peak.total_bytes) <= allowed, name
        for part, size in peak.split.items():
            assert abs(planned[name].split[part] - size) <= allowed, (name, part)


@pytest.mark.parametrize(("family", "name"), CASES)
def test_a_plan_is_what_is_measured(family: str, name: str, tmp_path: Path) -> None:
    method = registry.method_entry(name).value(**OPTIONS.get((family, name), {}))
    measured = measure(method, family, MODELS[family])
    planned = plan(shape_of(tmp_path, family, MODELS[family]), method)
    assert_agrees(planned.phases, measured.phases)
    assert planned.peak.total_bytes == measured.train_peak.total_bytes
    assert (planned.reserved_bytes, planned.needed_bytes) == (None, planned.peak.total_bytes)


@pytest.mark.parametrize("family", ["roberta", "distilbert", "electra", "deberta-v2", "gpt2", "opt", "gpt_neox",
                                    "mistral", "qwen2", "qwen3", "gemma", "bart", "vit"])  # fmt: skip
@pytest.mark.parametrize("name", ["lora", "lst"])
def test_in_every_family(family: str, name: str, tmp_path: Path) -> None:
    kind = (
        zoo.KINDS[family][-1] if len(zoo.KINDS[family]) > 1 and "lm" in zoo.KINDS[family][-1] else zoo.KINDS[family][0]
    )
    kind = "seq2seq" if family == "bart" else kind
    method = registry.method_entry(name).value(**({"reduction": 4} if name == "lst" else {}))
    planned = plan(shape_of(tmp_path, family, kind), method)
    assert_agrees(planned.phases, measure(method, family, kind).phases)


@pytest.mark.parametrize(("family", "drops"), [
    ("opt", ("layerdrop",)),
    ("bart", ("encoder_layerdrop", "decoder_layerdrop")),
])  # fmt: skip
def test_layer_drop_is_planned_as_if_no_layer_was_dropped(family: str, drops: tuple[str, ...], tmp_path: Path) -> None:
    kind = "seq2seq" if family == "bart" else "causal-lm"
    method, rare = registry.method_entry("lora").value(), dict.fromkeys(drops, 1e-12)  # drawn for, but never dropped
    measured = measure(method, family, kind, **rare)
    assert_agrees(plan(shape_of(tmp_path, family, kind, **rare), method).phases, measured.phases)


def test_evaluation_and_a_data_dependent_initialisation(tmp_path: Path) -> None:
    method = registry.method_entry("lst").value(init="fisher", fisher_samples=1)
    planned = plan(shape_of(tmp_path, "bert", "classification"), method)
    module = method.attach(zoo.backbone("bert", "classification"))
    rows = batch("bert", "classification")
    engine = Engine(torch.device("cpu"), "fp32", {})
    measured = measure_inference(module, rows, lambda inputs: engine.logits(module, inputs))
    assert_agrees(planned.phases, {"evaluation": measured})
    assert isinstance(method, DataInitialized)
    one = {key: value[-1:] for key, value in rows.items()}
    found = measure_call(module, "initialization", lambda: method.initialize(module, [one]))
    assert_agrees(planned.phases, {"initialization": found})


def test_autocast_checkpointing_and_dropout_agree_too(tmp_path: Path) -> None:
    method = registry.method_entry("lora").value(dropout=0.1)
    dropout = {"attention_probs_dropout_prob": 0.1, "hidden_dropout_prob": 0.1}
    model = shape_of(tmp_path / "bert", "bert", "classification", **dropout)
    measured = measure(method, "bert", "classification", "bf16", **dropout)
    assert_agrees(plan(model, method, precision="bf16-autocast").phases, measured.phases)
    # The dropout of a plan can be given, whatever the configuration says.
    plain = shape_of(tmp_path / "plain", "bert", "classification")
    assert (
        plan(plain, method, precision="bf16-autocast", dropout=0.1).phases
        == plan(model, method, precision="bf16-autocast").phases
    )


def test_no_weights_are_read_and_none_are_made(tmp_path: Path) -> None:
    model = shape_of(tmp_path, "bert", "classification")
    planner = Planner(model, registry.method_entry("full").value(), Setting(device="cpu"))
    parameters = list(planner.subject.module.parameters())
    assert all(type(parameter.data).__name__ == "FakeTensor" for parameter in parameters)
