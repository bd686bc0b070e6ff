"""Every registered method on every family and head of the zoo: one training step, or a reviewed refusal."""

from dataclasses import dataclass

import pytest
import torch
from torch import nn

from bench.models.backbone import Backbone
from tests.methods import matrix, matrix_table


@pytest.mark.parametrize(("name", "family", "kind"), matrix.cells())
def test_cell(name: str, family: str, kind: str) -> None:
    wrong = matrix.verdict(name, family, kind)
    if wrong:
        raise AssertionError(wrong) from matrix.run(name, family, kind).error


@pytest.mark.parametrize("refusal", matrix.REFUSALS, ids=lambda refusal: ",".join(refusal.methods))
def test_every_reviewed_refusal_is_needed(refusal: matrix.Refusal) -> None:
    covered = {cell for cell in matrix.cells() if refusal.covers(*cell)}
    assert covered
    assert set(refusal.methods) == {name for name, _, _ in covered}
    assert set(refusal.families) <= {family for _, family, _ in covered}


def test_table_is_what_the_cells_give() -> None:
    assert matrix_table.TABLE.read_text(encoding="utf-8") == matrix_table.text(), (
        "methods/MATRIX.md is out of date: python -m tests.methods.matrix_table"
    )


@dataclass(frozen=True)
class _Broken:
    """A linear probe with one thing wrong at a time."""

    fault: str
    lr: float = 1e-3
    name = "broken"
    swept = None

    def attach(self, backbone: Backbone) -> nn.Module:
        backbone.freeze()
        model = backbone.model
        if self.fault == "raises":
            raise RuntimeError("broken: on purpose")
        if self.fault == "unused":
            model.register_parameter("unused", nn.Parameter(torch.zeros(1)))
        if self.fault == "dead":
            model.requires_grad_(False)
            model.classifier.register_forward_hook(lambda _, __, out: out + 0 * model.probe)
            model.register_parameter("probe", nn.Parameter(torch.zeros(())))
        if self.fault == "astray":  # on the CPU wherever the model is
            model.register_parameter("offset", nn.Parameter(torch.zeros(3)))
            model.classifier.register_forward_hook(lambda _, __, out: out + model.offset)
        if self.fault == "forgetful":
            offset = torch.rand(())  # state outside the state dict, another one with every seed
            model.classifier.register_forward_hook(lambda _, __, out: out + offset)
        return model

    def trainable_count(self, backbone: Backbone) -> int:
        more = {"miscounts": 1, "unused": 1, "astray": 3, "dead": 1 - backbone.head_count}
        return backbone.head_count + more.get(self.fault, 0)

    def after_step(self, module: nn.Module, step: int, steps: int) -> None:
        if self.fault == "moves":
            with torch.no_grad():
                module.bert.embeddings.word_embeddings.weight.add_(1e-3)


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("raises", "on purpose"),
        ("unused", "no gradient"),
        ("dead", "untrained"),
        ("forgetful", "not close"),
        ("miscounts", "formula says"),
        ("moves", "frozen weights moved"),
        ("astray", "not on meta"),
    ],
)
def test_a_broken_method_fails_its_cell(fault: str, said: str) -> None:
    cell = matrix.outcome(_Broken(fault), "bert", "classification")
    assert cell.status == matrix.FAILS
    assert said in cell.reason


def test_the_probe_without_a_fault_passes() -> None:
    assert matrix.outcome(_Broken("none"), "bert", "classification") == matrix.Cell(matrix.PASS)
