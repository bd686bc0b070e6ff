"""A tiny BERT folder, a tiny task and whole runs in this process, for tests of what surrounds a method: no network."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModel, AutoTokenizer, PreTrainedTokenizerFast

from bench.core import registry
from bench.store.store import Store
from bench.sweep import expand
from bench.sweep.request import RunRequest
from bench.training.job import Job
from bench.training.run import execute

WORDS = ("good", "fine", "bad", "poor", "film", "book", "day", "road", "the", "a", "was", "is", "very")
TASK = Path(__file__).parent / "plugins" / "tiny_task.py"
_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")


def model_folder(folder: Path, family: str = "bert", **changes: Any) -> Path:
    """Save a tiny random base model and a tokenizer; returns the folder."""
    from tests import zoo

    # Wide initial weights: at the usual 0.02 a random model this small gives every sentence the same features.
    settings = {**zoo.FAMILIES[family], "vocab_size": 32, "pad_token_id": 0, "initializer_range": 0.3, **changes}
    config = AutoConfig.for_model(family, **settings)
    torch.manual_seed(3)
    AutoModel.from_config(config).save_pretrained(folder)
    _tokenizer().save_pretrained(folder)
    AutoTokenizer.from_pretrained(folder)
    return folder


def _tokenizer() -> PreTrainedTokenizerFast:
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    vocabulary = {word: index for index, word in enumerate((*_SPECIAL, *WORDS))}
    made = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    names = dict(zip(("pad_token", "unk_token", "cls_token", "sep_token"), _SPECIAL, strict=True))
    return PreTrainedTokenizerFast(tokenizer_object=made, **names)


@contextlib.contextmanager
def registry_restored() -> Iterator[None]:
    """Forget, at the end, the plugins that were loaded: other tests go over all registered methods."""
    registry.load()  # the built-in ones are loaded once per process, and must not be forgotten
    tables = (registry._methods, registry._tasks, registry._plugins)
    before = [copy.copy(table) for table in tables]
    try:
        yield
    finally:
        for table, content in zip(tables, before, strict=True):
            table.clear()
            table.update(content)  # type: ignore[arg-type]


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a test's runs live: a base model and a store."""

    folder: Path
    model: Path

    def specs(self, method: str, plugins: Sequence[Path] = (), sets: Sequence[str] = (), **train: Any) -> Any:
        """The run specifications of one method on the tiny task."""
        settings = {"steps": "12", "batch_size": "16", "device": "cpu", "dev_size": "0", **train}
        seed = str(settings.pop("seed", 0))
        request = RunRequest(
            methods=(method,),
            task=("tiny/mood",),
            model=(str(self.model),),
            seeds=(seed,),
            set=(*sets, f"train.dev_size={settings.pop('dev_size')}"),
            train={name: str(value) for name, value in settings.items()},
            plugin=(TASK, *plugins),
        )
        return expand.expand(request)

    def run(
        self, method: str, plugins: Sequence[Path] = (), sets: Sequence[str] = (), save: bool = False, **train: Any
    ) -> dict[str, Any]:
        """Do one run in this process and return its record, which is also in the store."""
        (spec,) = self.specs(method, plugins, sets, **train)
        store = Store(self.folder / "out")
        store.prepare()
        job = Job(
            run_id=spec.run_id,
            spec=spec.spec,
            plugins=tuple(map(str, (TASK, *plugins))),
            mirror=None,
            predictions=str(store.predictions_path(spec.run_id)),
            adapter=str(store.adapter_path(spec.run_id)) if save else None,
        )
        record = execute(job, lambda _: None)
        store.write(record)
        return record

    def adapter(self, record: dict[str, Any]) -> Path:
        """The folder of a record's saved adapter."""
        return self.folder / "out" / "adapters" / str(record["run_id"])


@contextlib.contextmanager
def place(folder: Path, family: str = "bert") -> Iterator[Place]:
    """Make a place with a fresh tiny model of a family; plugins are forgotten at the end."""
    with registry_restored():
        yield Place(folder, model_folder(folder / family, family))
