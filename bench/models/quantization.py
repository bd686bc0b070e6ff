"""A quantised frozen base: int8 or nf4 by bitsandbytes, and which methods support one.

Weights stored in 8 or 4 bits can be used in a product but neither trained nor read. Whether a method respects that is
tested by attaching it to a weightless copy whose weights raise when they are read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from bench.core.errors import RequestError, unknown

if TYPE_CHECKING:
    from torch import nn

    from bench.models.backbone import Backbone

# int8: LLM.int8(), arXiv 2208.07339; nf4: QLoRA, arXiv 2305.14314.
SCHEMES = ("int8", "nf4")
_NEEDED = ("bitsandbytes", "accelerate")


def require(scheme: str) -> None:
    """Check that a scheme exists and that its packages are installed.

    torchao's int8 weights do not work here: they cannot be moved to a device while another reference to them exists,
    as the checks of a run hold.

    Raises:
        RequestError: when not.
    """
    if scheme not in SCHEMES:
        raise RequestError([unknown("scheme", scheme, SCHEMES).within("--quantize: ")])
    missing = [name for name in _NEEDED if find_spec(name) is None]
    if missing:
        raise RequestError(
            f"--quantize {scheme} needs {' and '.join(missing)}: pip install 'tunebench[quantize]'.",
            code="package-missing",
        )


def settings(scheme: str, shape: Backbone) -> Any:
    """The value of transformers' ``quantization_config`` that quantises the linear maps of the blocks only.

    Args:
        scheme: one of ``SCHEMES``.
        shape: a weightless copy of the model; its heads, poolers and projections stay unquantised.
    """
    import torch
    from torch import nn
    from transformers import BitsAndBytesConfig
    from transformers.pytorch_utils import Conv1D

    changed = packed(shape)
    linear = {name for name, module in shape.model.named_modules() if isinstance(module, nn.Linear | Conv1D)}
    kept = sorted(linear - set(changed))
    require(scheme)
    chosen: dict[str, Any] = {"load_in_8bit": True}
    if scheme == "nf4":
        chosen = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_compute_dtype": torch.float32}
    return BitsAndBytesConfig(**chosen, llm_int8_skip_modules=kept)  # type: ignore[no-untyped-call]


def packed(backbone: Backbone) -> dict[str, nn.Module]:
    """The linear maps that are stored quantised, those of the blocks, by dotted path."""
    return {site.path: site.module for site in backbone.sites(["all"])}


def prevent_repacking(model: nn.Module) -> None:
    """Keep bitsandbytes from repacking 4-bit weights in place at the first evaluation on a CPU.

    Repacked weights give no gradient for their input, so training after an evaluation would be wrong.
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False  # type: ignore[assignment]


class _WeightRead(Exception):
    """A sealed weight was read or made trainable."""


def check(backbone: Backbone, act: Callable[[], Any], scheme: str) -> None:
    """Call ``act`` (a method's attach and initialisation) and check that it does not use the quantised weights.

    Args:
        backbone: a weightless copy of the model.
        act: attaches the method to it.
        scheme: for the message.

    Raises:
        ValueError: when it reads, changes or trains one.
    """
    weights = {id(module.weight): name for name, module in packed(backbone).items()}
    try:
        with _seal(weights):
            act()
    except _WeightRead as error:
        raise ValueError(
            f"it reads or trains {error}.weight, which --quantize {scheme} stores quantised; use a method or option "
            "that leaves the base's weights alone (bench show METHOD), or leave --quantize out"
        ) from error


def weightless_batches(backbone: Backbone) -> Iterator[dict[str, Any]]:
    """One batch of one row on the meta device, as a text or image model takes it."""
    import torch

    with torch.device("meta"):
        labels = torch.zeros(1, dtype=torch.float32 if backbone.kind == "regression" else torch.int64)
        if "image" in backbone.kind:
            side = backbone.config.image_size
            yield {"pixel_values": torch.zeros(1, backbone.config.num_channels, side, side), "labels": labels}
            return
        ids = torch.ones(1, 8, dtype=torch.int64)
        words = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        yield words | {"labels": ids if backbone.kind in ("causal-lm", "seq2seq") else labels}


_METADATA = {
    "shape", "device", "dtype", "ndim", "is_meta", "is_leaf", "grad", "grad_fn", "layout", "size", "dim", "numel",
    "is_floating_point", "is_complex", "element_size", "__hash__", "is_sparse", "is_quantized", "requires_grad",
    "names",
}  # fmt: skip


def _seal(weights: Mapping[int, str]) -> Any:
    """A mode in which only the metadata of these tensors can be read."""
    from torch.overrides import TorchFunctionMode

    class Seal(TorchFunctionMode):
        def __torch_function__(
            self, function: Any, types: Iterable[type], args: tuple[Any, ...] = (), kwargs: Any = None
        ) -> Any:
            kwargs = kwargs or {}
            touched = [weights[id(value)] for value in (*args, *kwargs.values()) if id(value) in weights]
            if touched and not _harmless(function, args, kwargs):
                raise _WeightRead(touched[0])
            return function(*args, **kwargs)

    return Seal()


def _harmless(function: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
    name = getattr(function, "__name__", "")
    if name == "__get__":
        return getattr(getattr(function, "__self__", None), "__name__", "") in _METADATA
    if name in ("requires_grad_", "__set__"):
        property_name = getattr(getattr(function, "__self__", None), "__name__", "requires_grad")
        freezes = [*args[1:], *kwargs.values()] == [False]
        return freezes and (name == "requires_grad_" or property_name == "requires_grad")
    return name in _METADATA
