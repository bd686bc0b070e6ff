"""A model's shape without its weights: from a config.json, a folder, an alias or a Hub id to fake tensors."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from bench.core.errors import RequestError
from bench.core.protocols import Batch, Task
from bench.data.mirror import mirror_folder
from bench.models import loading
from bench.models.architectures import ARCHITECTURES
from bench.models.backbone import Backbone
from bench.models.forward_args import positions
from bench.planner.plan_config import Setting
from bench.tasks.formulations import select

_LABELS = ("0", "1")
# Dropout by its names in the configurations of the known families.
_DROPOUTS = (
    "dropout", "dropout_rate", "attention_dropout", "attention_probs_dropout_prob", "hidden_dropout_prob",
    "hidden_dropout", "activation_dropout", "resid_pdrop", "attn_pdrop", "embd_pdrop", "classifier_dropout",
    "seq_classif_dropout",
)  # fmt: skip


@dataclass(frozen=True)
class Shape:
    """A model to plan for: where its configuration is, the kind of head, and the head's labels."""

    source: loading.ModelSource
    kind: str
    labels: tuple[str, ...]
    config: Any


def find(name: str, kind: str | None, labels: tuple[str, ...] | None = None, task: Task | None = None) -> Shape:
    """Find a model's configuration; its weights need not be there.

    Args:
        name: a config.json, a folder that has one, an alias or a Hub id (its configuration alone is fetched).
        kind: of the head; None: that of ``task``, or what the architecture is for (see ``usual_kind``).
        labels: classes of a classification head; None: two.
        task: with nothing left open; the head is the one with which ``bench run`` puts it to the model.

    Raises:
        RequestError: when there is none, its architecture is not known, or it cannot have that head.
    """
    source = _source(name)
    config = loading.configuration(source, "causal-lm", ())  # first without a head, to see what it is
    if getattr(config, "quantization_config", None) is not None:
        raise RequestError(
            f"Model '{name}': its weights are kept quantised (quantization_config in config.json), which bench plan "
            "does not plan. Name the model that they were made from.",
            code="unsupported",
        )
    if task is not None:
        chosen = select.choose(task, name, loading.family(source))["model_kind"]
        return Shape(source, chosen, tuple(task.labels), loading.configuration(source, chosen, tuple(task.labels)))
    chosen = kind or usual_kind(config)
    fits = kinds_of(config)
    if chosen not in fits:
        raise RequestError(
            f"Model '{name}': a {config.model_type} has no head of kind '{chosen}', but {', '.join(fits)}.",
            code="unsupported",
        )
    found = labels if labels is not None else (() if chosen == "regression" else _LABELS)
    return Shape(source, chosen, found, loading.configuration(source, chosen, found))


def _source(name: str) -> loading.ModelSource:
    path = Path(name).expanduser()
    if path.is_file():
        return loading.ModelSource(name, str(path), f"file:{path.name}", None, "")
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise RequestError(f"Model folder {name} has no config.json.", code="not-found")
        return loading.ModelSource(name, str(path), f"folder:{path.name}", None, "")
    if path.suffix == ".json" or name.startswith((".", "/", "~")):
        raise RequestError(f"Model {name}: there is no such file or folder.", code="not-found")
    return loading.resolve(name, mirror=mirror_folder())


def kinds_of(config: Any) -> tuple[str, ...]:
    """The heads that a family can have."""
    stacks = ARCHITECTURES[config.model_type].stacks
    if hasattr(config, "image_size"):
        return ("image-classification",)
    if len(stacks) > 1:
        return ("seq2seq", "classification", "regression")
    language = ("causal-lm",) if stacks[0].name == "decoder" else ()
    return (*language, "classification", "regression")


def usual_kind(config: Any) -> str:
    """Decoders: causal-lm; encoder-decoders: seq2seq; encoders: classification (of images, where they see those)."""
    return kinds_of(config)[0]


def build(shape: Shape, setting: Setting) -> Backbone:
    """The model as fake tensors, weights in the precision's type; to be called inside a FakeTensorMode."""
    from transformers.initialization import no_init_weights

    config = loading.configuration(shape.source, shape.kind, shape.labels)
    if setting.dropout is not None:
        for name in _DROPOUTS:
            if getattr(config, name, None) is not None:
                setattr(config, name, setting.dropout)
    chosen = {} if setting.attention == "auto" else {"attn_implementation": setting.attention}
    low = setting.precision in ("bf16", "bf16-plain")
    dtype = torch.bfloat16 if low else torch.float32
    with no_init_weights():  # some initialisations look at values, and a fake tensor has none
        model = loading.build(shape.source, shape.kind, config, dtype=dtype, **chosen)
    model.tie_weights()
    backbone = Backbone(model, shape.kind, loading.fresh_head(model, shape.kind))
    if setting.precision == "bf16":
        for parameter in backbone.head_parameters:  # a fresh head is trained: it stays in full precision
            parameter.data = parameter.data.float()
    return backbone


def check_length(shape: Shape, backbone: Backbone, setting: Setting) -> None:
    """Raise RequestError where the text, or what is to be written, is longer than the model's positions."""
    limit = longest(shape, backbone)
    written = setting.target_length if shape.kind == "seq2seq" else None
    if limit is not None and written is not None and written > limit:
        raise RequestError(
            f"--target-length {written}: {shape.source.name} has {limit} positions; use at most {limit}.",
            code="too-large",
        )
    if limit is not None and setting.max_length > limit:
        raise RequestError(
            f"--max-length {setting.max_length}: {shape.source.name} has {limit} positions; use at most {limit}.",
            code="too-large",
        )


def longest(shape: Shape, backbone: Backbone) -> int | None:
    """Tokens that a text can have; None where positions are relative, or pixels are read."""
    return None if shape.kind == "image-classification" else positions(backbone)


def batch(shape: Shape, setting: Setting) -> Batch:
    """A batch of full rows as the data loader gives it, padding mask included: (batch, length) each."""
    rows, length = setting.batch_size, setting.max_length
    if shape.kind == "image-classification":
        size = shape.config.image_size
        return {
            "pixel_values": torch.zeros(rows, shape.config.num_channels, size, size),
            "labels": torch.zeros(rows, dtype=torch.long),
        }
    ids = torch.zeros(rows, length, dtype=torch.long)
    found = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if len(ARCHITECTURES[shape.config.model_type].stacks) == 1 and getattr(shape.config, "type_vocab_size", 0) > 1:
        found["token_type_ids"] = torch.zeros_like(ids)
    return found | {"labels": _targets(shape, setting)}


def _targets(shape: Shape, setting: Setting) -> torch.Tensor:
    if shape.kind == "causal-lm":
        return torch.zeros(setting.batch_size, setting.max_length, dtype=torch.long)
    if shape.kind == "seq2seq":
        return torch.zeros(setting.batch_size, setting.target_length or setting.max_length, dtype=torch.long)
    kind = torch.float32 if shape.kind == "regression" else torch.long
    return torch.zeros(setting.batch_size, dtype=kind)
