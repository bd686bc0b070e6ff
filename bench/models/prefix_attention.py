"""Extra keys and values before those of an attention layer of any model, for prefix methods.

Models that call transformers' attention functions get a function that puts the prefix before the layer's own keys
and values, after rotary rotation and after the cache; so caches, beams and fused kernels work unchanged.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn

from bench.models.forward_args import by_name

_SDPA, _EAGER = "sdpa with prefix", "eager with prefix"


class Shared:
    """State shared by the prefixes of one place during a forward pass; holds no parameters.

    Attributes:
        states: (P, m) hidden states of the reparametrisation, None without one. They stay after the forward pass,
            because gradient checkpointing runs layers again during the backward pass.
        made: extended masks and biases of this pass, keyed by what they extend, so that all layers share one.
        bias_owner: the attention that makes T5's relative bias for all layers, or None.
    """

    def __init__(self) -> None:
        self.states: Tensor | None = None
        self.made: dict[Any, tuple[Any, Tensor]] = {}
        self.bias_owner: Any = None

    def once(self, original: Any, key: Any, make: Callable[[], Tensor]) -> Tensor:
        """``make()``, called once per pass and key; the original is kept alive so that its id stays unique."""
        if key not in self.made:
            self.made[key] = (original, make())
        return self.made[key][1]


class Prefix(nn.Module):
    """P keys and values of one attention.

    Free, ``key`` and ``value``: (P, width) each; or from the shared states: Linear(m → 2·width).
    """

    def __init__(self, free: tuple[Tensor, Tensor] | None, up: nn.Linear | None, shared: Shared) -> None:
        super().__init__()
        self.up = up
        self.key = nn.Parameter(free[0]) if free else None
        self.value = nn.Parameter(free[1]) if free else None
        self.shared = shared

    def rows(self) -> tuple[Tensor, Tensor]:
        """Keys and values, (P, width) each."""
        if self.up is None:
            return cast(Tensor, self.key), cast(Tensor, self.value)
        key, value = self.up(self.shared.states).chunk(2, dim=-1)
        return key, value

    def before(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Put the prefix before keys and values (batch, heads, seq, head width): seq grows by P."""
        batch, heads, _, width = key.shape
        joined = []
        for rows, states in zip(self.rows(), (key, value), strict=True):
            # Cast before joining: bf16 states must not be promoted to the prefix's fp32.
            own = rows.to(states.dtype).view(-1, heads, width).transpose(0, 1)
            joined.append(torch.cat((own.expand(batch, -1, -1, -1), states), dim=2))
        return joined[0], joined[1]

    def widen(self, mask: Tensor, length: int, dtype: torch.dtype | None) -> Tensor:
        """Let every query see the P added keys.

        Args:
            mask: (batch, heads or 1, queries, keys), boolean or additive.
            length: P.
            dtype: what a boolean mask becomes, or None. The fused kernels turn a boolean mask into an additive one
                in each layer and keep each for the backward pass; made here, all layers share one.
        """

        def make() -> Tensor:
            seen = mask.new_ones if mask.dtype == torch.bool else mask.new_zeros
            # A padding mask may be one row expanded to all queries: keep it one row.
            rows = mask[..., :1, :] if mask.stride(-2) == 0 else mask
            wide = torch.cat((seen(*rows.shape[:-1], length), rows), dim=-1)
            wide = _additive(wide, dtype) if dtype is not None and wide.dtype == torch.bool else wide
            return wide.expand(*mask.shape[:-1], -1)

        return self.shared.once(mask, (id(mask), dtype), make)

    def causal(self, query: Tensor, keys: int, length: int) -> Tensor:
        """The additive mask for a causal attention called without one: (1, 1, queries, P + keys)."""

        def make() -> Tensor:
            whole = torch.ones(query.shape[2], length + keys, dtype=torch.bool, device=query.device)
            return _additive(whole.tril(length), query.dtype)[None, None]

        return self.shared.once(None, (query.shape[2], keys, query.dtype), make)

    def bias(self, bias: Tensor, length: int) -> Tensor:
        """Extend T5's relative bias (1, heads, queries, keys) by the model's own values for keys before the text."""

        def make() -> Tensor:
            queries, keys = bias.shape[-2:]
            owner = self.shared.bias_owner
            if owner is None:
                own = bias.new_zeros(*bias.shape[:-1], length)
            else:
                past = length + keys - queries
                own = owner.compute_bias(queries, length, device=bias.device, past_seen_tokens=past).to(bias.dtype)
            return torch.cat((own, bias), dim=-1)

        return self.shared.once(bias, id(bias), make)


def _additive(mask: Tensor, dtype: torch.dtype) -> Tensor:
    # No row is all −∞: the prefix is never masked.
    return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill_(~mask, float("-inf"))


def _attention(inner: Callable[[nn.Module], Callable[..., Any]], fused: bool) -> Callable[..., Any]:
    """An attention function, as transformers' models call them, over a prefix and the layer's own keys."""

    def attend(
        module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **kwargs: Any
    ) -> Any:
        prefix: Prefix = module.prefix
        queries, keys = query.shape[2], key.shape[2]
        key, value = prefix.before(key, value)
        length = key.shape[2] - keys
        causal = kwargs.get("is_causal")
        causal = getattr(module, "is_causal", True) if causal is None else causal
        bias = kwargs.get("position_bias")
        if attention_mask is not None:
            attention_mask = prefix.widen(attention_mask, length, query.dtype if fused and bias is None else None)
        elif fused and causal and queries > 1:
            attention_mask = prefix.causal(query, keys, length)
        if bias is not None:
            kwargs["position_bias"] = prefix.bias(bias, length)
        return inner(module)(module, query, key, value, attention_mask, **kwargs)

    return attend


def _sdpa(module: nn.Module) -> Callable[..., Any]:
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    return cast(Callable[..., Any], ALL_ATTENTION_FUNCTIONS["sdpa"])


def _eager(module: nn.Module) -> Callable[..., Any]:
    # Each model file has its own; there is no registry of them.
    return cast(Callable[..., Any], sys.modules[type(module).__module__].eager_attention_forward)


def implementation(current: str) -> str:
    """The name of the attention function with prefix for a model that uses ``current``: sdpa, or its own eager one.

    Models look up their attention function by a name in their configuration. The two names are registered at the first
    call, because transformers' modelling code takes a second to import.
    """
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS, AttentionInterface

    if _SDPA not in ALL_ATTENTION_FUNCTIONS:
        AttentionInterface.register(_SDPA, _attention(_sdpa, fused=True))
        AttentionInterface.register(_EAGER, _attention(_eager, fused=False))
    return _SDPA if current == "sdpa" else _EAGER


class PaddedAttention:
    """A prefix for DeBERTa's attention, which does not call transformers' attention functions.

    Its position terms need as many queries as keys. So P zero rows are put before the hidden states, their keys and
    values are replaced by the prefix, and their outputs are removed. The relative positions are then the model's own
    for a text that follows P tokens.
    """

    def __init__(self, prefix: Prefix, attention: Any) -> None:
        self.prefix = prefix
        self.hidden: Tensor | None = None
        attention.register_forward_pre_hook(self.pad, with_kwargs=True)
        for which, projection in enumerate((attention.key_proj, attention.value_proj)):
            projection.register_forward_hook(partial(self._fill, which))
        attention.register_forward_hook(self.cut)

    def pad(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[()], Any]:
        """Pre-hook of the attention: hidden states (batch, seq, d) and mask (batch, 1, seq, seq) grow by P."""
        call = dict(by_name(module, args, kwargs))
        hidden, mask = call["hidden_states"], call["attention_mask"]
        length = len(self.prefix.rows()[0])
        self.hidden = nn.functional.pad(hidden, (0, 0, length, 0))
        shared = self.prefix.shared
        wide = shared.once(mask, id(mask), lambda: nn.functional.pad(mask, (length, 0, length, 0), value=1))
        return (), call | {"hidden_states": self.hidden, "attention_mask": wide, "relative_pos": None}

    def _fill(self, which: int, module: nn.Module, args: tuple[Any, ...], out: Tensor) -> Tensor:
        """Hook of the key map (``which`` 0) and the value map (1)."""
        # With shared position maps the same module also maps the relative embeddings, which have no prefix.
        if args[0] is not self.hidden:
            return out
        rows = self.prefix.rows()[which].to(out.dtype)
        return torch.cat((rows.expand(len(out), -1, -1), out[:, len(rows) :]), dim=1)

    def cut(self, module: nn.Module, args: tuple[Any, ...], out: tuple[Tensor, Any]) -> tuple[Tensor, Any]:
        """Hook of the attention: (batch, P + seq, d) → (batch, seq, d)."""
        self.hidden = None
        return out[0][:, len(self.prefix.rows()[0]) :], out[1]
