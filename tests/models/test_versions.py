"""What other versions of torch and transformers do differently, imitated with the installed ones."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from bench.core.errors import RequestError
from bench.methods.lst_side_network import _biases, final_norm
from bench.models import compile, loading
from bench.models.architectures import ARCHITECTURES
from bench.models.forward_args import count_argument, key_values, seen
from tests import tiny


def older_vit() -> nn.Module:
    """A ViT's modules as they were named before transformers 5.9, one block."""
    block = nn.Module()
    for path in ("attention.attention.query", "attention.output.dense", "intermediate.dense", "output.dense"):
        holder: nn.Module = block
        *outer, name = path.split(".")
        for part in outer:
            if not hasattr(holder, part):
                holder.add_module(part, nn.Module())
            holder = holder.get_submodule(part)
        holder.add_module(name, nn.Linear(2, 2))
    base = nn.Module()
    base.add_module("encoder", nn.Module())
    base.encoder.add_module("layer", nn.ModuleList([block]))  # type: ignore[union-attr, operator]
    base.add_module("layernorm", nn.LayerNorm(2))
    return base


def newer_vit() -> nn.Module:
    base = nn.Module()
    base.add_module("layers", nn.ModuleList([nn.Module()]))
    return base


def test_an_older_vit_has_its_own_row() -> None:
    base, row = older_vit(), ARCHITECTURES["vit"]
    (stack,) = row.fitting(base).stacks
    assert stack.layers == "encoder.layer"
    (block,) = base.get_submodule(stack.layers).children()
    for role in ("query", "output", "up", "down"):
        assert isinstance(block.get_submodule(stack.roles[role][0]), nn.Linear)
    assert row.fitting(newer_vit()) is row


def test_an_older_vit_s_final_norm_is_beside_the_module_that_holds_the_blocks() -> None:
    base = older_vit()
    assert final_norm(base.get_submodule("encoder")) is None
    assert final_norm(base.get_submodule("encoder"), base) is base.layernorm


@pytest.mark.parametrize(("out", "call", "expected"), [
    (("z", "own"), {}, ("own", None)),  # an encoder's block before 5.15
    (("z", "own", "cross"), {}, ("own", "cross")),
    (("z", "own", None), {}, ("own", None)),
    (("z", "own", "weights"), {"output_attentions": True}, ("own", None)),
    (("z", "own", "weights", "cross", "weights"), {"output_attentions": True}, ("own", "cross")),
])  # fmt: skip
def test_t5_s_biases_are_found_in_what_a_block_returns(
    out: tuple[Any, ...], call: dict[str, Any], expected: tuple[Any, ...]
) -> None:
    found = _biases(out, call)
    assert (found.get("position_bias"), found.get("encoder_decoder_position_bias")) == expected


@pytest.mark.parametrize("name", ["cache", "past_key_values", "layer_past"])
def test_a_cache_is_found_by_each_of_its_names(name: str) -> None:
    cache = SimpleNamespace(get_seq_length=lambda: 3)
    assert key_values({"past_key_values": None, "input_ids": 1, name: cache}) is cache
    assert (seen({name: cache}), seen({name: None}), seen({})) == (3, 0, 0)


@pytest.mark.parametrize("name", ["cache_length", "past_key_values_length"])
def test_embeddings_take_the_number_of_cached_tokens_by_one_of_two_names(name: str) -> None:
    class Newer(nn.Module):
        def forward(self, input_ids: Any, cache_length: int = 0) -> Any: ...

    class Older(nn.Module):
        def forward(self, input_ids: Any, past_key_values_length: int = 0) -> Any: ...

    assert count_argument((Newer if name == "cache_length" else Older)()) == name
    assert count_argument(nn.Linear(1, 1)) is None


def test_a_transformers_that_needs_another_torch_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = loading.resolve(str(tiny.model_folder(tmp_path / "model")), loading.Loading(), None)
    plain = importlib.import_module

    def missing(name: str, *rest: Any) -> Any:
        if name == "transformers.modeling_utils":
            raise AttributeError("module 'torch' has no attribute 'float8_e8m0fnu'")
        return plain(name, *rest)

    monkeypatch.setattr(loading.importlib, "import_module", missing)
    with pytest.raises(RequestError) as caught:
        loading.sketch(source, "classification", ("no", "yes"))
    for part in (f"(torch {torch.__version__})", "float8_e8m0fnu", "Upgrade the package named there"):
        assert part in str(caught.value)


def test_torch_2_6_names_its_limit_of_compiled_variants_otherwise() -> None:
    older = SimpleNamespace(cache_size_limit=8, fail_on_cache_limit_hit=False)
    compile._allow_variants(older)
    assert vars(older) == {"cache_size_limit": 64, "fail_on_cache_limit_hit": True}
