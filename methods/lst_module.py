"""The module that replaces a frozen stack of blocks and returns a side network's states."""

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from transformers.cache_utils import Cache, EncoderDecoderCache

from bench.methods.lst_side_network import Own, SideNetwork, argument_names
from bench.models.forward_args import by_name, key_values, named
from bench.models.frozen_backbone import Feed, Reading, Stored

# Attributes answered by the backbone; only these, or a model class could bypass the ladder.
_BACKBONE_ATTRIBUTES = ("main_input_name", "embed_tokens", "get_input_embeddings")

Tap = Callable[[int, Tensor], Tensor]


@dataclass(frozen=True)
class Place:
    """Where a ladder is placed, and its options.

    Attributes:
        layers: path of the list of blocks inside the backbone.
        stack: ``encoder`` or ``decoder``.
        paired: whether it is one of an encoder-decoder's two ladders.
        residual: add the backbone's last states to Up's output.
        backbone_dropout: keep the backbone's dropout on while training.
    """

    layers: str
    stack: str
    paired: bool
    residual: bool
    backbone_dropout: bool


class Ladder(nn.Module):
    """A frozen backbone with a side network; the model's own head reads the side's states.

    So every head, loss, pooling and generation loop of the model class works unchanged. The backbone runs under
    ``no_grad`` and, unless ``backbone_dropout`` is set, in eval mode, so its features depend on the input alone.

    An encoder below a decoder returns its backbone's and its side's states joined, (batch, seq, d + d/r): the decoder's
    backbone reads the first d, its side the rest. Joined, they pass unchanged through what a generation loop does with
    encoder states (repeating rows for beams).
    """

    def __init__(self, backbone: nn.Module, side: SideNetwork, place: Place) -> None:
        super().__init__()
        self.backbone, self.side, self.place = backbone, side, place
        self.feed: Feed | None = None
        self._names = argument_names(self.layers[0])[1:]
        self._returns: int | None = None  # values in the tuple a block returns; 0: a tensor
        self.train(self.training)

    def train(self, mode: bool = True) -> "Ladder":
        """Set the side network's mode; the backbone stays in eval mode unless its dropout is on."""
        super().train(mode)
        self.backbone.train(mode and self.place.backbone_dropout)
        return self

    def __getattr__(self, name: str) -> Any:
        """What model classes read from the module they hold: the backbone's embeddings."""
        return getattr(self.backbone, name) if name in _BACKBONE_ATTRIBUTES else super().__getattr__(name)

    @property
    def layers(self) -> nn.ModuleList:
        """The backbone's blocks."""
        return cast(nn.ModuleList, self.backbone.get_submodule(self.place.layers))

    @property
    def holder(self) -> nn.Module:
        """The backbone's module that holds the blocks, and the norm after them if there is one."""
        return self.backbone.get_submodule(self.place.layers.rpartition(".")[0])

    @property
    def steady(self) -> bool:
        """Whether the features depend on the input alone."""
        return not self.place.backbone_dropout

    @property
    def taps(self) -> str:
        """The blocks whose outputs are read."""
        return f"{self.place.layers} {self.side.kept}"

    def read(self, inputs: Mapping[str, Any]) -> Reading:
        """Run the frozen backbone; its features (embeddings, each kept layer's raw output) are detached.

        Args:
            inputs: the backbone's arguments by name; in a decoder that attends across, the encoder's states without
                its side's.
        """
        return self._run(lambda _, feature: feature, inputs)

    @property
    def stores(self) -> dict[str, Stored]:
        """Each kept layer's raw output, and the backbone's last states where they are added to the side's.

        Not the embeddings: ``recall`` computes them anyway, to get the blocks' arguments.
        """
        stores = {f"layer.{index}": Stored(self.side.width, tokens=True) for index in self.side.kept}
        if self.place.residual and self.side.up is not None:
            stores["last"] = Stored(self.side.up.out_features, tokens=True)
        return stores

    def store(self, reading: Reading) -> dict[str, Tensor]:
        """The outputs of a pass through the blocks: (batch, seq, d) each."""
        states = [*reading.features[1:], reading.output.last_hidden_state]
        return dict(zip(self.stores, states, strict=False))

    def recall(self, inputs: Mapping[str, Any], stored: Mapping[str, Tensor]) -> Reading:
        """The same reading with the blocks skipped: masks, positions and embeddings come from the inputs alone."""
        with self._skipped(inputs):
            outline = self._run(lambda position, feature: feature if position == 0 else feature[:0], inputs)
        features = [outline.features[0], *(stored[f"layer.{index}"] for index in self.side.kept)]
        output = copy.copy(outline.output)
        if "last" in stored:
            output.last_hidden_state = stored["last"]
        return Reading(output, features, outline.calls)

    @contextmanager
    def _skipped(self, inputs: Mapping[str, Any]) -> Iterator[None]:
        """Within the context every block returns its input states, in the form its class returns."""
        if self._returns is None:  # no pass has run yet
            self.read({name: value[:1] if isinstance(value, Tensor) else value for name, value in inputs.items()})
        rest = (None,) * ((self._returns or 1) - 1)

        def identity(hidden_states: Tensor, *_: Any, **__: Any) -> Any:
            return (hidden_states, *rest) if self._returns else hidden_states

        try:
            for block in self.layers:
                block.forward = identity
            yield
        finally:
            for block in self.layers:
                del block.forward  # the instance attribute; the class's method remains

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        inputs = by_name(self.backbone, args, kwargs)
        encoder = None
        if inputs.get(Own.ENCODER) is not None:
            inputs[Own.ENCODER], encoder = self._parted(inputs[Own.ENCODER])
        cached = key_values(inputs) is not None
        if self.place.stack == "decoder" and self.training and not cached:
            inputs["use_cache"] = False  # models fill a cache by default, even when nothing reads it
        fed = self.feed is not None and not cached and not inputs.get("use_cache")
        if self.place.stack == "decoder" and fed:
            inputs["use_cache"] = False
        if self.feed is not None and fed:
            reading = self.feed(self, inputs)
            lowered = [self.side.lower(position, feature) for position, feature in enumerate(reading.features)]
        else:
            # Down is applied as each feature appears: without gradient, only one feature is held at a time.
            reading = self._run(self.side.lower, inputs)
            lowered = reading.features
        first_token = self.place.stack == "encoder" and not self.place.paired
        states = self.side(lowered, reading.calls, encoder, first_token)
        out = copy.copy(reading.output)
        if self.side.up is None:
            out.last_hidden_state = torch.cat([out.last_hidden_state, states], dim=-1)
            return out
        raised = self.side.up(states)
        out.last_hidden_state = out.last_hidden_state + raised if self.place.residual else raised
        if getattr(out, "pooler_output", None) is not None:
            out.pooler_output = raised[:, 0]
        return out

    def _run(self, tap: Tap, inputs: Mapping[str, Any]) -> Reading:
        blocks = self.layers
        names = self._names
        features: list[Tensor] = []
        calls: list[dict[str, Any]] = []
        grad = torch.is_grad_enabled()

        def keep(feature: Tensor) -> None:
            with torch.set_grad_enabled(grad):
                # Detached: gradient checkpointing makes the embeddings' outputs require a gradient.
                features.append(tap(len(features), feature.detach()))

        def entry(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            self._extend_cache(key_values(_named(names, args, kwargs)))
            keep(args[0])

        def call(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            calls.append(_named(names, args, kwargs))

        def output(_: nn.Module, __: Any, out: Any) -> None:
            self._returns = len(out) if isinstance(out, tuple) else 0
            keep(out[0] if isinstance(out, tuple) else out)

        handles: list[RemovableHandle] = [blocks[0].register_forward_pre_hook(entry, with_kwargs=True)]
        for index in self.side.kept:
            handles.append(blocks[index].register_forward_pre_hook(call, with_kwargs=True))
            handles.append(blocks[index].register_forward_hook(output))
        try:
            with torch.no_grad():
                out = self.backbone(**inputs)
        finally:
            for handle in handles:
                handle.remove()
        return Reading(out, features, calls)

    def _parted(self, joined: Tensor) -> tuple[Tensor, Tensor]:
        """Split an encoder's joined states into the backbone's and the side's."""
        wide, narrow = self.side.width, self.side.narrow
        if joined.shape[-1] != wide + narrow:
            raise ValueError(
                f"lst: the decoder needs the encoder's states with its side's beside them, {wide} + {narrow} wide, "
                f"not {joined.shape[-1]}; take them from this model's own encoder"
            )
        # A copy of the side's part: its gradient and what attention keeps of it must not be d wide.
        return joined[..., :wide].detach(), joined[..., wide:].contiguous()

    def _extend_cache(self, cache: Cache | None) -> None:
        """Append layers for the side's keys and values to a cache made for the backbone's layers only."""
        if cache is None:
            return
        caches: tuple[Any, ...] = (cache,)
        if isinstance(cache, EncoderDecoderCache):
            caches = (cache.self_attention_cache, cache.cross_attention_cache)
        depth, kept = self.side.depth, self.side.kept
        for part in caches:
            # An empty cache grows by itself. One made from a configuration may have another tower's number of layers.
            missing = range(len(part.layers), depth + len(kept)) if part.layers else ()
            if missing and any(layer.is_initialized for layer in part.layers):
                raise ValueError("lst: this cache was filled or allocated without the side network; pass a new one")
            for index in missing:
                like = kept[index - depth] if index >= depth else 0
                part.layers.append(_copied(part.layers[like]))  # still empty


def _copied(layer: Any) -> Any:
    """A copy of a cache's empty layer; deepcopy does not work on fake tensors, which sliding layers may hold."""
    new = copy.copy(layer)
    for name, value in vars(layer).items():
        if isinstance(value, Tensor):
            setattr(new, name, value.clone())
        elif isinstance(value, list | dict | set):
            setattr(new, name, copy.copy(value))
    return new


def _named(names: Sequence[str], args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """A block's arguments by name, without the first (the hidden states)."""
    return named(names, args[1:], kwargs)
