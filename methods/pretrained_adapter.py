"""An already trained adapter in peft's format (github.com/huggingface/peft): scored, not trained."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from torch import nn

from bench.core.protocols import option
from bench.core.registry import Family, register_family, register_method
from bench.methods.peft_bridge import INSTALL, attach_with_or_without_weights, drop_virtual_logits, padded_heads
from bench.methods.peft_bridge import merge as peft_merge
from bench.models.backbone import Backbone

_MAX_REASON = 200  # characters of an error: peft names every tensor
_FILES = ("adapter_config.json", "adapter_model.safetensors")


@dataclass(frozen=True)
class Adapter:
    """A folder with an adapter in peft's format, scored without training.

    Source: the adapter's author; the fingerprint identifies the scored files.
    """

    name: ClassVar[str] = "adapter"
    swept: ClassVar[str | None] = None
    already_trained: ClassVar[bool] = True

    path: str = option("", "folder with adapter_config.json and adapter_model.safetensors")
    fingerprint: str = option("", "hash of the folder's files, computed automatically")
    lr: float = option(0.0, "not used: nothing is trained", low=0.0)

    def __post_init__(self) -> None:
        if not self.path:
            return
        missing = [name for name in _FILES if not (Path(self.path) / name).is_file()]
        if missing:
            raise ValueError(f"{self.path} has no {' and no '.join(missing)} (pickled weights are not read)")
        digest = hashlib.sha256()
        for name in _FILES:
            digest.update((Path(self.path) / name).read_bytes())
        fingerprint = digest.hexdigest()[:16]
        if self.fingerprint not in ("", fingerprint):
            raise ValueError(f"{self.path} changed: its fingerprint was {self.fingerprint} and is {fingerprint}")
        object.__setattr__(self, "fingerprint", fingerprint)

    def attach(self, backbone: Backbone) -> nn.Module:
        if not self.path:
            raise ValueError("adapter: no folder given: --adapter FOLDER")
        if importlib.util.find_spec("peft") is None:
            raise ValueError(f"adapter: {INSTALL}")
        weightless = any(parameter.is_meta for parameter in backbone.model.parameters())
        module = attach_with_or_without_weights(self._attached, backbone).requires_grad_(False)
        if weightless and (wrong := self._other_shape(module)):
            raise ValueError(self._misfit(wrong))
        return module

    def _attached(self, backbone: Backbone) -> nn.Module:
        import peft

        self._check_head(backbone)
        try:
            with warnings.catch_warnings():
                # An adapter with missing or surplus tensors belongs to another model.
                warnings.filterwarnings("error", message="Found missing adapter keys")
                # peft still reads this attribute of transformers' models by its old name.
                warnings.filterwarnings("ignore", message=".is_gradient_checkpointing. is deprecated")
                warnings.filterwarnings("ignore", message="The PEFT config's .base_model_name_or_path. was renamed")
                config: Any = peft.PeftConfig.from_pretrained(self.path)
                if config.is_prompt_learning and config.task_type is None:
                    raise ValueError("its config names no task_type, without which peft leaves virtual tokens out")
                if config.task_type == "SEQ_2_SEQ_LM" and not config.is_prompt_learning:
                    config.task_type = None  # peft's class for it does not work with transformers 5
                if any(parameter.is_meta for parameter in backbone.model.parameters()):
                    module: Any = peft.get_peft_model(backbone.model, config)
                else:
                    module = peft.PeftModel.from_pretrained(backbone.model, self.path, config=config)
                kind = str(config.peft_type.value)
                if refused := padded_heads(kind, backbone):
                    raise ValueError(refused)
                drop_virtual_logits(module, kind, backbone)
        except (ValueError, TypeError, KeyError, AttributeError, RuntimeError, UserWarning) as error:
            raise ValueError(self._misfit(str(error))) from error
        return module  # type: ignore[no-any-return]

    def _misfit(self, why: str) -> str:
        reason = " ".join(why.split())
        reason = f"{reason.rstrip('.')}." if len(reason) <= _MAX_REASON else f"{reason[:_MAX_REASON]}…"
        base = json.loads((Path(self.path) / _FILES[0]).read_bytes()).get("base_model_name_or_path")
        hint = f" It was trained on {base}: is that the --model?" if base else ""
        return f"adapter: {self.path} does not fit this model and task: {reason}{hint}"

    def _other_shape(self, module: Any) -> str | None:
        """The first saved tensor whose shape differs from that in the (weightless) module, as a message."""
        import peft
        from safetensors import safe_open

        expected = peft.get_peft_model_state_dict(module, save_embedding_layers=False)
        with safe_open(Path(self.path) / _FILES[1], framework="pt") as file:
            for name in sorted(expected.keys() & set(file.keys())):
                saved, here = tuple(file.get_slice(name).get_shape()), tuple(expected[name].shape)
                if saved != here:
                    return f"{name} has shape {saved}, but {here} in this model"
        return None

    def _check_head(self, backbone: Backbone) -> None:
        """Raise ValueError when the adapter lacks a fresh head's tensor, which would be scored at random."""
        from safetensors import safe_open

        with safe_open(Path(self.path) / _FILES[1], framework="pt") as file:
            saved = set(file.keys())
        fresh = {id(parameter) for parameter in backbone.head_parameters}
        needed = [name for name, parameter in backbone.model.named_parameters() if id(parameter) in fresh]
        absent = [name for name in needed if not any(key.endswith(f".{name}") for key in saved)]
        if absent:
            kind = json.loads((Path(self.path) / _FILES[0]).read_text(encoding="utf-8")).get("task_type")
            raise ValueError(
                f"adapter: {self.path} (task type {kind}) has no {absent[0]}, which this task's head needs; "
                "adapters for such tasks are saved with modules_to_save"
            )

    merge = peft_merge


def _register(_: str) -> None:
    register_method(Adapter)


# Only --adapter selects it, and it is no candidate in a comparison of methods, so it is not listed.
register_family(
    "adapter",
    Family(names=dict, make=_register, help=lambda: "an adapter in peft's format, scored without training: --adapter"),
)
