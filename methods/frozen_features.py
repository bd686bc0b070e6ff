"""A frozen base model in front of a trained head, read without gradient (and, where it is kept, without running)."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from bench.models.forward_args import by_name
from bench.models.frozen_backbone import Feed, Reading, Stored


class Frozen(nn.Module):
    """Stands where the base model stood and answers as it does, under ``no_grad``.

    The trunk is in eval mode unless its dropout is wanted: what it gives then depends on the input alone.

    Args:
        trunk: the frozen base model.
        width: of its last states, d.
        first_token: the head reads the first token's state, or what the trunk's pooler makes of it; else any token's.
        trunk_dropout: keep the trunk's dropout on while training.
    """

    def __init__(self, trunk: nn.Module, width: int, first_token: bool, trunk_dropout: bool) -> None:
        super().__init__()
        self.trunk, self.width, self.first_token, self.trunk_dropout = trunk, width, first_token, trunk_dropout
        self.feed: Feed | None = None
        self._answer: type[Any] | None = None  # the class of the trunk's output
        self.train(self.training)

    def train(self, mode: bool = True) -> "Frozen":
        """Switch modes; the trunk stays in eval mode unless its dropout is wanted."""
        super().train(mode)
        self.trunk.train(mode and self.trunk_dropout)
        return self

    def __getattr__(self, name: str) -> Any:
        """What model classes and users ask of the base model."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("trunk"), name)

    @property
    def steady(self) -> bool:
        """Whether the features depend on the input alone."""
        return not self.trunk_dropout

    @property
    def taps(self) -> str:
        """The trunk's last states."""
        return "last"

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        inputs = by_name(self.trunk, args, kwargs)
        return self.read(inputs).output if self.feed is None else self.feed(self, inputs).output

    def read(self, inputs: Mapping[str, Any]) -> Reading:
        """Run the trunk without gradient; its last states (batch, seq, d) are the one feature."""
        with torch.no_grad():
            output = self.trunk(**inputs)
        self._answer = type(output)
        return Reading(output, [output.last_hidden_state], [])

    @property
    def stores(self) -> dict[str, Stored]:
        """What the head can read: one state an example under an encoder, else every token's."""
        if not self.first_token:
            return {"last": Stored(self.width, tokens=True)}
        names = ("first", "pooled") if getattr(self.trunk, "pooler", None) is not None else ("first",)
        return {name: Stored(self.width, tokens=False) for name in names}

    def store(self, reading: Reading) -> dict[str, Tensor]:
        """(batch, d) for an encoder's first token and pooler, else (batch, seq, d)."""
        last = reading.output.last_hidden_state
        if not self.first_token:
            return {"last": last}
        found = {"first": last[:, 0]}
        if "pooled" in self.stores:
            found["pooled"] = reading.output.pooler_output
        return found

    def recall(self, inputs: Mapping[str, Any], stored: Mapping[str, Tensor]) -> Reading:
        """The trunk's output with what was stored in it; of an encoder's states the first token's alone."""
        answer = self._answer
        if answer is None:  # no pass told yet
            one = {name: value[:1] if isinstance(value, Tensor) else value for name, value in inputs.items()}
            answer = type(self.read(one).output)
        last = stored["first"][:, None] if self.first_token else stored["last"]
        pooled = {"pooler_output": stored["pooled"]} if "pooled" in stored else {}
        return Reading(answer(last_hidden_state=last, **pooled), [last], [])
