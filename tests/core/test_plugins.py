"""A method in one file: each example plugin runs from command to record and does what it shows."""

from pathlib import Path

import pytest
import torch

import bench
from bench.core import options, registry
from bench.core.errors import RequestError
from bench.core.registry import register_method
from bench.core.train_config import TrainSettings
from bench.models.inference import Engine
from bench.training.trainer import Trainer
from tests import tiny, zoo

PLUGINS = Path(__file__).parents[1] / "plugins"
METHODS = {
    "scale-shift": "scale_shift.py",
    "bag-beside": "own_forward.py",
    "two-speeds": "own_groups.py",
    "centred-head": "from_data.py",
}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    with tiny.place(tmp_path_factory.mktemp("plugins")) as made:
        yield made


def method(name, **options):
    registry.load([PLUGINS / METHODS[name]])
    return registry.method_entry(name).value(**options)


@pytest.mark.parametrize(("text", "said"), [
    ("\ndef (", r"failed, line 2: SyntaxError"),
    ("x = 1\nimport json\njson.loads('{')", r"failed, line 3: JSONDecodeError"),
    ("x = 1\nraise SystemExit(3)", r"failed, line 2: SystemExit: 3"),
])  # fmt: skip
def test_a_plugin_that_fails_is_named_with_its_own_line(tmp_path, text, said):
    path = tmp_path / "mine.py"
    path.write_text(text)
    with pytest.raises(RequestError, match=said):
        registry.load([path])


@pytest.mark.parametrize("name", METHODS)
def test_a_plugin_runs_and_passes_every_check(place, name):
    record = place.run(name, [PLUGINS / METHODS[name]], steps=24)
    assert record["status"] == "ok", record["traceback"]
    assert {check: why for check, why in record["checks"].items() if why != "pass"} == {}
    assert record["parameters"]["trainable"] == record["parameters"]["expected_trainable"]
    assert record["spec"]["code"]["method"] == registry.method_entry(name).code


def test_scale_and_shift_starts_at_the_base_model_and_runs_on_decoders():
    batch = zoo.batch("llama", "causal-lm")
    expected = zoo.backbone("llama", "causal-lm").model(**batch).logits
    module = method("scale-shift").attach(zoo.backbone("llama", "causal-lm"))
    torch.testing.assert_close(module(**batch).logits, expected, atol=1e-5, rtol=1e-5)


def test_names_and_defaults_of_methods_are_checked():
    from dataclasses import field, make_dataclass

    def register(name, *fields):
        members = {"name": name, "swept": None, "attach": lambda self, backbone: backbone.model}
        lr = ("lr", float, bench.option(1e-3, "rate"))
        return register_method(make_dataclass("Mine", [*fields, lr], frozen=True, namespace=members))

    with tiny.registry_restored():
        for name in (7, None, "a,b", "two words", "", "train", "task"):
            with pytest.raises(TypeError, match="its name is"):
                register(name)
        with pytest.raises(TypeError, match="its option 'scale' has no default"):
            register("mine", ("scale", float, field()))


def test_options_have_types_that_a_text_can_be_turned_into():
    from dataclasses import make_dataclass
    from typing import Literal

    def registered(kind):
        members = {"name": "typed", "swept": None, "attach": lambda self, backbone: backbone.model}
        fields = [("lr", float, bench.option(1e-3, "rate")), ("blocks", kind, bench.option((0, 2), "which"))]
        return register_method(make_dataclass("Typed", fields, frozen=True, namespace=members))

    with tiny.registry_restored():
        built = options.build(registered(tuple[int, ...]), {"blocks": "3, 4"}, "typed")
        assert built.blocks == (3, 4) and options.build(type(built), {"blocks": [5]}, "typed").blocks == (5,)
        with pytest.raises(RequestError, match="typed.blocks: 'x' is not a whole number"):
            options.build(type(built), {"blocks": "1,x"}, "typed")
        for kind in (Literal["a", "b"], dict, list, tuple[int, str]):
            with pytest.raises(TypeError, match="option blocks of Typed is of a type that cannot be set"):
                registered(kind)


def test_an_own_forward_gives_loss_and_logits():
    backbone, batch = zoo.backbone("bert", "classification"), zoo.batch("bert", "classification")
    frozen = backbone.model(**batch).logits
    module = method("bag-beside").attach(backbone)
    out = module(**batch)
    bag = module.bag.weight[batch["input_ids"]].mean(dim=1)
    torch.testing.assert_close(out.logits, frozen + bag)
    torch.testing.assert_close(out.loss, torch.nn.functional.cross_entropy(out.logits, batch["labels"]))
    with pytest.raises(ValueError, match="^bag-beside: it classifies"):
        method("bag-beside").attach(zoo.backbone("llama", "causal-lm"))


def test_own_groups_reach_the_optimizer():
    chosen = method("two-speeds", head_scale=4.0, lr=0.01)
    module = chosen.attach(zoo.backbone("bert", "classification"))
    trainer = Trainer(module, chosen, TrainSettings(steps=1), Engine(torch.device("cpu"), "fp32", {}))
    rates = {id(p): group["initial_lr"] for group in trainer.optimizer.param_groups for p in group["params"]}
    assert rates[id(module.classifier.weight)] == rates[id(module.classifier.bias)] == pytest.approx(0.04)
    assert rates[id(module.bert.encoder.layer[0].attention.self.query.bias)] == pytest.approx(0.01)
    assert len(rates) == sum(p.requires_grad for p in module.parameters())


def test_data_dependent_initialisation_sees_training_batches():
    chosen = method("centred-head", rows=2)
    module = chosen.attach(zoo.backbone("bert", "classification"))
    batches = [zoo.batch("bert", "classification", seed=seed) for seed in (1, 2, 3)]
    chosen.initialize(module, iter(batches))
    with torch.no_grad():
        pooled = [module.bert(**{k: v for k, v in batch.items() if k != "labels"}).pooler_output for batch in batches]
    torch.testing.assert_close(module.classifier.mean.data, torch.stack(pooled[:2]).mean(dim=(0, 1)))
    assert not module.classifier._forward_pre_hooks


def test_a_plugins_tuned_model_is_loaded_with_its_file(place):
    plugin = PLUGINS / METHODS["scale-shift"]
    with tiny.registry_restored():
        record = place.run("scale-shift", [plugin], save=True, steps=4)
    with tiny.registry_restored():
        registry._methods.pop("scale-shift", None)
        registry._plugins.discard(plugin.resolve())
        with pytest.raises(RequestError, match="(?s)name that file .--plugin FILE.*Unknown method 'scale-shift'"):
            bench.load(place.adapter(record))
        tuned = bench.load(place.adapter(record), plugins=[plugin])
    assert tuned.method.name == "scale-shift"
    assert all(p.grad is None for p in tuned.model.parameters())
    scale = tuned.model.bert.encoder.layer[0].scale
    assert not torch.equal(scale, torch.ones_like(scale))
