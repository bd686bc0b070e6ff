"""What the tests of all low-rank methods share: a step, a disturbance, and claims that every one of them makes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bench.models.backbone import count, trainable
from bench.models.checkpoint import load_state, save_state, saved_state
from tests import zoo

CELLS = [(family, kind) for family, kinds in zoo.KINDS.items() for kind in kinds]
FEW = [("bert", "classification"), ("gpt2", "causal-lm"), ("llama", "causal-lm"), ("t5", "seq2seq")]


def attached(method: Any, family: str, kind: str, seed: int = 0) -> nn.Module:
    """A method on a tiny model of a family, in training mode (its dropout is off)."""
    module: nn.Module = method.attach(zoo.backbone(family, kind, seed))
    return module.train()


def disturb(module: nn.Module, size: float = 0.05, seed: int = 5) -> None:
    """Move every trainable parameter away from its start, so that nothing is zero."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in trainable(module).values():
            parameter.add_(size * torch.randn(parameter.shape, generator=generator))


def logits(module: nn.Module, family: str, kind: str) -> Tensor:
    with torch.no_grad():
        return module(**zoo.batch(family, kind)).logits  # type: ignore[no-any-return]


def gradients(module: nn.Module, family: str, kind: str) -> dict[str, Tensor]:
    module.zero_grad()
    module(**zoo.batch(family, kind)).loss.backward()
    found = {name: parameter.grad for name, parameter in trainable(module).items()}
    assert all(gradient is not None for gradient in found.values()), [n for n, g in found.items() if g is None]
    return {name: gradient for name, gradient in found.items() if gradient is not None}


def check_cell(method: Any, family: str, kind: str, exact: bool = True) -> None:
    """Starts as the base model, has the parameters of its formula, moves only them, and merges into the base."""
    base = zoo.backbone(family, kind)
    before = logits(base.model, family, kind)
    expected = method.trainable_count(base)
    module = attached(method, family, kind)
    assert count(list(trainable(module).values())) == expected
    torch.testing.assert_close(logits(module, family, kind), before, rtol=0, atol=0 if exact else 1e-5)

    frozen = {name: value.clone() for name, value in module.named_parameters() if not value.requires_grad}
    optimizer = torch.optim.AdamW(trainable(module).values(), lr=1e-2)
    for _ in range(2):
        gradients(module, family, kind)
        optimizer.step()
    after = dict(module.named_parameters())
    assert all(torch.equal(after[name], value) for name, value in frozen.items())
    trained = logits(module, family, kind)
    assert not torch.equal(trained, before)

    merged = method.merge(module)
    assert type(merged) is type(base.model)
    assert list(merged.state_dict()) == list(base.model.state_dict())
    torch.testing.assert_close(logits(merged, family, kind), trained, rtol=0, atol=1e-5)


def check_saved(method: Any, family: str, kind: str, folder: Path) -> None:
    """Saved, and loaded into the method on the same base from another seed, it answers the same."""
    backbone = zoo.backbone(family, kind)
    originals = {id(value) for value in backbone.model.state_dict(keep_vars=True).values()}
    module = method.attach(backbone)
    disturb(module)
    save_state(folder / "adapter.safetensors", saved_state(module, originals))
    fresh = zoo.backbone(family, kind)
    torch.manual_seed(77)
    again = method.attach(fresh)
    assert not torch.equal(logits(again, family, kind), logits(module, family, kind))
    load_state(folder / "adapter.safetensors", again)
    torch.testing.assert_close(logits(again, family, kind), logits(module, family, kind), rtol=0, atol=1e-6)


def check_meta(method: Any, family: str, kind: str) -> None:
    """Attaches without weights, and gives the same names, shapes, types and trainable parameters."""
    with torch.device("meta"):
        planned = method.attach(zoo.backbone(family, kind))
    real = attached(method, family, kind)
    shape = {name: (value.shape, value.dtype) for name, value in real.state_dict().items()}
    assert {name: (value.shape, value.dtype) for name, value in planned.state_dict().items()} == shape
    assert list(trainable(planned)) == list(trainable(real))
    assert {value.device.type for value in [*planned.parameters(), *planned.buffers()]} == {"meta"}


def check_checkpointing(method: Any, family: str, kind: str) -> None:
    """Gradients with recomputed activations equal those without."""
    module = attached(method, family, kind)
    disturb(module)
    plain = gradients(module, family, kind)
    module.gradient_checkpointing_enable({"use_reentrant": False})  # type: ignore[operator]
    for name, gradient in gradients(module, family, kind).items():
        torch.testing.assert_close(gradient, plain[name], rtol=1e-5, atol=1e-6)


def check_autocast(method: Any, family: str, kind: str) -> None:
    """Under bf16 autocast it starts exactly as the base model does, and trains in fp32 near the fp32 gradients."""
    with torch.autocast("cpu", dtype=torch.bfloat16):
        before = logits(zoo.backbone(family, kind).model, family, kind)
        module = attached(method, family, kind)
        torch.testing.assert_close(logits(module, family, kind), before, rtol=0, atol=0)
    disturb(module)
    exact = gradients(module, family, kind)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded = gradients(module, family, kind)
    for name, gradient in rounded.items():
        assert gradient.dtype == torch.float32
        scale = float(exact[name].norm())
        assert float((gradient - exact[name]).norm()) < 0.2 * scale + 1e-3, name
