"""Every tuner type of the installed peft (github.com/huggingface/peft, Mangrulkar et al. 2022) as ``peft:NAME``.

A method class is made when its name is first looked up: its options are the simple fields of peft's configuration
class, its module is the result of ``peft.get_peft_model``. peft is imported only then (it takes seconds).
"""

from __future__ import annotations

import ast
import copy
import dataclasses
import functools
import importlib.metadata
import importlib.util
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from bench.core.errors import RequestError, unknown
from bench.core.protocols import option
from bench.core.registry import Family, register_family, register_method
from bench.methods.peft_options import Field, fields_of
from bench.models.backbone import Backbone

_PREFIX = "peft:"
INSTALL = "peft is not installed. Install the extra: pip install 'tunebench[peft]'"
_TASKS = {
    "classification": "SEQ_CLS",
    "regression": "SEQ_CLS",
    "causal-lm": "CAUSAL_LM",
    "seq2seq": "SEQ_2_SEQ_LM",
}
# What --ranks sets: the first of these that a configuration has.
_SIZES = (
    "num_virtual_tokens", "adapter_len", "init_r", "oft_block_size", "n_frequency", "boft_block_size", "r",
    "block_size",
)  # fmt: skip
# peft requires these but has no default: the values of its own examples and of LLaMA-Adapter's paper.
_NEEDED = {"num_virtual_tokens": 20, "adapter_len": 10, "total_step": 1_000_000}
# Learning rates that peft's examples or the papers use; the others take LoRA's.
_LR = {
    "prompt_tuning": 3e-2,  # peft docs, prompt-based methods
    "prefix_tuning": 1e-2,  # peft docs, prefix tuning
    "p_tuning": 1e-3,
    "multitask_prompt_tuning": 3e-2,
    "cpt": 3e-2,
    "adaption_prompt": 9e-3,  # arXiv 2303.16199, section 4.1
    "ia3": 3e-3,  # arXiv 2205.05638, section 3.3
    "vera": 4e-3,  # arXiv 2310.11454, table 8 (RoBERTa-base, SST-2)
    "fourierft": 5e-2,  # arXiv 2405.03003, table 9 (RoBERTa-base, SST-2)
}
_DEFAULT_LR = 1e-3
# Types whose targets are not linear maps, so that query and value cannot stand in for them.
_NORMS = ("LN_TUNING",)
_NO_TARGETS = ("TRAINABLE_TOKENS", "ADAPTION_PROMPT", "SHADOW")
_IN_EMBEDDINGS = ("PROMPT_TUNING", "P_TUNING", "MULTITASK_PROMPT_TUNING")  # prompts before the text's own embeddings
_OURS = {"P_TUNING": "p-tuning"}  # this package's method of a type; the others have ``prompt``
# Types whose forward takes the task of each row; here there is one task.
_NEED_TASK_IDS = ("POLY", "MULTITASK_PROMPT_TUNING")
# Options without which a type trains nothing.
_MUST_SET = {"CPT": "cpt_token_ids", "TRAINABLE_TOKENS": "token_indices"}
# Types that a bench run cannot carry out, and why.
REFUSED = {
    "XLORA": "it mixes trained LoRA adapters and needs their folders; use peft:lora for one adapter",
}


def names() -> dict[str, str]:
    """Tuner types of the installed peft with one line each; empty without peft. Reads one file, imports nothing."""
    spec = importlib.util.find_spec("peft")
    if spec is None or spec.origin is None:
        return {}
    tree = ast.parse((Path(spec.origin).parent / "utils" / "peft_types.py").read_text(encoding="utf-8"))
    kinds = next(node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == "PeftType")
    values = [ast.literal_eval(node.value) for node in kinds.body if isinstance(node, ast.Assign)]
    return {f"{_PREFIX}{kind.lower()}": f"peft's {kind}" for kind in values}


def make(name: str) -> None:
    """Make and register the method class of a tuner type.

    Raises:
        RequestError: when peft is not installed, has no such type, or the type cannot be run here.
    """
    known = names()
    if not known:
        raise RequestError(f"{name}: {INSTALL}.", code="package-missing")
    if name not in known:
        raise RequestError(unknown("method", name, known), code="invalid-value")
    kind = name.removeprefix(_PREFIX).upper()
    if kind in REFUSED:
        raise RequestError(f"{name}: {REFUSED[kind]}.", code="unsupported")
    config, tuner = _classes(kind)
    if config is None:
        raise RequestError(
            f"{name}: the installed peft lists this type but has no configuration for it.", code="unsupported"
        )
    register_method(_method(name, config, tuner))


def _classes(kind: str) -> tuple[Any, Any]:
    """peft's configuration and tuner classes of a type; None for a missing one (prompt types have no tuner)."""
    from peft import mapping

    configs: Any = mapping.PEFT_TYPE_TO_CONFIG_MAPPING
    tuners: Any = mapping.PEFT_TYPE_TO_TUNER_MAPPING
    return configs.get(kind), tuners.get(kind)


def _method(name: str, config: type, tuner: type | None) -> type:
    """The frozen dataclass of a tuner type, with ``merge`` and ``after_step`` only where the type has them."""
    kind = name.removeprefix(_PREFIX)
    fields, left_out = fields_of(config, _NEEDED)
    by_name = {field.name: field for field in fields}
    namespace: dict[str, Any] = {
        "name": name,
        "swept": next((size for size in _SIZES if size in by_name), None),
        "code_version": importlib.metadata.version("peft"),
        "config_class": config,
        "fields": by_name,
        "attach": attach,
        "to_peft": to_peft,
        "__doc__": _document(name, config, left_out),
    }
    if tuner is not None and _merges(tuner):
        namespace["merge"] = merge
    if hasattr(tuner, "update_and_allocate"):
        namespace["after_step"] = after_step
    members = [(field.name, field.type, option(field.default, field.help, choices=field.choices)) for field in fields]
    members.append(("lr", float, option(_LR.get(kind, _DEFAULT_LR), "peak learning rate", low=0.0)))
    cls = dataclasses.make_dataclass(config.__name__, members, namespace=namespace, frozen=True)
    cls.__module__ = __name__
    return cls


def _merges(tuner: Any) -> bool:
    """Whether any layer class of a tuner implements ``merge`` (the base class only raises)."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    layer = getattr(tuner, "tuner_layer_cls", None)
    classes = [] if layer is None else [layer]
    for cls in classes:  # grows meanwhile
        if cls.merge is not BaseTunerLayer.merge:
            return True
        classes += cls.__subclasses__()
    return False


def _document(name: str, config: type, left_out: list[str]) -> str:
    version = importlib.metadata.version("peft")
    missing = f"\n\nOptions of {config.__name__} that are not simple values are left out: {', '.join(left_out)}."
    return (
        f"{name.removeprefix(_PREFIX)} of peft {version}; the options are those of {config.__name__}.\n\n"
        f"Source: {config.__module__}." + (missing if left_out else "")
    )


def attach(self: Any, backbone: Backbone) -> nn.Module:
    """Apply ``peft.get_peft_model`` to the backbone; the fresh head is trained too.

    Raises:
        ValueError: when peft cannot use this model or these options, with peft's own message.
    """
    needed = _MUST_SET.get(_kind(self))
    if needed and not getattr(self, needed):
        raise ValueError(f"{self.name}: it needs token ids to train: --set {self.name}.{needed}=5,6,7 (or use prompt)")
    return attach_with_or_without_weights(functools.partial(_attached, self), backbone)


def attach_with_or_without_weights(attach: Callable[[Backbone], nn.Module], backbone: Backbone) -> nn.Module:
    """``attach(backbone)``, also on the meta device for types that read the weights when they are attached.

    Those (a singular value decomposition, a mask of the largest) get random ones there. Where the model itself is
    unsuitable, the second try raises as well.
    """
    if not any(parameter.is_meta for parameter in backbone.model.parameters()):
        return attach(backbone)
    spare = copy.deepcopy(backbone)  # free on the meta device
    try:
        return attach(backbone)
    except ValueError:
        spare.model.to_empty(device="cpu")
        for tensor in (*spare.model.parameters(), *spare.model.buffers()):
            if tensor.is_floating_point():
                tensor.data.normal_(std=0.02)
            else:
                tensor.data.zero_()
        return attach(spare).to("meta")


def padded_heads(kind: str, backbone: Backbone) -> str | None:
    """Why a type cannot be scored in batches with a decoder's classification head; None where it can."""
    decoder = [tower.name for tower in backbone.towers()] == ["decoder"]
    if kind not in _IN_EMBEDDINGS or not decoder or backbone.kind == "causal-lm":
        return None
    return (
        "on a decoder with a head peft gives the model no token ids, so that padding decides the class of all but a "
        "batch's longest row"
    )


def _attached(method: Any, backbone: Backbone) -> nn.Module:
    import peft

    if refused := padded_heads(_kind(method), backbone):
        raise ValueError(f"{method.name}: {refused}; use {_OURS.get(_kind(method), 'prompt')}")
    try:
        with warnings.catch_warnings():
            # peft still reads this attribute of transformers' models by its old name.
            warnings.filterwarnings("ignore", message=".is_gradient_checkpointing. is deprecated")
            module: Any = peft.get_peft_model(backbone.model, _config(method, backbone))
    except torch.OutOfMemoryError:
        raise
    except (ValueError, TypeError, KeyError, AttributeError, ImportError, RuntimeError, AssertionError) as error:
        # peft raises any of these for an unsupported model or setting.
        family, reason = backbone.config.model_type, " ".join(str(error).split())
        raise ValueError(
            f"{method.name}: peft cannot put it on this {family} model: {reason} "
            f"(change its options, see bench show {method.name}, or use lora)"
        ) from error
    inside = {id(parameter) for parameter in module.parameters()}
    copied = {id(parameter) for parameter in _originals_of_copies(module)}
    for parameter in backbone.head_parameters:
        if id(parameter) in inside and id(parameter) not in copied:
            parameter.requires_grad_(True)
    drop_virtual_logits(module, _kind(method), backbone)
    if _kind(method) in _NEED_TASK_IDS:
        module.register_forward_pre_hook(_add_task_ids, with_kwargs=True)
    return module  # type: ignore[no-any-return]


def drop_virtual_logits(module: nn.Module, kind: str, backbone: Backbone) -> None:
    """Make a language model with peft's virtual tokens return only the real tokens' logits."""
    if kind in _IN_EMBEDDINGS and backbone.kind == "causal-lm":
        module.register_forward_hook(_without_virtual, with_kwargs=True)


def _kind(method: Any) -> str:
    return str(method.name).removeprefix(_PREFIX).upper()


def _originals_of_copies(module: nn.Module) -> list[nn.Parameter]:
    """The frozen originals that peft keeps next to the trained copies of ``modules_to_save``."""
    from peft.utils import ModulesToSaveWrapper

    wrappers = [child for child in module.modules() if isinstance(child, ModulesToSaveWrapper)]
    return [parameter for wrapper in wrappers for parameter in wrapper.original_module.parameters()]


def _without_virtual(_: nn.Module, __: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> Any:
    """Forward hook: keep only the logits of the given ids."""
    ids = kwargs.get("input_ids")
    if ids is not None and out.logits.shape[1] > ids.shape[1]:
        out.logits = out.logits[:, -ids.shape[1] :]
    return out


def _add_task_ids(
    _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    rows = next(value for value in kwargs.values() if isinstance(value, Tensor))
    return args, {"task_ids": torch.zeros(len(rows), dtype=torch.long, device=rows.device), **kwargs}


def _config(method: Any, backbone: Backbone) -> Any:
    """peft's configuration object for a model: the changed options, and those that the model determines."""
    from peft.config import PromptLearningConfig

    known = {field.name for field in dataclasses.fields(method.config_class)}
    chosen = {name: field.native(getattr(method, name)) for name, field in _changed(method).items()}
    chosen["task_type"] = _TASKS.get(backbone.kind)
    if backbone.kind == "seq2seq" and not issubclass(method.config_class, PromptLearningConfig):
        # peft's class for it only adds generation, through an attribute that transformers 5 no longer has.
        chosen["task_type"] = None
    if "fan_in_fan_out" in known and any(isinstance(site.module, Conv1D) for site in backbone.sites(("all",))):
        chosen["fan_in_fan_out"] = True
    if "modules_to_save" in known:
        chosen["modules_to_save"] = [*(chosen.get("modules_to_save") or ()), *backbone.head_modules()] or None
    if "target_modules" in known and not chosen.get("target_modules"):
        targets = _default_targets(method, backbone)
        chosen |= {"target_modules": targets} if targets else {}
    if "adapter_layers" in known and not chosen.get("adapter_layers"):
        chosen["adapter_layers"] = len(backbone.towers()[0].layers)
    if "encoder_hidden_size" in known and not chosen.get("encoder_hidden_size"):
        chosen["encoder_hidden_size"] = backbone.width  # peft's examples: the model's own width
    return method.config_class(**chosen)


def _changed(method: Any) -> dict[str, Field]:
    """The options that differ from peft's own defaults, and those for which peft has none."""
    return {
        name: field
        for name, field in method.fields.items()
        if name in _NEEDED or getattr(method, name) != field.default
    }


def _default_targets(method: Any, backbone: Backbone) -> list[str] | None:
    """Targets in a family for which peft has no defaults: query and value maps, or all norms; None: peft decides."""
    known = getattr(_classes(_kind(method))[1], "target_module_mapping", None)
    if known is None or backbone.config.model_type in known or _kind(method) in _NO_TARGETS:
        return None
    if _kind(method) in _NORMS:
        base = f"{backbone.base_path}." if backbone.base_path else ""
        return [path for path, module in backbone.model.named_modules() if path.startswith(base) and _is_norm(module)]
    roles = {role for tower in backbone.towers() for role in tower.roles}
    return [site.path for site in backbone.sites([role for role in ("query", "value", "qkv") if role in roles])]


def _is_norm(module: nn.Module) -> bool:
    weight = getattr(module, "weight", None)
    return isinstance(weight, Tensor) and weight.ndim == 1 and not list(module.children())


def merge(self: Any, module: Any) -> nn.Module:
    """Fold the update into the base weights with peft's ``merge_and_unload``.

    Raises:
        ValueError: when peft cannot merge this type with these options.
    """
    try:
        return module.merge_and_unload()  # type: ignore[no-any-return]
    except (NotImplementedError, AttributeError, ValueError) as error:
        raise ValueError(f"{self.name}: peft cannot merge it: {error or 'not implemented'}") from error


def after_step(self: Any, module: Any, step: int, steps: int) -> None:
    """Let peft reallocate its rank budget (AdaLoRA, AdaMSS); the first call sets the number of steps."""
    tuner = module.base_model
    allocator = getattr(tuner, "rankallocator", None)
    if step == 1 and allocator is not None and self.total_step == _NEEDED["total_step"]:
        allocator.set_total_step(steps)
    tuner.update_and_allocate(step)


def to_peft(self: Any, module: Any, original: Any) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """peft's own configuration and state dict of the module."""
    from peft.utils import get_peft_model_state_dict

    return module.peft_config["default"].to_dict(), get_peft_model_state_dict(module)


@functools.cache
def _summary() -> str:
    known = names()
    if not known:
        return INSTALL
    kinds = ", ".join(name.removeprefix(_PREFIX) for name in known)
    return f"every tuner type of the installed peft {importlib.metadata.version('peft')}: {kinds}"


register_family(_PREFIX, Family(names=names, make=make, help=_summary))
