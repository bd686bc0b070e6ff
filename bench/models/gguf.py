"""GGUF files: unpacked once into the user's cache as a model folder with fp32 safetensors.

Reading the vocabulary and the 4-bit weights of a 100 MB file takes half a minute, and a run reads a model twice.
"""

from __future__ import annotations

import copy
import shutil
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from bench.core.environment import cache_folder
from bench.core.errors import RequestError, unknown
from bench.models.architectures import ARCHITECTURES

_SIGN = b"GGUF"
_GROWTH = 9  # bytes of fp32 for a byte of a 4-bit file, with room for its scales


def unpacked(path: Path, fingerprint: str) -> Path:
    """The folder with a GGUF file's configuration, tokenizer and fp32 weights; written on first use.

    Args:
        path: the file.
        fingerprint: of the file; the folder's name.

    Raises:
        RequestError: when it is not a GGUF file, is of an unknown family, or ``gguf`` or disk space is missing.
    """
    folder = cache_folder() / "gguf" / fingerprint
    if (folder / "config.json").is_file():
        return folder
    with path.open("rb") as file:
        if file.read(len(_SIGN)) != _SIGN:
            raise RequestError(f"{path} is not a GGUF file: it does not begin with '{_SIGN.decode()}'.", code="damaged")
    missing = [name for name in ("gguf", "accelerate") if find_spec(name) is None]
    if missing:
        raise RequestError(
            f"Reading {path.name} needs {' and '.join(missing)}: pip install 'tunebench[gguf]'.", code="package-missing"
        )
    folder.parent.mkdir(parents=True, exist_ok=True)
    free, needed = shutil.disk_usage(folder.parent).free, path.stat().st_size * _GROWTH
    if free < needed:
        raise RequestError(
            f"Unpacking {path.name} takes up to {needed / 1e9:.1f} GB in {folder.parent}, which has "
            f"{free / 1e9:.1f} GB left. Set XDG_CACHE_HOME to a folder with more space.",
            code="too-large",
        )
    sys.stderr.write(f"bench: unpacking {path.name} (once; kept in {folder})\n")
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f"{fingerprint}.") as temporary:
        model = Path(temporary) / "model"
        _unpack(path, model)
        if not folder.exists():  # another process may have written it meanwhile
            model.rename(folder)
    return folder


def _plain(cls: Any, model: Any) -> Any:
    """The same weights in a model without a quantisation configuration, which can be saved."""
    import torch

    config = copy.deepcopy(model.config)
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    with torch.device("meta"):
        plain = cls.from_config(config)
    plain.load_state_dict(model.state_dict(), assign=True)
    plain.tie_weights()
    return plain


def _unpack(path: Path, folder: Path) -> None:
    import transformers

    from bench.core.quiet import quiet

    where = {"pretrained_model_name_or_path": str(path.parent), "gguf_file": path.name}
    try:
        with quiet():
            config = transformers.AutoConfig.from_pretrained(**where)
            if config.model_type not in ARCHITECTURES:
                raise RequestError([unknown("architecture", config.model_type, ARCHITECTURES).within(f"{path.name}: ")])
            seq2seq = config.is_encoder_decoder
            cls = transformers.AutoModelForSeq2SeqLM if seq2seq else transformers.AutoModelForCausalLM
            tokenizer = transformers.AutoTokenizer.from_pretrained(**where)
            model = cls.from_pretrained(**where, config=config, dtype="float32")
            _plain(cls, model).save_pretrained(folder)
            tokenizer.save_pretrained(folder)
    except (OSError, ValueError, KeyError, NotImplementedError) as error:
        raise RequestError(f"{path.name} cannot be read as a GGUF model: {error}", code="damaged") from error
