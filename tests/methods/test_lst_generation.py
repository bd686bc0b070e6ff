"""LST generates with a cache for both nets as it does without: greedy and beams, on decoders and encoder-decoders."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close
from transformers import DynamicCache

from bench.methods.lst import Lst
from bench.methods.lst_module import Ladder
from bench.models.backbone import trainable
from tests import zoo

CELLS = [(family, kind) for family, kinds in zoo.KINDS.items() for kind in kinds if kind in ("causal-lm", "seq2seq")]
DECODERS = [cell for cell in CELLS if cell[1] == "causal-lm"]
NEW = 8


def tuned(family: str, kind: str, method: Lst, **changes: Any) -> nn.Module:
    """An LST model whose side and head speak up: random weights large enough that every term changes the answer."""
    module = method.attach(zoo.backbone(family, kind, **changes))
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for value in trainable(module).values():
            value.add_(torch.randn(value.shape, generator=generator) * 0.3)
        module.get_output_embeddings().weight.normal_(generator=generator)
    return module.eval()


def prompt(family: str, kind: str) -> dict[str, Tensor]:
    """Inputs of which the last row is padded: on the left for decoders, as generation needs it."""
    batch = zoo.batch(family, kind)
    found = {name: batch[name] for name in ("input_ids", "attention_mask")}
    return {name: value.flip(1) for name, value in found.items()} if kind == "causal-lm" else found


def generate(module: nn.Module, inputs: dict[str, Tensor], cache: bool, **options: Any) -> Any:
    return module.generate(
        **inputs,
        max_new_tokens=NEW,
        min_new_tokens=NEW,
        do_sample=False,
        use_cache=cache,
        return_dict_in_generate=True,
        output_logits=True,
        **options,
    )


@pytest.mark.parametrize("merge", ["paper", "residual"])
@pytest.mark.parametrize(("family", "kind"), CELLS)
def test_greedy_with_caches_equals_without(family: str, kind: str, merge: str) -> None:
    module, inputs = tuned(family, kind, Lst(reduction=2, merge=merge)), prompt(family, kind)
    cached, full = (generate(module, inputs, cache) for cache in (True, False))
    assert torch.equal(cached.sequences, full.sequences)
    assert len(cached.logits) == NEW
    assert_close(torch.stack(cached.logits), torch.stack(full.logits), rtol=0, atol=1e-4)
    assert torch.stack(full.logits).std() > 0.1
    assert getattr(full, zoo.CACHE) is None


@pytest.mark.parametrize(("family", "kind"), CELLS)
def test_beams_with_caches_equal_those_without(family: str, kind: str) -> None:
    module, inputs = tuned(family, kind, Lst(reduction=2)), prompt(family, kind)
    cached, full = (
        generate(module, inputs, cache, num_beams=3, num_return_sequences=3, output_scores=True)
        for cache in (True, False)
    )
    assert torch.equal(cached.sequences, full.sequences)
    assert_close(cached.sequences_scores, full.sequences_scores, rtol=0, atol=1e-4)
    # Beams change places, or a cache that is not reordered would go unnoticed.
    assert (cached.beam_indices[:, 1:NEW] != cached.beam_indices[:, : NEW - 1]).any()


@pytest.mark.parametrize(("family", "kind"), [("llama", "causal-lm"), ("gpt2", "causal-lm"), ("t5", "seq2seq")])
def test_the_side_has_its_own_places_behind_the_trunks(family: str, kind: str) -> None:
    module = tuned(family, kind, Lst(reduction=4, layers=("1",)))
    cache = generate(module, prompt(family, kind), True)[zoo.CACHE]
    layers = cache.self_attention_cache.layers if kind == "seq2seq" else cache.layers
    widths = [layer.keys.shape[1] * layer.keys.shape[3] for layer in layers]
    trunk = 16 if family == "llama" else 32  # two key heads of eight
    assert widths == [trunk, trunk, trunk // 4]
    assert len({layer.keys.shape[2] for layer in layers}) == 1


@pytest.mark.parametrize(("family", "kind"), DECODERS)
def test_a_cache_can_be_passed_by_hand_step_by_step(family: str, kind: str) -> None:
    module = tuned(family, kind, Lst(reduction=2))
    ids = zoo.batch(family, kind)["input_ids"][:2]
    with torch.no_grad():
        full = module(input_ids=ids, use_cache=False).logits
        cache, steps = DynamicCache(), []
        for first, last in ((0, 5), (5, 6), (6, 9), (9, zoo.SEQUENCE)):
            out = module(input_ids=ids[:, first:last], **{zoo.CACHE: cache}, use_cache=True)
            steps.append(out.logits)
            assert getattr(out, zoo.CACHE) is cache
    assert_close(torch.cat(steps, dim=1), full, rtol=0, atol=1e-4)


def test_sliding_windows_slide_on_the_side_too() -> None:
    module = tuned("mistral", "causal-lm", Lst(reduction=2), sliding_window=4)
    inputs = prompt("mistral", "causal-lm")
    cached, full = (generate(module, inputs, cache) for cache in (True, False))
    assert torch.equal(cached.sequences, full.sequences)
    assert_close(torch.stack(cached.logits), torch.stack(full.logits), rtol=0, atol=1e-4)
    assert {layer.keys.shape[2] for layer in cached[zoo.CACHE].layers} == {3}


def test_layers_of_two_kinds_are_read_with_their_own_masks() -> None:
    changes = {"use_sliding_window": True, "sliding_window": 4, "layer_types": ["sliding_attention", "full_attention"]}
    for layers in (("all",), ("1",), ("0",)):
        module = tuned("qwen2", "causal-lm", Lst(reduction=2, layers=layers), **changes)
        inputs = prompt("qwen2", "causal-lm")
        cached, full = (generate(module, inputs, cache) for cache in (True, False))
        assert torch.equal(cached.sequences, full.sequences)
        assert_close(torch.stack(cached.logits), torch.stack(full.logits), rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("family", "changes"),
    [
        ("t5", {"num_layers": 4, "num_decoder_layers": 2}),
        ("t5", {"num_layers": 2, "num_decoder_layers": 3}),
        ("bart", {"encoder_layers": 4, "decoder_layers": 1}),
        ("bart", {"encoder_layers": 1, "decoder_layers": 3}),
    ],
)
def test_towers_of_unequal_depth_have_room_too(family: str, changes: dict[str, int]) -> None:
    module, inputs = tuned(family, "seq2seq", Lst(reduction=2), **changes), prompt(family, "seq2seq")
    cached, full = (generate(module, inputs, cache) for cache in (True, False))
    assert torch.equal(cached.sequences, full.sequences)
    assert_close(torch.stack(cached.logits), torch.stack(full.logits), rtol=0, atol=1e-4)


def test_static_caches_have_room_for_the_side() -> None:
    module, inputs = tuned("llama", "causal-lm", Lst(reduction=2)), prompt("llama", "causal-lm")
    static = generate(module, inputs, True, cache_implementation="static", disable_compile=True)
    full = generate(module, inputs, False)
    assert torch.equal(static.sequences, full.sequences)
    assert_close(torch.stack(static.logits), torch.stack(full.logits), rtol=0, atol=1e-4)


def test_a_cache_that_was_filled_without_the_side_is_refused() -> None:
    base, ids = zoo.backbone("llama", "causal-lm").model.eval(), zoo.batch("llama", "causal-lm")["input_ids"]
    with torch.no_grad():
        cache = base(input_ids=ids, use_cache=True)[zoo.CACHE]
        module = tuned("llama", "causal-lm", Lst(reduction=2))
        with pytest.raises(ValueError, match="lst: this cache was filled or allocated without the side network"):
            module(input_ids=ids[:, :1], **{zoo.CACHE: cache}, use_cache=True)


def test_encoder_states_of_another_model_are_refused() -> None:
    plain, module = zoo.backbone("t5", "seq2seq").model.eval(), tuned("t5", "seq2seq", Lst(reduction=2))
    batch = zoo.batch("t5", "seq2seq")
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    states = plain.encoder(**inputs)
    with pytest.raises(ValueError, match="lst: the decoder needs .* 32 \\+ 16 wide, not 32"):
        module(encoder_outputs=states, attention_mask=batch["attention_mask"], labels=batch["labels"])
    own = module.get_encoder()(**inputs)
    assert isinstance(module.get_encoder(), Ladder)
    given = module(encoder_outputs=own, attention_mask=batch["attention_mask"], labels=batch["labels"])
    assert_close(given.logits, module(**batch).logits, rtol=0, atol=0)
