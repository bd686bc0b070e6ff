"""Every tuner type of the installed peft (github.com/huggingface/peft, Mangrulkar et al. 2022) as ``peft:NAME``.

A method class is made when its name is first asked for: its options are the simple fields of peft's own
configuration class, its module is what ``peft.get_peft_model`` gives. peft is imported only then (it takes seconds).
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
    "num_virtual_tokens",
    "adapter_len",
    "init_r",
    "oft_block_size",
    "n_frequency",
    "boft_block_size",
    "r",
    "block_size",
)
# peft gives no default for these but cannot do without: as many as its own examples and LLaMA-Adapter's paper use.
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
# Types whose layers ask in every forward which task a row is of; here there is one.
_IN_EMBEDDINGS = ("PROMPT_TUNING", "P_TUNING", "MULTITASK_PROMPT_TUNING")  # prompts before the text's own embeddings
_OURS = {"P_TUNING": "p-tuning"}
_ASK_TASK = ("POLY", "MULTITASK_PROMPT_TUNING")
# Options without which a type trains nothing.
_MUST_SET = {"CPT": "cpt_token_ids", "TRAINABLE_TOKENS": "token_indices"}
# Types that a bench run cannot carry out, and why.
REFUSED = {
    "XLORA": "it mixes LoRA adapters that were trained before and needs their folders; use peft:lora for one adapter",
}


def names() -> dict[str, str]:
    """Name of each tuner type of the installed peft → one line; empty without peft. Reads one file, imports nothing."""
    spec = importlib.util.find_spec("peft")
    if spec is None or spec.origin is None:
        return {}
    tree = ast.parse((Path(spec.origin).parent / "utils" / "peft_types.py").read_text(encoding="utf-8"))
    kinds = next(node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == "PeftType")
    found = [ast.literal_eval(node.value) for node in kinds.body if isinstance(node, ast.Assign)]
    return {f"{_PREFIX}{kind.lower()}": f"peft's {kind}" for kind in found}


def make(name: str) -> None:
    """Make and register the method class of a tuner type.

    Raises:
        RequestError: when peft is not installed, has no such type, or the type cannot be run here.
    """
    there = names()
    if not there:
        raise RequestError(f"{name}: {INSTALL}.")
    if name not in there:
        raise RequestError(unknown("method", name, there))
    kind = name.removeprefix(_PREFIX).upper()
    if kind in REFUSED:
        raise RequestError(f"{name}: {REFUSED[kind]}.")
    config, tuner = _classes(kind)
    if config is None:
        raise RequestError(f"{name}: the installed peft names this type but has no configuration for it.")
    register_method(_method(name, config, tuner))


def _classes(kind: str) -> tuple[Any, Any]:
    """peft's configuration and tuner classes of a type; None for what it lacks (prompt types have no tuner)."""
    from peft import mapping

    configs: Any = mapping.PEFT_TYPE_TO_CONFIG_MAPPING
    tuners: Any = mapping.PEFT_TYPE_TO_TUNER_MAPPING
    return configs.get(kind), tuners.get(kind)


def _method(name: str, config: type, tuner: type | None) -> type:
    """The frozen dataclass of a tuner type; abilities that the type lacks are left out of the class."""
    kind = name.removeprefix(_PREFIX)
    fields, left_out = fields_of(config, _NEEDED)
    made = {field.name: field for field in fields}
    namespace: dict[str, Any] = {
        "name": name,
        "swept": next((size for size in _SIZES if size in made), None),
        "code_version": importlib.metadata.version("peft"),
        "config_class": config,
        "fields": made,
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
    """Whether any layer class of a tuner says how to merge (the base class only raises)."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    layer = getattr(tuner, "tuner_layer_cls", None)
    waiting = [] if layer is None else [layer]
    while waiting:
        cls = waiting.pop()
        if cls.merge is not BaseTunerLayer.merge:
            return True
        waiting += cls.__subclasses__()
    return False


def _document(name: str, config: type, left_out: list[str]) -> str:
    version = importlib.metadata.version("peft")
    missing = f"\n\nOptions of {config.__name__} that are not simple values are left out: {', '.join(left_out)}."
    return (
        f"{name.removeprefix(_PREFIX)} as peft {version} does it; the options are those of {config.__name__}.\n\n"
        f"Source: {config.__module__}." + (missing if left_out else "")
    )


def attach(self: Any, backbone: Backbone) -> nn.Module:
    """Give the backbone to ``peft.get_peft_model``; the fresh head is trained with it.

    Raises:
        ValueError: when peft cannot use this model or these options; its own words are in the message.
    """
    needed = _MUST_SET.get(_kind(self))
    if needed and not getattr(self, needed):
        raise ValueError(f"{self.name}: it needs token ids to train: --set {self.name}.{needed}=5,6,7 (or use prompt)")
    return without_weights_too(functools.partial(_attached, self), backbone)


def without_weights_too(attach: Callable[[Backbone], nn.Module], backbone: Backbone) -> nn.Module:
    """``attach(backbone)``, also on the meta device for types that look at the weights when they are attached.

    Those (a singular value decomposition, a mask of the largest) are given random ones there. Unsuited models fail
    once more, and then say why.
    """
    if not any(parameter.is_meta for parameter in backbone.model.parameters()):
        return attach(backbone)
    spare = copy.deepcopy(backbone)  # without weights a copy costs nothing
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
    """Why a type of peft cannot be scored in batches under a decoder's head; None where it can."""
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
            # peft still reads this attribute of transformers' models by its old name: nothing a person can change.
            warnings.filterwarnings("ignore", message=".is_gradient_checkpointing. is deprecated")
            module: Any = peft.get_peft_model(backbone.model, _config(method, backbone))
    except torch.OutOfMemoryError:
        raise
    except (ValueError, TypeError, KeyError, AttributeError, ImportError, RuntimeError, AssertionError) as error:
        # peft raises any of these for a model or a setting that a type is not made for.
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
    leave_virtual_out(module, _kind(method), backbone)
    if _kind(method) in _ASK_TASK:
        module.register_forward_pre_hook(_one_task, with_kwargs=True)
    return module  # type: ignore[no-any-return]


def leave_virtual_out(module: nn.Module, kind: str, backbone: Backbone) -> None:
    """Have a language model with peft's virtual tokens answer with the logits of the real ones alone."""
    if kind in _IN_EMBEDDINGS and backbone.kind == "causal-lm":
        module.register_forward_hook(_without_virtual, with_kwargs=True)


def _kind(method: Any) -> str:
    return str(method.name).removeprefix(_PREFIX).upper()


def _originals_of_copies(module: nn.Module) -> list[nn.Parameter]:
    """The frozen originals that peft keeps beside the trained copies of ``modules_to_save``."""
    from peft.utils import ModulesToSaveWrapper

    wrappers = [child for child in module.modules() if isinstance(child, ModulesToSaveWrapper)]
    return [parameter for wrapper in wrappers for parameter in wrapper.original_module.parameters()]


def _without_virtual(_: nn.Module, __: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> Any:
    """Leave the virtual tokens' logits out: whoever gave so many ids wants logits for those."""
    ids = kwargs.get("input_ids")
    if ids is not None and out.logits.shape[1] > ids.shape[1]:
        out.logits = out.logits[:, -ids.shape[1] :]
    return out


def _one_task(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    rows = next(value for value in kwargs.values() if isinstance(value, Tensor))
    return args, {"task_ids": torch.zeros(len(rows), dtype=torch.long, device=rows.device), **kwargs}


def _config(method: Any, backbone: Backbone) -> Any:
    """peft's configuration object for a model: the options that were changed, and what follows from the model."""
    from peft.config import PromptLearningConfig

    known = {field.name for field in dataclasses.fields(method.config_class)}
    chosen = {name: field.native(getattr(method, name)) for name, field in _changed(method).items()}
    chosen["task_type"] = _TASKS.get(backbone.kind)
    if backbone.kind == "seq2seq" and not issubclass(method.config_class, PromptLearningConfig):
        # peft's class for it adds nothing but generation, through an attribute that transformers 5 no longer has.
        chosen["task_type"] = None
    if "fan_in_fan_out" in known and any(isinstance(site.module, Conv1D) for site in backbone.sites(("all",))):
        chosen["fan_in_fan_out"] = True
    if "modules_to_save" in known:
        wanted = [*(chosen.get("modules_to_save") or ()), *backbone.head_modules()]
        chosen["modules_to_save"] = wanted or None
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
    except (NotImplementedError, ValueError) as error:
        raise ValueError(f"{self.name}: peft cannot merge it: {error or 'not implemented'}") from error


def after_step(self: Any, module: Any, step: int, steps: int) -> None:
    """Let peft reallocate its rank budget (AdaLoRA, AdaMSS); it learns the number of steps at the first."""
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
    there = names()
    if not there:
        return INSTALL
    kinds = ", ".join(name.removeprefix(_PREFIX) for name in there)
    return f"every tuner type of the installed peft {importlib.metadata.version('peft')}: {kinds}"


register_family(_PREFIX, Family(names=names, make=make, help=_summary))
