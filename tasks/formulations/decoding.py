"""Greedy generation in batches, until the end-of-text token or a number of new tokens."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np
from torch import nn

from bench.models.inference import Engine
from bench.tasks.formulations.prompt_batches import Pairs


def config(module: Any, tokenizer: Any, new_tokens: int) -> Any:
    """Greedy decoding regardless of the checkpoint's sampling settings; its special tokens are kept."""
    from transformers import GenerationConfig

    own = getattr(module, "generation_config", None)
    ends = [getattr(own, "eos_token_id", None), tokenizer.eos_token_id]
    known = {token for end in ends for token in (end if isinstance(end, list) else [end]) if token is not None}
    start = getattr(own, "decoder_start_token_id", None)
    if start is None:
        start = getattr(module.config, "decoder_start_token_id", None)
    return GenerationConfig(  # type: ignore[no-untyped-call]
        decoder_start_token_id=start,
        bos_token_id=getattr(own, "bos_token_id", None),
        max_new_tokens=new_tokens,
        do_sample=False,
        num_beams=1,
        use_cache=True,
        temperature=1.0,
        top_k=50,
        top_p=1.0,
        repetition_penalty=1.0,
        no_repeat_ngram_size=0,
        eos_token_id=sorted(known) or None,
        pad_token_id=tokenizer.pad_token_id if tokenizer.pad_token_id is not None else 0,
    )


@contextlib.contextmanager
def _only(setting: Any, module: nn.Module) -> Iterator[None]:
    """Make ``setting`` the module's own too in the block: generate() fills what is not set from the module's."""
    before = [(part, part.generation_config) for part in module.modules() if "generation_config" in vars(part)]
    for part, _ in before:
        part.generation_config = setting
    try:
        yield
    finally:
        for part, own in before:
            part.generation_config = own


def check(module: nn.Module, name: str) -> None:
    """Raise ValueError where a method's module cannot generate."""
    if not callable(getattr(module, "generate", None)):
        raise ValueError(
            f"{name}: its module has no generate(), which a task that is scored by generated text needs: return the "
            "transformers model from attach, or choose a task with classes"
        )


def texts(
    engine: Engine, module: Any, data: Pairs, tokenizer: Any, setting: Any, batch_size: int
) -> tuple[list[str], float]:
    """The text generated after each row's prompt, without special tokens and surrounding blanks.

    Args:
        setting: of ``config``.

    Returns:
        One text a row, and the seconds it took.
    """

    def act(rows: list[int]) -> list[str]:
        batch = engine.moved(data.asked(rows, engine.padding))
        with _only(setting, module):
            ids = module.generate(**batch, generation_config=setting)
        if data.start is None:
            ids = ids[:, batch["input_ids"].shape[1] :]
        decoded: list[str] = tokenizer.batch_decode(ids, skip_special_tokens=True)
        return [text.strip() for text in decoded]

    parts, order, seconds = engine.over(module, data.prompts.lengths, batch_size, act)
    found: Any = np.empty(len(data), dtype=object)
    found[order] = [text for part in parts for text in part]
    return found.tolist(), seconds
