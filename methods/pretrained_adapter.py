"""An adapter that was trained before, in peft's format (github.com/huggingface/peft): scored, not trained."""

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
from bench.methods.peft_bridge import INSTALL, leave_virtual_out, padded_heads, without_weights_too
from bench.models.backbone import Backbone

_MOST_SAID = 200  # characters of an error: peft names every tensor
_FILES = ("adapter_config.json", "adapter_model.safetensors")


@dataclass(frozen=True)
class Adapter:
    """A folder with an adapter in peft's format, scored as it is: nothing is trained.

    Source: whoever trained it; the fingerprint says which files were scored.
    """

    name: ClassVar[str] = "adapter"
    swept: ClassVar[str | None] = None
    already_trained: ClassVar[bool] = True

    path: str = option("", "folder with adapter_config.json and adapter_model.safetensors")
    fingerprint: str = option("", "of the folder's files; found by itself")
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
        found = digest.hexdigest()[:16]
        if self.fingerprint not in ("", found):
            raise ValueError(f"{self.path} changed: its fingerprint was {self.fingerprint} and is {found}")
        object.__setattr__(self, "fingerprint", found)

    def attach(self, backbone: Backbone) -> nn.Module:
        if not self.path:
            raise ValueError("adapter: say which: --adapter FOLDER")
        if importlib.util.find_spec("peft") is None:
            raise ValueError(f"adapter: {INSTALL}")
        weightless = any(parameter.is_meta for parameter in backbone.model.parameters())
        module = without_weights_too(self._attached, backbone).requires_grad_(False)
        if weightless and (wrong := self._other_shape(module)):
            raise ValueError(self._misfit(wrong))
        return module

    def _attached(self, backbone: Backbone) -> nn.Module:
        import peft

        self._check_head(backbone)
        try:
            with warnings.catch_warnings():
                # An adapter whose tensors find no place, or the other way about, belongs to another model.
                warnings.filterwarnings("error", message="Found missing adapter keys")
                # peft still reads this attribute of transformers' models by its old name.
                warnings.filterwarnings("ignore", message=".is_gradient_checkpointing. is deprecated")
                warnings.filterwarnings("ignore", message="The PEFT config's .base_model_name_or_path. was renamed")
                config: Any = peft.PeftConfig.from_pretrained(self.path)
                if config.is_prompt_learning and config.task_type is None:
                    raise ValueError("its config names no task_type, without which peft leaves virtual tokens out")
                if config.task_type == "SEQ_2_SEQ_LM" and not config.is_prompt_learning:
                    config.task_type = None  # peft's class for it asks transformers 5 for what it lacks
                if any(parameter.is_meta for parameter in backbone.model.parameters()):
                    module: Any = peft.get_peft_model(backbone.model, config)
                else:
                    module = peft.PeftModel.from_pretrained(backbone.model, self.path, config=config)
                kind = str(config.peft_type.value)
                if refused := padded_heads(kind, backbone):
                    raise ValueError(refused)
                leave_virtual_out(module, kind, backbone)
        except (ValueError, TypeError, KeyError, AttributeError, RuntimeError, UserWarning) as error:
            raise ValueError(self._misfit(str(error))) from error
        return module  # type: ignore[no-any-return]

    def _misfit(self, why: str) -> str:
        reason = " ".join(why.split())
        reason = f"{reason.rstrip('.')}." if len(reason) <= _MOST_SAID else f"{reason[:_MOST_SAID]}…"
        base = json.loads((Path(self.path) / _FILES[0]).read_bytes()).get("base_model_name_or_path")
        whose = f" It was trained on {base}: is that the --model?" if base else ""
        return f"adapter: {self.path} does not fit this model and task: {reason}{whose}"

    def _other_shape(self, module: Any) -> str | None:
        """Which saved tensor has another shape than the (weightless) module asks for."""
        import peft
        from safetensors import safe_open

        wanted = peft.get_peft_model_state_dict(module, save_embedding_layers=False)
        with safe_open(Path(self.path) / _FILES[1], framework="pt") as file:
            for name in sorted(wanted.keys() & set(file.keys())):
                there, here = tuple(file.get_slice(name).get_shape()), tuple(wanted[name].shape)
                if there != here:
                    return f"{name} is of shape {there}, here of {here}"
        return None

    def _check_head(self, backbone: Backbone) -> None:
        """A fresh head that the adapter does not bring would be scored at random."""
        from safetensors import safe_open

        with safe_open(Path(self.path) / _FILES[1], framework="pt") as file:
            saved = set(file.keys())
        fresh = {id(parameter) for parameter in backbone.head_parameters}
        needed = [name for name, parameter in backbone.model.named_parameters() if id(parameter) in fresh]
        absent = [name for name in needed if not any(key.endswith(f".{name}") for key in saved)]
        if absent:
            kind = json.loads((Path(self.path) / _FILES[0]).read_text(encoding="utf-8")).get("task_type")
            raise ValueError(
                f"adapter: {self.path} (task type {kind}) brings no {absent[0]}, which this task's head needs; "
                "adapters for such tasks are saved with modules_to_save"
            )

    def merge(self, module: Any) -> nn.Module:
        """Fold the adapter into the base weights with peft's ``merge_and_unload``."""
        try:
            return module.merge_and_unload()  # type: ignore[no-any-return]
        except (NotImplementedError, AttributeError, ValueError) as error:
            raise ValueError(f"adapter: peft cannot merge it: {error}") from error


def _register(_: str) -> None:
    register_method(Adapter)


# Asked for by --adapter alone, and no candidate in a comparison of methods: so it is not among the listed methods.
register_family(
    "adapter",
    Family(names=dict, make=_register, help=lambda: "an adapter in peft's format, scored without training: --adapter"),
)
