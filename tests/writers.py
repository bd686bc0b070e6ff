"""Tiny random models that write (decoders and encoder-decoders) with a word-level tokenizer, and runs on them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, PreTrainedTokenizerFast

from bench.models.loading import model_class
from bench.store.store import Store
from bench.sweep import expand
from bench.sweep.request import RunRequest
from bench.training.job import Job
from bench.training.run import execute
from tests import tiny, zoo

PAD, UNK, BOS, EOS = range(4)
_SPECIAL = ("[PAD]", "[UNK]", "[BOS]", "[EOS]")
WORDS = (*tiny.WORDS, "up", "down", "sentence", "answer", "text", ":", "not")
TASKS = Path(__file__).parent / "plugins" / "writing_tasks.py"


def tokenizer(decoder: bool = True) -> PreTrainedTokenizerFast:
    """A decoder's puts [BOS] before a text, an encoder-decoder's [EOS] behind it."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    vocabulary = {word: index for index, word in enumerate((*_SPECIAL, *WORDS))}
    made = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    single = "[BOS] $A" if decoder else "$A [EOS]"
    made.post_processor = processors.TemplateProcessing(single=single, special_tokens=[("[BOS]", BOS), ("[EOS]", EOS)])
    names = dict(zip(("pad_token", "unk_token", "bos_token", "eos_token"), _SPECIAL, strict=True))
    return PreTrainedTokenizerFast(tokenizer_object=made, **names)


def folder(where: Path, family: str, **changes: Any) -> Path:
    """Save a tiny random language model and its tokenizer; returns the folder."""
    kind = "seq2seq" if family in ("t5", "bart") else "causal-lm"
    settings = {**zoo.FAMILIES[family], "vocab_size": len(WORDS) + 4, "pad_token_id": PAD, "bos_token_id": BOS,
                "eos_token_id": EOS, "decoder_start_token_id": PAD, **changes}  # fmt: skip
    config = AutoConfig.for_model(family, **settings)
    torch.manual_seed(5)
    model_class(kind).from_config(config).save_pretrained(where)
    tokenizer(kind == "causal-lm").save_pretrained(where)
    return where


def spec(model: Path, task: str, method: str, sets: Sequence[str] = (), **train: Any) -> expand.RunSpec:
    """The specification of one run; twelve steps at a time unless told otherwise."""
    settings = {"steps": 12, "batch_size": 16, "device": "cpu", "max_length": 24, **train}
    request = RunRequest(
        methods=(method,),
        task=(task,),
        model=(str(model),),
        set=(*sets, "train.dev_size=8", "train.evaluations=2"),
        train={name: str(value) for name, value in settings.items()},
        plugin=(TASKS, tiny.TASK),
    )
    found = expand.expand(request)
    expand.check_methods(found)
    (one,) = found
    return one


def run(out: Path, made: expand.RunSpec, save: bool = False) -> dict[str, Any]:
    """Do a run in this process and return its record, which is also in the store."""
    store = Store(out)
    store.prepare()
    job = Job(
        run_id=made.run_id,
        spec=made.spec,
        plugins=(str(TASKS), str(tiny.TASK)),
        mirror=None,
        predictions=str(store.predictions_path(made.run_id)),
        adapter=str(store.adapter_path(made.run_id)) if save else None,
    )
    record = execute(job, lambda _: None)
    store.write(record)
    return record
