"""Every method's module generates: with caches as without, a batch as each row alone, greedy whatever it came with."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from bench.core import registry
from bench.models.backbone import trainable
from bench.models.inference import Engine
from bench.tasks.formulations import decoding
from bench.tasks.formulations.prompt_batches import Pairs, Ragged
from tests import writers, zoo

ENGINE = Engine(torch.device("cpu"), "fp32", {"input_ids": 1})
METHODS = ("full", "lora", "ia3", "pfeiffer", "prompt", "p-tuning", "prefix", "p-tuning-v2", "lst", "bitfit")
CELLS = [("llama", "causal-lm"), ("gpt2", "causal-lm"), ("opt", "causal-lm"), ("t5", "seq2seq"), ("bart", "seq2seq")]
NEW, END = 6, 2


def tuned(name: str, family: str, kind: str) -> Any:
    registry.load()
    cls = registry.method_entry(name).value
    module = cls(**({"add": True} if name == "bitfit" else {"reduction": 2} if name == "lst" else {})).attach(
        zoo.lively(zoo.backbone(family, kind))
    )
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for value in trainable(module).values():
            value.add_(torch.randn(value.shape, generator=generator) * 0.1)
    return module.eval()


def asked(kind: str) -> Pairs:
    prompts = [[5, 6, 7, 8, 9, 10], [11, 12], [13, 14, 15, 16]]
    return Pairs(Ragged.of(prompts), Ragged.of([[3]] * 3), np.arange(3), 0 if kind == "seq2seq" else None)


@pytest.mark.parametrize(("family", "kind"), CELLS)
@pytest.mark.parametrize("name", METHODS)
def test_a_batch_gives_each_row_what_it_gets_alone_by_full_forwards(name: str, family: str, kind: str) -> None:
    module, data = tuned(name, family, kind), asked(kind)
    start = module.config.decoder_start_token_id if kind == "seq2seq" else None
    module.generation_config.forced_eos_token_id = None  # BART's: the last token is an end in any case
    setting = decoding.config(module, writers.tokenizer(), NEW)
    setting.eos_token_id, setting.pad_token_id, setting.min_new_tokens = [END], 1, NEW
    batch = data.asked([0, 1, 2], ENGINE.padding)
    with torch.inference_mode():
        found = module.generate(**batch, generation_config=setting)
        found = found[:, -NEW:].tolist()
        for row, written in enumerate(found):
            assert written == step_by_step(module, data.prompts[row], start)


def step_by_step(module: nn.Module, prompt: list[int], start: int | None) -> list[int]:
    """Greedy by one full forward a token, without padding and without a cache."""
    written: list[int] = []
    for _ in range(NEW):
        if start is None:
            logits = module(input_ids=torch.tensor([[*prompt, *written]]), use_cache=False).logits
        else:
            before = torch.tensor([[start, *written]])
            mask = torch.ones(1, len(prompt), dtype=torch.long)
            logits = module(
                input_ids=torch.tensor([prompt]), attention_mask=mask, decoder_input_ids=before, use_cache=False
            ).logits
        logits[0, -1, END] = float("-inf")  # as min_new_tokens does
        written.append(int(logits[0, -1].argmax()))
    return written


def test_decoding_is_greedy_and_stops_at_the_end_whatever_the_checkpoint_prefers() -> None:
    model = zoo.backbone("llama", "causal-lm").model
    model.generation_config.update(do_sample=True, temperature=3.0, repetition_penalty=2.0, eos_token_id=[7])
    found = decoding.config(model, writers.tokenizer(), NEW)
    assert (found.do_sample, found.temperature, found.repetition_penalty, found.max_new_tokens) == (
        False,
        1.0,
        1.0,
        NEW,
    )
    assert found.eos_token_id == [writers.EOS, 7] and found.pad_token_id == writers.PAD


def test_texts_come_in_row_order_and_without_special_tokens() -> None:
    class Echo(nn.Module):
        def generate(self, input_ids: torch.Tensor, attention_mask: torch.Tensor, generation_config: Any) -> Any:
            assert not self.training
            end = torch.full_like(input_ids[:, :1], writers.EOS)
            return torch.cat([input_ids, input_ids[:, -1:], end], dim=1)

    word = writers.tokenizer()("good fine bad", add_special_tokens=False)["input_ids"]
    data = Pairs(Ragged.of([[8, word[0]], [word[1]], [8, 9, 10, word[2]]]), Ragged.of([[3]] * 3), np.arange(3), None)
    found, seconds = decoding.texts(ENGINE, Echo(), data, writers.tokenizer(), None, 2)
    assert found == ["good", "fine", "bad"] and seconds > 0


def test_a_module_that_cannot_generate_is_refused() -> None:
    with pytest.raises(ValueError, match=r"mine: its module has no generate\(\)"):
        decoding.check(nn.Linear(1, 1), "mine")


INHERITED = {
    "min_length": 30, "min_new_tokens": 6, "repetition_penalty": 5.0, "no_repeat_ngram_size": 1, "num_beams": 3,
    "do_sample": True, "suppress_tokens": [7, 8, 9], "begin_suppress_tokens": list(range(20)), "forced_eos_token_id": 9,
    "bad_words_ids": [[n] for n in range(30)], "temperature": 9.0, "top_k": 1, "length_penalty": 3.0, "max_length": 3,
    "exponential_decay_length_penalty": (1, 9.0), "renormalize_logits": True, "sequence_bias": {(3,): 50.0},
    "num_return_sequences": 2, "epsilon_cutoff": 0.5, "min_p": 0.9, "typical_p": 0.5, "guidance_scale": 3.0,
    "stop_strings": ["a"], "max_time": 1e-9, "use_cache": False, "return_dict_in_generate": True,
    "output_scores": True, "encoder_repetition_penalty": 3.0, "encoder_no_repeat_ngram_size": 1,
}  # fmt: skip


@pytest.mark.parametrize(("family", "kind"), [("llama", "causal-lm"), ("t5", "seq2seq")])
def test_nothing_of_a_checkpoints_generation_config_is_inherited(family: str, kind: str) -> None:
    module, data, tokenizer = tuned("full", family, kind), asked(kind), writers.tokenizer()
    setting = decoding.config(module, tokenizer, NEW)
    plain, _ = decoding.texts(ENGINE, module, data, tokenizer, setting, 3)
    for name, value in INHERITED.items():
        own = module.generation_config
        before = getattr(own, name, None)
        setattr(own, name, value)
        found, _ = decoding.texts(ENGINE, module, data, tokenizer, decoding.config(module, tokenizer, NEW), 3)
        assert found == plain, name
        assert module.generation_config is own and getattr(own, name) == value
        setattr(own, name, before)
