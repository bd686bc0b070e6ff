"""A model without weights, as fake tensors: from a config.json, a folder, an alias or a Hub id."""

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
    """Find a model's configuration; its weights are not needed.

    Args:
        name: a config.json, a folder that has one, an alias or a Hub id (its configuration alone is fetched).
        kind: of the head; None: that of ``task``, or the architecture's usual one (see ``usual_kind``).
        labels: classes of a classification head; None: two.
        task: resolved; the head is the one that ``bench run`` uses for it.

    Raises:
        RequestError: when there is none, its architecture is not known, or it cannot have that head.
    """
    source = _source(name)
    config = loading.configuration(source)  # without a head, to find its kind
    if getattr(config, "quantization_config", None) is not None:
        raise RequestError(
            f"Model '{name}': its weights are quantised (quantization_config in config.json), which bench plan "
            "does not support. Name the model that they were made from.",
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
    names = labels if labels is not None else (() if chosen == "regression" else _LABELS)
    return Shape(source, chosen, names, loading.configuration(source, chosen, names))


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
    """Decoders: causal-lm; encoder-decoders: seq2seq; encoders: classification; vision models: of images."""
    return kinds_of(config)[0]


def build(shape: Shape, setting: Setting) -> Backbone:
    """The model as fake tensors, with weights in the precision's type; call it inside a FakeTensorMode."""
    from transformers.initialization import no_init_weights

    config = loading.configuration(shape.source, shape.kind, shape.labels)
    if setting.dropout is not None:
        for name in _DROPOUTS:
            if getattr(config, name, None) is not None:
                setattr(config, name, setting.dropout)
    chosen = {} if setting.attention == "auto" else {"attn_implementation": setting.attention}
    low = setting.precision in ("bf16", "bf16-plain")
    dtype = torch.bfloat16 if low else torch.float32
    with no_init_weights():  # some initialisations read values, which fake tensors lack
        model = loading.build(shape.source, shape.kind, config, dtype=dtype, **chosen)
    model.tie_weights()
    backbone = Backbone(model, shape.kind, loading.fresh_head(model, shape.kind))
    if setting.precision == "bf16":
        for parameter in backbone.head_parameters:  # a fresh head is trained, so it stays in fp32
            parameter.data = parameter.data.float()
    return backbone


def check_length(shape: Shape, backbone: Backbone, setting: Setting) -> None:
    """Raise RequestError where the text or the targets are longer than the model's positions."""
    limit = longest(shape, backbone)
    targets = setting.target_length if shape.kind == "seq2seq" else None
    for flag, length in (("--target-length", targets), ("--max-length", setting.max_length)):
        if limit is not None and length is not None and length > limit:
            raise RequestError(
                f"{flag} {length}: {shape.source.name} has {limit} positions; use at most {limit}.", code="too-large"
            )


def longest(shape: Shape, backbone: Backbone) -> int | None:
    """The longest text in tokens; None where positions are relative, and for images."""
    return None if shape.kind == "image-classification" else positions(backbone)


def batch(shape: Shape, setting: Setting) -> Batch:
    """A batch of full rows as from the data loader, padding mask included: (batch, length) each."""
    rows, length = setting.batch_size, setting.max_length
    if shape.kind == "image-classification":
        size = shape.config.image_size
        return {
            "pixel_values": torch.zeros(rows, shape.config.num_channels, size, size),
            "labels": torch.zeros(rows, dtype=torch.long),
        }
    ids = torch.zeros(rows, length, dtype=torch.long)
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if len(ARCHITECTURES[shape.config.model_type].stacks) == 1 and getattr(shape.config, "type_vocab_size", 0) > 1:
        inputs["token_type_ids"] = torch.zeros_like(ids)
    return inputs | {"labels": _targets(shape, setting)}


def _targets(shape: Shape, setting: Setting) -> torch.Tensor:
    if shape.kind == "causal-lm":
        return torch.zeros(setting.batch_size, setting.max_length, dtype=torch.long)
    if shape.kind == "seq2seq":
        return torch.zeros(setting.batch_size, setting.target_length or setting.max_length, dtype=torch.long)
    kind = torch.float32 if shape.kind == "regression" else torch.long
    return torch.zeros(setting.batch_size, dtype=kind)
