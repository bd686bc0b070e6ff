"""Load a resolved model: its configuration, its shape without weights, or its weights with a head for the task."""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Collection
from typing import TYPE_CHECKING, Any

from bench.core.errors import RequestError, unknown
from bench.models.aliases import ALIASES, Alias
from bench.models.architectures import ARCHITECTURES
from bench.models.resolve import Loading, ModelSource, alias_of, resolve

if TYPE_CHECKING:
    from bench.models.backbone import Backbone

__all__ = [
    "ALIASES",
    "Alias",
    "Loading",
    "ModelSource",
    "alias_of",
    "build",
    "configuration",
    "family",
    "fresh_head",
    "load",
    "model_class",
    "resolve",
    "sketch",
    "tokenizer",
]

# The model class of each kind of task; sequence-classification heads also give the one number of a regression.
_CLASSES = {
    "classification": "AutoModelForSequenceClassification",
    "regression": "AutoModelForSequenceClassification",
    "causal-lm": "AutoModelForCausalLM",
    "seq2seq": "AutoModelForSeq2SeqLM",
    "image-classification": "AutoModelForImageClassification",
}
LANGUAGE_KINDS = ("causal-lm", "seq2seq")  # their heads are pretrained


def model_class(kind: str) -> Any:
    """The transformers Auto class of a kind of task."""
    import transformers

    return getattr(transformers, _CLASSES[kind])


def _head_settings(kind: str, labels: tuple[str, ...]) -> dict[str, Any]:
    if kind in LANGUAGE_KINDS:
        return {}
    if kind == "regression":
        return {"num_labels": 1, "problem_type": "regression"}
    names = dict(enumerate(labels))
    return {
        "num_labels": len(labels),
        "problem_type": "single_label_classification",
        "id2label": names,
        "label2id": {label: index for index, label in names.items()},
    }


def _where(source: ModelSource) -> dict[str, Any]:
    """The common arguments of every ``from_pretrained``; a folder has no revisions."""
    revision = {"revision": source.revision} if source.source.startswith("hub:") else {}
    return {
        "pretrained_model_name_or_path": source.location,
        "trust_remote_code": source.loading.trust_remote_code,
        **revision,
    }


def configuration(source: ModelSource, kind: str = "causal-lm", labels: tuple[str, ...] = ()) -> Any:
    """A model's configuration for a kind of head; a language model's needs no settings.

    Raises:
        RequestError: when it cannot be read, or its architecture is not in ``bench.models.architectures``.
    """
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(**_where(source), **_head_settings(kind, labels))
    except Exception as error:  # configurations validate their values in many ways
        raise RequestError(f"Model '{source.name}': its config.json cannot be used: {error}", code="damaged") from error
    if config.model_type not in ARCHITECTURES:
        raise RequestError(
            [unknown("architecture", config.model_type, ARCHITECTURES).within(f"Model '{source.name}': ")]
        )
    if getattr(config, "pad_token_id", None) is None:
        ends = getattr(config, "eos_token_id", None)
        config.pad_token_id = (
            ends[0] if isinstance(ends, list) else ends
        )  # decoders classify the last token before padding
    return config


def family(source: ModelSource) -> str:
    """``encoder``, ``decoder``, ``encoder-decoder``, or ``vision`` for models that read images (RequestError)."""
    config = configuration(source)
    if hasattr(config, "image_size"):
        return "vision"
    return "-".join(stack.name for stack in ARCHITECTURES[config.model_type].stacks)


def sketch(source: ModelSource, kind: str, labels: tuple[str, ...]) -> Backbone:
    """Build the model's shape on the meta device: no weights are read, no memory is taken.

    Raises:
        RequestError: as ``build``.
    """
    import torch

    from bench.models.backbone import Backbone

    config = configuration(source, kind, labels)
    model = build(source, kind, config, device=torch.device("meta"))
    return Backbone(model, kind, fresh_head(model, kind))


def build(source: ModelSource, kind: str, config: Any, device: Any = None, **chosen: Any) -> Any:
    """The model of a configuration, without pretrained weights.

    Args:
        device: where it is built; None: torch's default.
        chosen: further options of transformers' ``from_config``.

    Raises:
        RequestError: when the configuration makes no model, or transformers cannot be used with what is installed.
    """
    try:
        # First: torch 2.6 cannot import the module's own imports while meta is the default device.
        importlib.import_module("transformers.modeling_utils")
    except Exception as error:  # a release with undeclared requirements
        raise RequestError(_unusable(error), code="damaged") from error
    try:
        with device or contextlib.nullcontext():
            return model_class(kind).from_config(config, trust_remote_code=source.loading.trust_remote_code, **chosen)
    except Exception as error:  # a configuration's values can break a model anywhere
        raise RequestError(f"Model '{source.name}': its config.json cannot be used: {error}", code="damaged") from error


def _unusable(error: BaseException) -> str:
    """The message for a transformers that cannot import its own modules."""
    import torch
    import transformers

    return (
        f"transformers {transformers.__version__} does not work with what is installed beside it (torch "
        f"{torch.__version__}): {type(error).__name__}: {error}. Upgrade the package named there, or install an "
        "older transformers"
    )


def load(source: ModelSource, kind: str, labels: tuple[str, ...]) -> Backbone:
    """Load the pretrained weights (fp32, or quantised) under a head for the task, without transformers' load report.

    Weights are read only from safetensors, unless the source allows pickled ones. The head, also one that the
    checkpoint has, and whatever else the checkpoint lacks, is initialised from torch's current seed.

    Raises:
        RequestError: when the folder or cache does not hold usable weights, or holds an adapter next to them.
    """
    from bench.core.quiet import quiet
    from bench.models import quantization
    from bench.models.backbone import Backbone

    scheme = source.loading.quantize
    extra = (
        {} if scheme is None else {"quantization_config": quantization.settings(scheme, sketch(source, kind, labels))}
    )
    config = configuration(source, kind, labels)
    try:
        with quiet():
            model, info = model_class(kind).from_pretrained(
                **_where(source),
                config=config,
                dtype="float32",
                use_safetensors=None if source.loading.allow_pickle else True,
                ignore_mismatched_sizes=True,
                output_loading_info=True,
                **extra,
            )
    except (OSError, ImportError) as error:
        raise RequestError(f"Model '{source.name}': its weights cannot be loaded: {error}", code="damaged") from error
    if getattr(model, "_hf_peft_config_loaded", False):
        raise RequestError(
            f"Model '{source.name}' has an adapter (adapter_config.json) next to its weights, which would be applied "
            "to them. Move it into a folder of its own, and score it with --adapter DIR.",
            code="conflict",
        )
    if scheme is not None:
        quantization.prevent_repacking(model)
    missing = {name if isinstance(name, str) else name[0] for name in (*info["missing_keys"], *info["mismatched_keys"])}
    head = fresh_head(model, kind)
    _initialise(model, head - missing)
    known = {name for name, _ in model.named_parameters()}
    if unfilled := sorted(name for name in missing & known - head if "pooler" not in name):
        more = f" and {len(unfilled) - 1} more" if len(unfilled) > 1 else ""
        raise RequestError(
            f"Model '{source.name}': its weights do not fit its config.json: {unfilled[0]}{more} cannot be filled from "
            "them. (A compiled or wrapped model saves other names, such as _orig_mod.* or module.*.)",
            code="damaged",
        )
    return Backbone(model, kind, head | frozenset(missing))


def _initialise(model: Any, names: Collection[str]) -> None:
    """Initialise parameters as transformers initialises those that a checkpoint lacks."""
    import torch

    for path in sorted({name.rpartition(".")[0] for name in names}):
        module = model.get_submodule(path)
        for tensor in (module, *module.parameters(recurse=False)):
            tensor._is_hf_initialized = False
        with torch.no_grad():
            model._init_weights(module)


def has_own_head(source: ModelSource, kind: str) -> bool:
    """Whether the checkpoint has a head for this kind of task, which a fresh one replaces."""
    architectures = getattr(configuration(source), "architectures", None) or ()
    ending = _CLASSES[kind].removeprefix("AutoModel")
    return kind not in LANGUAGE_KINDS and any(name.endswith(ending) for name in architectures)


def pad_with(model: Any, token: int) -> None:
    """Set a model's padding token, which decoders' heads need to find the last real token.

    The configuration may name none, or a different one than the tokenizer.
    """
    for config in (model.config, model.config.get_text_config()):
        config.pad_token_id = token


def fresh_head(model: Any, kind: str) -> frozenset[str]:
    """Names of the head's parameters that no checkpoint contains: none for language models."""
    if kind in LANGUAGE_KINDS:
        return frozenset()
    prefix = model.base_model_prefix + "."
    return frozenset(name for name, _ in model.named_parameters() if not name.startswith(prefix))


def tokenizer(source: ModelSource) -> Any:
    """The model's own fast tokenizer; one without a padding token pads with its end-of-text token."""
    from transformers import AutoTokenizer

    try:
        made = AutoTokenizer.from_pretrained(**_where(source), use_fast=True)
    except Exception as error:  # a damaged file can fail anywhere
        what = f"{type(error).__name__}: {error}"
        raise RequestError(f"Model '{source.name}': its tokenizer cannot be loaded: {what}", code="damaged") from error
    if made.pad_token is None:
        made.pad_token = made.eos_token  # decoders have none; padding is masked, so any token works
    return made
