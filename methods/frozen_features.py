"""A frozen base model under a trained head, read without gradient (and, where features are cached, without running)."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from bench.models.forward_args import by_name
from bench.models.frozen_backbone import Feed, Reading, Stored


class Frozen(nn.Module):
    """Replaces the base model and returns the same output, under ``no_grad``.

    The backbone is in eval mode unless its dropout is on, so its output depends on the input alone.

    Args:
        backbone: the frozen base model.
        width: of its last states, d.
        first_token: the head reads only the first token's state, or the backbone's pooler output.
        backbone_dropout: keep the backbone's dropout on while training.
    """

    def __init__(self, backbone: nn.Module, width: int, first_token: bool, backbone_dropout: bool) -> None:
        super().__init__()
        self.backbone, self.width, self.first_token, self.backbone_dropout = (
            backbone,
            width,
            first_token,
            backbone_dropout,
        )
        self.feed: Feed | None = None
        self._output: type[Any] | None = None  # the class of the backbone's output
        self.train(self.training)

    def train(self, mode: bool = True) -> "Frozen":
        """Set the mode; the backbone stays in eval mode unless its dropout is on."""
        super().train(mode)
        self.backbone.train(mode and self.backbone_dropout)
        return self

    def __getattr__(self, name: str) -> Any:
        """Attributes of the base model that model classes and users read."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("backbone"), name)

    @property
    def steady(self) -> bool:
        """Whether the features depend on the input alone."""
        return not self.backbone_dropout

    @property
    def taps(self) -> str:
        """The backbone's last states."""
        return "last"

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        inputs = by_name(self.backbone, args, kwargs)
        return self.read(inputs).output if self.feed is None else self.feed(self, inputs).output

    def read(self, inputs: Mapping[str, Any]) -> Reading:
        """Run the backbone without gradient; its last states (batch, seq, d) are the one feature."""
        with torch.no_grad():
            output = self.backbone(**inputs)
        self._output = type(output)
        return Reading(output, [output.last_hidden_state], [])

    @property
    def stores(self) -> dict[str, Stored]:
        """What the head can read: one state per example for an encoder, else every token's."""
        if not self.first_token:
            return {"last": Stored(self.width, tokens=True)}
        names = ("first", "pooled") if getattr(self.backbone, "pooler", None) is not None else ("first",)
        return {name: Stored(self.width, tokens=False) for name in names}

    def store(self, reading: Reading) -> dict[str, Tensor]:
        """(batch, d) for an encoder's first token and pooler, else (batch, seq, d)."""
        last = reading.output.last_hidden_state
        if not self.first_token:
            return {"last": last}
        states = {"first": last[:, 0]}
        if "pooled" in self.stores:
            states["pooled"] = reading.output.pooler_output
        return states

    def recall(self, inputs: Mapping[str, Any], stored: Mapping[str, Tensor]) -> Reading:
        """The backbone's output rebuilt from stored states; for an encoder with the first token's state only."""
        if self._output is None:  # no pass has run yet
            self.read({name: value[:1] if isinstance(value, Tensor) else value for name, value in inputs.items()})
        output: Any = self._output
        last = stored["first"][:, None] if self.first_token else stored["last"]
        pooled = {"pooler_output": stored["pooled"]} if "pooled" in stored else {}
        return Reading(output(last_hidden_state=last, **pooled), [last], [])
