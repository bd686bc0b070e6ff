"""Every method × family × head, found from the registry and the zoo: one training step each, or a reviewed refusal."""

from __future__ import annotations

import copy
import functools
import re
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import bench.methods
from bench.core import registry
from bench.core.protocols import Batch, CountsParameters, DataInitialized, Method
from bench.core.train_config import TrainSettings
from bench.data.encoding import to_device
from bench.models.backbone import Backbone, count, trainable
from bench.models.checkpoint import load_state, save_state, saved_state
from bench.models.inference import Engine
from bench.models.loading import fresh_head
from bench.training.trainer import Trainer
from tests import zoo

_TOLERANCE = 1e-5
_CPU = Engine(torch.device("cpu"), "fp32", {})
PASS, REFUSED, FAILS = "pass", "refused", "fails"
_BROKEN = (ArithmeticError, AssertionError, AttributeError, LookupError, NotImplementedError, RuntimeError, TypeError,
           ValueError)  # fmt: skip


@dataclass(frozen=True)
class Refusal:
    """A reviewed refusal: which cells, and the message as a regular expression.

    Attributes:
        methods: names of the methods, as ``methods()`` gives them.
        families: model types; empty: all.
        kinds: heads; empty: all.
        message: what the whole message matches.
    """

    methods: tuple[str, ...]
    families: tuple[str, ...]
    kinds: tuple[str, ...]
    message: str

    def covers(self, method: str, family: str, kind: str) -> bool:
        """Whether this cell is one of those."""
        in_family, in_kind = not self.families or family in self.families, not self.kinds or kind in self.kinds
        return method in self.methods and in_family and in_kind


# Every refusal that is right. A cell that refuses without a row here fails, and so does a row that nothing needs.
REFUSALS = (
    Refusal(
        ("head",),
        (),
        ("causal-lm", "seq2seq"),
        r"head: a language model's head is pretrained, so there is no fresh head to train; use last-k or full",
    ),
    Refusal(
        ("bitfit",),
        ("llama", "mistral", "qwen3", "gemma", "t5"),
        (),
        r"bitfit: (llama|mistral|qwen3|gemma|t5) has no biases; use --set bitfit\.add=true",
    ),
    Refusal(  # a quarter of a head turns in GPT-NeoX: of the zoo's side heads that is one dimension
        ("lst", "lst reduction=4 heads=official"),
        ("gpt_neox",),
        (),
        r"lst: heads=(scaled|official) cannot split .* even number of rotary dimensions; use .*a smaller reduction",
    ),
    Refusal(
        ("lst reduction=4 init=fisher",),
        ("deberta-v2",),
        (),
        r"lst: init=fisher prunes .* relative position embeddings enter every layer with one set; use init=random",
    ),
    Refusal(
        ("lst reduction=4 merge=residual",),
        ("bert", "roberta", "distilbert", "electra", "deberta-v2", "vit"),
        (),
        r"lst: merge=residual is for decoders: an encoder's head is fresh, .*; use merge=paper",
    ),
)


# Options under which a method takes another path through a model: cells of their own.
VARIANTS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("bitfit", {"add": True}),
    ("lora", {"dora": True}),
    ("lora", {"pissa": True}),
    ("lora", {"freeze_a": True}),
    ("lst", {"reduction": 4, "heads": "official"}),
    ("lst", {"reduction": 4, "init": "fisher"}),
    ("lst", {"reduction": 4, "merge": "residual"}),
)


@dataclass(frozen=True)
class Cell:
    """What came of a cell: its status, the refusal's text or the problem, and the error where one was raised."""

    status: str
    reason: str = ""
    error: Exception | None = None


def methods() -> dict[str, Method]:
    """The methods that ship with bench at their defaults, by name, and the variants; neither plugins of other tests
    nor peft's methods, which are there once another test asked for them."""
    registry.load()
    folder = Path(bench.methods.__file__ or "").resolve().parent
    classes = {name: cls for name, cls in registry.methods().items() if ":" not in name}
    found = {name: cls() for name, cls in classes.items() if registry.method_entry(name).file.parent == folder}
    variants = {f"{name} {_words(chosen)}": classes[name](**chosen) for name, chosen in VARIANTS}
    return dict(sorted({**found, **variants}.items()))


def _words(chosen: dict[str, Any]) -> str:
    return " ".join(f"{option}={str(value).lower()}" for option, value in chosen.items())


def cells() -> list[tuple[str, str, str]]:
    """All (method, family, kind), none left out."""
    return [(name, family, kind) for name in methods() for family in zoo.FAMILIES for kind in zoo.KINDS[family]]


@functools.cache
def run(name: str, family: str, kind: str) -> Cell:
    """Run one cell, once in a process."""
    return outcome(methods()[name], family, kind)


def outcome(method: Method, family: str, kind: str, engine: Engine = _CPU) -> Cell:
    """Attach, train one step, check, save and load, on the engine's device; the step is in its precision."""
    backbone = _fresh(family, kind, engine.device)
    originals = {id(value) for value in backbone.model.state_dict(keep_vars=True).values()}
    expected = _formula(method, backbone)
    try:
        torch.manual_seed(1)
        module = method.attach(backbone).to(engine.device)
    except ValueError as error:
        return Cell(REFUSED, str(error), error)
    except _BROKEN as error:
        return Cell(FAILS, f"attach: {type(error).__name__}: {error}", error)
    try:
        problem = _miscounted(module, expected) or _train(method, module, (family, kind), engine)
        problem = problem or _reload(method, module, originals, (family, kind)) or _sketch(method, family, kind)
    except _BROKEN as error:
        return Cell(FAILS, f"{type(error).__name__}: {error}", error)
    return Cell(FAILS, problem) if problem else Cell(PASS)


def expected_refusal(name: str, family: str, kind: str) -> Refusal | None:
    """The reviewed refusal of a cell, if it has one."""
    found = [refusal for refusal in REFUSALS if refusal.covers(name, family, kind)]
    return found[0] if found else None


def verdict(name: str, family: str, kind: str) -> str:
    """Empty when the cell is as it should be, else what is wrong with it."""
    cell, refusal = run(name, family, kind), expected_refusal(name, family, kind)
    if cell.status == FAILS:
        return cell.reason
    if cell.status == REFUSED and (refusal is None or not re.fullmatch(refusal.message, cell.reason)):
        return f"refuses with a message that is not reviewed: {cell.reason!r}"
    if cell.status == PASS and refusal is not None:
        return "works, but is listed as refused"
    return ""


def _formula(method: Method, backbone: Backbone) -> int | str | None:
    """The method's own count; its words where it refuses, None where it states none."""
    if not isinstance(method, CountsParameters):
        return None
    try:
        return method.trainable_count(backbone)
    except ValueError as error:
        return str(error)


@functools.cache
def _original(family: str, kind: str) -> Backbone:
    return zoo.lively(zoo.backbone(family, kind))


def _fresh(family: str, kind: str, device: torch.device = _CPU.device) -> Backbone:
    """The same model with the same weights each time; built once, copied since."""
    backbone = copy.deepcopy(_original(family, kind))
    backbone.model.to(device)
    return backbone


def _miscounted(module: nn.Module, expected: int | str | None) -> str:
    counted = count(list(trainable(module).values()))
    return "" if expected in (None, counted) else f"trains {counted} values, its formula says {expected}"


def _train(method: Method, module: nn.Module, cell: tuple[str, str], engine: Engine) -> str:
    """One optimizer step with every check of it; what is wrong, or nothing."""
    if isinstance(method, DataInitialized):
        method.initialize(module, (to_device(row, engine.device) for row in _single_rows(*cell)))
    batch = to_device(zoo.batch(*cell), engine.device)
    untrained = _logits(module, batch)
    frozen = {name: value.detach().clone() for name, value in module.named_parameters() if not value.requires_grad}
    trainer = Trainer(module, method, TrainSettings(steps=1), engine)
    module.train()
    loss = trainer.forward(batch)
    trainer.backward(loss)
    missing = [name for name, value in trainable(module).items() if value.grad is None]
    trainer.step(1)
    places = dict(module.named_parameters())
    moved = [name for name, value in frozen.items() if not torch.equal(places[name], value)]
    if not torch.isfinite(loss):
        return f"the loss is {float(loss)}"
    if missing:
        return f"no gradient: {missing[:3]}"
    if moved:
        return f"frozen weights moved: {moved[:3]}"
    return "the logits are the untrained model's" if torch.equal(untrained, _logits(module, batch)) else ""


def _reload(method: Method, module: nn.Module, originals: set[int], cell: tuple[str, str]) -> str:
    """Save what was added and trained, load it into a fresh attachment with another seed: the logits must be equal."""
    device = next(module.parameters()).device
    batch = to_device(zoo.batch(*cell), device)
    trained = _logits(module, batch)
    _stir(module)
    stirred = _logits(module, batch)
    if (stirred - trained).abs().max() < 100 * _TOLERANCE:
        return "other values of the trained tensors give the same logits"
    torch.manual_seed(2)
    again = method.attach(_fresh(*cell, device)).to(device)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "adapter.safetensors"
        save_state(path, saved_state(module, originals))
        load_state(path, again)
    torch.testing.assert_close(_logits(again, batch), stirred, rtol=_TOLERANCE, atol=_TOLERANCE)
    return ""


def _sketch(method: Method, family: str, kind: str) -> str:
    """Attach to a model on the meta device, as a plan does: nothing may land elsewhere."""
    backbone = _fresh(family, kind)
    backbone.model.to("meta")
    module = method.attach(Backbone(backbone.model, kind, _head_names(family, kind)))
    elsewhere = [name for name, value in module.named_parameters() if value.device.type != "meta"]
    return f"on a meta model these are not on meta: {elsewhere[:3]}" if elsewhere else ""


def _head_names(family: str, kind: str) -> frozenset[str]:
    return fresh_head(_original(family, kind).model, kind)


def _stir(module: nn.Module) -> None:
    """Change every trained tensor: one step alone may change the logits less than a comparison tolerates."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for value in trainable(module).values():
            value.add_((torch.randn(value.shape, generator=generator) * 0.05).to(value.device))


def _logits(module: nn.Module, batch: Batch) -> Tensor:
    """Logits in eval mode, labels kept: a sequence-to-sequence model makes its decoder's inputs from them."""
    module.eval()
    with torch.no_grad():
        return module(**batch).logits


def _single_rows(family: str, kind: str) -> Iterator[Batch]:
    """A few training batches of one row, as a run hands them to a method that looks at data first."""
    for seed in range(4):
        whole = zoo.batch(family, kind, rows=2, seed=seed)
        yield {name: value[:1] for name, value in whole.items()}
